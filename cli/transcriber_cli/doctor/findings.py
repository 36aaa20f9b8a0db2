"""What a check finds: how bad, about what, what was seen, and the command or value that mends it."""

from dataclasses import dataclass
from enum import StrEnum

from transcriber_cli.cluster import Unread, Why


class Severity(StrEnum):
    """How bad a finding is; only a problem makes the command fail."""

    PROBLEM = "problem"  # something that is asked for does not work
    WARNING = "warning"  # works, and will be missed when it counts
    NOTE = "note"  # to know, or not checked
    OK = "ok"


class Area(StrEnum):
    """What a finding belongs to, in the order in which they are shown."""

    SERVER = "API server"
    DEFINITION = "Resource definition"
    OPERATOR = "Operator"
    RIGHTS = "Rights of the operator"
    RESOURCES = "Resources"
    INPUTS = "What resources name"
    GPUS = "GPU nodes"
    KARPENTER = "Karpenter"
    SCALING = "Autoscalers"
    MONITORING = "Monitoring"
    GATEWAY = "Gateway"


@dataclass(frozen=True)
class Finding:
    """One finding. `code` is a constant of its kind; `fix` is empty where there is nothing to do."""

    area: Area
    code: str
    severity: Severity
    subject: str
    seen: str
    fix: str = ""


def ok(area: Area, code: str, subject: str, seen: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(area, code, Severity.OK, subject, seen)


def note(area: Area, code: str, subject: str, seen: str, fix: str = "") -> Finding:
    """Return something to know."""
    return Finding(area, code, Severity.NOTE, subject, seen, fix)


def warning(area: Area, code: str, subject: str, seen: str, fix: str) -> Finding:
    """Return something that will be missed when it counts."""
    return Finding(area, code, Severity.WARNING, subject, seen, fix)


def problem(area: Area, code: str, subject: str, seen: str, fix: str) -> Finding:
    """Return something that keeps what is asked for from working."""
    return Finding(area, code, Severity.PROBLEM, subject, seen, fix)


def not_checked(area: Area, subject: str, unread: Unread, right: str = "") -> Finding:
    """Return that something could not be looked at; `right` is what kubectl calls the missing right, such as `list nodes`."""
    if unread.why is Why.FORBIDDEN:
        fix = f"look as a user who may: kubectl auth can-i {right}" if right else "look as a user who may"
        return Finding(area, "not-allowed", Severity.NOTE, subject, f"not checked: {unread.message or 'forbidden'}", fix)
    return Finding(area, "not-read", Severity.NOTE, subject, f"not checked: {unread.message or unread.why}", "look again")
