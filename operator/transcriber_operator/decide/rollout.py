"""How the replicas of the pools are: which run, which are new, and what keeps them from serving."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from transcriber_api.capacity import Pool
from transcriber_api.conditions import Reason
from transcriber_operator.decide import pods
from transcriber_operator.decide.live import Live, condition, count, is_ending, label, timestamp
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.problem import Problem, shortened
from transcriber_operator.decide.scaling import NO_FLEET, Scaling
from transcriber_operator.render import names
from transcriber_operator.render.context import Context
from transcriber_operator.render.node_pool import preflight
from transcriber_operator.render.serving import EXPORTER, TRITON

# What an SRE should read first where several replicas fail in different ways.
SEVERITY: Final = (
    Reason.IMAGE_PULL_FAILED,
    Reason.SECRET_MISSING,
    Reason.VOLUME_MISSING,
    Reason.OUT_OF_MEMORY,
    Reason.CRASH_LOOPING,
    Reason.CANARY_FAILED,
)


LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
NODE_PATIENCE: Final = timedelta(minutes=5)  # how long a node that was ordered may take, before it is said not to come


@dataclass(frozen=True)
class PoolState:
    """One pool's replicas. `capacity` is why some have no node, `problem` why some with a node do not serve."""

    name: str
    wanted: int
    existing: int = 0
    ready: int = 0
    nodes: int = 0
    is_rolled_out: bool = False  # no replica of an earlier revision is left, and the controller has seen the last change
    is_stuck: bool = False
    problem: Problem | None = None
    capacity: Problem | None = None
    look_again_at: datetime | None = None  # when time alone may change what is said of its capacity

    @property
    def reason(self) -> Reason | None:
        """Why `ready` falls short of `wanted`."""
        if self.ready >= self.wanted:
            return None
        problem = self.problem or self.capacity
        return problem.reason if problem else Reason.STARTING


@dataclass(frozen=True)
class Serving:
    """The replicas of all pools, those of pools that are leaving counted too."""

    pools: tuple[PoolState, ...]
    leaving: tuple[PoolState, ...] = ()

    @property
    def wanted(self) -> int:
        """Replicas wanted over all pools."""
        return sum(pool.wanted for pool in self.pools)

    @property
    def ready(self) -> int:
        """Replicas that pass their canary."""
        return sum(pool.ready for pool in (*self.pools, *self.leaving))

    @property
    def existing(self) -> int:
        """Replicas that exist."""
        return sum(pool.existing for pool in (*self.pools, *self.leaving))

    @property
    def is_rolled_out(self) -> bool:
        """Whether all that runs is of the current revision and in the pools of the spec."""
        return all(pool.is_rolled_out for pool in self.pools) and not any(pool.existing for pool in self.leaving)

    @property
    def look_again_at(self) -> datetime | None:
        """When time alone may change what is said."""
        return min((pool.look_again_at for pool in self.pools if pool.look_again_at), default=None)

    @property
    def is_stuck(self) -> bool:
        """Whether a rollout has not moved within its deadline."""
        return any(pool.is_stuck for pool in self.pools)

    @property
    def problem(self) -> Problem | None:
        """What keeps replicas that have a node from serving."""
        return worst([pool.problem for pool in self.pools if pool.problem])

    @property
    def capacity(self) -> Problem | None:
        """Why replicas have no node."""
        found = [pool.capacity for pool in self.pools if pool.capacity]
        return worst(found)


def serving_state(
    context: Context, live: Live, scaling: Scaling, changed: frozenset[str], provisioning: Problem | None, now: datetime
) -> Serving:
    """Read the replicas of every pool.

    `changed` are the pools whose Deployment this pass writes anew; `provisioning` is why no node can come to any.
    """
    deployments = {name: child for child in live.of_kind("Deployment") if (name := label(child, names.POOL_LABEL))}
    pools = tuple(
        _pool_state(context, pool, scaling, deployments.get(pool.name), live, pool.name in changed, provisioning, now)
        for pool in context.spec.capacity.pools
    )
    known = {pool.name for pool in context.spec.capacity.pools}
    leaving = tuple(
        PoolState(name, 0, existing=count(child, "replicas"), ready=count(child, "readyReplicas"))
        for name, child in deployments.items()
        if name not in known
    )
    return Serving(pools, leaving)


def worst(problems: Sequence[Problem]) -> Problem | None:
    """Return the problem to name first."""
    order = {reason: place for place, reason in enumerate(SEVERITY)}
    return min(problems, key=lambda problem: order.get(problem.reason, len(order)), default=None)


def _pool_state(
    context: Context,
    pool: Pool,
    scaling: Scaling,
    deployment: Manifest | None,
    live: Live,
    is_changed: bool,
    provisioning: Problem | None,
    now: datetime,
) -> PoolState:
    ours = [
        pod
        for pod in live.serving_pods
        if label(pod, names.POOL_LABEL) == pool.name and not is_ending(pod) and not pods.is_over(pod)
    ]
    without_node = [(pod, problem) for pod in ours if (problem := pods.scheduling_problem(pod))]
    failing = [problem for pod in ours if (problem := _pod_problem(pod, now))]
    # A claim that is missing is nothing that another node would have.
    failing += [problem for _, problem in without_node if problem.reason is Reason.VOLUME_MISSING]
    waiting = [(pod, problem) for pod, problem in without_node if problem.reason is not Reason.VOLUME_MISSING]
    late_at = min((_unscheduled_since(pod) for pod, _ in waiting), default=now) + NODE_PATIENCE
    progress = condition(deployment, "Progressing") if deployment else None
    seen = deployment is not None and count(deployment, "observedGeneration") >= int(deployment["metadata"].get("generation") or 0)
    existing = count(deployment, "replicas")
    return PoolState(
        pool.name,
        scaling.allotted[pool.name],
        existing=existing,
        ready=count(deployment, "readyReplicas"),
        nodes=len({node for pod in ours if (node := pod.get("spec", {}).get("nodeName"))}),
        is_rolled_out=seen and not is_changed and existing == count(deployment, "updatedReplicas"),
        is_stuck=seen and not is_changed and progress is not None and progress.get("reason") == "ProgressDeadlineExceeded",
        problem=worst(failing),
        capacity=_capacity(context, pool, scaling, waiting[0][1] if waiting else None, provisioning, is_late=now >= late_at),
        look_again_at=late_at if waiting and now < late_at else None,
    )


def _pod_problem(pod: Manifest, now: datetime) -> Problem | None:
    """A build that fails inside the pod is told of by the repository's own condition."""
    return pods.starting_problem(pod, now) or pods.running_problem(pod, TRITON) or pods.running_problem(pod, EXPORTER)


def _unscheduled_since(pod: Manifest) -> datetime:
    since = timestamp((condition(pod, "PodScheduled") or {}).get("lastTransitionTime"))
    return since or LONG_AGO


def _capacity(
    context: Context, pool: Pool, scaling: Scaling, found: Problem | None, provisioning: Problem | None, *, is_late: bool
) -> Problem | None:
    """Why a pool has fewer nodes than it should; `found` is what the scheduler says of a pod without one.

    With Karpenter a pod without node is a node that was ordered and is not there yet.
    """
    lost = scaling.seen.fleets.get(pool.name, NO_FLEET).lost
    if lost:
        message = f"Nodes of pool {pool.name} are being taken back; replacements are ordered."
        return Problem(Reason.INTERRUPTED, message, needs_action=False)
    if found is None or context.spec.capacity.provisioner != "Karpenter":
        return found
    impossible = preflight(pool, context.spec)
    if provisioning or impossible:
        return provisioning or Problem(Reason.NO_INSTANCE_TYPE, str(impossible))
    is_spot = pool.capacity_type == "Spot"
    if is_spot and scaling.allotment.fallen_back:
        message = f"On-demand nodes stand in for spot nodes of pool {pool.name} that do not come."
        return Problem(Reason.FALLEN_BACK, message, needs_action=False)
    refused = scaling.seen.refusals[pool.name]
    if refused:
        said = shortened(refused[-1].message, 300)
        message = f"The cloud has no node for pool {pool.name}: {said}; add gpus, zones or another pool."
        return Problem(Reason.INSUFFICIENT_CAPACITY, message, needs_action=False)
    if is_spot:
        message = f"Pool {pool.name} waits for spot nodes; add gpus, zones or an OnDemand pool if none come."
        return Problem(Reason.WAITING_FOR_SPOT_CAPACITY, message, needs_action=False)
    if not is_late:
        return Problem(Reason.STARTING, f"Pool {pool.name} waits for nodes that were ordered.", needs_action=False)
    message = f"Pool {pool.name} waits for nodes that do not come; add gpus, zones or another pool."
    return Problem(Reason.INSUFFICIENT_CAPACITY, message, needs_action=False)
