"""How many replicas each pool has: floors first, then by weight; and what stays while replicas move from pool to pool."""

from collections.abc import Mapping, Sequence

from transcriber_api.capacity import Pool


def allot(pools: Sequence[Pool], total: int) -> dict[str, int]:
    """Allot `total` replicas: every pool its floor, then the pools of higher weight first, each up to maxNodes.

    The sum falls short of `total` where every pool is full, and exceeds it where the floors alone do.
    """
    allotted = {pool.name: pool.min_replicas for pool in pools}
    left = total - sum(allotted.values())
    for pool in sorted(pools, key=lambda pool: -pool.weight):
        more = max(min(left, pool.max_nodes - allotted[pool.name]), 0)
        allotted[pool.name] += more
        left -= more
    return allotted


def kept_while_moving(allotted: Mapping[str, int], ready: Mapping[str, int]) -> dict[str, int]:
    """Return the replicas of each pool, so that a move between pools never lowers what serves.

    A pool gives up ready replicas only as far as other pools have theirs ready. `ready` may name pools that are allotted
    nothing any more.
    """
    total = sum(allotted.values())
    kept = {}
    for name in {**allotted, **ready}:
        covered = sum(min(ready.get(other, 0), wanted) for other, wanted in allotted.items() if other != name)
        kept[name] = max(allotted.get(name, 0), min(ready.get(name, 0), total - covered))
    return kept
