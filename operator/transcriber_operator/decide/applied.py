"""Whether a live object already is as a manifest asks: what is so needs no write."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from transcriber_api.quantities import quantity_value
from transcriber_operator.decide.live import Live, is_ending, key_of
from transcriber_operator.decide.observed import Manifest

# Lists that server-side apply merges by a key; their live form may have more entries, and another order.
LIST_KEYS: Final = ("mountPath", "uid", "name")
QUANTITIES: Final = frozenset({"cpu", "memory", "ephemeral-storage", "sizeLimit"})


def needs_apply(manifest: Manifest, live: Live) -> bool:
    """Whether a child has to be written.

    One that is ending is made anew once it is gone, and so is one whose name a child of an earlier resource still holds.
    """
    found = live.get(manifest)
    if found is None:
        return key_of(manifest) not in live.foreign
    return not is_ending(found) and not is_applied(manifest, found)


def is_applied(manifest: Manifest, live: Manifest | None) -> bool:
    """Whether every field of `manifest` is in `live` with an equal value.

    What `live` has beyond that belongs to others or is a default; a field that is not rendered any more shows in the manifest
    hash. Lists are matched by name, mount path or UID where all entries have one, else by position. Quantities are equal by
    value. An empty map or list is equal to none: the API server leaves it out.
    """
    return live is not None and _covers(live, manifest, "")


def _covers(live: Any, wanted: Any, field: str) -> bool:
    if live is None and wanted in ({}, [], None):
        return True
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(_covers(live.get(name), value, name) for name, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(live, list | tuple) and _covers_list(live, wanted)
    return bool(live == wanted and type(live) is type(wanted)) or (field in QUANTITIES and _is_same_quantity(live, wanted))


def _covers_list(live: Sequence[Any], wanted: Sequence[Any]) -> bool:
    for key in LIST_KEYS:
        if wanted and all(isinstance(item, Mapping) and key in item for item in (*live, *wanted)):
            by_key = {item[key]: item for item in live}
            return all(_covers(by_key.get(item[key]), item, "") for item in wanted)
    return len(live) == len(wanted) and all(_covers(have, want, "") for have, want in zip(live, wanted, strict=True))


def _is_same_quantity(live: Any, wanted: Any) -> bool:
    try:
        return quantity_value(str(live)) == quantity_value(str(wanted))
    except ValueError:
        return False
