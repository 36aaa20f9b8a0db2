"""What `transcribe` knows of a window beside its samples, told to the models that decode it as one request parameter.

Triton hands the parameters of a call to every step of an ensemble. All models of a server run on one machine, so that they share
its monotonic clock.
"""

import json
import time
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transcriber_engine.errors import DeadlinePassedError, RequestError
from transcriber_engine.mel import WINDOW_SECONDS

PARAMETER: Final = "transcriber_window"


class WindowFacts(BaseModel):
    """A caller of `whisper` that says nothing sends half a minute of audio, on nobody's behalf, without a deadline."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: str | None = None  # the same for all windows of one request
    audio_seconds: Annotated[float, Field(gt=0, le=WINDOW_SECONDS)] = WINDOW_SECONDS
    speech_seconds: Annotated[float, Field(ge=0)] | None = None  # what a detector heard
    deadline_seconds: float | None = None  # on this machine's monotonic clock

    @property
    def parameters(self) -> dict[str, str]:
        """The request parameter that tells them."""
        return {PARAMETER: self.model_dump_json(exclude_none=True)}

    @classmethod
    def told_by(cls, parameters: str) -> Self:
        """Read them out of a request's parameters (JSON); raises RequestError."""
        told = json.loads(parameters or "{}").get(PARAMETER, "{}")
        try:
            return cls.model_validate_json(str(told))
        except ValidationError as error:
            raise RequestError(PARAMETER, error.errors(include_url=False)[0]["msg"]) from None

    def check_deadline(self) -> None:
        """Raise DeadlinePassedError where it would be too late already."""
        if self.deadline_seconds is not None and time.monotonic() >= self.deadline_seconds:
            raise DeadlinePassedError
