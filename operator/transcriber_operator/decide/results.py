"""What a build leaves in its pod's termination message: the repository it published, or why it failed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from transcriber_api.conditions import Reason
from transcriber_api.quantities import Count, Digest
from transcriber_api.status import ResolvedFile
from transcriber_operator.decide.problem import Problem, shortened

FULL: Final = ("No space left", "quota exceeded")
# Reasons of transcriber_repository, which the operator does not import, as reasons of conditions. What depends on the message
# is told apart in `_reason_of`.
REASONS: Final[Mapping[str, Reason]] = {
    "InvalidSpec": Reason.SPEC_INVALID,
    "SourceUnavailable": Reason.SOURCE_UNREACHABLE,
    "SourceRefused": Reason.SOURCE_UNREACHABLE,
    "ChecksumMismatch": Reason.CHECKSUM_MISMATCH,
    "UnsupportedFormat": Reason.FORMAT_UNSUPPORTED,
    "DraftIncompatible": Reason.DRAFT_INCOMPATIBLE,
    "RepositoryCorrupt": Reason.CHECKSUM_MISMATCH,
    "StorageFailed": Reason.BUILD_FAILED,
}
PASSING: Final = frozenset({"SourceUnavailable", "StorageFailed"})  # another try may cure these


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer builder may tell more


class Published(_Message):
    """A repository: its content address, its size in bytes and the source files it was made of."""

    digest: Digest
    bytes: Count
    files: tuple[ResolvedFile, ...] = ()


class _Failure(_Message):
    reason: str
    message: str


@dataclass(frozen=True)
class Built:
    """A repository and when it was published."""

    published: Published
    at: datetime | None = None


def read_published(text: str | None) -> Published | None:
    """Parse what a build that succeeded wrote; None for anything else."""
    try:
        return Published.model_validate_json(text or "")
    except ValidationError:
        return None


def written(published: Published) -> str:
    """Return a result as it is kept in an annotation."""
    return json.dumps(published.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def failure(ended: Mapping[str, Any]) -> Problem:
    """Why a build container ended, from its `terminated` state; `needs_action` unless another try may cure it."""
    if ended.get("reason") == "OOMKilled":
        return Problem(Reason.OUT_OF_MEMORY, "The build ran out of memory; raise repository.build.resources.limits.memory.")
    text = ended.get("message") or ""
    try:
        told = _Failure.model_validate_json(text)
    except ValidationError:
        code, said = ended.get("exitCode"), shortened(text)
        tail = f": {said}" if said else ""
        return Problem(Reason.BUILD_FAILED, f"The build ended with exit code {code}{tail}; read the log of its pod.")
    message = shortened(told.message, 2000)
    return Problem(_reason_of(told), f"The build failed: {message}.", needs_action=told.reason not in PASSING)


def _reason_of(told: _Failure) -> Reason:
    subject = told.message.partition(": ")[0]
    if told.reason == "SourceRefused" and subject.endswith(".revision"):
        return Reason.REVISION_NOT_FOUND
    if told.reason == "StorageFailed" and any(sign in told.message for sign in FULL):
        return Reason.VOLUME_FULL
    return REASONS.get(told.reason, Reason.BUILD_FAILED)
