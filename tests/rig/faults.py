"""Faults between the operator and the API server: what is done to which call, and the rules in force."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from tests.rig.api_calls import READ_VERBS, WRITE_VERBS, Call

ANY: Final = "*"  # as verb or resource
ANY_WRITE: Final = "write"  # as verb
ALL_BUT_LEASES: Final = "*-leases"  # as resource: the renewals of a Lease come at times of their own
LEASES: Final = "leases"
When = Literal["before", "after"]
# The reason that the API server gives with a code.
REASONS: Final = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid",
    429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


@dataclass(frozen=True)
class Status:
    """Answer with this HTTP status and a Status object."""

    code: int
    reason: str = ""  # empty: the one that goes with the code
    retry_after_seconds: int | None = None


@dataclass(frozen=True)
class Delay:
    """Pass on late: the request (before) or the answer, in a watch the event (after)."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """Close the connection without an answer; in a watch, instead of the event."""


@dataclass(frozen=True)
class HalfLine:
    """Send the first half of the answer, in a watch of the event's JSON line, and close the connection."""


@dataclass(frozen=True)
class ErrorEvent:
    """In a watch: send an ERROR event with a Status of this code and end the stream; after: in place of the event."""

    code: int


@dataclass(frozen=True)
class Hold:
    """In a watch: keep the events that match until `release` is set, or until `count` of them are kept.

    Then they are sent in their order, or, `lost`, never. Other events of the stream pass them by. A removed rule keeps no new
    events; those that it has wait for the release.
    """

    release: asyncio.Event | None = None
    count: int | None = None
    lost: bool = False

    def __post_init__(self) -> None:
        if (self.release is None) == (self.count is None):
            raise ValueError("Hold: give exactly one of release and count")


@dataclass(frozen=True)
class Silent:
    """Keep the connection open and send nothing more, until the client leaves; a watch that begins so is still answered 200."""


@dataclass(frozen=True)
class KillProcess:
    """Call `kill`, which must have ended the client when it returns, and close the connection."""

    kill: Callable[[], None]


Action = Status | Delay | Cut | HalfLine | ErrorEvent | Hold | Silent | KillProcess


@dataclass(frozen=True)
class Rule:
    """Which calls get the fault.

    `verb` is Kubernetes' own, ANY, or ANY_WRITE; `resource` the plural, `deployments/status` for a subresource, ANY, or
    ALL_BUT_LEASES. Of the calls that match, counted from 1 for each rule, `nth` picks one, `every` each multiple, neither: all.
    Before: the request never reaches the server. After: it did, and the answer is changed. After, in a watch, is about its
    events: they are what is counted, and `name` and `namespace` are those of the event's object; bookmarks have none. Only a
    rule that says watch, not ANY, looks at events; it does so at once, also on watches that are open already.
    """

    verb: str
    resource: str
    name: str | None = None
    namespace: str | None = None
    nth: int | None = None
    every: int | None = None
    when: When = "before"
    action: Action = field(kw_only=True)

    def __post_init__(self) -> None:
        known = {*READ_VERBS, *WRITE_VERBS, ANY, ANY_WRITE}
        if self.verb not in known:
            raise ValueError(f"verb: {self.verb!r} is none of {', '.join(sorted(known))}")
        if self.nth is not None and self.every is not None:
            raise ValueError("nth, every: give at most one")
        if isinstance(self.action, Hold) and (self.verb, self.when) != ("watch", "after"):
            raise ValueError("action: Hold needs verb watch and when='after'")
        if isinstance(self.action, ErrorEvent) and self.verb != "watch":
            raise ValueError("action: ErrorEvent needs verb watch")
        if isinstance(self.action, HalfLine) and self.verb != "watch" and self.when == "before":
            raise ValueError("action: HalfLine of an answer needs when='after'")
        if isinstance(self.action, Status) and self.verb == "watch" and self.when == "after":
            raise ValueError("action: a watch that was answered has its status; use ErrorEvent, or when='before'")


def is_match(rule: Rule, call: Call) -> bool:
    """Whether a call, or (after) an event given as the watch of its object, is one that the rule speaks of."""
    if rule.when == "after" and call.verb == "watch" and rule.verb != "watch":
        return False
    return (
        rule.verb in {ANY, call.verb, ANY_WRITE if call.is_write else call.verb}
        and _is_resource(rule.resource, call.resource)
        and rule.name in {None, call.name}
        and rule.namespace in {None, call.namespace}
    )


def is_picked(rule: Rule, match_number: int) -> bool:
    """Whether the rule's match of this number, counted from 1, gets the fault."""
    if rule.nth is not None:
        return match_number == rule.nth
    return rule.every is None or match_number % rule.every == 0


class Armed:
    """A rule in force, and what became of it; `fired` is set once it has acted, `released` once it holds no more events."""

    def __init__(self, rule: Rule, expires_at: float | None) -> None:
        self.rule = rule
        self.matches = 0
        self.fires = 0
        self.fired = asyncio.Event()
        given = rule.action.release if isinstance(rule.action, Hold) else None
        self.released = given or asyncio.Event()
        self._expires_at = expires_at

    def is_expired(self, now: float) -> bool:
        """Whether its time window is over; `now` as of time.monotonic."""
        return self._expires_at is not None and now >= self._expires_at


class Rules:
    """The rules in force, in the order in which they were added."""

    def __init__(self) -> None:
        self._armed: list[Armed] = []

    def add(self, rule: Rule, for_seconds: float | None = None) -> Armed:
        """Put a rule in force, for a time or until it is removed."""
        armed = Armed(rule, None if for_seconds is None else time.monotonic() + for_seconds)
        self._armed.append(armed)
        return armed

    def remove(self, armed: Armed) -> None:
        """Take a rule out of force; nothing if its time is over already."""
        if armed in self._armed:
            self._armed.remove(armed)

    def clear(self) -> None:
        """Take all rules out of force."""
        self._armed.clear()

    def firing(self, call: Call, when: When) -> Armed | None:
        """Count a call at every rule that it matches, and return the first of them that acts on it."""
        now = time.monotonic()
        self._armed = [armed for armed in self._armed if not armed.is_expired(now)]
        found = None
        for armed in self._armed:
            if armed.rule.when == when and is_match(armed.rule, call):
                armed.matches += 1
                if found is None and is_picked(armed.rule, armed.matches):
                    found = armed
        if found is not None:
            found.fires += 1
            found.fired.set()
        return found


def status_object(action: Status) -> dict[str, Any]:
    """Return the Status object that goes with an HTTP status."""
    reason = action.reason or REASONS.get(action.code, "")
    details = {} if action.retry_after_seconds is None else {"details": {"retryAfterSeconds": action.retry_after_seconds}}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"injected by the fault proxy: {action.code} {reason}",
        "reason": reason,
        "code": action.code,
        **details,
    }


def error_line(code: int) -> bytes:
    """Return an ERROR event as a line of a watch."""
    return json.dumps({"type": "ERROR", "object": status_object(Status(code))}).encode() + b"\n"


def _is_resource(pattern: str, resource: str) -> bool:
    if pattern == ALL_BUT_LEASES:
        return resource != LEASES
    return pattern in {ANY, resource}
