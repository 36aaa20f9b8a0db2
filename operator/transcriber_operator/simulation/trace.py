"""Files that arrive: synthetic days that differ in how even they are, each drawn from a `Random`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, cos, inf, pi
from random import Random
from typing import Final

from transcriber_operator.simulation.world import WINDOW_SECONDS, Market, Service

HOUR: Final = 3600.0
MIX: Final = ((0.70, 45.0), (0.25, 480.0), (0.05, 3000.0))  # share of files, seconds of audio
WINDOWS_PER_FILE: Final = sum(share * ceil(audio / WINDOW_SECONDS) for share, audio in MIX)
CALM: Final = Market(hazard_per_hour=0.01)

Rate = Callable[[float], float]  # seconds -> replicas that the arrivals keep busy


@dataclass(frozen=True, slots=True)
class Trace:
    """Files by time of arrival, and the spot market meanwhile."""

    name: str
    at_seconds: tuple[float, ...]  # ascending
    audio_seconds: tuple[float, ...]
    horizon_seconds: float
    market: Market = CALM

    @property
    def total_audio_seconds(self) -> float:
        """All audio that arrives."""
        return sum(self.audio_seconds)


def windows_of(audio_seconds: float) -> int:
    """Return how many windows a file is cut into."""
    return ceil(audio_seconds / WINDOW_SECONDS)


def draw_trace(name: str, load: float, hours: float, service: Service, random: Random) -> Trace:
    """Draw the trace of that name (see `TRACES`) with `load` times its files; raises KeyError."""
    return TRACES[name](load, hours * HOUR, service, random)


def multiplied(trace: Trace, copies: int) -> Trace:
    """Return the trace with every file `copies` times, spread evenly until the next one arrives."""
    ends = [*trace.at_seconds[1:], trace.horizon_seconds]
    at = [
        start + (end - start) * copy / copies for start, end in zip(trace.at_seconds, ends, strict=True) for copy in range(copies)
    ]
    audio = [seconds for seconds in trace.audio_seconds for _ in range(copies)]
    return replace(trace, at_seconds=tuple(at), audio_seconds=tuple(audio))


def _steady(load: float, horizon: float, service: Service, random: Random) -> Trace:
    return _poisson("steady", lambda _: 0.5 * load, 0.5 * load, horizon, service, random)


def _diurnal(load: float, horizon: float, service: Service, random: Random) -> Trace:
    return _poisson("diurnal", _day(0.7 * load), 1.3 * load, horizon, service, random)


def _spike(load: float, horizon: float, service: Service, random: Random) -> Trace:
    starts = _one_per(2 * HOUR, horizon, 600, random)
    rate: Rate = lambda now: (3.2 if _within(now, starts, 600) else 0.4) * load  # noqa: E731
    return _poisson("spike", rate, 3.2 * load, horizon, service, random)


def _on_off(load: float, horizon: float, service: Service, random: Random) -> Trace:
    starts = _one_per(HOUR, horizon, 1200, random)
    rate: Rate = lambda now: 0.6 * load if _within(now, starts, 1200) else 0.0  # noqa: E731
    return _poisson("on-off", rate, 0.6 * load, horizon, service, random)


def _bulk(load: float, horizon: float, service: Service, random: Random) -> Trace:
    base = _poisson("bulk", lambda _: 0.2 * load, 0.2 * load, horizon, service, random)
    dropped = [start for start in _one_per(4 * HOUR, horizon, 0, random) for _ in range(round(250 * load))]
    files = [*zip(base.at_seconds, base.audio_seconds, strict=True), *((at, _draw_file(random)) for at in dropped)]
    files.sort(key=lambda file: file[0])
    return replace(base, at_seconds=tuple(at for at, _ in files), audio_seconds=tuple(audio for _, audio in files))


def _spot_storm(load: float, horizon: float, service: Service, random: Random) -> Trace:
    """A day with three times without spot nodes, of 40 minutes each, and nodes that are often taken back."""
    trace = _poisson("spot-storm", _day(0.7 * load), 1.3 * load, horizon, service, random)
    shortages = tuple((start, start + 2400) for start in _one_per(horizon / 3, horizon, 2400, random))
    return replace(trace, market=Market(hazard_per_hour=0.15, unannounced_share=0.1, shortages=shortages))


TRACES: Final[Mapping[str, Callable[[float, float, Service, Random], Trace]]] = {
    "steady": _steady,
    "diurnal": _diurnal,
    "spike": _spike,
    "on-off": _on_off,
    "bulk": _bulk,
    "spot-storm": _spot_storm,
}


def _day(mean: float) -> Rate:
    """Night at the start and the end, most at noon."""
    return lambda now: mean * (1 - 0.85 * cos(2 * pi * now / (24 * HOUR)))


def _one_per(period: float, horizon: float, length: float, random: Random) -> tuple[float, ...]:
    """Return one start in each period, so that what lasts `length` ends within it."""
    return tuple(k * period + random.uniform(0, period - length) for k in range(int(horizon // period)))


def _within(now: float, starts: tuple[float, ...], length: float) -> bool:
    return any(start <= now < start + length for start in starts)


def _draw_file(random: Random) -> float:
    share = random.random()
    for part, audio_seconds in MIX:
        share -= part
        if share < 0:
            return audio_seconds
    return MIX[-1][1]


def _poisson(name: str, rate: Rate, most: float, horizon: float, service: Service, random: Random) -> Trace:
    """Thin a Poisson process of `most` replicas' worth of files down to `rate`."""
    files_per_second = service.windows_per_second / WINDOWS_PER_FILE
    at, audio = [], []
    now = random.expovariate(most * files_per_second) if most else inf
    while now < horizon:
        if random.random() * most < rate(now):
            at.append(now)
            audio.append(_draw_file(random))
        now += random.expovariate(most * files_per_second)
    return Trace(name, tuple(at), tuple(audio), horizon)
