"""Why a repository was not built or not accepted, in words that name the field or file and the fix."""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """The kind of failure; the values are condition reasons, so CamelCase."""

    INVALID_SPEC = "InvalidSpec"
    SOURCE_UNAVAILABLE = "SourceUnavailable"  # the one that a retry may cure
    SOURCE_REFUSED = "SourceRefused"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    UNSUPPORTED_FORMAT = "UnsupportedFormat"
    DRAFT_INCOMPATIBLE = "DraftIncompatible"
    REPOSITORY_CORRUPT = "RepositoryCorrupt"
    STORAGE_FAILED = "StorageFailed"


EXIT_CODES: Final = {reason: code for code, reason in enumerate(Reason, start=3)}
SIGNAL_EXIT_BASE: Final = 128  # of the code of a process that a signal ends


class RepositoryError(Exception):
    """A build or a check that ended, with its reason; `subject` is the spec field or the file at fault, as people find it."""

    def __init__(self, reason: Reason, subject: str, message: str) -> None:
        super().__init__(f"{subject}: {message}")
        self.reason = reason
        self.subject = subject


class SourceInterruptedError(Exception):
    """A transfer broke off; the download resumes it where it stopped."""
