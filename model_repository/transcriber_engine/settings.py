"""What a deployment fixes (`EngineSettings`) and what a request may choose (`Options`)."""

import math
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transcriber_engine.errors import RequestError

Task = Literal["transcribe", "translate"]
Timestamps = Literal["none", "segment"]
MAX_PROMPT_CHARACTERS = 2000


class EngineSettings(BaseModel):
    """Settings of one served repository: `engine.json`, written by the build and read by every Triton model in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
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


def seconds_text(seconds: float) -> str:
    """Human-readable duration for messages: 3723 -> '1 h 2 min 3 s'."""
    if not math.isfinite(seconds):
        return str(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "0 s"
