"""What can go wrong in a pass, by what is to be done about it."""


class OperatorError(Exception):
    """A failure that the operator knows how to go on from; the message says what failed and why."""


class TransientError(OperatorError):
    """It may go better later: network, timeout, throttling. Tried again with backoff."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds  # what the server asked for, at least


class ForbiddenError(TransientError):
    """403: rights, a quota or an admission policy are against it. Told in a condition, and tried again with backoff."""


class KindMissingError(TransientError):
    """The cluster has no such kind: what brings it is not installed. Told in a condition, and tried again with backoff."""


class ConflictError(OperatorError):
    """The cluster is not as it was observed: observe again and decide anew."""


class NotFoundError(ConflictError):
    """The object does not exist (any more)."""


class TerminalError(OperatorError):
    """The API server refuses what was written; only another spec helps. Told in a condition, then quiet."""


class LeaseLostError(OperatorError):
    """This process may not write: the Lease is not held."""
