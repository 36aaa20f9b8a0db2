"""Why a request was refused, in words that name the field and the fix."""

from enum import StrEnum


class Refusal(StrEnum):
    """The kind of refusal; the values are gRPC status names."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    OUT_OF_RANGE = "OUT_OF_RANGE"  # a size or a duration beyond what this deployment accepts
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"  # try again later, or the input unpacks to far more than it weighs
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"  # the answer would come too late


class RequestError(ValueError):
    """A request that cannot be served. `field` is the input or option at fault, e.g. `AUDIO` or `OPTIONS.language`."""

    def __init__(self, field: str, message: str, refusal: Refusal = Refusal.INVALID_ARGUMENT) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.refusal = refusal


class DeadlinePassedError(RequestError):
    """The request's own deadline passed while its audio waited."""

    def __init__(self) -> None:
        reason = "passed while audio waited to be decoded; allow more seconds, or send less at once"
        super().__init__("OPTIONS.deadline_seconds", reason, Refusal.DEADLINE_EXCEEDED)


class CancelledByCallerError(Exception):
    """The caller went away; nobody waits for the answer."""
