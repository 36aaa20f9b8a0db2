"""Gathers what a pass knows of one resource: live lists by label, nodes, and what the pods say."""

from typing import Any

from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import CHILDREN, POD, TRANSCRIBER_DEPLOYMENT
from transcriber_operator.decide.observed import Installation, Manifest, Nodes, Observed
from transcriber_operator.errors import NotFoundError
from transcriber_operator.observe.load import LoadReader
from transcriber_operator.observe.nodes import NodeReader
from transcriber_operator.observe.occasional import OccasionalChildren
from transcriber_operator.observe.progress import ProgressReader
from transcriber_operator.render.names import DEPLOYMENT_LABEL, OURS


class Gatherer:
    """Reads one resource and all objects with its labels, also those of an earlier one of its name."""

    def __init__(self, kube: Kube, progress: ProgressReader, load: LoadReader, installation: Installation, clock: Clock) -> None:
        self._kube = kube
        self._progress = progress
        self._load = load
        self._installation = installation
        self._occasional = OccasionalChildren(kube, clock)
        self._nodes = NodeReader(kube, clock)

    async def observe(self, namespace: str, name: str) -> Observed | None:
        """Return what there is, None if the resource is gone; raises TransientError and ConflictError.

        One call after the other: a pass holds one connection, however slow the API server is.
        """
        try:
            resource = await self._kube.get(TRANSCRIBER_DEPLOYMENT, namespace, name)
        except NotFoundError:
            return None
        selector = f"{OURS},{DEPLOYMENT_LABEL}={name}"
        children: list[Manifest] = []
        for kind in CHILDREN:
            children += await self._kube.select(kind, namespace, selector)
        children += await self._occasional.of(resource)
        nodes = await self._nodes.of(resource, children, self._occasional)
        pods = await self._kube.select(POD, namespace, selector)
        loads, load_failures = await self._load.of(pods)
        return Observed(
            installation=self._installation,
            resource=reduced(resource),
            children=tuple(reduced(child) for child in children),
            pods=tuple(reduced(pod) for pod in pods),
            build_progress=await self._progress.of_build(pods),
            loads=loads,
            load_failures=load_failures,
            nodes=_reduced_nodes(nodes),
        )

    async def look(self, observed: Observed) -> Observed:
        """Return the same with the load as it is now: only pods are asked."""
        loads, load_failures = await self._load.of(observed.pods)
        return observed.model_copy(update={"loads": loads, "load_failures": load_failures})

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a resource that is gone."""
        self._occasional.forget(uid)


def reduced(manifest: Manifest) -> Manifest:
    """Return an object whose `managedFields` tell only who owns `spec.replicas`; the rest is bulk that no decision reads."""
    metadata = {**manifest["metadata"]}
    entries = [_replicas_only(entry) for entry in metadata.pop("managedFields", None) or () if _owns_replicas(entry)]
    if entries:
        metadata["managedFields"] = entries
    return {**manifest, "metadata": metadata}


def _reduced_nodes(nodes: Nodes) -> Nodes:
    return nodes.model_copy(update={"claims": tuple(reduced(claim) for claim in nodes.claims)})


def _owns_replicas(entry: dict[str, Any]) -> bool:
    return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})


def _replicas_only(entry: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {field: entry[field] for field in ("manager", "operation", "subresource") if field in entry}
    return {**named, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
