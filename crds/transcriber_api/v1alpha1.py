"""`TranscriberDeployment`, version v1alpha1: spec and status with units, defaults, bounds and examples.

Durations are integers in seconds, ratios are whole percentages, dollars are decimal strings; there are no floats.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from transcriber_api.rules import ApiModel, Rule

GROUP = "serving.transcriber.dev"
VERSION = "v1alpha1"
KIND = "TranscriberDeployment"

COMMIT = r"^[0-9a-f]{40}$"
DIGEST = r"^[0-9a-f]{64}$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
DOLLARS = r"^[0-9]{1,9}(\.[0-9]{1,2})?$"
URI = r"^(hf|s3|https|file|pvc)://[A-Za-z0-9._~:/@+%=-]+$"
FILE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"
PICKLE = r"(\.(pt|pth|ckpt|pkl|pickle|bin))$"

Name = Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=63)]
Quantity = Annotated[str, StringConstraints(pattern=QUANTITY, max_length=20)]
Dollars = Annotated[str, StringConstraints(pattern=DOLLARS, max_length=12)]
Text = Annotated[str, StringConstraints(max_length=253)]
Count = Annotated[int, Field(ge=0, le=10_000)]
Total = Annotated[int, Field(ge=0, le=1 << 53)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Precision(StrEnum):
    """Number format of the weights while they serve."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"


class SourceFile(ApiModel):
    """A file of a model source and the hash it must have."""

    rules = (
        Rule(
            f"!self.path.matches('{PICKLE.replace(chr(92), chr(92) * 2)}') || self.path == 'model.bin'",
            "path must not be a pickle: use .safetensors, or CTranslate2's model.bin",
            lambda file: not re.search(PICKLE, file.path) or file.path == "model.bin",
        ),
    )
    path: Annotated[str, StringConstraints(pattern=FILE_PATH, max_length=253)] = Field(
        description="Path of the file below the source, relative, without '..'. Example: model.safetensors."
    )
    sha256: Annotated[str, StringConstraints(pattern=DIGEST, max_length=64)] = Field(
        description="SHA-256 of the file's bytes, 64 hexadecimal digits. A file that differs is never served."
    )


class ModelSource(ApiModel):
    """Where weights come from and what they must be."""

    rules = (
        Rule(
            "!self.uri.contains('..')",
            "uri must not contain '..'",
            lambda source: ".." not in source.uri,
        ),
        Rule(
            "!self.uri.startsWith('hf://') || has(self.revision)",
            "revision must be the 40-hex commit of an hf:// source: a branch such as main moves",
            lambda source: not source.uri.startswith("hf://") or source.revision is not None,
        ),
        Rule(
            "self.uri.startsWith('hf://') || (has(self.files) && size(self.files) > 0)",
            "files with their sha256 must be listed: only hf:// publishes hashes of its own",
            lambda source: source.uri.startswith("hf://") or len(source.files) > 0,
        ),
    )
    uri: Annotated[str, StringConstraints(pattern=URI, max_length=512)] = Field(
        description="Source of the files: hf://OWNER/NAME, s3://BUCKET/PREFIX, https://HOST/PATH, file:///DIR or pvc://CLAIM/PATH. "
        "Example: hf://openai/whisper-large-v3."
    )
    revision: Annotated[str, StringConstraints(pattern=COMMIT, max_length=40)] | None = Field(
        default=None, description="Commit of an hf:// source, 40 hexadecimal digits. A branch or tag is refused, since it moves."
    )
    files: tuple[SourceFile, ...] = Field(
        default=(),
        max_length=64,
        description="Files to fetch and their hashes. May be left out for hf:// alone, whose published hashes are then pinned.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["path"]},
    )
    credentials_secret: Name | None = Field(
        default=None,
        description="Secret of the same namespace whose keys become environment variables of the build. Example: hf-token.",
    )


class ModelSpec(ApiModel):
    """The target and its draft."""

    rules = (
        Rule(
            "!has(self.draft) || self.draft.uri != self.target.uri",
            "draft must be another model than target: a model cannot draft for itself",
            lambda model: model.draft is None or model.draft.uri != model.target.uri,
        ),
    )
    target: ModelSource = Field(description="The Whisper model whose transcripts are served.")
    draft: ModelSource | None = Field(
        default=None,
        description="A distilled decoder with the target's encoder and vocabulary, which drafts tokens for the target to verify. "
        "Without it nothing is drafted by a model.",
    )
    precision: Precision = Field(
        default=Precision.FLOAT16, description="Number format while serving. Float32 is the only one on CPU."
    )


class Decoding(ApiModel):
    """Defaults of a request; each may be overridden in its OPTIONS."""

    language: Annotated[str, StringConstraints(pattern=r"^(Auto|[a-z]{2,3})$", max_length=4)] = Field(
        default="Auto", description="Language of the speech as an ISO 639 code, or Auto to detect it in every window. Example: en."
    )
    task: Literal["Transcribe", "Translate"] = Field(default="Transcribe", description="Translate gives English.")
    timestamps: Literal["None", "Segment"] = Field(default="Segment", description="Segment gives every sentence its start and end.")
    draft_source: Literal["Auto", "Model", "PromptLookup", "None"] = Field(
        default="Auto",
        description="Who drafts: Model is spec.model.draft, PromptLookup repeats the text's own phrases, Auto is Model where there is one.",
    )
    max_draft_tokens: Annotated[int, Field(ge=0, le=16)] = Field(
        default=8,
        description="Most tokens drafted per cycle; the engine chooses fewer by what it measures. 0 turns speculation off.",
    )
    chunk_seconds: Annotated[int, Field(ge=5, le=30)] = Field(
        default=30, description="Longest window in seconds that long audio is cut into. Example: 25."
    )
    voice_activity_detection: Literal["Silero", "None"] = Field(
        default="Silero", description="Silero cuts on speech and keeps silence from the model; None cuts by length alone."
    )


class Resources(ApiModel):
    """Resources of the serving container, as Kubernetes quantities."""

    cpu: Quantity = Field(default="4", description="CPU cores. Example: 4.")
    memory: Quantity = Field(default="16Gi", description="Memory, request and limit. Example: 16Gi.")


class Runtime(ApiModel):
    """How a replica runs."""

    image: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="Serving image; the operator's own default where it is left out."
    )
    device: Literal["GPU", "CPU"] = Field(default="GPU", description="GPU takes one GPU per replica.")
    slots: Annotated[int, Field(ge=1, le=512)] = Field(default=32, description="Windows decoded side by side per replica.")
    max_queued_audio_seconds: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=36_000, description="Seconds of audio a replica holds before it refuses more."
    )
    max_audio_seconds: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=14_400, description="Longest audio of one request, in seconds."
    )
    max_audio_bytes: Annotated[int, Field(ge=1, le=2_000_000_000)] = Field(
        default=1_073_741_824, description="Largest audio of one request, in bytes."
    )
    resources: Resources = Field(default_factory=Resources, description="CPU and memory of the serving container.")
    termination_grace_period_seconds: Annotated[int, Field(ge=10, le=3600)] = Field(
        default=110, description="Seconds a replica has to finish its windows before it is killed; spot gives 120."
    )


class EphemeralVolume(ApiModel):
    """A volume that lives as long as its pod."""

    size_limit: Quantity = Field(default="20Gi", description="Most bytes the repository may take. Example: 20Gi.")


class RepositoryVolume(ApiModel):
    """Exactly one place."""

    rules = (
        Rule(
            "has(self.claimName) != has(self.ephemeral)",
            "exactly one of claimName and ephemeral must be set",
            lambda volume: (volume.claim_name is None) != (volume.ephemeral is None),
        ),
    )
    claim_name: Name | None = Field(
        default=None, description="PersistentVolumeClaim that keeps built repositories. Example: models."
    )
    ephemeral: EphemeralVolume | None = Field(
        default=None, description="Build into a volume of each pod: simple, and slow to start."
    )


class Repository(ApiModel):
    """Where built model repositories are kept."""

    volume: RepositoryVolume = Field(
        default_factory=lambda: RepositoryVolume(ephemeral=EphemeralVolume()),
        description="Volume of the built repositories.",
    )


class Schedule(ApiModel):
    """A floor of replicas at certain hours."""

    name: Name = Field(description="Name of the schedule. Example: office-hours.")
    cron: Annotated[str, StringConstraints(max_length=100)] = Field(description="Start, as five cron fields. Example: 0 8 * * 1-5.")
    timezone: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="UTC", description="IANA time zone. Example: Europe/Berlin."
    )
    duration_seconds: Annotated[int, Field(ge=60, le=604_800)] = Field(description="Seconds it lasts. Example: 36000.")
    min_replicas: Count = Field(description="Replicas kept meanwhile.")


class Scaling(ApiModel):
    """How many replicas."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "minReplicas must not be greater than maxReplicas",
            lambda scaling: scaling.min_replicas <= scaling.max_replicas,
        ),
        Rule(
            "!has(self.replicas) || self.mode != 'Builtin'",
            "replicas may be set in mode External, Hpa or Keda only: in Builtin the operator decides",
            lambda scaling: scaling.replicas is None or scaling.mode != "Builtin",
        ),
    )
    mode: Literal["Builtin", "Keda", "Hpa", "External"] = Field(
        default="Builtin", description="Who decides the number of replicas."
    )
    replicas: Count | None = Field(
        default=None, description="Replicas wanted; what the scale subresource writes outside mode Builtin."
    )
    min_replicas: Count = Field(default=0, description="Fewest replicas; 0 scales to zero.")
    max_replicas: Annotated[int, Field(ge=1, le=10_000)] = Field(default=20, description="Most replicas.")
    target_wait_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=60, description="Seconds within which queued audio should be done."
    )
    headroom_replicas: Count = Field(default=0, description="Replicas kept beyond what the load needs.")
    idle_timeout_seconds: Annotated[int, Field(ge=0, le=604_800)] = Field(
        default=600, description="Seconds without work before scaling to zero."
    )
    schedules: tuple[Schedule, ...] = Field(
        default=(),
        max_length=32,
        description="Floors of replicas at certain hours.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class NodeClassRef(ApiModel):
    """A cloud provider's node class."""

    group: Text = Field(default="karpenter.k8s.aws", description="API group of the node class.")
    kind: Text = Field(default="EC2NodeClass", description="Kind of the node class.")
    name: Name = Field(description="Name of the node class. Example: gpu.")


class Pool(ApiModel):
    """A kind of capacity: one Deployment and, with Karpenter, one NodePool."""

    rules = (
        Rule(
            "self.minReplicas <= self.maxNodes",
            "minReplicas must not be greater than maxNodes: a replica takes a node",
            lambda pool: pool.min_replicas <= pool.max_nodes,
        ),
    )
    name: Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=20)] = Field(
        description="Name of the pool. Example: spot."
    )
    capacity_type: Literal["Spot", "OnDemand"] = Field(default="OnDemand", description="How the nodes are bought.")
    gpus: tuple[Name, ...] = Field(default=(), max_length=16, description="GPU kinds accepted, best first. Example: [l4, a10g].")
    zones: tuple[Name, ...] = Field(
        default=(), max_length=16, description="Zones accepted; all where empty. Example: [eu-west-1a]."
    )
    weight: Annotated[int, Field(ge=1, le=100)] = Field(default=10, description="Preference: pools with more weight fill first.")
    min_replicas: Count = Field(default=0, description="Replicas this pool always keeps.")
    max_nodes: Annotated[int, Field(ge=1, le=10_000)] = Field(default=20, description="Most nodes of this pool.")


class Fallback(ApiModel):
    """When a starving pool gives way to the next, and when it is tried again."""

    after_seconds: Annotated[int, Field(ge=10, le=86_400)] = Field(
        default=60, description="Seconds pending before the next pool is used."
    )
    return_after_seconds: Annotated[int, Field(ge=60, le=604_800)] = Field(
        default=600, description="Seconds before the preferred pool is tried again."
    )


class Capacity(ApiModel):
    """On what nodes replicas run."""

    rules = (
        Rule(
            "self.provisioner != 'Karpenter' || has(self.nodeClassRef)",
            "nodeClassRef must be set with provisioner Karpenter",
            lambda capacity: capacity.provisioner != "Karpenter" or capacity.node_class_ref is not None,
        ),
        Rule(
            "!has(self.fallback) || (self.pools.exists(p, p.capacityType == 'Spot') && self.pools.exists(p, p.capacityType == 'OnDemand'))",
            "fallback needs a Spot pool and an OnDemand pool",
            lambda capacity: capacity.fallback is None or {p.capacity_type for p in capacity.pools} == {"Spot", "OnDemand"},
        ),
        Rule(
            "self.pools.all(p, self.pools.exists_one(q, q.name == p.name))",
            "pools must have names of their own",
            lambda capacity: len({p.name for p in capacity.pools}) == len(capacity.pools),
        ),
    )
    provisioner: Literal["Karpenter", "None"] = Field(default="Karpenter", description="None uses the nodes that are there.")
    node_class_ref: NodeClassRef | None = Field(default=None, description="Node class of the NodePools that Karpenter gets.")
    pools: tuple[Pool, ...] = Field(
        min_length=1,
        max_length=8,
        description="Pools of capacity, at least one.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    fallback: Fallback | None = Field(default=None, description="Use on-demand capacity while spot is not to be had.")


class Budget(ApiModel):
    """Most money to spend."""

    per_hour: Dollars | None = Field(default=None, description='US dollars per hour, a decimal string. Example: "20".')
    per_month: Dollars | None = Field(default=None, description='US dollars per calendar month, a decimal string. Example: "6000".')


class Spec(ApiModel):
    """What an SRE wants."""

    rules = (
        Rule(
            "self.runtime.device != 'CPU' || self.model.precision == 'Float32'",
            "model.precision must be Float32 with runtime.device CPU",
            lambda spec: spec.runtime.device != "CPU" or spec.model.precision is Precision.FLOAT32,
        ),
        Rule(
            "self.decoding.draftSource != 'Model' || has(self.model.draft)",
            "decoding.draftSource Model needs model.draft",
            lambda spec: spec.decoding.draft_source != "Model" or spec.model.draft is not None,
        ),
    )
    model: ModelSpec = Field(description="The weights to serve.")
    decoding: Decoding = Field(default_factory=Decoding, description="Defaults of a request.")
    runtime: Runtime = Field(default_factory=Runtime, description="How a replica runs.")
    repository: Repository = Field(default_factory=Repository, description="Where built model repositories are kept.")
    scaling: Scaling = Field(default_factory=Scaling, description="How many replicas.")
    capacity: Capacity = Field(description="On what nodes replicas run.")
    budget: Budget | None = Field(default=None, description="Most money to spend; scaling stops short of it.")
    suspend: bool = Field(default=False, description="Stop reconciling; what runs goes on.")


class Condition(ApiModel):
    """A condition in the shape of metav1.Condition."""

    type: Annotated[str, StringConstraints(max_length=316)] = Field(description="Type of the condition. Example: Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: Total = Field(default=0, description="Generation of the spec that this speaks of.")
    last_transition_time: Annotated[str, StringConstraints(max_length=40)] = Field(
        description="When status last changed, RFC 3339."
    )
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9]*)$", max_length=128)] = Field(
        description="Reason in CamelCase. Example: DownloadingWeights."
    )
    message: Annotated[str, StringConstraints(max_length=1024)] = Field(
        default="", description="One sentence with the next action."
    )


class Endpoints(ApiModel):
    """Where to call."""

    grpc: Text | None = Field(default=None, description="Address of the gRPC service. Example: whisper.default.svc:8001.")
    metrics: Text | None = Field(default=None, description="Address of the metrics.")


class RepositoryStatus(ApiModel):
    """The repository that serves."""

    digest: Annotated[str, StringConstraints(max_length=71)] | None = Field(default=None, description="Digest of the repository.")
    bytes: Total | None = Field(default=None, description="Size in bytes.")
    built_at: Annotated[str, StringConstraints(max_length=40)] | None = Field(
        default=None, description="When it was built, RFC 3339."
    )


class PoolStatus(ApiModel):
    """A pool as it is."""

    name: Name = Field(description="Name of the pool.")
    desired: Count = Field(default=0, description="Replicas wanted of this pool.")
    ready: Count = Field(default=0, description="Replicas that answer their canary.")
    nodes: Count = Field(default=0, description="Nodes there are.")
    reason: Text | None = Field(default=None, description="Why it is not what is desired. Example: WaitingForSpotCapacity.")


class ScalingStatus(ApiModel):
    """The last scaling decision and its terms."""

    queued_audio_seconds: Total = Field(default=0, description="Seconds of audio waiting.")
    in_flight_audio_seconds: Total = Field(default=0, description="Seconds of audio being decoded.")
    arrival_percent: Total = Field(default=0, description="Audio seconds that arrive per second, in percent.")
    replica_throughput_percent: Total = Field(default=0, description="Audio seconds a replica decodes per second, in percent.")
    lead_time_seconds: Total = Field(default=0, description="Learnt seconds from an order to a ready replica.")
    desired: Count = Field(default=0, description="Replicas decided.")
    reason: Text | None = Field(default=None, description="Why, in a word. Example: DeadlineAtRisk.")
    observed_at: Annotated[str, StringConstraints(max_length=40)] | None = Field(default=None, description="When, RFC 3339.")


class Speculation(ApiModel):
    """What speculation gains."""

    acceptance_percent: Percent = Field(default=0, description="Drafted tokens that were the target's own, in percent.")
    tokens_per_cycle_percent: Total = Field(default=0, description="Tokens committed per verification, in percent: 350 is 3.5.")


class Cost(ApiModel):
    """What it costs."""

    per_hour: Dollars | None = Field(default=None, description="US dollars per hour now.")
    per_audio_hour: Dollars | None = Field(default=None, description="US dollars per hour of audio.")


class Status(ApiModel):
    """What the operator sees."""

    observed_generation: Total = Field(default=0, description="Generation of the spec last acted upon.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Conditions; Ready sums up.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    replicas: Count = Field(default=0, description="Replicas there are.")
    ready: Annotated[str, StringConstraints(max_length=16)] | None = Field(
        default=None, description="Ready of desired replicas. Example: 2/3."
    )
    selector: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="Label selector of the replicas."
    )
    desired_replicas: Count = Field(default=0, description="Replicas wanted.")
    endpoints: Endpoints | None = Field(default=None, description="Where to call.")
    repository: RepositoryStatus | None = Field(default=None, description="The repository that serves.")
    pools: tuple[PoolStatus, ...] = Field(
        default=(),
        max_length=8,
        description="The pools as they are.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    scaling: ScalingStatus | None = Field(default=None, description="The last scaling decision.")
    speculation: Speculation | None = Field(default=None, description="What speculation gains.")
    cost: Cost | None = Field(default=None, description="What it costs.")


class ObjectMeta(ApiModel):
    """The part of an object's metadata that is read without a cluster."""

    model_config = ApiModel.model_config | {"extra": "allow"}
    name: Annotated[str, StringConstraints(pattern=DNS_LABEL, max_length=52)] = Field(
        description="Name, at most 52 characters so that the names of its children fit."
    )
    namespace: Name = Field(default="default", description="Namespace.")


class TranscriberDeployment(ApiModel):
    """A Whisper model served on Triton with exact speculative decoding, and the GPU capacity it scales on."""

    api_version: Literal["serving.transcriber.dev/v1alpha1"] = Field(description="Version of the API.")
    kind: Literal["TranscriberDeployment"] = Field(description="Kind of the object.")
    metadata: ObjectMeta = Field(description="Name and namespace.")
    spec: Spec = Field(description="What is wanted.")
    status: dict[str, Any] | None = Field(default=None, description="What the operator sees; ignored when read from a file.")
