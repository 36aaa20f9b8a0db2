"""Why a request was refused, in words that name the field and the fix."""

from enum import StrEnum


class Refusal(StrEnum):
    """The kind of refusal; the values are gRPC status names."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    OUT_OF_RANGE = "OUT_OF_RANGE"  # a size or a duration beyond what this deployment accepts
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"  # try again later, or the input unpacks to far more than it weighs


class RequestError(ValueError):
    """A request that cannot be served. `field` is the input or option at fault, e.g. `AUDIO` or `OPTIONS.language`."""

    def __init__(self, field: str, message: str, refusal: Refusal = Refusal.INVALID_ARGUMENT) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.refusal = refusal


class CancelledByCallerError(Exception):
    """The caller went away; nobody waits for the answer."""
