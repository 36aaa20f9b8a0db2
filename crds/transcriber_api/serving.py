"""How requests are decoded, what the serving pods are given, and where the model repository lies."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from transcriber_api.quantities import (
    Flag,
    ImageReference,
    Language,
    ObjectName,
    QualifiedName,
    Quantity,
    Seconds,
)
from transcriber_api.rules import ApiModel, Rule

DraftSource = Literal["Model", "PromptLookup", "None"]


class Decoding(ApiModel):
    """What a request gets that does not choose for itself, and how tokens are drafted."""

    language: Language = Field(
        default="Auto", description='Spoken language as Whisper names it; Auto detects it per window. Quote "no".', examples=["de"]
    )
    task: Literal["Transcribe", "Translate"] = Field(
        default="Transcribe", description="Transcribe in the spoken language, or Translate to English.", examples=["Transcribe"]
    )
    timestamps: Literal["None", "Segment", "Word"] = Field(
        default="Segment",
        description="Times in the result: none, start and end of each segment, or of each word as well.",
        examples=["Segment"],
    )
    draft_source: Literal["Auto", "Model", "PromptLookup", "None"] = Field(
        default="Auto",
        description=(
            "What proposes tokens: the draft Model, n-grams of what was just said (PromptLookup), or None. Auto is Model when "
            "model.draft is set, else None. The transcript is the same with all of them."
        ),
        examples=["Auto"],
    )
    max_draft_tokens: Annotated[int, Strict(), Field(ge=0, le=16)] = Field(
        default=8, description="Most tokens proposed per cycle; fewer are when they are often rejected. 0: none.", examples=[8]
    )
    chunk_seconds: Annotated[int, Strict(), Field(ge=5, le=30)] = Field(
        default=30, description="Longest window that audio is cut into, in seconds; Whisper hears 30 at most.", examples=[30]
    )
    voice_activity_detection: Literal["Silero", "None"] = Field(
        default="Silero",
        description="Silero cuts in pauses and skips silence, where Whisper invents words; None cuts at every chunkSeconds.",
        examples=["Silero"],
    )
    temperature_fallback: Flag = Field(
        default=False,
        description=(
            "Decode a window again, its tokens drawn at rising temperatures, where it repeats itself or the model doubts it; such "
            "a window is not what the target says at temperature 0, and its segments tell their temperature."
        ),
        examples=[True],
    )
    hallucination_guards: Flag = Field(
        default=False,
        description=(
            "Leave out text where two of three say that nobody speaks (the model's no-speech token, its doubt, the detector), "
            "text after the end of the audio, and what a loop repeats."
        ),
        examples=[True],
    )


class ResourceList(ApiModel):
    """Amounts of compute of one container."""

    cpu: Quantity | None = Field(default=None, description="Processor time in cores.", examples=["4"])
    memory: Quantity | None = Field(default=None, description="Memory in bytes.", examples=["12Gi"])
    ephemeral_storage: Quantity | None = Field(
        default=None, alias="ephemeral-storage", description="Local disk in bytes, beside the repository volume.", examples=["2Gi"]
    )


class Resources(ApiModel):
    """What a container is promised and what it may take, as in a pod; the GPU is asked for by the operator."""

    requests: ResourceList = Field(default=ResourceList(), description="What the scheduler sets aside; absent: the limit.")
    limits: ResourceList = Field(default=ResourceList(), description="What the container may not exceed; absent: no limit.")


class Runtime(ApiModel):
    """The serving pods: one Triton server on one GPU (or on CPU) each."""

    image: ImageReference | None = Field(
        default=None,
        description="Serving image, best by digest; absent: the one that the operator was released with.",
        examples=["registry.example.com/transcriber-serving:0.1.0"],
    )
    service_account_name: ObjectName | None = Field(
        default=None,
        description="ServiceAccount of build Job and serving pods, for cloud roles and pull secrets; absent: `default`.",
        examples=["whisper"],
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of the serving pods; absent: the cluster's default.", examples=["interactive"]
    )
    device: Literal["GPU", "CPU"] = Field(default="GPU", description="Where the model runs.", examples=["GPU"])
    gpu_resource_name: QualifiedName = Field(
        default="nvidia.com/gpu",
        description="Extended resource that one GPU, or a share of one, is asked for by.",
        examples=["nvidia.com/gpu"],
    )
    slots: Annotated[int, Strict(), Field(ge=1, le=512)] = Field(
        default=32, description="Windows that a replica decodes at the same time; each takes GPU memory.", examples=[32]
    )
    max_queued_audio_seconds: Annotated[Seconds, Field(ge=1)] = Field(
        default=36_000,
        description="Audio that may wait in one replica, in seconds; what comes on top is refused, to be retried.",
        examples=[36_000],
    )
    max_audio_seconds: Annotated[int, Strict(), Field(ge=1, le=604_800)] = Field(
        default=14_400, description="Longest audio of one request, in seconds.", examples=[14_400]
    )
    max_audio_bytes: Annotated[int, Strict(), Field(ge=1, le=2**31 - 1)] = Field(
        default=1 << 30, description="Largest request, in bytes; gRPC ends at 2 GiB.", examples=[1 << 30]
    )
    resources: Resources = Field(default=Resources(), description="CPU and memory of the Triton container.")
    shared_memory_size: Quantity = Field(
        default="1Gi",
        description="Size of /dev/shm in bytes, which Triton's Python models pass audio through; counts as memory.",
        examples=["1Gi"],
    )
    startup_timeout_seconds: Annotated[int, Strict(), Field(ge=60, le=7200)] = Field(
        default=1800, description="How long a replica may load before it is restarted, in seconds.", examples=[1800]
    )
    termination_grace_period_seconds: Annotated[int, Strict(), Field(ge=5, le=3600)] = Field(
        default=110,
        description="How long a replica may finish its windows when it is stopped, in seconds; spot gives 120.",
        examples=[110],
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="longest-audio-fits-queue",
            field="maxAudioSeconds",
            message="maxAudioSeconds must not exceed maxQueuedAudioSeconds; such audio could never be admitted",
            cel="self.maxAudioSeconds <= self.maxQueuedAudioSeconds",
            holds=lambda runtime: runtime.max_audio_seconds <= runtime.max_queued_audio_seconds,
        ),
    )


class EphemeralVolume(ApiModel):
    """A volume that lives and dies with its pod; every replica fetches and builds for itself."""

    size_limit: Quantity = Field(default="20Gi", description="Most that it may hold, in bytes.", examples=["20Gi"])


class RepositoryVolume(ApiModel):
    """Where model repositories are kept: one of the fields."""

    claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim in this namespace, ReadWriteMany when replicas span nodes; built once, read by all.",
        examples=["transcriber-repositories"],
    )
    ephemeral: EphemeralVolume | None = Field(default=None, description="A volume per pod.", examples=[{"sizeLimit": "20Gi"}])

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="one-volume",
            field="claimName",
            message="set exactly one of claimName and ephemeral",
            cel="has(self.claimName) != has(self.ephemeral)",
            holds=lambda volume: (volume.claim_name is None) != (volume.ephemeral is None),
        ),
    )


class Build(ApiModel):
    """The Job that fetches, verifies and converts the weights."""

    resources: Resources = Field(default=Resources(), description="CPU and memory of the build container.")
    timeout_seconds: Annotated[int, Strict(), Field(ge=60, le=86_400)] = Field(
        default=3600, description="How long a build may take, downloads included, in seconds.", examples=[3600]
    )
    backoff_limit: Annotated[int, Strict(), Field(ge=0, le=20)] = Field(
        default=3, description="How often a failed build is tried again; downloads resume.", examples=[3]
    )


class Repository(ApiModel):
    """The Triton model repository that is built from the model: where it lies and how it gets there."""

    volume: RepositoryVolume = Field(
        default=RepositoryVolume(ephemeral=EphemeralVolume()), description="Where repositories are kept."
    )
    build: Build = Field(default=Build(), description="The build Job.")
    revision_history_limit: Annotated[int, Strict(), Field(ge=0, le=10)] = Field(
        default=1, description="Repositories kept beside the one in service, to go back to.", examples=[1]
    )
