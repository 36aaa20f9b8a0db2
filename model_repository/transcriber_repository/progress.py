"""How far a build is: events with bytes and the time left, and the reporter that writes them as log lines."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

LINE_INTERVAL_SECONDS: Final = 15.0
MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True)
class Progress:
    """A stage (`fetch target`, `convert`, …) and its bytes; unknown totals, rates and ETAs are None."""

    stage: str
    bytes_done: int
    bytes_total: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    finished: bool = False


Reporter = Callable[[Progress], None]
Clock = Callable[[], float]


def silent(progress: Progress) -> None:
    """Report nothing."""


class Meter:
    """Counts the bytes of one stage and reports each step; use as a context manager, whose end is the last event."""

    def __init__(self, stage: str, total: int | None, report: Reporter, clock: Clock = time.monotonic) -> None:
        self._stage = stage
        self._total = total
        self._report = report
        self._clock = clock
        self._started_at = clock()
        self._done = 0
        self._already_there = 0

    def __enter__(self) -> "Meter":
        self._report(Progress(self._stage, 0, self._total))
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._report(self._event(finished=True))

    def advance(self, count: int, *, transferred: bool = True) -> None:
        """Count bytes; `transferred=False` for bytes of an earlier run, which say nothing about the rate."""
        self._done += count
        self._already_there += 0 if transferred else count
        self._report(self._event(finished=False))

    def _event(self, *, finished: bool) -> Progress:
        elapsed_seconds = self._clock() - self._started_at
        moved = self._done - self._already_there
        rate = moved / elapsed_seconds if elapsed_seconds > 0 and moved > 0 else None
        eta = max(self._total - self._done, 0) / rate if rate and self._total is not None else None
        return Progress(self._stage, self._done, self._total, rate, eta, finished)


@dataclass
class LogLines:
    """A Reporter that writes a line when a stage begins, every 15 s within it, and when it ends."""

    write: Callable[[str], None]
    clock: Clock = time.monotonic
    interval_seconds: float = LINE_INTERVAL_SECONDS
    _stage: str = field(default="", init=False)
    _written_at: float = field(default=0.0, init=False)

    def __call__(self, progress: Progress) -> None:
        """Write a line if one is due."""
        now = self.clock()
        due = now - self._written_at >= self.interval_seconds
        if progress.stage != self._stage or progress.finished or due:
            self._stage, self._written_at = progress.stage, now
            self.write(line(progress))


def line(progress: Progress) -> str:
    """Render one event: `fetch target: 12.0 of 140.0 MiB, 3.0 MiB/s, 43 s left`."""
    done = f"{progress.bytes_done / MEBIBYTE:.1f}"
    total = f" of {progress.bytes_total / MEBIBYTE:.1f}" if progress.bytes_total is not None else ""
    parts = [f"{progress.stage}: {done}{total} MiB"]
    if progress.bytes_per_second is not None:
        parts.append(f"{progress.bytes_per_second / MEBIBYTE:.1f} MiB/s")
    if progress.finished:
        parts.append("done")
    elif progress.eta_seconds is not None:
        parts.append(f"{progress.eta_seconds:.0f} s left")
    return ", ".join(parts)
