"""Which writes to kill the operator at, in how few runs, and what a run must have in common with one that was left alone; pure.

A workload is a list of steps, each of which ends settled. It is run once without faults; its writes, by step, are the kill points,
each with two sides: before the write reaches the API server, and after it is done but before the operator knows. A point is named
by what is written and the how-manieth time within the step, not by its number in the run, since a run that was disturbed may
write in another order.

Each step of a run may have a kill of its own: a step that ended in the very state of the undisturbed run leaves nothing for the
next one to suffer from. So as many runs are needed as the busiest step has points, not as the workload has. A run in which a
step fails is given up there, and the points of its later steps are done in other runs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.rig.api_calls import WRITE_VERBS
from tests.rig.faults import Action, Rule, When
from tests.rig.oracle import Footprint, creates_and_deletes, differences
from tests.rig.write_log import Write

EVENTS: Final = "events"  # their names tell of times, so they are counted all together
SIDES: Final[tuple[When, ...]] = ("before", "after")


@dataclass(frozen=True)
class KillPoint:
    """One write of one step, and the side of it; `name` is empty for any name. `occurrence` counts within the step, from 1."""

    step: str
    verb: str
    resource: str
    name: str
    occurrence: int
    side: When

    def __str__(self) -> str:
        what = f"{self.verb} {self.resource} {self.name}".rstrip()
        return f"{self.step}: {self.side} {what} ({self.occurrence})"

    @property
    def is_certain(self) -> bool:
        """Whether every run must come by: how often a status or an Event is written depends on what a pass happens to see."""
        return "/" not in self.resource and self.resource != EVENTS


@dataclass(frozen=True)
class Ending:
    """How a step ended: the normalised objects, and what its writes created and deleted."""

    state: Mapping[str, Any]
    footprints: Mapping[tuple[str, str], Footprint]


@dataclass(frozen=True)
class Verdict:
    """What became of a kill point: `problems` is empty if nothing shows that the operator was killed.

    `is_reached` is false where the run did not come by the write; `recovery_seconds` is from the kill to the last write after it.
    """

    point: KillPoint
    is_reached: bool
    problems: tuple[str, ...] = ()
    recovery_seconds: float = 0.0

    def __str__(self) -> str:
        if self.problems:
            return f"FAILED ({'killed' if self.is_reached else 'not reached'}): {self.point}"
        return f"survived in {self.recovery_seconds:.1f} s: {self.point}" if self.is_reached else f"not reached: {self.point}"

    @property
    def is_failure(self) -> bool:
        """Whether the operator, or the harness at a point that must be reached, has failed."""
        return bool(self.problems) or (self.point.is_certain and not self.is_reached)


def kill_points(step: str, writes: Iterable[Write]) -> list[KillPoint]:
    """Return the points of a step, both sides of each write in the order of the writes, from its writes without faults."""
    seen: Counter[tuple[str, str, str]] = Counter()
    points = []
    for write in writes:
        if write.is_lease:
            continue
        assert write.verb in WRITE_VERBS, write
        what = (write.verb, write.resource, "" if write.resource == EVENTS else write.name)
        seen[what] += 1
        points += [KillPoint(step, *what, seen[what], side) for side in SIDES]
    return points


def rule_at(point: KillPoint, action: Action) -> Rule:
    """Return the rule that acts at a point, to be armed when its step begins."""
    return Rule(point.verb, point.resource, point.name or None, nth=point.occurrence, when=point.side, action=action)


def ending(state: Mapping[str, Any], writes: Sequence[Write]) -> Ending:
    """Return how a step ended, from the objects at its end and its writes."""
    return Ending(state, creates_and_deletes(writes))


def problems(expected: Ending, actual: Ending) -> tuple[str, ...]:
    """Return a line per difference of a disturbed step from the undisturbed one."""
    lines = differences(expected.state, actual.state)
    for key in sorted(expected.footprints.keys() | actual.footprints.keys()):
        was, now = expected.footprints.get(key, Footprint()), actual.footprints.get(key, Footprint())
        if was != now:
            lines.append(
                f"{key[0]}/{key[1]}: created {now.created} and deleted {now.deleted} times, not {was.created} and {was.deleted}"
            )
    return tuple(lines)


class Schedule:
    """Deals the points out to runs: at most one per step and run."""

    def __init__(self, points: Iterable[KillPoint]) -> None:
        self._pending: dict[str, list[KillPoint]] = {}
        for point in points:
            self._pending.setdefault(point.step, []).append(point)

    @property
    def runs_left(self) -> int:
        """How many runs the pending points need if none is given up."""
        return max(map(len, self._pending.values()), default=0)

    def deal(self) -> dict[str, KillPoint]:
        """Return the points of the next run, by step; empty when all are done."""
        return {step: pending.pop(0) for step, pending in self._pending.items() if pending}

    def give_back(self, points: Iterable[KillPoint]) -> None:
        """Put the points of a run that was given up first in line again."""
        for point in points:
            self._pending[point.step].insert(0, point)


def sample(points: Sequence[KillPoint], count: int) -> list[KillPoint]:
    """Return `count` of the points, or all if there are fewer: spread evenly over the writes, sides in turn, always the same."""
    if count >= len(points):
        return list(points)
    writes = len(points) // len(SIDES)
    return [points[index * writes // count * len(SIDES) + index % len(SIDES)] for index in range(count)]


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return the result for a person: figures, then a paragraph per failure, then what was not reached."""
    reached = [verdict for verdict in verdicts if verdict.is_reached]
    survived = [verdict for verdict in reached if not verdict.problems]
    lines = [f"{len(survived)} of {len(reached)} kills survived; {len(verdicts) - len(reached)} points not reached"]
    if reached:
        times = sorted(verdict.recovery_seconds for verdict in reached)
        lines.append(f"recovery: median {times[len(times) // 2]:.1f} s, longest {times[-1]:.1f} s")
    for verdict in verdicts:
        if verdict.problems:
            lines += [str(verdict), *(f"    {problem}" for problem in verdict.problems)]
    lines += [str(verdict) for verdict in verdicts if not verdict.is_reached and not verdict.problems]
    return "\n".join(lines)
