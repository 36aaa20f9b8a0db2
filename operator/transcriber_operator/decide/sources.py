"""What is observed beside the API objects of a resource: the load that each source tells of, and Karpenter's nodes."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

Manifest = dict[str, Any]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoadSample(_Frozen):
    """What one source of work said: a replica, or a queue in front of them. Counters begin anew with `started_at`."""

    source: str  # name of the pod
    at: datetime  # when the figures were true
    queued_audio_seconds: float
    in_flight_audio_seconds: float
    requests: float = 0.0
    active_slots: float = 0.0
    started_at: datetime | None = None
    admitted_requests_total: float = 0.0
    admitted_audio_seconds_total: float = 0.0
    processed_audio_seconds_total: float = 0.0
    output_tokens_total: float = 0.0
    draft_tokens_total: float = 0.0
    accepted_tokens_total: float = 0.0
    cycles_total: float = 0.0
    is_draining: bool = False


class LoadFailure(_Frozen):
    """Why a source did not tell."""

    source: str
    message: str


class NodeEvent(_Frozen):
    """An Event of Karpenter about one of our NodeClaims or NodePools."""

    reason: str  # such as InsufficientCapacityError or SpotInterrupted
    kind: str  # NodeClaim, NodePool or Node
    name: str
    message: str
    at: datetime  # when it was last seen
    count: int = 1


class Nodes(_Frozen):
    """What Karpenter has for this resource. `is_installed` is None where it was not asked."""

    is_installed: bool | None = None
    claims: tuple[Manifest, ...] = ()  # NodeClaims of our NodePools
    events: tuple[NodeEvent, ...] = ()
    node_class: Manifest | None = None  # the one that nodeClassRef names; None: it is not there
