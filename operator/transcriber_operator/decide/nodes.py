"""What Karpenter's objects say: which nodes are about to go, what was refused, and what the nodes cost."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from transcriber_api.capacity import Pool
from transcriber_api.conditions import Reason
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.decide.live import condition, has_condition, is_ending, label, timestamp
from transcriber_operator.decide.problem import Problem, shortened
from transcriber_operator.decide.sources import Manifest, NodeEvent, Nodes
from transcriber_operator.render import fit, gpus, names
from transcriber_operator.render.context import Context
from transcriber_operator.render.node_pool import CAPACITY_TYPE_LABEL

NOTICE_SECONDS: Final = 120.0  # that AWS gives before it takes a spot node
SAFETY_SECONDS: Final = 10.0  # of the notice, left to the kubelet
REFUSED_WITHIN: Final = timedelta(minutes=3)  # for so long AWS's provider does not try an offering again that was refused
INSUFFICIENT_CAPACITY: Final = "InsufficientCapacityError"
REBALANCE: Final = "SpotRebalanceRecommendation"
REBALANCE_WITHIN: Final = timedelta(minutes=10)  # for so long AWS's word that a node is likely to be taken back is heeded


def lost_nodes(claims: Iterable[Manifest]) -> dict[str, datetime]:
    """Return the nodes that are about to go, by name, with the time since when that is known.

    Karpenter deletes the NodeClaim of an interrupted instance within seconds of the notice.
    """
    found = {}
    for claim in claims:
        node, since = node_of(claim), timestamp(claim["metadata"].get("deletionTimestamp"))
        if node and since:
            found[node] = since
    return found


def nodes_at_risk(nodes: Nodes, now: datetime) -> frozenset[str]:
    """Return the nodes that the cloud says are likely to be taken back; Karpenter only passes that on, as an event."""
    told = {event.name for event in nodes.events if event.reason == REBALANCE and now - event.at <= REBALANCE_WITHIN}
    return frozenset(node for claim in nodes.claims if claim["metadata"]["name"] in told and (node := node_of(claim)))


def node_of(claim: Manifest) -> str | None:
    """Return the name of a claim's node, once it has one."""
    name: str | None = (claim.get("status") or {}).get("nodeName")
    return name


def grace_seconds(lost_since: datetime, now: datetime, longest_seconds: int) -> int:
    """Return how long a pod on an interrupted spot node may finish its work: what is left of the notice."""
    left = NOTICE_SECONDS - SAFETY_SECONDS - (now - lost_since).total_seconds()
    return int(min(max(left, 1.0), longest_seconds))


def refusals(events: Iterable[NodeEvent], node_pool: str, now: datetime) -> tuple[NodeEvent, ...]:
    """Return the events of a pool's claims that were refused for want of capacity in the last three minutes."""
    return tuple(
        event
        for event in events
        if event.reason == INSUFFICIENT_CAPACITY and is_about(event, node_pool) and now - event.at <= REFUSED_WITHIN
    )


def is_about(event: NodeEvent, node_pool: str) -> bool:
    """Whether an event is about a NodePool or one of its claims, whose names Karpenter makes from it."""
    return event.name == node_pool or event.name.rpartition("-")[0] == node_pool


def price_of(claim: Manifest, spec: Spec, pool: Pool) -> float:
    """Return what a claim's node costs, US dollars per hour: the pool's own price, else the table's; 0 where neither knows."""
    if pool.price_per_hour is not None:
        return float(pool.price_per_hour)
    instance_type, capacity_type = label(claim, gpus.INSTANCE_TYPE_LABEL), label(claim, CAPACITY_TYPE_LABEL)
    known = gpus.price_per_hour(instance_type, capacity_type) if instance_type and capacity_type else None
    return known if known is not None else pool_price(spec, pool) or 0.0


def pool_price(spec: Spec, pool: Pool) -> float | None:
    """Return the price of one more node of a pool, US dollars per hour; None where it is not known, as of nodes from elsewhere."""
    return gpus.pool_price_per_hour(pool, fit.candidates(spec, pool) if spec.capacity.provisioner == "Karpenter" else ())


def arriving(claims: Iterable[Manifest], pool: str, occupied: Iterable[str]) -> int:
    """Return how many nodes of a pool were launched and have none of its replicas yet; `occupied` are the nodes that have."""
    taken = set(occupied)
    return sum(
        label(claim, names.POOL_LABEL) == pool
        and has_condition(claim, "Launched")
        and not is_ending(claim)
        and node_of(claim) not in taken
        for claim in claims
    )


def spending(context: Context, claims: Iterable[Manifest], occupied: Mapping[str, int]) -> float:
    """Return what the nodes cost now, US dollars per hour; without Karpenter, by the nodes that each pool's replicas occupy."""
    pools = {pool.name: pool for pool in context.spec.capacity.pools}
    if context.spec.capacity.provisioner != "Karpenter":
        return sum(occupied.get(name, 0) * (pool_price(context.spec, pool) or 0.0) for name, pool in pools.items())
    ours = ((claim, pools.get(label(claim, names.POOL_LABEL) or "")) for claim in claims)
    return sum(price_of(claim, context.spec, pool) for claim, pool in ours if pool is not None)


def provisioning_problem(context: Context, nodes: Nodes) -> Problem | None:
    """Why no node at all can come."""
    capacity = context.spec.capacity
    if capacity.provisioner != "Karpenter" or capacity.node_class_ref is None:
        return None
    if nodes.is_installed is False:
        message = "Karpenter is not installed in this cluster; install it, or set capacity.provisioner: None and bring nodes."
        return Problem(Reason.KARPENTER_MISSING, message)
    wanted = capacity.node_class_ref
    what = f"{wanted.kind} {wanted.name} ({wanted.group})"
    if nodes.is_installed and nodes.node_class is None:
        return Problem(Reason.NODE_CLASS_NOT_READY, f"{what} does not exist; create it or correct capacity.nodeClassRef.")
    ready = condition(nodes.node_class, "Ready") if nodes.node_class else None
    if ready and ready.get("status") == "False":
        said = shortened(ready.get("message") or ready.get("reason") or "no message", 300)
        return Problem(Reason.NODE_CLASS_NOT_READY, f"{what} is not ready: {said}; see its status.")
    return None
