"""The kinds that the operator reads or writes, and their paths: known beforehand, so nothing is discovered at run time."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from transcriber_api.v1alpha1 import API_VERSION, KIND
from transcriber_operator.decide.observed import Manifest


@dataclass(frozen=True)
class Resource:
    """A namespaced kind of the API."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of the collection, an object or its subresource."""
        root = "apis" if "/" in self.api_version else "api"
        segments = [root, self.api_version, "namespaces", quote(namespace, safe=""), self.plural]
        return "/" + "/".join([*segments, *([quote(name, safe="")] if name else []), *([subresource] if subresource else [])])

    def path_everywhere(self) -> str:
        """Return the URL path of the collection over all namespaces."""
        return f"/{'apis' if '/' in self.api_version else 'api'}/{self.api_version}/{self.plural}"


TRANSCRIBER_DEPLOYMENT: Final = Resource(API_VERSION, KIND, "transcriberdeployments")
POD: Final = Resource("v1", "Pod", "pods")
LEASE: Final = Resource("coordination.k8s.io/v1", "Lease", "leases")
EVENT: Final = Resource("events.k8s.io/v1", "Event", "events")
CHILDREN: Final = (  # all kinds that render makes
    Resource("v1", "ConfigMap", "configmaps"),
    Resource("v1", "Service", "services"),
    Resource("batch/v1", "Job", "jobs"),
    Resource("apps/v1", "Deployment", "deployments"),
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
)
_BY_KIND: Final = {(entry.api_version, entry.kind): entry for entry in (TRANSCRIBER_DEPLOYMENT, POD, LEASE, EVENT, *CHILDREN)}


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
