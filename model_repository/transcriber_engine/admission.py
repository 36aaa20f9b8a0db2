"""Who gets the next free place: what is due first, but nobody beyond their share while others have none."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# What has no deadline is ordered as if it were due so long after it came: it gives way to what is urgent, but not for ever.
PATIENCE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Claim:
    """A window's claim to a place; those of one request share its key."""

    request: Hashable
    due_seconds: float  # on the clock of whoever gives the places

    @classmethod
    def of(cls, request: Hashable, deadline_seconds: float | None, now_seconds: float) -> "Claim":
        """Build the claim of a window that came now."""
        return cls(request, now_seconds + PATIENCE_SECONDS if deadline_seconds is None else deadline_seconds)


def first_in_line(claims: Sequence[Claim], held: Mapping[Hashable, int], places: int) -> int:
    """Return which of the claims, in the order of arrival, gets the next place; `held` counts the places that requests have.

    A request's share is the places over the requests that are there. While one waits that has no place, those that have their share
    or more wait as well. Of the others the earliest due goes first, and of equals the first to come.
    """
    share = max(places // len({claim.request for claim in claims} | held.keys()), 1)
    some_have_none = any(not held.get(claim.request) for claim in claims)
    may_go = [i for i, claim in enumerate(claims) if not some_have_none or held.get(claim.request, 0) < share]
    return min(may_go, key=lambda i: (claims[i].due_seconds, i))
