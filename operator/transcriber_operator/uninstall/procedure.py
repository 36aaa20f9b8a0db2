"""Carries an uninstall out: again and again until there is nothing left to do, so that it may be cut off anywhere and run anew."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import DEPLOYMENT, NODE_POOL, POD, TRANSCRIBER_DEPLOYMENT, Resource
from transcriber_operator.decide.live import is_ending
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import (
    ConflictError,
    ForbiddenError,
    KindMissingError,
    NotFoundError,
    OperatorError,
    TransientError,
)
from transcriber_operator.handlers.lifecycle import FINALIZER
from transcriber_operator.render.names import OURS, OWNER_UID_LABEL
from transcriber_operator.uninstall.decisions import Target, doomed_node_pools, holds, running, without

POLL_SECONDS: Final = 1.0  # between looks: nothing announces what is waited for
# Shares of the time, counted from the start: for the operator to clean up, and for its pods to end. The rest is for the finalizers.
CLEAN_UP_SHARE: Final = 0.5
END_SHARE: Final = 0.75

logger = logging.getLogger(__name__)
Step = Callable[[], Awaitable[str]]  # does what it can; returns what is left to wait for, empty when nothing is


class UninstallError(OperatorError):
    """It could not be finished; the message says what is left, and why."""


class Uninstall:
    """One uninstall, within a time."""

    def __init__(self, kube: Kube, target: Target, clock: Clock, timeout_seconds: float) -> None:
        self._kube = kube
        self._target = target
        self._clock = clock
        self._began_at = clock.monotonic()
        self._timeout_seconds = timeout_seconds
        self.released = 0

    async def run(self) -> None:
        """Do all of it. Raises UninstallError where the time is up, ForbiddenError where a right is missing."""
        if self._target.deletes_resources and (left := await self._until_done(self._delete_resources, CLEAN_UP_SHARE)):
            logger.warning("The operator has not cleaned up: %s; going on without it", left)
        if left := await self._until_done(self._end_operator, END_SHARE):
            logger.warning("%s; going on, and looking again whether anything has come back", left)
        if left := await self._until_done(self._release, 1.0):
            raise UninstallError(f"{left} after {self._timeout_seconds:.0f} s")

    async def _until_done(self, step: Step, share: float) -> str:
        """Repeat a step until nothing is left, or a share of the time is over; returns what is left."""
        told = ""
        while True:
            try:
                left = await step()
            except (ForbiddenError, KindMissingError):
                raise
            except (TransientError, ConflictError) as error:
                left = str(error)
            if not left or self._clock.monotonic() - self._began_at >= share * self._timeout_seconds:
                return left
            if left != told:
                logger.info("waiting: %s", left)
            told = left
            await self._clock.sleep(POLL_SECONDS)

    async def _delete_resources(self) -> str:
        """Delete all resources; done when they are gone, and when there is no operator that could clean up after them."""
        there = await self._resources()
        await self._delete_staying(there)
        pods = running(await self._kube.select(POD, self._target.namespace, self._target.pods))
        return f"{_names(there)} not gone yet" if there and pods else ""

    async def _end_operator(self) -> str:
        """Delete the operator's Deployment; done when none of its pods can write any more."""
        target = self._target
        try:
            live = await self._kube.get(DEPLOYMENT, target.namespace, target.deployment)
            if not is_ending(live):
                await self._kube.delete(DEPLOYMENT, target.namespace, target.deployment, live["metadata"]["uid"])
                logger.info("Deployment %s/%s deleted", target.namespace, target.deployment)
        except NotFoundError:
            pass  # what is wanted, or it never was there
        pods = running(await self._kube.select(POD, target.namespace, target.pods))
        return f"the operator's pods {', '.join(pods)} have not ended" if pods else ""

    async def _release(self) -> str:
        """Take our finalizer off every resource; done when a look shows that no resource has it."""
        there = await self._resources()
        if self._target.deletes_resources:
            await self._delete_staying(there)
        await self._delete_node_pools(there)
        held = [resource for resource in there if holds(resource, FINALIZER)]
        for resource in held:
            metadata = resource["metadata"]
            await self._kube.merge(TRANSCRIBER_DEPLOYMENT, metadata["namespace"], metadata["name"], without(resource, FINALIZER))
            self.released += 1
            what = "gone" if is_ending(resource) or self._target.deletes_resources else "it serves on, and a new operator adopts it"
            logger.info("TranscriberDeployment %s released: %s", _name(resource), what)
        if self._target.deletes_resources:
            return f"{_names(there)} not gone yet" if there else ""
        return f"{_names(held)} had a finalizer of the operator" if held else ""

    async def _delete_staying(self, resources: Sequence[Manifest]) -> None:
        for resource in resources:
            if not is_ending(resource):
                await self._delete(TRANSCRIBER_DEPLOYMENT, resource)

    async def _delete_node_pools(self, resources: Sequence[Manifest]) -> None:
        """Delete those that nobody else will; without Karpenter, or the right to it, there are none of ours."""
        if not (self._target.deletes_resources or any(map(is_ending, resources))):
            return
        try:
            pools = await self._kube.select(NODE_POOL, None, f"{OURS},{OWNER_UID_LABEL}")
        except KindMissingError:
            return
        except ForbiddenError as error:
            logger.warning("NodePools may stay; kubectl delete nodepools -l %s deletes them. %s", OURS, error)
            return
        for pool in doomed_node_pools(pools, resources, self._target):
            await self._delete(NODE_POOL, pool)

    async def _resources(self) -> list[Manifest]:
        found: list[Manifest] = []
        for namespace in self._target.served or (None,):
            try:
                found += await self._kube.select(TRANSCRIBER_DEPLOYMENT, namespace)
            except KindMissingError:
                return []
        return found

    async def _delete(self, kind: Resource, live: Manifest) -> None:
        metadata = live["metadata"]
        try:
            await self._kube.delete(kind, metadata.get("namespace"), metadata["name"], metadata["uid"])
        except NotFoundError:
            return
        logger.info("%s %s deleted", kind.kind, _name(live))


def _name(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def _names(manifests: Sequence[Manifest]) -> str:
    shown = ", ".join(_name(manifest) for manifest in manifests[:3])
    more = f" and {len(manifests) - 3} more" if len(manifests) > 3 else ""
    return f"TranscriberDeployments {shown}{more}"
