"""What holds and what does not, as conditions: each a reason and a sentence with the next action, and Ready that sums them up."""

from dataclasses import dataclass
from typing import Final, Literal

from transcriber_api.conditions import ConditionType, Observation, Reason
from transcriber_operator.decide.problem import Problem
from transcriber_operator.decide.repository import Repository
from transcriber_operator.decide.rollout import Serving
from transcriber_operator.decide.scaling_report import Wanted

# Where nothing serves for one of these, nothing will until someone acts; a failed build says so itself.
NEEDS_ACTION: Final = frozenset(
    {
        Reason.SPEC_INVALID,
        Reason.SECRET_MISSING,
        Reason.VOLUME_MISSING,
        Reason.IMAGE_PULL_FAILED,
        Reason.OUT_OF_MEMORY,
        Reason.CRASH_LOOPING,
        Reason.CANARY_FAILED,
        Reason.ROLLOUT_STUCK,
    }
)
Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Facts:
    """What a pass has found out, for the conditions to speak of."""

    repository: Repository
    wanted: Wanted
    serving: Serving
    replica_writers: frozenset[str] = frozenset()  # others who write the replicas of our Deployments
    is_suspended: bool = False
    is_full: bool = False  # every pool is at maxNodes, and more is wanted


def observations(facts: Facts) -> tuple[Observation, ...]:
    """Return every condition of a resource whose spec is valid."""
    valid = Observation(ConditionType.SPEC_VALID, "True", Reason.AS_EXPECTED, "The spec can be acted on.")
    built, serving, capacity = _repository_built(facts), _serving_available(facts), _capacity_available(facts)
    ready = _ready(facts, built, serving, capacity)
    parts = (ready, valid, built, serving, capacity, _scaling_active(facts))
    return (*parts, *_kstatus(facts, ready))


def refused(reason: Reason, message: str, ready_replicas: int) -> tuple[Observation, ...]:
    """Return the conditions of a resource whose spec cannot be acted on: what runs goes on."""
    serves: Truth = "True" if ready_replicas else "False"
    unchanged = f"Replicas of an earlier spec serve on (ready: {ready_replicas}); correct the spec to change them."
    return (
        Observation(ConditionType.READY, "False", reason, message),
        Observation(ConditionType.SPEC_VALID, "False", reason, message),
        Observation(ConditionType.SERVING_AVAILABLE, serves, reason, unchanged),
        Observation(ConditionType.STALLED, "True", reason, message),
    )


def _repository_built(facts: Facts) -> Observation:
    state, type_ = facts.repository.state, ConditionType.REPOSITORY_BUILT
    if state.built:
        message = f"Repository {state.built.published.digest} is published and verified."
        return Observation(type_, "True", Reason.AS_EXPECTED, message)
    assert state.problem is not None, "a repository that is not built has a reason"
    status: Truth = "Unknown" if state.problem.reason is Reason.NOT_OBSERVED_YET else "False"
    return Observation(type_, status, state.problem.reason, state.problem.message)


def _serving_available(facts: Facts) -> Observation:
    serving, type_ = facts.serving, ConditionType.SERVING_AVAILABLE
    if not serving.wanted and not serving.ready:
        return Observation(type_, "True", Reason.SCALED_TO_ZERO, "No replica is wanted; raise scaling.minReplicas to keep one.")
    problem = _serving_problem(facts)
    if serving.ready:
        if problem:
            message = f"Replicas serve, but not all as the spec asks: {problem.message}"
            return Observation(type_, "True", problem.reason, message)
        return Observation(type_, "True", Reason.AS_EXPECTED, "Replicas pass their canary.")
    if problem and problem.reason is not Reason.ROLLING_OUT:
        return Observation(type_, "False", problem.reason, problem.message)
    built, capacity = facts.repository.state.problem, serving.capacity
    for cause in (built, capacity):
        if cause and cause.reason is not Reason.NOT_OBSERVED_YET:
            return Observation(type_, "False", cause.reason, cause.message)
    return Observation(type_, "False", Reason.STARTING, "Replicas load the model; none passes its canary yet.")


def _serving_problem(facts: Facts) -> Problem | None:
    """What keeps replicas of this spec from serving."""
    serving = facts.serving
    if serving.problem:
        return serving.problem
    if serving.is_stuck:
        message = "New replicas do not become ready in time; read the log of a new pod, then correct the spec or go back."
        return Problem(Reason.ROLLOUT_STUCK, message)
    if serving.is_rolled_out:
        return None
    return Problem(Reason.ROLLING_OUT, "Replicas switch to the spec; earlier ones serve until then.", needs_action=False)


def _capacity_available(facts: Facts) -> Observation:
    serving, type_ = facts.serving, ConditionType.CAPACITY_AVAILABLE
    if facts.is_full:
        message = f"The pools take {serving.wanted} of {facts.wanted.replicas} replicas; raise maxNodes or add a pool."
        return Observation(type_, "False", Reason.NODE_LIMIT_REACHED, message)
    if serving.capacity:
        return Observation(type_, "False", serving.capacity.reason, serving.capacity.message)
    if not serving.wanted:
        return Observation(type_, "True", Reason.AS_EXPECTED, "No replica is wanted.")
    if serving.existing < serving.wanted:
        return Observation(type_, "Unknown", Reason.NOT_OBSERVED_YET, "Not every wanted replica has been asked for yet.")
    return Observation(type_, "True", Reason.AS_EXPECTED, "Every wanted replica has a node.")


def _scaling_active(facts: Facts) -> Observation:
    if facts.is_suspended:
        message = "spec.suspend holds the replicas; set it to false to scale again."
        return Observation(ConditionType.SCALING_ACTIVE, "False", Reason.SUSPENDED, message)
    if facts.replica_writers:
        writers = ", ".join(sorted(facts.replica_writers))
        message = f"{writers} writes the replicas of our Deployments; remove it or use scaling.mode External."
        return Observation(ConditionType.SCALING_ACTIVE, "False", Reason.CONFLICTING_WRITER, message)
    return facts.wanted.scaling


def _ready(facts: Facts, built: Observation, serving: Observation, capacity: Observation) -> Observation:
    if facts.is_suspended:
        message = "spec.suspend is true: what runs goes on; set it to false to reconcile again."
        return Observation(ConditionType.READY, "Unknown", Reason.SUSPENDED, message)
    for part in (built, serving):
        # Where every pod builds for itself, none has when none is wanted.
        if part.status != "True" and part.reason is not Reason.NOT_OBSERVED_YET:
            return part._replace(type=ConditionType.READY, status="False")
    if not facts.serving.is_rolled_out and facts.serving.wanted:
        return serving._replace(type=ConditionType.READY, status="False")
    if capacity.status == "False":
        return capacity._replace(type=ConditionType.READY, status="True")
    return serving._replace(type=ConditionType.READY)


def _kstatus(facts: Facts, ready: Observation) -> tuple[Observation, ...]:
    """Reconciling while work is under way by itself, Stalled when someone must act; a suspended resource is neither."""
    if facts.is_suspended:
        return ()
    failed = facts.repository.state.problem
    if ready.status == "False":
        is_final = failed.needs_action if failed and failed.reason is ready.reason else ready.reason in NEEDS_ACTION
        return (ready._replace(type=ConditionType.STALLED if is_final else ConditionType.RECONCILING, status="True"),)
    short = next((pool for pool in facts.serving.pools if pool.ready != pool.wanted or pool.existing != pool.wanted), None)
    if short is None:
        return ()
    message = f"Pool {short.name} is on its way to {short.wanted} replicas."
    return (Observation(ConditionType.RECONCILING, "True", short.reason or Reason.STARTING, message),)
