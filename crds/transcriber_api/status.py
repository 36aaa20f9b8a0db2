"""`status`: what the operator last saw and decided, for people, autoscalers and `kubectl wait`."""

from typing import Annotated, Literal

from pydantic import Field

from transcriber_api.capacity import PoolName
from transcriber_api.conditions import Condition
from transcriber_api.quantities import (
    Balance,
    Count,
    DecimalText,
    Digest,
    Dollars,
    ListType,
    ObjectName,
    Percent,
    Prose,
    Replicas,
    Sha256,
    Text,
    Timestamp,
)
from transcriber_api.rules import ApiModel

Endpoint = Annotated[str, Text("an address", 512)]
Summary = Annotated[str, Text("a short text", 1024, None, 0)]
ScalingCause = Literal["Steady", "Backlog", "KeptWarm", "Idle", "Floor", "Limit", "Budget", "Stale"]
StageName = Literal[
    "NodeLaunch", "NodeRegistration", "NodeInitialization", "Scheduling", "ImagePull", "RepositoryBuild", "ModelLoad"
]


class Endpoints(ApiModel):
    """Where the deployment is reached from inside the cluster."""

    grpc: Endpoint | None = Field(default=None, description="HOST:PORT of the gRPC service.", examples=["whisper.speech.svc:8001"])
    metrics: Endpoint | None = Field(
        default=None, description="URL of the metrics.", examples=["http://whisper.speech.svc:8002/metrics"]
    )


class ResolvedFile(ApiModel):
    """A file of a model source with the hash that it was pinned to."""

    source: Literal["Target", "Draft"] = Field(description="Which model it belongs to.", examples=["Target"])
    path: Annotated[str, Text("a path", 256)] = Field(description="Path below the source's uri.", examples=["model.safetensors"])
    sha256: Sha256 = Field(description="Its sha256.", examples=["<64 hex>"])


class RepositoryStatus(ApiModel):
    """The repository in service."""

    digest: Digest | None = Field(default=None, description="Its content address.", examples=["sha256-<64 hex>"])
    bytes: Count | None = Field(default=None, description="Its size in bytes.", examples=[3_100_000_000])
    built_at: Timestamp | None = Field(default=None, description="When it was published.", examples=["2026-01-31T12:00:00Z"])
    files: Annotated[tuple[ResolvedFile, ...], ListType("map", 128, ("source", "path"))] = Field(
        default=(), description="Every source file with the hash it is pinned to.", examples=[[]]
    )


class PoolStatus(ApiModel):
    """One pool as it is."""

    name: PoolName = Field(description="Name of the pool.", examples=["spot"])
    desired: Replicas = Field(default=0, description="Replicas wanted of it.", examples=[3])
    ready: Replicas = Field(default=0, description="Replicas that pass their canary.", examples=[2])
    nodes: Replicas = Field(default=0, description="Nodes it has.", examples=[3])
    reason: Annotated[str, Text("a CamelCase reason", 64, r"^[A-Za-z][A-Za-z0-9]*$")] | None = Field(
        default=None, description="Why ready falls short of desired.", examples=["WaitingForSpotCapacity"]
    )
    lead_time_seconds: Count | None = Field(
        default=None, description="From ordering a replica of it to its first result, in seconds, as learnt.", examples=[240]
    )
    replica_throughput: DecimalText | None = Field(
        default=None, description="Audio seconds that one replica of it decodes per second, as learnt.", examples=["95.2"]
    )
    price_per_hour: Dollars | None = Field(
        default=None, description="Price that one more node of it is planned with, US dollars per hour.", examples=["0.4346"]
    )
    fallen_back_replicas: Replicas | None = Field(
        default=None, description="Replicas that it has in place of spot nodes that do not come.", examples=[1]
    )


class ScalingStatus(ApiModel):
    """The terms of the last scaling decision; a rate is in seconds of audio per second."""

    queued_audio_seconds: Count | None = Field(default=None, description="Audio that waits, in seconds.", examples=[1800])
    in_flight_audio_seconds: Count | None = Field(default=None, description="Audio being decoded, in seconds.", examples=[240])
    arrival_rate: DecimalText | None = Field(default=None, description="Audio seconds that arrive per second.", examples=["12.5"])
    replica_throughput: DecimalText | None = Field(
        default=None, description="Audio seconds that one replica decodes per second, as learnt.", examples=["95.2"]
    )
    lead_time_seconds: Count | None = Field(
        default=None, description="From ordering a replica to its first result, in seconds, as learnt.", examples=[240]
    )
    offered_load: DecimalText | None = Field(
        default=None, description="Replicas that what arrives would keep busy: arrivalRate by replicaThroughput.", examples=["1.3"]
    )
    steady_replicas: Replicas | None = Field(
        default=None, description="Replicas that what arrives needs in the long run.", examples=[2]
    )
    ordered_replicas: Replicas | None = Field(
        default=None, description="Replicas that are ordered and do not serve yet; they count from when they will.", examples=[1]
    )
    called_for: Count | None = Field(
        default=None, description="Replicas that the work calls for, before maxReplicas and the budget.", examples=[3]
    )
    affordable_replicas: Count | None = Field(
        default=None, description="Replicas that the budget pays for now; absent without a budget.", examples=[12]
    )
    cause: ScalingCause | None = Field(default=None, description="What decided.", examples=["Backlog"])
    desired: Replicas | None = Field(default=None, description="Replicas decided on.", examples=[3])
    reason: Prose | None = Field(
        default=None, description="The decision in a sentence.", examples=["1800 s wait, 2 replicas ordered"]
    )
    observed_at: Timestamp | None = Field(default=None, description="Age of the figures.", examples=["2026-01-31T12:00:00Z"])


class SpeculationStatus(ApiModel):
    """How well the draft guesses."""

    acceptance_percent: Percent | None = Field(
        default=None, description="Share of drafted tokens that the target kept, in percent.", examples=[78]
    )
    tokens_per_cycle: DecimalText | None = Field(
        default=None, description="Tokens committed per pass of the target.", examples=["4.1"]
    )


class CostStatus(ApiModel):
    """What the nodes cost now, US dollars as decimals."""

    per_hour: Dollars | None = Field(default=None, description="US dollars per hour.", examples=["2.4144"])
    per_audio_hour: Dollars | None = Field(default=None, description="US dollars per hour of audio decoded.", examples=["0.0085"])
    allowed_per_hour: Dollars | None = Field(
        default=None, description="US dollars per hour that the budget allows now; absent without a budget.", examples=["20"]
    )
    bucket_dollars: Balance | None = Field(
        default=None,
        description="US dollars of the month's budget that are saved up for a burst; negative after more was spent than came in.",
        examples=["197.2603"],
    )


class ColdStartStage(ApiModel):
    """One stage of a replica's start."""

    name: StageName = Field(
        description="Which stage; Scheduling counts from the pod's creation where no node had to come.", examples=["ModelLoad"]
    )
    seconds: Count = Field(description="How long it took, in seconds.", examples=[41])


class ColdStart(ApiModel):
    """How long a replica took to serve."""

    pod: ObjectName = Field(description="Name of its pod.", examples=["whisper-spot-6d9f-x2x7k"])
    pool: PoolName = Field(description="Its pool.", examples=["spot"])
    seconds: Count = Field(description="From the pod's creation to its first passed canary, in seconds.", examples=[233])
    stages: Annotated[tuple[ColdStartStage, ...], ListType("map", 7, ("name",))] = Field(
        default=(), description="Its stages.", examples=[[]]
    )


class Status(ApiModel):
    """What is so."""

    observed_generation: Count | None = Field(
        default=None, description="metadata.generation that this status speaks of.", examples=[3]
    )
    conditions: Annotated[tuple[Condition, ...], ListType("map", 32, ("type",))] = Field(
        default=(), description="What holds and what does not; Ready sums it up.", examples=[[]]
    )
    replicas: Replicas | None = Field(
        default=None, description="Replicas that exist; the scale subresource shows it.", examples=[3]
    )
    ready_replicas: Replicas | None = Field(default=None, description="Replicas that pass their canary.", examples=[2])
    desired_replicas: Replicas | None = Field(default=None, description="Replicas wanted over all pools.", examples=[3])
    replica_summary: Summary | None = Field(default=None, description="ready/desired, for kubectl's column.", examples=["2/3"])
    pool_summary: Summary | None = Field(
        default=None, description="ready/desired by pool, for kubectl's column.", examples=["spot 2/3"]
    )
    selector: Annotated[str, Text("a label selector", 1024)] | None = Field(
        default=None, description="Label selector of the pods; the scale subresource shows it.", examples=["app=whisper"]
    )
    endpoints: Endpoints | None = Field(default=None, description="Where it is reached.")
    repository: RepositoryStatus | None = Field(default=None, description="The repository in service.")
    pools: Annotated[tuple[PoolStatus, ...], ListType("map", 16, ("name",))] = Field(
        default=(), description="The pools as they are.", examples=[[]]
    )
    scaling: ScalingStatus | None = Field(default=None, description="The last scaling decision and its terms.")
    speculation: SpeculationStatus | None = Field(default=None, description="How well the draft guesses.")
    cost: CostStatus | None = Field(default=None, description="What it costs.")
    cold_starts: Annotated[tuple[ColdStart, ...], ListType("map", 8, ("pod",))] = Field(
        default=(), description="The last starts of replicas, newest last.", examples=[[]]
    )
