"""What a pass knows: everything that a decision may depend on, frozen and JSON-able.

A dumped `Observed` and a time reproduce a decision; that is the form of a bug report, and what `transcriber explain` replays.
"""

from pydantic import BaseModel, ConfigDict

from transcriber_operator.decide.scaling_memory import ScalingMemory
from transcriber_operator.decide.sources import LoadFailure, LoadSample, Manifest, NodeEvent, Nodes

__all__ = ["BuildProgress", "Installation", "LoadFailure", "LoadSample", "Manifest", "NodeEvent", "Nodes", "Observed"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Installation(_Frozen):
    """How this operator was installed, as far as it shows in the children."""

    serving_image: str  # for resources that name none
    namespace: str  # the operator's own: its pods may reach the pods' metrics
    https_hosts: tuple[str, ...] = ()  # that https:// sources may name
    scaling_url: str | None = None  # where KEDA reaches the operator's metrics server
    metrics_namespaces: tuple[str, ...] = ()  # that may read the metrics of serving pods, beside the operator's own


class BuildProgress(_Frozen):
    """How far a running build is, as its pod tells; unknown totals, rates and times left are None."""

    stage: str
    bytes_done: int
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None


class Observed(_Frozen):
    """One resource and all that belongs to it, as the API server has it."""

    installation: Installation
    resource: Manifest
    children: tuple[Manifest, ...] = ()  # by label; every kind that render makes
    pods: tuple[Manifest, ...] = ()  # of the children
    build_progress: BuildProgress | None = None
    loads: tuple[LoadSample, ...] = ()  # of replicas that serve, and of queues in front of them
    load_failures: tuple[LoadFailure, ...] = ()
    nodes: Nodes = Nodes()
    memory: ScalingMemory | None = None  # what the pass before handed on; None: the operator has just started
