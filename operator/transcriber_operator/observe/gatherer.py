"""Gathers what a pass knows of one resource: live lists by label, and the progress of a build that runs."""

from typing import Any, Final

from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import CHILDREN, POD, TRANSCRIBER_DEPLOYMENT
from transcriber_operator.decide.observed import Installation, Manifest, Observed
from transcriber_operator.errors import NotFoundError
from transcriber_operator.observe.progress import ProgressReader
from transcriber_operator.render.names import DEPLOYMENT_LABEL, MANAGED_BY

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
OURS: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY}"


class Gatherer:
    """Reads one resource and all objects with its labels, also those of an earlier one of its name."""

    def __init__(self, kube: Kube, progress: ProgressReader, installation: Installation) -> None:
        self._kube = kube
        self._progress = progress
        self._installation = installation

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
        pods = await self._kube.select(POD, namespace, selector)
        return Observed(
            installation=self._installation,
            resource=reduced(resource),
            children=tuple(reduced(child) for child in children),
            pods=tuple(reduced(pod) for pod in pods),
            build_progress=await self._progress.of_build(pods),
        )


def reduced(manifest: Manifest) -> Manifest:
    """Return an object whose `managedFields` tell only who owns `spec.replicas`; the rest is bulk that no decision reads."""
    metadata = {**manifest["metadata"]}
    entries = [_replicas_only(entry) for entry in metadata.pop("managedFields", None) or () if _owns_replicas(entry)]
    if entries:
        metadata["managedFields"] = entries
    return {**manifest, "metadata": metadata}


def _owns_replicas(entry: dict[str, Any]) -> bool:
    return "f:replicas" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})


def _replicas_only(entry: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {field: entry[field] for field in ("manager", "operation", "subresource") if field in entry}
    return {**named, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
