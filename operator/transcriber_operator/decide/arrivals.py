"""How much audio arrives per second: the rate of requests times their mean length, with an eye for changes of the rate.

Requests are taken to arrive at random (compound Poisson): the audio itself is not averaged over time, as one file of an hour
would look like a rush. The rate is a mean since the load last changed. It has changed where the requests of the latest looks are
too many, or too few, for chance: the square root of a Poisson count has a standard deviation of 1/2 whatever its mean.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

MEMORY_SECONDS: Final = 900.0  # time constant of the mean rate, once no change was that long ago
UNKNOWN_SECONDS: Final = 60.0  # without requests, as which the time before the first look counts
RECENT_LOOKS: Final = 24  # that are searched for a change
CHANGE_DEVIATIONS: Final = 4.0  # standard deviations between two counts that are no chance
SURE_DEVIATIONS: Final = 2.0  # standard deviations below what was counted that a rate surely has
SIZES: Final = 1000.0  # requests that the mean length looks back on at least

Counts = tuple[tuple[float, float], ...]  # (seconds since the look before, requests meanwhile), the newest last


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What was learnt of the requests; the initial one knows nothing."""

    seen_at_seconds: float | None = None  # the last look that is in it
    changed_at_seconds: float = 0.0  # when the present rate began
    rate: float = 0.0  # requests per second
    recent: Counts = ()  # since the change
    requests: float = 0.0  # that mean and variance look back on
    mean_audio_seconds: float = 0.0  # of one request
    variance: float = 0.0  # of it, seconds squared

    @property
    def audio_rate(self) -> float:
        """Seconds of audio that arrive per second."""
        return self.rate * self.mean_audio_seconds

    @property
    def sure_audio_rate(self) -> float:
        """Seconds of audio that surely arrive per second, as far as the requests since the last change tell."""
        if self.seen_at_seconds is None or self.rate <= 0.0:
            return 0.0
        seen = self.rate * min(self.seen_at_seconds - self.changed_at_seconds, 2.0 * MEMORY_SECONDS)
        return self.audio_rate * max(0.0, 1.0 - SURE_DEVIATIONS / 2.0 / math.sqrt(max(seen, 1.0))) ** 2

    def dispersion(self, batch_audio_seconds: float) -> float:
        """Return the variance over the mean of the batches that arrive, counted in batches of that many seconds of audio."""
        if self.mean_audio_seconds <= 0.0:
            return 1.0
        return (self.variance / self.mean_audio_seconds + self.mean_audio_seconds) / batch_audio_seconds


def learn(before: Arrivals, at_seconds: float, requests: float, audio_seconds: float, *, is_lower_bound: bool) -> Arrivals:
    """Take in what arrived since the last look; of a lower bound the rate does not fall.

    A look far beyond what the rate lets expect is a batch that someone handed in at once. It waits in the queue, where it counts
    whole; to rate and mean length it counts as four times what was expected and three more.
    """
    if before.seen_at_seconds is None:
        return replace(before, seen_at_seconds=at_seconds, changed_at_seconds=at_seconds - UNKNOWN_SECONDS)
    elapsed = at_seconds - before.seen_at_seconds
    if elapsed <= 0.0:
        return replace(before, seen_at_seconds=at_seconds, changed_at_seconds=before.changed_at_seconds + elapsed)
    count = requests or float(audio_seconds > 0.0)
    counted = min(count, 4.0 * before.rate * elapsed + 3.0)
    after = _with_sizes(before, counted, audio_seconds / count) if count else before
    rate, changed_at, recent = _with_rate(before, at_seconds, elapsed, count, counted)
    if is_lower_bound and rate < before.rate:
        return replace(after, seen_at_seconds=at_seconds)
    return replace(after, seen_at_seconds=at_seconds, rate=rate, changed_at_seconds=changed_at, recent=recent)


def _with_rate(
    before: Arrivals, at_seconds: float, elapsed: float, count: float, counted: float
) -> tuple[float, float, Counts]:
    recent = (*before.recent[1 - RECENT_LOOKS :], (elapsed, count))
    change = _change(recent, before.rate)
    if change is not None:
        rate, looks = change
        recent = recent[-looks:]
        return rate, at_seconds - sum(seconds for seconds, _ in recent), recent
    age = at_seconds - before.changed_at_seconds
    weight = min(1.0, elapsed / min(MEMORY_SECONDS, age))
    return before.rate + weight * (counted / elapsed - before.rate), before.changed_at_seconds, recent


def _change(recent: Counts, rate: float) -> tuple[float, int] | None:
    """Return the rate of the latest looks, and how many they are, where it differs from `rate` the most clearly; None: no change.

    For a rise the largest look is left out: a batch that is handed in at once is no rate.
    """
    clearest, found = CHANGE_DEVIATIONS, None
    total = seconds = largest = largest_seconds = 0.0
    for looks, (elapsed, count) in enumerate(reversed(recent), 1):
        total += count
        seconds += elapsed
        if count >= largest:
            largest, largest_seconds = count, elapsed
        rest, rest_seconds = total - largest, seconds - largest_seconds
        rise = 2.0 * (math.sqrt(rest) - math.sqrt(rate * rest_seconds))
        fall = 2.0 * (math.sqrt(rate * seconds) - math.sqrt(total))
        if rise > clearest:
            clearest, found = rise, (rest / rest_seconds, looks)
        elif fall > clearest:
            clearest, found = fall, (total / seconds, looks)
    return found


def _with_sizes(before: Arrivals, counted: float, audio_seconds: float) -> Arrivals:
    """Take requests of that length into mean and variance."""
    known = max(counted, min(before.requests + counted, max(SIZES, 2.0 * MEMORY_SECONDS * before.rate)))
    weight = counted / known
    off = audio_seconds - before.mean_audio_seconds
    return replace(
        before,
        requests=known,
        mean_audio_seconds=before.mean_audio_seconds + weight * off,
        variance=(1.0 - weight) * (before.variance + weight * counted * off * off),
    )
