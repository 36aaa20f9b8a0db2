"""`TranscriberDeployment`, the one kind of `serving.transcriber.dev/v1alpha1`, and how it scales."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field, Strict

from transcriber_api.capacity import Capacity
from transcriber_api.quantities import (
    Count,
    Dollars,
    Flag,
    LabelName,
    ListType,
    Replicas,
    Text,
    Timestamp,
)
from transcriber_api.rules import ApiModel, Rule
from transcriber_api.serving import Decoding, DraftSource, Repository, Runtime
from transcriber_api.sources import Model
from transcriber_api.status import Status

GROUP: Final = "serving.transcriber.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "TranscriberDeployment"
API_VERSION: Final = "serving.transcriber.dev/v1alpha1"
NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
NAME_CHARACTERS: Final = 52  # leaves room in the 63 of a label for what a child's name adds

DeploymentName = Annotated[
    str, Text("a DNS label that begins with a letter (Services are named after it)", NAME_CHARACTERS, NAME_PATTERN)
]
CRON_PATTERN: Final = r"^[0-9*,/-]+ [0-9*,/-]+ [0-9*,/-]+ [0-9A-Za-z*,/-]+ [0-9A-Za-z*,/-]+$"
TIMEZONE_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z][A-Za-z0-9_+-]*)*$"
Alias = Annotated[str, Text("a model name of letters, digits, '.', '_', '-' and '/'", 128, r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]


class Schedule(ApiModel):
    """A recurring time during which more replicas are kept; nodes are ordered early enough to be ready at its start."""

    name: LabelName = Field(description="Name of the schedule.", examples=["office-hours"])
    cron: Annotated[str, Text('five cron fields such as "0 8 * * mon-fri"', 100, CRON_PATTERN)] = Field(
        description="When it starts: minute, hour, day of month, month, day of week.", examples=["0 8 * * mon-fri"]
    )
    timezone: Annotated[str, Text("an IANA time zone such as Europe/Berlin", 64, TIMEZONE_PATTERN)] = Field(
        default="UTC", description="IANA time zone that cron is read in.", examples=["Europe/Berlin"]
    )
    duration_seconds: Annotated[int, Strict(), Field(ge=60, le=604_800)] = Field(
        description="How long it lasts, in seconds.", examples=[36_000]
    )
    min_replicas: Annotated[int, Strict(), Field(ge=1, le=1000)] = Field(description="Fewest replicas meanwhile.", examples=[2])


class Scaling(ApiModel):
    """How many replicas serve: as many as the seconds of audio that wait and arrive call for."""

    mode: Literal["Builtin", "External", "Hpa", "Keda"] = Field(
        default="Builtin",
        description=(
            "Who decides: the operator (Builtin), whoever writes `replicas` (External), or a HorizontalPodAutoscaler or "
            "ScaledObject that the operator renders over its own figures (Hpa, Keda). Hpa keeps at least one replica."
        ),
        examples=["Builtin"],
    )
    replicas: Replicas | None = Field(
        default=None,
        description=(
            "Wanted replicas, written through the scale subresource; not in mode Builtin. Kept between minReplicas and "
            "maxReplicas; absent: minReplicas."
        ),
        examples=[3],
    )
    min_replicas: Replicas = Field(default=0, description="Fewest replicas over all pools; 0 scales to zero.", examples=[0])
    max_replicas: Annotated[int, Strict(), Field(ge=1, le=1000)] = Field(
        default=20, description="Most replicas over all pools.", examples=[20]
    )
    target_wait_seconds: Annotated[int, Strict(), Field(ge=1, le=86_400)] = Field(
        default=60,
        description="How long audio may wait before it is decoded, in seconds; replicas are added to keep it.",
        examples=[60],
    )
    target_wait_percentile: Annotated[int, Strict(), Field(ge=50, le=99)] = Field(
        default=95, description="Share of audio, in percent, that targetWaitSeconds is meant for.", examples=[95]
    )
    target_utilization_percent: Annotated[int, Strict(), Field(ge=10, le=95)] = Field(
        default=80, description="Share of a replica's measured throughput to plan with, in percent.", examples=[80]
    )
    headroom_replicas: Annotated[int, Strict(), Field(ge=0, le=100)] = Field(
        default=0, description="Replicas kept on top of what the work calls for, while there is any.", examples=[1]
    )
    idle_timeout_seconds: Annotated[int, Strict(), Field(ge=0, le=604_800)] = Field(
        default=600,
        description="How long without work before the last replicas go, in seconds; with minReplicas 0.",
        examples=[600],
    )
    hold_timeout_seconds: Annotated[int, Strict(), Field(ge=0, le=3600)] = Field(
        default=600,
        description="How long the gateway holds a request for a first replica, in seconds; 0 refuses at once.",
        examples=[600],
    )
    metrics_stale_after_seconds: Annotated[int, Strict(), Field(ge=10, le=600)] = Field(
        default=30,
        description="Age at which queue figures count as missing, in seconds; replicas are then never lowered.",
        examples=[30],
    )
    schedules: Annotated[tuple[Schedule, ...], ListType("map", 16, ("name",))] = Field(
        default=(),
        description="Times with a higher floor; mode Builtin only.",
        examples=[[{"name": "office", "cron": "0 8 * * mon-fri", "durationSeconds": 36_000, "minReplicas": 2}]],
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="replicas-ordered",
            field="minReplicas",
            message="minReplicas must not exceed maxReplicas",
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
        ),
        Rule(
            name="replicas-not-builtin",
            field="replicas",
            message="mode Builtin decides the replicas itself; set minReplicas and maxReplicas, or mode External to set replicas",
            cel="!has(self.replicas) || self.mode != 'Builtin'",
            holds=lambda scaling: scaling.replicas is None or scaling.mode != "Builtin",
        ),
        Rule(
            name="schedules-builtin",
            field="schedules",
            message="schedules need mode Builtin; other modes would not keep to them",
            cel="size(self.schedules) == 0 || self.mode == 'Builtin'",
            holds=lambda scaling: not scaling.schedules or scaling.mode == "Builtin",
        ),
        Rule(
            name="schedules-fit",
            field="schedules",
            message="minReplicas of a schedule must not exceed maxReplicas",
            cel="self.schedules.all(s, s.minReplicas <= self.maxReplicas)",
            holds=lambda scaling: all(entry.min_replicas <= scaling.max_replicas for entry in scaling.schedules),
        ),
    )


class Budget(ApiModel):
    """Caps on what the nodes may cost; they win over targetWaitSeconds, never over a pool's minReplicas."""

    per_hour: Dollars | None = Field(
        default=None, description="Most that may be spent per hour, US dollars as a quoted decimal.", examples=["20"]
    )
    per_month: Dollars | None = Field(
        default=None, description="Most that may be spent per 730 hours, US dollars as a quoted decimal.", examples=["6000"]
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="budget-given",
            field="perHour",
            message="a budget needs perHour, perMonth or both; without a cap leave budget out",
            cel="has(self.perHour) || has(self.perMonth)",
            holds=lambda budget: budget.per_hour is not None or budget.per_month is not None,
        ),
    )


class Spec(ApiModel):
    """What is asked for."""

    model: Model = Field(description="The models, where they come from and how they are pinned.")
    decoding: Decoding = Field(default=Decoding(), description="Defaults of a request, and speculation.")
    runtime: Runtime = Field(default=Runtime(), description="The serving pods and their limits.")
    repository: Repository = Field(default=Repository(), description="The Triton model repository and its build.")
    scaling: Scaling = Field(default=Scaling(), description="How many replicas serve.")
    capacity: Capacity = Field(description="The nodes they run on.")
    budget: Budget | None = Field(default=None, description="What they may cost; absent: no cap.", examples=[{"perHour": "20"}])
    aliases: Annotated[tuple[Alias, ...], ListType("set", 16)] = Field(
        default=(), description="More model names that the gateway routes here, beside metadata.name.", examples=[["whisper-1"]]
    )
    suspend: Flag = Field(
        default=False, description="Stop reconciling: the operator changes nothing; what runs goes on.", examples=[False]
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="cpu-precision",
            field="model.precision",
            message="device CPU computes in Float32 or Int8; set model.precision: Float32",
            cel="self.runtime.device != 'CPU' || self.model.precision in ['Float32', 'Int8']",
            holds=lambda spec: spec.runtime.device != "CPU" or spec.model.precision in ("Float32", "Int8"),
        ),
        Rule(
            name="int8-on-cpu",
            field="model.precision",
            message="Int8 is for device CPU only; set model.precision: Float16 or runtime.device: CPU",
            cel="self.model.precision != 'Int8' || self.runtime.device == 'CPU'",
            holds=lambda spec: spec.model.precision != "Int8" or spec.runtime.device == "CPU",
        ),
        Rule(
            name="cpu-without-gpus",
            field="capacity.pools",
            message="device CPU has no use for GPUs; remove gpus from the pools or set runtime.device: GPU",
            cel="self.runtime.device != 'CPU' || self.capacity.pools.all(p, size(p.gpus) == 0)",
            holds=lambda spec: spec.runtime.device != "CPU" or not any(pool.gpus for pool in spec.capacity.pools),
        ),
        Rule(
            name="draft-model-given",
            field="decoding.draftSource",
            message="draftSource Model needs model.draft; set it, or draftSource Auto, PromptLookup or None",
            cel="self.decoding.draftSource != 'Model' || has(self.model.draft)",
            holds=lambda spec: spec.decoding.draft_source != "Model" or spec.model.draft is not None,
        ),
        Rule(
            name="pool-floors-fit",
            field="scaling.maxReplicas",
            message="scaling.maxReplicas must be at least the sum of minReplicas over the pools",
            cel="self.capacity.pools.map(p, p.minReplicas).sum() <= self.scaling.maxReplicas",
            holds=lambda spec: sum(pool.min_replicas for pool in spec.capacity.pools) <= spec.scaling.max_replicas,
        ),
    )

    @property
    def draft_source(self) -> DraftSource:
        """What proposes tokens, with Auto resolved."""
        if self.decoding.draft_source == "Auto":
            return "Model" if self.model.draft else "None"
        return self.decoding.draft_source


class Metadata(ApiModel):
    """`metadata` as the API server keeps it; a YAML needs only the name."""

    name: DeploymentName = Field(
        description="Name of the deployment, and of its model at the gateway.", examples=["whisper-large-v3"]
    )
    namespace: LabelName | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    generate_name: str | None = None
    uid: str | None = None
    generation: Count = 0
    resource_version: str | None = None
    self_link: str | None = None
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    deletion_grace_period_seconds: Count | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[dict[str, Any], ...] = ()
    managed_fields: tuple[dict[str, Any], ...] = ()


class TranscriberDeployment(ApiModel):
    """A Whisper model, served: verified weights, speculative decoding, replicas that follow the seconds of audio waiting."""

    api_version: Literal["serving.transcriber.dev/v1alpha1"] = API_VERSION
    kind: Literal["TranscriberDeployment"] = KIND
    metadata: Metadata = Field(description="Name, labels and bookkeeping.")
    spec: Spec = Field(description="What is asked for.")
    status: Status = Field(default=Status(), description="What is so; written by the operator.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="child-names-fit",
            field="spec.capacity.pools",
            message="metadata.name and the name of a pool must have at most 62 characters together; they name its Deployment",
            cel="self.spec.capacity.pools.all(p, size(self.metadata.name) + size(p.name) <= 62)",
            holds=lambda td: all(len(td.metadata.name) + len(pool.name) <= 62 for pool in td.spec.capacity.pools),
        ),
    )
