"""How many replicas each pool has: floors first, then by weight, within the budget; what stands in where spot starves; and what
stays while replicas move from pool to pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import Final

ENOUGH_REFUSALS: Final = 2  # insufficient-capacity events that say as much as a long wait
RETURN_STEPS: Final = 5  # of returnAfterSeconds: one of them passes between two replicas that are given back


@dataclass(frozen=True, slots=True)
class PoolView:
    """One pool as it is and as the spec wants it."""

    name: str
    is_spot: bool
    weight: int
    floor: int  # minReplicas
    max_nodes: int
    price_per_hour: float | None  # US dollars of a node; None: not known
    desired: int  # replicas asked for until now
    ready: int  # those that serve and are not about to be lost
    waiting_seconds: tuple[float, ...] = ()  # of each replica without a node, how long already
    refusals: int = 0  # insufficient-capacity events of the last three minutes
    arriving: int = 0  # nodes that were launched and have no replica yet: so many replicas wait for a boot, not for capacity

    @property
    def price(self) -> float:
        """US dollars per hour of a node, 0 where that is not known."""
        return self.price_per_hour or 0.0

    @property
    def unmet_seconds(self) -> tuple[float, ...]:
        """How long each replica has waited for which there is no node, not even one that boots; longest first."""
        return tuple(sorted(self.waiting_seconds, reverse=True)[self.arriving :])


@dataclass(frozen=True, slots=True)
class FallbackRule:
    """`spec.capacity.fallback`."""

    after_seconds: float
    return_after_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """How many replicas on-demand pools are asked for in place of spot, and when the next of them is to be given back."""

    stand_ins: int = 0
    return_at_seconds: float | None = None  # None: spot still lacks as many
    wanted: int = 0  # replicas without those, when they were counted


@dataclass(frozen=True, slots=True)
class Allotment:
    """Replicas by pool, and what shaped them."""

    replicas: Mapping[str, int]
    stand_ins: Mapping[str, int]  # of them those that on-demand pools have in place of spot
    is_over_budget: bool  # the money does not pay for `total`, or for all that should stand in; floors are kept all the same
    is_full: bool  # every pool is at maxNodes, and more is wanted
    sentences: tuple[str, ...]
    memory: Memory
    changes_at_seconds: float | None  # when time alone may change it: a fallback or a return comes due

    @property
    def fallen_back(self) -> int:
        """Replicas that on-demand pools have in place of spot."""
        return sum(self.stand_ins.values())


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


def allot_with_fallback(
    pools: Sequence[PoolView],
    total: int,
    rule: FallbackRule | None,
    allowed_per_hour: float | None,
    memory: Memory,
    now_seconds: float,
) -> Allotment:
    """Allot `total` replicas, and let on-demand pools stand in for what spot lacks.

    Every pool has its floor, then the pools of higher weight come first, each up to its `max_nodes`. Where the money does not pay
    for that (`allowed_per_hour`, US dollars; None: no cap), the cheapest come first, and as many as it pays for.

    Spot starves where a replica has waited for a node for `rule.after_seconds`, or where capacity was refused twice in three
    minutes. On-demand pools are then asked for as many more, as far as money is left; what does not come is not paid for. Spot
    stays asked for what it starves of, so the sum exceeds `total` by what stands in until that is given back: once spot has lacked
    less for `rule.return_after_seconds`, one replica at a time, or when fewer are wanted; and none that is needed to serve `total`.
    """
    base, by_budget = _within_budget(pools, _by_weight(pools, total), total, allowed_per_hour)
    lacks = {pool.name: _lack(pool, base[pool.name], _starving(pool, rule)) for pool in pools if pool.is_spot and rule}
    wanted = _stand_ins(pools, base, lacks, rule, memory, now_seconds) if rule else Memory()
    money = None if allowed_per_hour is None else allowed_per_hour - _cost(pools, base) + _cost(pools, lacks)
    more = _filled([pool for pool in _by_rank(pools) if not pool.is_spot], base, wanted.stand_ins, money)
    # What the money does not pay for is forgotten: spot asks for it again, should it still lack it.
    after = replace(
        wanted, stand_ins=sum(more.values()), return_at_seconds=wanted.return_at_seconds if any(more.values()) else None
    )
    unpaid = max(min(sum(lacks.values()), wanted.stand_ins) - after.stand_ins, 0)
    return Allotment(
        replicas={name: replicas + more.get(name, 0) for name, replicas in base.items()},
        stand_ins=more,
        is_over_budget=bool(by_budget or unpaid),
        is_full=total > sum(pool.max_nodes for pool in pools),
        sentences=(
            *by_budget,
            *_unpriced(pools, allowed_per_hour),
            *_fallback_sentences(lacks, after, unpaid),
            *_full(pools, total),
        ),
        memory=after,
        changes_at_seconds=_changes_at(pools, rule, after, now_seconds),
    )


def affordable(pools: Sequence[PoolView], allowed_per_hour: float | None) -> int | None:
    """Return the most replicas that `allowed_per_hour` (US dollars) pays for, cheapest first, floors in any case; None: no cap."""
    if allowed_per_hour is None:
        return None
    return sum(_cheapest_first(pools, sum(pool.max_nodes for pool in pools), allowed_per_hour).values())


def _by_rank(pools: Sequence[PoolView]) -> list[PoolView]:
    return sorted(pools, key=lambda pool: -pool.weight)


def _by_weight(pools: Sequence[PoolView], total: int) -> dict[str, int]:
    floors = {pool.name: pool.floor for pool in pools}
    more = _filled(_by_rank(pools), floors, total - sum(floors.values()), None)
    return {name: replicas + more[name] for name, replicas in floors.items()}


def _cheapest_first(pools: Sequence[PoolView], total: int, money: float) -> dict[str, int]:
    floors = {pool.name: pool.floor for pool in pools}
    order = sorted(_by_rank(pools), key=lambda pool: pool.price)
    more = _filled(order, floors, total - sum(floors.values()), money - _cost(pools, floors))
    return {name: replicas + more[name] for name, replicas in floors.items()}


def _filled(order: Sequence[PoolView], held: Mapping[str, int], more: int, money: float | None) -> dict[str, int]:
    """Return what each pool gets of `more` replicas on top of what it holds, in this order, as far as room and money go."""
    given = {}
    for pool in order:
        payable = more if money is None or not pool.price else floor(money / pool.price + 1e-9)
        given[pool.name] = max(min(more, pool.max_nodes - held[pool.name], payable), 0)
        more -= given[pool.name]
        money = None if money is None else money - given[pool.name] * pool.price
    return given


def _cost(pools: Sequence[PoolView], replicas: Mapping[str, int]) -> float:
    return sum(replicas.get(pool.name, 0) * pool.price for pool in pools)


def _within_budget(
    pools: Sequence[PoolView], wanted: dict[str, int], total: int, allowed: float | None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return what the money pays for of what is wanted, and sentences where that is less."""
    if allowed is None or _cost(pools, wanted) <= allowed + 1e-9:
        return wanted, ()
    paid = _cheapest_first(pools, total, allowed)
    sentences = []
    if sum(paid.values()) < sum(wanted.values()):
        sentences.append(f"The budget of ${allowed:.2f} per hour pays for {sum(paid.values())} of {sum(wanted.values())} replicas.")
    floors = _cost(pools, {pool.name: pool.floor for pool in pools})
    if floors > allowed + 1e-9:
        sentences.append(f"The minReplicas of the pools cost ${floors:.2f} per hour, more than the budget allows; they are kept.")
    return paid, tuple(sentences)


def _starving(pool: PoolView, rule: FallbackRule) -> int:
    """How many replicas of a pool wait for capacity that does not come."""
    if pool.refusals >= ENOUGH_REFUSALS:
        return len(pool.unmet_seconds)
    return sum(seconds >= rule.after_seconds for seconds in pool.unmet_seconds)


def _lack(pool: PoolView, asked: int, waiting: int) -> int:
    """How many of the replicas that are asked for now do not come, where so many wait; others may have been asked for before."""
    with_node = max(pool.desired - len(pool.waiting_seconds), pool.ready, 0)
    return max(min(waiting, asked - with_node), 0)


def _stand_ins(
    pools: Sequence[PoolView],
    base: Mapping[str, int],
    lacks: Mapping[str, int],
    rule: FallbackRule,
    memory: Memory,
    now_seconds: float,
) -> Memory:
    """Return how many on-demand replicas should stand in now.

    As many as spot lacks, at once; fewer only one by one, or as many as are wanted less. The time until a return runs on while
    replicas have just begun to wait: with a load that moves, there is always one. It begins only when fewer wait than stand in.
    """
    wanted, lacking = sum(base.values()), sum(lacks.values())
    spare = max(sum(pool.ready for pool in pools) - wanted, 0)
    held = memory.stand_ins - min(max(memory.wanted - wanted, 0), spare)
    room = sum(pool.max_nodes - base[pool.name] for pool in pools if not pool.is_spot)
    stand_ins = min(max(held, lacking), sum(base[name] for name in lacks), room)
    waiting = sum(_lack(pool, base[pool.name], len(pool.unmet_seconds)) for pool in pools if pool.is_spot)
    due = memory.return_at_seconds
    if stand_ins <= (waiting if due is None else lacking):
        return Memory(stand_ins, None, wanted)
    if due is None:
        return Memory(stand_ins, now_seconds + rule.return_after_seconds, wanted)
    if now_seconds < due or not spare:
        return Memory(stand_ins, due, wanted)
    return Memory(stand_ins - 1, now_seconds + rule.return_after_seconds / RETURN_STEPS, wanted)


def _unpriced(pools: Sequence[PoolView], allowed: float | None) -> tuple[str, ...]:
    names = [pool.name for pool in pools if pool.price_per_hour is None]
    if allowed is None or not names:
        return ()
    return (f"The price of pool {', '.join(names)} is not known and counts as 0; set its pricePerHour.",)


def _fallback_sentences(lacks: Mapping[str, int], memory: Memory, unpaid: int) -> tuple[str, ...]:
    lacking = ", ".join(f"{name} lacks {lack}" for name, lack in lacks.items() if lack)
    sentences = []
    if lacking:
        sentences.append(f"Spot capacity does not come: {lacking}; {memory.stand_ins} on-demand replicas stand in.")
    if unpaid:
        sentences.append(f"The budget does not pay for {unpaid} more that should stand in.")
    if memory.return_at_seconds is not None:
        sentences.append(f"Spot lacks fewer than the {memory.stand_ins} replicas that stand in; those are given back one by one.")
    return tuple(sentences)


def _full(pools: Sequence[PoolView], total: int) -> tuple[str, ...]:
    most = sum(pool.max_nodes for pool in pools)
    return (f"Every pool is at maxNodes: {most} of {total} replicas.",) if total > most else ()


def _changes_at(pools: Sequence[PoolView], rule: FallbackRule | None, memory: Memory, now_seconds: float) -> float | None:
    if rule is None:
        return None
    waits = (rule.after_seconds - seconds for pool in pools if pool.is_spot for seconds in pool.unmet_seconds)
    times = [now_seconds + wait for wait in waits if wait > 0]
    if memory.return_at_seconds is not None and memory.return_at_seconds > now_seconds:
        times.append(memory.return_at_seconds)
    return min(times, default=None)
