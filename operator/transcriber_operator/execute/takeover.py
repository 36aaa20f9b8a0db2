"""Undoing what was edited by hand where server-side apply cannot: an entry of a list under another key; pure.

Apply leaves what others own. If someone changes the port of a Service, that is an entry of theirs; ours comes back beside it,
under the same name, and the API server refuses both. Once their fields count as applied by us, the next apply drops them.
"""

from collections.abc import Sequence
from typing import Any, Final

# Whose fields stay theirs: our other writers, and the revision that the Deployment controller notes.
KEPT_MANAGERS: Final = frozenset({"transcriber-autoscaler", "transcriber-results", "kube-controller-manager"})

Entry = dict[str, Any]


def taken_over(entries: Sequence[Entry], manager: str) -> list[Entry] | None:
    """Return `managedFields` in which what others own is applied by `manager`; None if there is nothing to take over.

    Fields written through a subresource (status, scale) stay as they are.
    """
    strange = [entry for entry in entries if _is_strange(entry, manager)]
    ours = next((entry for entry in entries if _is_applied_by(entry, manager)), None)
    if ours is None or not strange:
        return None
    fields = ours["fieldsV1"]
    for entry in strange:
        fields = _union(fields, entry["fieldsV1"])
    kept = [entry for entry in entries if entry not in strange and entry is not ours]
    return [{**ours, "fieldsV1": fields}, *kept]


def _is_strange(entry: Entry, manager: str) -> bool:
    return not (entry.get("subresource") or entry.get("manager") in KEPT_MANAGERS or _is_applied_by(entry, manager))


def _is_applied_by(entry: Entry, manager: str) -> bool:
    return entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")


def _union(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {key: _union(one.get(key, {}), other.get(key, {})) for key in sorted({*one, *other})}
