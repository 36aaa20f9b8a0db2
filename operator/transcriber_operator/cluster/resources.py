"""The kinds that the operator reads or writes, and their paths: known beforehand, so that only node classes are looked up."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from transcriber_api.v1alpha1 import API_VERSION, KIND
from transcriber_operator.decide.observed import Manifest


@dataclass(frozen=True)
class Resource:
    """A kind of the API."""

    api_version: str
    kind: str
    plural: str
    is_namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of the collection, an object or its subresource; without a namespace that of all namespaces.

        Of a kind that lives in none, the namespace does not count.
        """
        root = "apis" if "/" in self.api_version else "api"
        within = ["namespaces", quote(namespace, safe="")] if self.is_namespaced and namespace else []
        segments = [root, self.api_version, *within, self.plural]
        return "/" + "/".join([*segments, *([quote(name, safe="")] if name else []), *([subresource] if subresource else [])])


TRANSCRIBER_DEPLOYMENT: Final = Resource(API_VERSION, KIND, "transcriberdeployments")
POD: Final = Resource("v1", "Pod", "pods")
LEASE: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
EVENT: Final = Resource("events.k8s.io/v1", "Event", "events")
NODE_POOL: Final = Resource("karpenter.sh/v1", "NodePool", "nodepools", is_namespaced=False)
NODE_CLAIM: Final = Resource("karpenter.sh/v1", "NodeClaim", "nodeclaims", is_namespaced=False)
AUTOSCALER: Final = Resource("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
SCALED_OBJECT: Final = Resource("keda.sh/v1alpha1", "ScaledObject", "scaledobjects")
DEPLOYMENT: Final = Resource("apps/v1", "Deployment", "deployments")
JOB: Final = Resource("batch/v1", "Job", "jobs")
CHILDREN: Final = (  # kinds that every resource has, or may have
    Resource("v1", "ConfigMap", "configmaps"),
    Resource("v1", "Service", "services"),
    JOB,
    DEPLOYMENT,
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
)
OCCASIONAL_CHILDREN: Final = (NODE_POOL, AUTOSCALER, SCALED_OBJECT)  # kinds that some specs ask for; a cluster may not have them
_BY_KIND: Final = {
    (entry.api_version, entry.kind): entry
    for entry in (TRANSCRIBER_DEPLOYMENT, POD, LEASE, EVENT, NODE_CLAIM, *CHILDREN, *OCCASIONAL_CHILDREN)
}


def occasional_kinds(spec: Mapping[str, Any]) -> frozenset[Resource]:
    """Return the occasional kinds that a spec, as the API server has completed it, asks for."""
    provisioner, mode = (spec.get("capacity") or {}).get("provisioner"), (spec.get("scaling") or {}).get("mode")
    asked = {NODE_POOL: provisioner == "Karpenter", AUTOSCALER: mode == "Hpa", SCALED_OBJECT: mode == "Keda"}
    return frozenset(kind for kind, is_asked in asked.items() if is_asked)


def resource_of(api_version: str, kind: str) -> Resource:
    """Return the resource of a kind; raises ValueError for one that is not in the table."""
    try:
        return _BY_KIND[api_version, kind]
    except KeyError:
        raise ValueError(f"{api_version} {kind} is no kind that the operator writes; add it to CHILDREN and to its role") from None


def reference(manifest: Manifest) -> dict[str, Any]:
    """Return an object reference to a live object, as Events carry it."""
    metadata = manifest["metadata"]
    named = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
    return {**named, **{field: metadata.get(field) for field in ("namespace", "name", "uid", "resourceVersion")}}
