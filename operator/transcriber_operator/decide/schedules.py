"""Floors by the clock: which schedules hold now, and which are near enough that their replicas have to be ordered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from transcriber_api.v1alpha1 import Schedule

# Where clocks are put back, an hour of local time comes twice, and a start in it is at the first of the two: a search that begins
# at the second would miss it. So it begins by more than that further off.
REPEATED: Final = timedelta(hours=1, minutes=1)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The floor of the schedules, whose it is, and until when that is sure not to change (None: for ever)."""

    floor: int
    name: str | None
    changes_at: datetime | None


def scheduled(schedules: Sequence[Schedule], lead_seconds: float, now: datetime) -> Scheduled:
    """Return the highest floor of the schedules that run at `now` (aware), or begin within `lead_seconds`.

    A schedule holds from `lead_seconds` before each start until `duration_seconds` after it, both measured in time that passes:
    one that begins at 8:00 does so in summer and winter, and one of ten hours lasts ten hours also when clocks are changed. A start
    at a local time that is skipped is at the first moment after it; one at a local time that comes twice is at the first of them.
    Raises ValueError for a schedule that cannot be read.
    """
    holding, changes = [], []
    for schedule in schedules:
        spans = [_span(start, schedule, lead_seconds) for start in _starts_around(schedule, now)]
        if any(begin <= now < end for begin, end in spans):
            holding.append(schedule)
        changes += [moment for span in spans for moment in span if moment > now]
    highest = max(holding, key=lambda schedule: schedule.min_replicas, default=None)
    return Scheduled(
        floor=highest.min_replicas if highest else 0,
        name=highest.name if highest else None,
        changes_at=min(changes, default=None),
    )


def unreadable(schedules: Sequence[Schedule]) -> str | None:
    """Return why a schedule cannot be read, of the first one that cannot; None where all can."""
    for schedule in schedules:
        try:
            next(_ticks(schedule, datetime(2024, 1, 1, tzinfo=UTC)), None)
        except ValueError as error:
            return str(error)
    return None


def _span(start: datetime, schedule: Schedule, lead_seconds: float) -> tuple[datetime, datetime]:
    return start - timedelta(seconds=lead_seconds), start + timedelta(seconds=schedule.duration_seconds)


def _starts_around(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    """The last start at or before `now` and the first one after it, in UTC; either may be missing."""
    now = now.astimezone(UTC).replace(microsecond=0)  # starts are at whole seconds
    last = next((start for start in _ticks(schedule, now + REPEATED, reverse=True) if start <= now), None)
    first = next((start for start in _ticks(schedule, now - REPEATED) if start > now), None)
    return (start for start in (last, first) if start is not None)


def _ticks(schedule: Schedule, origin: datetime, *, reverse: bool = False) -> Iterator[datetime]:
    """The starts after `origin`, or before it, in UTC; none where there is none within 50 years."""
    try:
        ticks = CronSim(schedule.cron, origin.astimezone(_zone(schedule)), reverse=reverse)
    except CronSimError as error:
        raise ValueError(f"cron {schedule.cron!r} of schedule {schedule.name} cannot be read ({error}); correct it") from error
    return (tick.astimezone(UTC) for tick in ticks)


def _zone(schedule: Schedule) -> tzinfo:
    """The zone of a schedule; UTC as such, which takes the shortest way."""
    if schedule.timezone == "UTC":
        return UTC
    try:
        return ZoneInfo(schedule.timezone)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        message = f"timezone {schedule.timezone!r} of schedule {schedule.name} is not known; use an IANA name such as Europe/Berlin"
        raise ValueError(message) from error
