"""Condition types and reasons of a TranscriberDeployment, and the pure merge that keeps their transition times."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import Field

from transcriber_api.quantities import Count, Prose, Text, Timestamp
from transcriber_api.rules import ApiModel

MESSAGE_CHARACTERS: Final = 4096


class _Explained(StrEnum):
    """A constant that carries the sentence printed in the reference."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "_Explained":
        """Make the constant `value` with its `meaning`."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class ConditionType(_Explained):
    """What a condition speaks of, in the canonical order of `status.conditions`."""

    READY = "Ready", "Summary: requests are served as the spec asks."
    SPEC_VALID = "SpecValid", "The spec can be acted on."
    REPOSITORY_BUILT = "RepositoryBuilt", "The model repository of this spec is built, verified and published."
    SERVING_AVAILABLE = "ServingAvailable", "At least one replica answers its canary, or none is wanted."
    CAPACITY_AVAILABLE = "CapacityAvailable", "Every wanted replica has a node."
    SCALING_ACTIVE = "ScalingActive", "Replicas follow the queue; false when they are held."
    RECONCILING = "Reconciling", "Work towards the spec is under way (kstatus; absent when not)."
    STALLED = "Stalled", "Nothing will move until someone acts (kstatus; absent when not)."


PRESENT_ONLY_WHEN_TRUE: Final = frozenset({ConditionType.RECONCILING, ConditionType.STALLED})


class Reason(_Explained):
    """Why a condition has its status; each names what can be acted on."""

    AS_EXPECTED = "AsExpected", "Nothing to do."
    NOT_OBSERVED_YET = "NotObservedYet", "The operator has not looked yet; wait for its first pass."
    SUSPENDED = "Suspended", "spec.suspend is true; set it to false to reconcile again."
    SPEC_INVALID = "SpecInvalid", "A field is refused; the message names it and the fix."
    API_REFUSED = "ApiRefused", "The API server forbids a write: rights, a quota or a policy; the message says which."
    SECRET_MISSING = "SecretMissing", "credentialsSecret does not exist or lacks a key; create it in this namespace."
    VOLUME_MISSING = "VolumeMissing", "A claim named in the spec does not exist; create it in this namespace."
    DOWNLOADING_WEIGHTS = "DownloadingWeights", "The build Job fetches weights; its log has rate and time left."
    BUILDING_REPOSITORY = "BuildingRepository", "Weights are verified; conversion and publishing are under way."
    SOURCE_UNREACHABLE = "SourceUnreachable", "The model source does not answer; check uri, network and credentials."
    REVISION_NOT_FOUND = "RevisionNotFound", "The source has no such revision; check revision."
    CHECKSUM_MISMATCH = "ChecksumMismatch", "A file is not the one that was pinned; check sha256, then the source."
    FORMAT_UNSUPPORTED = "FormatUnsupported", "The source has neither safetensors nor CTranslate2 weights of Whisper."
    DRAFT_INCOMPATIBLE = "DraftIncompatible", "Draft and target differ in vocabulary, mel bins or width; choose another draft."
    BUILD_FAILED = "BuildFailed", "The build Job gave up; read its log."
    VOLUME_FULL = "VolumeFull", "The repository volume is full; raise its size."
    STARTING = "Starting", "Replicas load the model."
    SCALED_TO_ZERO = "ScaledToZero", "No work and no floor; the next request starts a replica."
    ROLLING_OUT = "RollingOut", "Replicas switch to a new repository or runtime."
    ROLLOUT_STUCK = "RolloutStuck", "New replicas do not become ready; the old ones still serve. Read the pod's log."
    CANARY_FAILED = "CanaryFailed", "A replica answers its health check but transcribes a known clip wrongly or not at all."
    CRASH_LOOPING = "CrashLooping", "A container keeps failing; read its previous log."
    OUT_OF_MEMORY = "OutOfMemory", "A replica ran out of memory; raise resources or lower slots."
    IMAGE_PULL_FAILED = "ImagePullFailed", "The serving image cannot be pulled; check runtime.image."
    WAITING_FOR_SPOT_CAPACITY = "WaitingForSpotCapacity", "No spot node yet; on-demand takes over after fallback.afterSeconds."
    INSUFFICIENT_CAPACITY = "InsufficientCapacity", "The cloud has no such node; add zones, GPUs or an OnDemand pool."
    UNSCHEDULABLE = "Unschedulable", "No node fits the pods; check resources, nodeSelector and tolerations."
    NODE_CLASS_NOT_READY = "NodeClassNotReady", "nodeClassRef is missing or not ready; see that object's status."
    KARPENTER_MISSING = "KarpenterMissing", "capacity.provisioner is Karpenter, which is not installed; install it or set None."
    MODEL_DOES_NOT_FIT = "ModelDoesNotFit", "No GPU of a pool has memory for the model; lower runtime.slots or take larger GPUs."
    NO_INSTANCE_TYPE = "NoInstanceType", "No instance type has what a pool asks for; change its gpus or runtime.resources."
    NODE_LIMIT_REACHED = "NodeLimitReached", "Every pool is at maxNodes; raise it or add a pool."
    FALLEN_BACK = "FallenBack", "On-demand nodes stand in for spot; they return after fallback.returnAfterSeconds."
    INTERRUPTED = "Interrupted", "Spot nodes are being reclaimed; replacements are ordered."
    BUDGET_LIMITED = "BudgetLimited", "The budget allows fewer replicas than the queue needs; raise budget or wait longer."
    REPLICA_LIMIT_REACHED = "ReplicaLimitReached", "The queue needs more than scaling.maxReplicas."
    METRICS_STALE = "MetricsStale", "No fresh queue figures; replicas are held and never lowered."
    SCALED = "Scaled", "The number of replicas was changed; the message says why."
    EXTERNALLY_SCALED = "ExternallyScaled", "scaling.mode leaves spec.scaling.replicas to someone else."
    CONFLICTING_WRITER = (
        "ConflictingWriter",
        "Something else writes the replicas of our Deployments; remove it or use mode External.",
    )


class Condition(ApiModel):
    """One observation in the shape of metav1.Condition."""

    type: Annotated[str, Text("a condition type", 64, r"^[A-Za-z]+$")] = Field(
        description="What is observed; the reference lists all types.", examples=["Ready"]
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.", examples=["True"])
    reason: Annotated[str, Text("a CamelCase reason", 64, r"^[A-Za-z][A-Za-z0-9]*$")] = Field(
        description="Why, as a constant; the reference lists all reasons.", examples=["ChecksumMismatch"]
    )
    message: Prose = Field(default="", description="Why, for people, with what to do.", examples=["model.safetensors differs"])
    observed_generation: Count = Field(default=0, description="metadata.generation that was looked at.", examples=[3])
    last_transition_time: Timestamp = Field(description="When status last changed.", examples=["2026-01-31T12:00:00Z"])


class Observation(NamedTuple):
    """A condition as it should read now, before it has a time."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str = ""


def merge(previous: Sequence[Condition], desired: Iterable[Observation], generation: int, now: datetime) -> tuple[Condition, ...]:
    """Return `desired` as conditions in canonical order; equal input gives an equal result, so nothing needs writing.

    `lastTransitionTime` is kept unless `status` changed, else it is `now` (aware, cut to seconds as the API stores it).
    A type that is not desired is dropped, and so are Reconciling and Stalled unless they are true. Raises ValueError when a
    type is desired twice.
    """
    before = {condition.type: condition for condition in previous}
    wanted: dict[ConditionType, Observation] = {}
    for observation in desired:
        if observation.type in wanted:
            raise ValueError(f"condition {observation.type} is stated twice; state each type once")
        wanted[observation.type] = observation
    return tuple(
        _dated(wanted[type_], before.get(type_), generation, now)
        for type_ in ConditionType
        if type_ in wanted and (wanted[type_].status == "True" or type_ not in PRESENT_ONLY_WHEN_TRUE)
    )


def _dated(observation: Observation, before: Condition | None, generation: int, now: datetime) -> Condition:
    is_same = before is not None and before.status == observation.status
    return Condition(
        type=observation.type.value,
        status=observation.status,
        reason=observation.reason.value,
        message=observation.message[:MESSAGE_CHARACTERS],
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and is_same else now.replace(microsecond=0),
    )
