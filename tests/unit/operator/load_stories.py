"""Samples of the load and a reader that remembers, to tell stories of sources with."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from transcriber_operator.decide.load import Limits, Memory, Reading, read, throughput
from transcriber_operator.decide.sources import LoadSample

EPOCH = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
NOW = EPOCH.timestamp()
LIMITS = Limits(max_queued_audio_seconds=36_000.0, max_in_flight_audio_seconds=1000.0, stale_after_seconds=30.0)
POOLS = {"a": "spot", "b": "spot", "c": "steady"}
PRIOR = 50.0


def sample(source: str = "a", at: float = 0.0, queued: float = 0.0, in_flight: float = 0.0, **more: Any) -> LoadSample:
    """What a source said so many seconds after the epoch of these tests; its server began 1000 s before."""
    started = EPOCH + timedelta(seconds=more.pop("started", -1000.0))
    return LoadSample(
        source=source,
        at=EPOCH + timedelta(seconds=at),
        queued_audio_seconds=queued,
        in_flight_audio_seconds=in_flight,
        started_at=started,
        **more,
    )


def admitted(source: str, at: float, requests: float, audio: float, **more: Any) -> LoadSample:
    return sample(source, at, admitted_requests_total=requests, admitted_audio_seconds_total=audio, **more)


def working(at: float, processed: float, queued: float = 500.0, source: str = "a", **more: Any) -> LoadSample:
    return sample(source, at, queued, 300.0, processed_audio_seconds_total=processed, **more)


def reading(
    *samples: LoadSample, at: float = 0.0, memory: Memory | None = None, expected: str = "", limits: Limits = LIMITS
) -> Reading:
    return read(samples, list(expected), POOLS, limits, memory or Memory(), NOW + at)


@dataclass
class Watch:
    """Readings one after the other; each sample is read when it was true."""

    memory: Memory = field(default_factory=Memory)
    limits: Limits = LIMITS

    def see(self, *samples: LoadSample) -> Reading:
        at = max(sample.at.timestamp() for sample in samples) - NOW
        found = reading(*samples, at=at, memory=self.memory, limits=self.limits)
        self.memory = found.memory
        return found

    @property
    def throughput(self) -> float:
        return throughput("spot", self.memory, PRIOR)
