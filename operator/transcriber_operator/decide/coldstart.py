"""The ledger of cold starts: how long each stage of a replica's start took, and from it the lead time of a pool.

The lead time is what an order takes that needs a new node: from the order of the node to a replica that serves. A replica that
finds a node there starts much faster, with the image on its disk, and says nothing about that: such starts are kept apart, and
count only from below and where no other is known. What a replica waited because there was no capacity to be had is no lead time
either: the order is the NodeClaim that came in the end, and not those before it that were refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

REMEMBERED: Final = 20  # starts of a pool
SHARE: Final = 0.8  # of the starts that are no longer than the lead time: a promise that is kept mostly, not every other time
LEAST_SECONDS: Final = 1.0
MOST_SECONDS: Final = 3600.0


class Stage(StrEnum):
    """Stages of a start, in order."""

    NODE_LAUNCH = "NodeLaunch"
    NODE_REGISTRATION = "NodeRegistration"
    NODE_INITIALIZATION = "NodeInitialization"
    SCHEDULING = "Scheduling"
    IMAGE_PULL = "ImagePull"
    REPOSITORY_BUILD = "RepositoryBuild"
    MODEL_LOAD = "ModelLoad"


@dataclass(frozen=True, slots=True)
class PoolStarts:
    """The last starts of a pool, in seconds, oldest first."""

    pool: str
    with_new_node: tuple[float, ...] = ()  # from the order of the node
    with_old_node: tuple[float, ...] = ()  # on nodes that were there, or on their way
    with_any_node: tuple[float, ...] = ()  # where nobody says how old the nodes are: without Karpenter


@dataclass(frozen=True, slots=True)
class Memory:
    """The last starts of each pool, and the pods that were counted already; JSON-able."""

    pools: tuple[PoolStarts, ...] = ()
    counted: tuple[str, ...] = ()  # UIDs of pods whose start is in it, as long as they exist


@dataclass(frozen=True, slots=True)
class Start:
    """The start of one replica."""

    pod: str
    uid: str
    pool: str
    stages: tuple[tuple[Stage, float], ...]  # seconds, those that ended
    is_over: bool  # ready
    seconds: float  # from the pod's creation to ready, or to now
    lead_seconds: float | None = None  # from the order to ready; None: not over, or not in one go
    is_node_new: bool | None = None  # whether its node was made for it; None: not known


def learn(found: Sequence[Start], memory: Memory) -> tuple[Memory, tuple[Start, ...]]:
    """Take starts that are over into the ledger, each once; also returns those that are new."""
    new = tuple(start for start in found if start.is_over and start.uid not in memory.counted)
    known = {pool.pool: pool for pool in memory.pools}
    for start in new:
        if start.lead_seconds is not None:
            known[start.pool] = _with(known.get(start.pool, PoolStarts(start.pool)), start)
    seen = {*memory.counted, *(start.uid for start in new)}
    return Memory(tuple(known.values()), tuple(start.uid for start in found if start.uid in seen)), new


def lead_seconds(pool: str, memory: Memory, prior: Mapping[str, float]) -> float:
    """Return the lead time of a pool: four of five starts with a new node took no longer.

    A pool that has not started anything is taken to be like its slowest sibling, with which it shares image, model and cloud;
    before any start at all, `prior` holds.
    """
    known = {each.pool: each for each in memory.pools}
    learnt = {name: _quantile(starts) for name, each in known.items() if (starts := each.with_new_node or each.with_any_node)}
    if pool in learnt:
        return learnt[pool]
    expected = max(learnt.values(), default=prior[pool])
    with_old_node = known[pool].with_old_node if pool in known else ()
    return max(expected, _quantile(with_old_node)) if with_old_node else expected


def _quantile(seconds: Sequence[float]) -> float:
    return sorted(seconds)[ceil(SHARE * len(seconds)) - 1]


def _with(pool: PoolStarts, start: Start) -> PoolStarts:
    assert start.lead_seconds is not None, "only starts in one go are learnt from"
    taken = (min(max(start.lead_seconds, LEAST_SECONDS), MOST_SECONDS),)
    new, old, unknown = pool.with_new_node, pool.with_old_node, pool.with_any_node
    if start.is_node_new is None:
        unknown = (*unknown, *taken)[-REMEMBERED:]
    elif start.is_node_new:
        new = (*new, *taken)[-REMEMBERED:]
    else:
        old = (*old, *taken)[-REMEMBERED:]
    return PoolStarts(pool.pool, new, old, unknown)
