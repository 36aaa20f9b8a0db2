"""What a deployment fixes (`EngineSettings`) and what a request may choose (`Options`)."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from transcriber_engine.errors import RequestError
from transcriber_engine.fallback import MAX_SEED

Task = Literal["transcribe", "translate"]
Timestamps = Literal["none", "segment", "word"]
MAX_PROMPT_CHARACTERS = 2000
MAX_HOTWORDS_CHARACTERS = 1000


class EngineSettings(BaseModel):
    """Settings of one served repository: `engine.json`, written by the build and read by every Triton model in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    slots: Annotated[int, Field(ge=1, le=512)] = 8
    draft: Literal["none", "model", "prompt_lookup"] = "none"
    max_draft_tokens: Annotated[int, Field(ge=0, le=16)] = 8
    language: str | None = None  # None: detect, per window
    task: Task = "transcribe"
    timestamps: Timestamps = "segment"
    chunk_seconds: Annotated[int, Field(ge=5, le=30)] = 30
    voice_activity_detection: Literal["silero", "none"] = "silero"
    max_audio_seconds: Annotated[int, Field(ge=1)] = 14_400
    max_audio_bytes: Annotated[int, Field(ge=1)] = 1 << 30
    max_queued_audio_seconds: Annotated[int, Field(ge=1)] = 36_000
    temperature_fallback: bool = False
    hallucination_guards: bool = False

    @field_validator("precision")
    @classmethod
    def _int8_on_cpu(cls, precision: str, info: ValidationInfo) -> str:
        if precision == "int8" and info.data.get("device") == "cuda":
            raise ValueError("int8 is for device cpu only; set precision to float16, or device to cpu")
        return precision

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `engine.json`; raises pydantic's ValidationError, which names the field."""
        return cls.model_validate_json(path.read_bytes())


class Options(BaseModel):
    """The OPTIONS of one request, JSON; a field left out takes the deployment's value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    language: Annotated[str, Field(min_length=2, max_length=3)] | None = None
    task: Task | None = None
    timestamps: Timestamps | None = None
    prompt: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] | None = None
    hotwords: Annotated[str, Field(max_length=MAX_HOTWORDS_CHARACTERS)] | None = None  # names and terms to be expected
    condition_on_previous_text: bool | None = None  # decode the windows one after another, each with the text before it
    temperature_fallback: bool | None = None  # decode a window that came out bad again, less greedily
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None  # of what temperature fallback draws
    hallucination_guards: bool | None = None  # leave out what was said of silence, and repetition without end
    deadline_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # from arrival; later is of no use
    voice_activity_detection: Literal["silero", "none"] | None = None
    max_draft_tokens: Annotated[int, Field(ge=0, le=16)] | None = None  # 0: the target alone decodes

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Parse the JSON of a request; raises RequestError that names the option and the fix."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            path = ".".join(["OPTIONS", *(str(part) for part in first["loc"])])
            message = first["msg"]
            if first["type"] == "extra_forbidden":
                message = f"unknown option; known are {', '.join(cls.model_fields)}"
            raise RequestError(path, message) from None

    def over(self, settings: EngineSettings) -> Self:
        """Return these options with the deployment's value where none was chosen; the language may stay None: detect."""
        shared = type(self).model_fields.keys() & EngineSettings.model_fields.keys()
        return self.model_copy(update={name: getattr(settings, name) for name in shared if getattr(self, name) is None})
