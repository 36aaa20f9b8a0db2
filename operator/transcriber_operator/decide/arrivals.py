"""How much audio arrives per second: the rate of requests times their mean length, with an eye for changes of the rate.

Requests are taken to arrive at random (compound Poisson): the audio itself is not averaged over time, as one file of an hour
would look like a rush. The rate is a slow average, which begins anew from a fast one once the two differ by more than chance:
the square root of a Poisson count has a standard deviation of 1/2 whatever its mean.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

FAST_SECONDS: Final = 12.0  # time constant; an average looks back on twice that
SLOW_SECONDS: Final = 900.0  # time constant, once no change was that long ago
CHANGE_DEVIATIONS: Final = 3.5  # standard deviations between the averages that are no chance
SHORTEST_SECONDS: Final = 0.001  # between looks, for a rate that is finite
SIZES: Final = 1000.0  # requests that the mean length looks back on at least


@dataclass(frozen=True, slots=True)
class Arrivals:
    """What was learnt of the requests; the initial one knows nothing."""

    seen_at_seconds: float | None = None  # the last look that is in it
    changed_at_seconds: float = 0.0  # when the present rate began
    fast_rate: float = 0.0  # requests per second
    rate: float = 0.0  # requests per second: the slow average
    requests: float = 0.0  # that mean and variance look back on
    mean_audio_seconds: float = 0.0  # of one request
    variance: float = 0.0  # of it, seconds squared

    @property
    def audio_rate(self) -> float:
        """Seconds of audio that arrive per second."""
        return self.rate * self.mean_audio_seconds

    def dispersion(self, batch_audio_seconds: float) -> float:
        """Return the variance over the mean of the batches that arrive, counted in batches of that many seconds of audio."""
        if self.mean_audio_seconds <= 0.0:
            return 1.0
        return (self.variance / self.mean_audio_seconds + self.mean_audio_seconds) / batch_audio_seconds


def learn(before: Arrivals, at_seconds: float, requests: float, audio_seconds: float, *, is_lower_bound: bool) -> Arrivals:
    """Take in what arrived since the last look; of a lower bound no rate falls.

    A look far beyond what the rate lets expect is a batch that someone handed in at once. It waits in the queue, where it counts
    whole; to rates and mean length it counts as four times what was expected and three more.
    """
    if before.seen_at_seconds is None:
        return replace(before, seen_at_seconds=at_seconds, changed_at_seconds=at_seconds)
    elapsed = at_seconds - before.seen_at_seconds
    if elapsed <= 0.0:
        return replace(before, seen_at_seconds=at_seconds, changed_at_seconds=before.changed_at_seconds + elapsed)
    elapsed = max(elapsed, SHORTEST_SECONDS)
    count = max(requests, float(audio_seconds > 0.0))
    counted = min(count, 4.0 * before.fast_rate * elapsed + 3.0)
    after = _with_rates(before, at_seconds, elapsed, counted, is_lower_bound=is_lower_bound)
    return _with_lengths(after, counted, audio_seconds / count) if count else after


def _with_rates(before: Arrivals, at_seconds: float, elapsed: float, requests: float, *, is_lower_bound: bool) -> Arrivals:
    age = at_seconds - before.changed_at_seconds
    fast = _averaged(before.fast_rate, requests / elapsed, elapsed / FAST_SECONDS)
    slow = _averaged(before.rate, requests / elapsed, elapsed / _slow_seconds(age))
    if is_lower_bound:
        fast, slow = max(fast, before.fast_rate), max(slow, before.rate)
    deviations = 2.0 * abs(math.sqrt(fast) - math.sqrt(slow)) * math.sqrt(2.0 * FAST_SECONDS)
    if deviations > CHANGE_DEVIATIONS:
        return replace(before, seen_at_seconds=at_seconds, fast_rate=fast, rate=fast, changed_at_seconds=at_seconds)
    return replace(before, seen_at_seconds=at_seconds, fast_rate=fast, rate=slow)


def _slow_seconds(age_seconds: float) -> float:
    """Return the time constant of the slow average so long after a change: it looks back on no more than that."""
    return min(SLOW_SECONDS, max(FAST_SECONDS, age_seconds))


def _averaged(before: float, sample: float, time_constants: float) -> float:
    """Return the exponentially weighted average, `time_constants` after `before`."""
    return sample + (before - sample) * math.exp(-time_constants)


def _with_lengths(before: Arrivals, requests: float, audio_seconds: float) -> Arrivals:
    """Take requests of that length into mean and variance."""
    known = max(requests, min(before.requests + requests, max(SIZES, 2.0 * SLOW_SECONDS * before.rate)))
    weight = requests / known
    off = audio_seconds - before.mean_audio_seconds
    return replace(
        before,
        requests=known,
        mean_audio_seconds=before.mean_audio_seconds + weight * off,
        variance=(1.0 - weight) * (before.variance + weight * requests * off * off),
    )
