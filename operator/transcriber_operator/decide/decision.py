"""What a pass decided: the writes that are needed, in order, and nothing where nothing is needed."""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from transcriber_api.conditions import Reason
from transcriber_api.status import Status
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.scaling_memory import ScalingMemory

# Field managers of server-side apply; status has its own. `transcriber-results` owns one annotation of finished build Jobs.
Manager = Literal["transcriber-controller", "transcriber-autoscaler", "transcriber-results"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Key(NamedTuple):
    """What names an object within a namespace."""

    api_version: str
    kind: str
    name: str


class Apply(_Frozen):
    """A server-side apply of a child."""

    manifest: Manifest
    manager: Manager = "transcriber-controller"


class Prune(_Frozen):
    """A delete of a child, of this very UID, with its dependents."""

    key: Key
    uid: str


class PodDelete(_Frozen):
    """A delete of a serving pod whose node is about to go, with the time that is left to it."""

    name: str
    uid: str
    grace_seconds: int


class ColdStart(_Frozen):
    """How long a stage of one replica's start took; told once per replica and stage."""

    pool: str
    stage: str
    seconds: float


class PoolFigures(_Frozen):
    """One pool, for the operator's metrics."""

    name: str
    desired: int
    ready: int
    nodes: int
    lead_time_seconds: float
    interruptions: int = 0  # new since the last pass
    insufficient_capacity: int = 0  # new since the last pass


class Figures(_Frozen):
    """What a pass found, for the operator's metrics."""

    desired: int
    ready: int
    queued_audio_seconds: float | None
    in_flight_audio_seconds: float | None
    arrival_rate: float
    replica_throughput: float
    metrics_age_seconds: float | None
    cost_per_hour: float
    allowed_per_hour: float | None
    processed_audio_seconds: float  # since the last look
    pools: tuple[PoolFigures, ...]
    cold_starts: tuple[ColdStart, ...] = ()


class Announcement(_Frozen):
    """An Event about the resource, on a transition."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


class Decision(_Frozen):
    """Applies in order, then prunes, then deletes of pods, then status; `status` is None where it is as it should be."""

    apply: tuple[Apply, ...] = ()
    prune: tuple[Prune, ...] = ()
    pod_deletes: tuple[PodDelete, ...] = ()
    status: Status | None = None
    announcements: tuple[Announcement, ...] = ()
    requeue_after_seconds: float | None = None  # None: only an event or the resync wakes the next pass
    memory: ScalingMemory | None = None  # for the next pass; None: keep what is there
    figures: Figures | None = None
    watches_load: bool = False  # whether the load is to be looked at every few seconds
    details: tuple[str, ...] = ()  # each step's decision in a sentence
