"""What may be spent: an hourly cap, and a month's money as a bucket that fills evenly and allows a burst.

It is a token bucket in US dollars: a 730th of the month's money comes in per hour, and at most a day's worth is kept. What is in
it may be spent over the next hours, on top of what comes in: a quiet night pays for a busy morning, and no burst can use up the
month. What floors cost above the allowance is a debt that is paid back, up to a day's worth.
"""

from dataclasses import dataclass
from typing import Final

HOURS_PER_MONTH: Final = 730.0
BURST_HOURS: Final = 24.0  # of income that the bucket holds, or may owe
SPENDING_HOURS: Final = 6.0  # over which what is in the bucket may be spent
MARGIN: Final = 0.05  # by which more must be allowed than before, to be given: else a replica would come and go with every cent
SECONDS_PER_HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Memory:
    """The bucket as it was; the initial one is full."""

    level: float | None = None  # US dollars, negative in debt; None: full
    at_seconds: float | None = None  # when it was so
    allowed_per_hour: float | None = None  # what it allowed then


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be spent per hour now, US dollars; None: no cap."""

    per_hour: float | None
    memory: Memory


def allowance(
    per_hour: float | None, per_month: float | None, spending_per_hour: float, memory: Memory, now_seconds: float
) -> Allowance:
    """Return what may be spent now, after `spending_per_hour` since the last time; all money in US dollars.

    Allowed are `min(per_hour, income + level / 6 h)`, with an income of `per_month / 730` per hour. What the bucket allows falls at
    once and rises in steps.
    """
    if per_month is None:
        return Allowance(per_hour, Memory())
    income = per_month / HOURS_PER_MONTH
    most = income * BURST_HOURS
    elapsed = 0.0 if memory.at_seconds is None else max(now_seconds - memory.at_seconds, 0.0) / SECONDS_PER_HOUR
    before = most if memory.level is None else memory.level
    level = min(max(before + (income - spending_per_hour) * elapsed, -most), most)
    allowed, given = max(income + level / SPENDING_HOURS, 0.0), memory.allowed_per_hour
    if given is not None and given < allowed < given * (1 + MARGIN) and level < most:
        allowed = given
    return Allowance(allowed if per_hour is None else min(per_hour, allowed), Memory(level, now_seconds, allowed))
