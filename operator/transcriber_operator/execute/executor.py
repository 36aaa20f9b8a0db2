"""Carries out a decision: applies in order, then prunes, then deletes of pods, then status, then Events."""

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from transcriber_api.status import Status
from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import EVENT, POD, reference, resource_of
from transcriber_operator.decide.decision import Announcement, Apply, Decision, Key, PodDelete, Prune
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.errors import ConflictError, NotFoundError, OperatorError, TerminalError
from transcriber_operator.execute.ownership import objection
from transcriber_operator.execute.takeover import taken_over
from transcriber_operator.log import about
from transcriber_operator.metrics import Metrics

STATUS_MANAGER: Final = "transcriber-status"
REPORTER: Final = "serving.transcriber.dev/operator"
NOTE_CHARACTERS: Final = 1024

logger = logging.getLogger(__name__)


class Executor:
    """Writes what was decided; every failure stops it there and is raised, for the next pass observes anew."""

    def __init__(self, kube: Kube, identity: str, metrics: Metrics, clock: Clock) -> None:
        self._kube = kube
        self._identity = identity
        self._metrics = metrics
        self._clock = clock

    async def execute(self, observed: Observed, decision: Decision) -> None:
        """Write it all. Raises TransientError, ConflictError, TerminalError and LeaseLostError."""
        versions = {_key(child): child["metadata"] for child in observed.children}
        pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in observed.pods}
        for apply in decision.apply:
            if apply.manifest["kind"] == POD.kind:
                await self._mark_pod(observed.resource, apply, pods[apply.manifest["metadata"]["name"]])
            else:
                await self._apply(observed.resource, apply, versions.get(_key(apply.manifest)))
        for prune in decision.prune:
            await self._prune(observed.resource, prune)
        for delete in decision.pod_deletes:
            await self._delete_pod(observed.resource, delete)
        if decision.status is not None:
            await self.write_status(observed.resource, decision.status)
        for announcement in decision.announcements:
            await self._announce(observed.resource, announcement)

    async def write_status(self, resource: Manifest, status: Status) -> None:
        """Write the whole status; a resource that was deleted, or made anew, is a ConflictError.

        The API server ignores a uid in an apply of the status, so the version is the precondition; where others have written
        meanwhile, their version is used, if it is still the same resource.
        """
        metadata = resource["metadata"]
        try:
            await self._kube.apply(status_manifest(resource, status), STATUS_MANAGER, "status")
        except NotFoundError:
            raise
        except ConflictError:
            kind = resource_of(resource["apiVersion"], resource["kind"])
            live = await self._kube.get(kind, metadata["namespace"], metadata["name"])
            if live["metadata"]["uid"] != metadata["uid"]:
                raise
            await self._kube.apply(status_manifest(live, status), STATUS_MANAGER, "status")

    async def _apply(self, resource: Manifest, apply: Apply, live: Mapping[str, Any] | None) -> None:
        manifest = apply.manifest
        if live is None:
            await self._require_free(resource, manifest)
        else:
            # As observed or not at all: a child that was deleted meanwhile must not be made anew from a part of itself.
            manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": live["uid"]}}
        try:
            written = await self._kube.apply(manifest, apply.manager)
        except TerminalError:
            if live is None or not await self._take_over(resource, apply):
                raise
            written = await self._kube.apply(manifest, apply.manager)
        before = (live or {}).get("resourceVersion")
        result = "created" if live is None else "unchanged" if written["metadata"]["resourceVersion"] == before else "changed"
        self._metrics.applied.labels(manifest["kind"], result).inc()
        logger.info("%s %s %s", manifest["kind"], manifest["metadata"]["name"], result, extra=subject_of(resource))

    async def _mark_pod(self, resource: Manifest, apply: Apply, uid: str) -> None:
        """Apply an annotation of a pod; one that is gone, or has made room for another of its name, needs none."""
        metadata = apply.manifest["metadata"]
        try:
            await self._kube.apply({**apply.manifest, "metadata": {**metadata, "uid": uid}}, apply.manager)
        except ConflictError:
            return
        self._metrics.applied.labels(POD.kind, "changed").inc()
        logger.info("Pod %s changed", metadata["name"], extra=subject_of(resource))

    async def _take_over(self, resource: Manifest, apply: Apply) -> bool:
        """Make what others wrote into a child ours, so that the next apply drops it; whether there was anything."""
        manifest = apply.manifest
        metadata = manifest["metadata"]
        kind = resource_of(manifest["apiVersion"], manifest["kind"])
        live = await self._kube.get(kind, metadata.get("namespace"), metadata["name"])
        entries = taken_over(live["metadata"].get("managedFields") or (), apply.manager)
        if entries is None:
            return False
        change = {"metadata": {"managedFields": entries, "resourceVersion": live["metadata"]["resourceVersion"]}}
        await self._kube.merge(kind, metadata.get("namespace"), metadata["name"], change)
        logger.warning("%s %s was edited by others; undone", manifest["kind"], metadata["name"], extra=subject_of(resource))
        return True

    async def _require_free(self, resource: Manifest, manifest: Manifest) -> None:
        """Raise what keeps a child from being created, unless nothing has its name."""
        metadata = manifest["metadata"]
        kind = resource_of(manifest["apiVersion"], manifest["kind"])
        try:
            existing = await self._kube.get(kind, metadata.get("namespace"), metadata["name"])
        except NotFoundError:
            return
        error = objection(existing, resource)
        if error:
            raise error
        labels = metadata.get("labels", {})
        if manifest["kind"] != "Job" or labels.items() <= (existing["metadata"].get("labels") or {}).items():
            return
        # Ours, and not observed for want of its labels. Its template cannot change, so it must not be written as if it were new;
        # the next pass sees what else it needs.
        change = {"metadata": {"labels": labels, "resourceVersion": existing["metadata"]["resourceVersion"]}}
        await self._kube.merge(kind, metadata["namespace"], metadata["name"], change)
        raise ConflictError(f"{manifest['kind']} {metadata['name']} had lost its labels; it has them again")

    async def _prune(self, resource: Manifest, prune: Prune) -> None:
        key = prune.key
        try:
            await self._kube.delete(resource_of(key.api_version, key.kind), resource["metadata"]["namespace"], key.name, prune.uid)
        except NotFoundError:
            return  # what was wanted
        self._metrics.pruned.labels(key.kind).inc()
        logger.info("%s %s pruned", key.kind, key.name, extra=subject_of(resource))

    async def _delete_pod(self, resource: Manifest, delete: PodDelete) -> None:
        """Let a pod end in the time that its node has left; one that is gone, or another of its name, is as wanted."""
        try:
            await self._kube.delete(POD, resource["metadata"]["namespace"], delete.name, delete.uid, delete.grace_seconds)
        except ConflictError:
            return
        self._metrics.pods_deleted.inc()
        logger.info("Pod %s told to end within %d s", delete.name, delete.grace_seconds, extra=subject_of(resource))

    async def _announce(self, resource: Manifest, announcement: Announcement) -> None:
        """Post an Event; one that fails is logged and no more, for the condition says the same."""
        try:
            await self._kube.create(event(resource, announcement, self._identity, self._clock.now()))
        except ConflictError as error:
            if isinstance(error, NotFoundError):  # the namespace is gone
                raise
        except OperatorError as error:
            logger.warning("Event was not posted: %s", error, extra=subject_of(resource, announcement.reason))


def status_manifest(resource: Manifest, status: Status) -> Manifest:
    """Return what to apply to the status of a resource that is at this very version."""
    metadata = resource["metadata"]
    return {
        "apiVersion": resource["apiVersion"],
        "kind": resource["kind"],
        "metadata": {field: metadata[field] for field in ("namespace", "name", "resourceVersion")},
        "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def event(resource: Manifest, announcement: Announcement, instance: str, now: datetime) -> Manifest:
    """Return the Event of an announcement; the same one at the same time has the same name."""
    metadata = resource["metadata"]
    said = "\0".join((metadata["uid"], announcement.type, announcement.reason, announcement.message, now.isoformat()))
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}.{hashlib.sha256(said.encode()).hexdigest()[:16]}",
        },
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": announcement.type,
        "reason": announcement.reason.value,
        "note": announcement.message[:NOTE_CHARACTERS],
        "action": "Reconcile",
        "regarding": reference(resource),
        "reportingController": REPORTER,
        "reportingInstance": instance[:128],
    }


def subject_of(resource: Manifest, reason: str | None = None) -> dict[str, Any]:
    """Return `extra` for a log call that speaks of a resource."""
    metadata = resource["metadata"]
    return about(namespace=metadata["namespace"], name=metadata["name"], generation=metadata.get("generation"), reason=reason)


def _key(manifest: Manifest) -> Key:
    return Key(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])
