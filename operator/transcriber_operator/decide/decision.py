"""What a pass decided: the writes that are needed, in order, and nothing where nothing is needed."""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from transcriber_api.conditions import Reason
from transcriber_api.status import Status
from transcriber_operator.decide.observed import Manifest

# Field managers of server-side apply; status has its own. `transcriber-results` owns one annotation of finished build Jobs.
Manager = Literal["transcriber-controller", "transcriber-autoscaler", "transcriber-results"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Key(NamedTuple):
    """What names an object within a namespace."""

    api_version: str
    kind: str
    name: str


class Apply(_Frozen):
    """A server-side apply of a child."""

    manifest: Manifest
    manager: Manager = "transcriber-controller"


class Prune(_Frozen):
    """A delete of a child, of this very UID, with its dependents."""

    key: Key
    uid: str


class Announcement(_Frozen):
    """An Event about the resource, on a transition."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


class Decision(_Frozen):
    """Applies in order, then prunes, then status; `status` is None where it is as it should be."""

    apply: tuple[Apply, ...] = ()
    prune: tuple[Prune, ...] = ()
    status: Status | None = None
    announcements: tuple[Announcement, ...] = ()
    requeue_after_seconds: float | None = None  # None: only an event or the resync wakes the next pass
    details: tuple[str, ...] = ()  # each step's decision in a sentence
