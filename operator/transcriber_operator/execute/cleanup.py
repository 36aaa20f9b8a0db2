"""What garbage collection cannot reach when a resource goes: its NodePools, which live in no namespace and so can have no owner."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from transcriber_api.conditions import Reason
from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import NODE_POOL, TRANSCRIBER_DEPLOYMENT, occasional_kinds
from transcriber_operator.decide.decision import Announcement
from transcriber_operator.decide.live import is_ending, label
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import ConflictError, ForbiddenError, KindMissingError, OperatorError, TransientError
from transcriber_operator.execute.executor import event, subject_of
from transcriber_operator.render.names import NAMESPACE_LABEL, OURS, OWNER_UID_LABEL

FORBIDDEN_TRIES: Final = 5
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0

logger = logging.getLogger(__name__)


class Cleaner:
    """Deletes the NodePools of a resource, as often as it is asked to."""

    def __init__(self, kube: Kube, identity: str, clock: Clock) -> None:
        self._kube = kube
        self._identity = identity
        self._clock = clock

    async def clean_up(self, resource: Manifest) -> None:
        """Return once none is left that is not on its way out, or once it is plain that we may not delete them.

        That is told, unless the resource never asked for any: an operator that serves some namespaces may do without the right.

        An API server that is away is waited for, since without it the resource cannot go either. Raises LeaseLostError.
        """
        pause, forbidden = FIRST_PAUSE_SECONDS, 0
        while True:
            try:
                if not await self._delete_all(resource):
                    return
                continue  # whatever a pass that was given up may have had on its way meanwhile
            except KindMissingError:
                return
            except ForbiddenError as error:
                forbidden += 1
                if NODE_POOL not in occasional_kinds(resource.get("spec") or {}):
                    return
                if forbidden == FORBIDDEN_TRIES:
                    await self._give_up(resource, error)
                    return
                self._complain(resource, error)
            except (TransientError, ConflictError) as error:
                self._complain(resource, error)
            await self._clock.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def sweep(self, served: Sequence[str]) -> None:
        """Delete the NodePools of resources that went while no operator was there to see it, in the namespaces served (empty: all).

        Where that fails it is told and left to the next start. Raises LeaseLostError.
        """
        try:
            pools = await self._kube.select(NODE_POOL, None, f"{OURS},{OWNER_UID_LABEL}")
            # After the pools: a resource is there before its first pool, so an owner that these lists lack is gone.
            resources = [
                each for namespace in served or (None,) for each in await self._kube.select(TRANSCRIBER_DEPLOYMENT, namespace)
            ]
            for pool in left_behind(pools, resources, served):
                metadata = pool["metadata"]
                await self._kube.delete(NODE_POOL, None, metadata["name"], metadata["uid"])
                logger.info("NodePool %s deleted: its resource is gone", metadata["name"])
        except KindMissingError:
            return
        except (ForbiddenError, TransientError, ConflictError) as error:
            logger.warning("NodePools of resources that are gone may stay until the next start: %s", error)

    async def _delete_all(self, resource: Manifest) -> int:
        """Delete what is there; returns how many there were."""
        found = await self._kube.select(NODE_POOL, None, f"{OWNER_UID_LABEL}={resource['metadata']['uid']}")
        staying = [pool["metadata"] for pool in found if not is_ending(pool)]
        for metadata in staying:
            await self._kube.delete(NODE_POOL, None, metadata["name"], metadata["uid"])
            logger.info("NodePool %s deleted", metadata["name"], extra=subject_of(resource))
        return len(staying)

    async def _give_up(self, resource: Manifest, error: OperatorError) -> None:
        uid = resource["metadata"]["uid"]
        message = f"NodePools may stay; kubectl delete nodepools -l {OWNER_UID_LABEL}={uid} deletes them. {error}"
        logger.error(message, extra=subject_of(resource))
        announcement = Announcement(type="Warning", reason=Reason.API_REFUSED, message=message)
        try:
            await self._kube.create(event(resource, announcement, self._identity, self._clock.now()))
        except (TransientError, ConflictError) as failure:
            logger.warning("Event was not posted: %s", failure, extra=subject_of(resource))

    def _complain(self, resource: Manifest, error: OperatorError) -> None:
        logger.warning("NodePools are not deleted yet; trying again: %s", error, extra=subject_of(resource))


def left_behind(pools: Iterable[Manifest], resources: Iterable[Manifest], served: Sequence[str]) -> list[Manifest]:
    """Return the NodePools that belonged to a resource of a served namespace (empty: all) which is none of `resources`."""
    owners = {resource["metadata"]["uid"] for resource in resources}
    return [
        pool
        for pool in pools
        if not is_ending(pool)
        and pool["metadata"]["labels"][OWNER_UID_LABEL] not in owners
        and (not served or label(pool, NAMESPACE_LABEL) in served)
    ]
