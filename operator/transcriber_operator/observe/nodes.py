"""Reads what Karpenter has for a resource: NodeClaims, the node class, and Events, which are read once for all resources."""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from transcriber_operator.clock import Clock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import EVENT, NODE_CLAIM, NODE_POOL, Resource, occasional_kinds
from transcriber_operator.decide.nodes import is_about
from transcriber_operator.decide.observed import Manifest, NodeEvent, Nodes
from transcriber_operator.errors import ForbiddenError, KindMissingError, NotFoundError
from transcriber_operator.observe.occasional import OccasionalChildren
from transcriber_operator.observe.reminders import Reminders
from transcriber_operator.render.names import DEPLOYMENT_LABEL, NAMESPACE_LABEL

EVENTS_NAMESPACE: Final = "default"  # where Events about objects without a namespace are
RECENT: Final = timedelta(minutes=10)
SHARED_SECONDS: Final = 2.0  # for which one reading of the Events serves all resources
# Three lists of few Events: a selector has no "or", and the many Normal ones of a large cluster stay where they are.
EVENT_SELECTORS: Final = (
    "regarding.kind=NodeClaim,type=Warning",
    "regarding.kind=NodePool,type=Warning",
    "regarding.kind=NodeClaim,reason=SpotRebalanceRecommendation",
)
REASONS: Final = frozenset(
    {
        "InsufficientCapacityError",
        "NoCompatibleInstanceTypes",
        "NodeClassNotReady",
        "SpotInterrupted",
        "SpotRebalanceRecommendation",
        "TerminatingOnInterruption",
        "InstanceStopping",
        "InstanceTerminating",
        "InstanceUnhealthy",
        "Disrupted",
    }
)


class NodeReader:
    """Reads NodeClaims by label, the node class by reference, and the Events of the last ten minutes."""

    def __init__(self, kube: Kube, clock: Clock) -> None:
        self._kube = kube
        self._clock = clock
        self._classes: dict[tuple[str, str], Resource] = {}
        self._events: tuple[NodeEvent, ...] = ()
        self._events_until = float("-inf")
        self._reading = asyncio.Lock()
        self._reminders = Reminders(clock)

    async def of(self, resource: Manifest, children: Iterable[Manifest], occasional: OccasionalChildren) -> Nodes:
        """Return what there is; nothing is asked for a resource that has no NodePools and wants none."""
        pools = frozenset(child["metadata"]["name"] for child in children if child["kind"] == NODE_POOL.kind)
        spec = resource.get("spec") or {}
        if not (pools or NODE_POOL in occasional_kinds(spec)):
            return Nodes()
        is_installed = occasional.has_kind(NODE_POOL)
        if not is_installed:
            return Nodes(is_installed=is_installed)
        return Nodes(
            is_installed=True,
            claims=await self._claims(resource["metadata"]),
            events=await self._events_about(pools),
            node_class=await self._node_class((spec.get("capacity") or {}).get("nodeClassRef")),
        )

    async def _claims(self, metadata: Mapping[str, Any]) -> tuple[Manifest, ...]:
        selector = f"{DEPLOYMENT_LABEL}={metadata['name']},{NAMESPACE_LABEL}={metadata['namespace']}"
        try:
            return tuple(await self._kube.select(NODE_CLAIM, None, selector))
        except KindMissingError:
            return ()
        except ForbiddenError as error:
            self._reminders.missing("NodeClaims are not seen, nor that one is taken back", error)
            return ()

    async def _events_about(self, pools: frozenset[str]) -> tuple[NodeEvent, ...]:
        async with self._reading:
            if self._clock.monotonic() >= self._events_until:
                self._events = await self._read_events()
                self._events_until = self._clock.monotonic() + SHARED_SECONDS
        return tuple(event for event in self._events if any(is_about(event, pool) for pool in pools))

    async def _read_events(self) -> tuple[NodeEvent, ...]:
        since = self._clock.now() - RECENT
        found: list[NodeEvent] = []
        try:
            for selector in EVENT_SELECTORS:
                found += map(node_event, await self._kube.select(EVENT, EVENTS_NAMESPACE, fields=selector))
        except ForbiddenError as error:
            self._reminders.missing("Karpenter's Events are not seen", error)
        return tuple(
            sorted((event for event in found if event.reason in REASONS and event.at >= since), key=lambda event: event.at)
        )

    async def _node_class(self, reference: Mapping[str, str] | None) -> Manifest | None:
        """Return the node class with its conditions alone; without them where it may not be read, None where it is not there."""
        if reference is None:
            return None
        group, kind, name = reference["group"], reference["kind"], reference["name"]
        try:
            known = self._classes.get((group, kind)) or await self._kube.look_up(group, kind)
            self._classes[group, kind] = known
            found = await self._kube.get(known, None, name)
        except NotFoundError:
            return None
        except KindMissingError:
            self._classes.pop((group, kind), None)
            return None
        except ForbiddenError as error:
            self._reminders.missing(f"Whether {kind} {name} is ready is not seen", error)
            return {"kind": kind, "metadata": {"name": name}}
        conditions = (found.get("status") or {}).get("conditions") or []
        return {"apiVersion": known.api_version, "kind": kind, "metadata": {"name": name}, "status": {"conditions": conditions}}


def node_event(manifest: Manifest) -> NodeEvent:
    """Return an Event of either API as a decision reads it; `at` is when it was last seen."""
    regarding, series = manifest.get("regarding") or {}, manifest.get("series") or {}
    at = series.get("lastObservedTime") or manifest.get("deprecatedLastTimestamp") or manifest.get("eventTime")
    return NodeEvent(
        reason=manifest.get("reason") or "",
        kind=regarding.get("kind") or "",
        name=regarding.get("name") or "",
        message=manifest.get("note") or "",
        at=datetime.fromisoformat(at or manifest["metadata"]["creationTimestamp"]),
        count=int(series.get("count") or manifest.get("deprecatedCount") or 1),
    )
