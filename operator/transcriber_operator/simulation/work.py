"""Audio that waits and is decoded: files in the order they came, cut into windows, handed out in batches."""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from transcriber_operator.simulation.trace import windows_of

BIN_SECONDS: Final = 0.5  # how finely percentiles of waits are told


@dataclass(slots=True, eq=False)
class File:
    """A file on its way; its windows are alike, so that counts of them are enough."""

    arrived_at: float
    window_audio_seconds: float
    waiting: int  # windows not handed out
    unfinished: int  # windows without a result


@dataclass(slots=True, eq=False)
class Batch:
    """Windows that a replica decodes together."""

    parts: list[tuple[File, int]]  # windows of each file
    windows: int
    audio_seconds: float


@dataclass(slots=True)
class Waits:
    """How long audio waited until the batch began that gave its result, weighed by its seconds."""

    target_seconds: float
    audio_seconds: float = 0.0
    missed_audio_seconds: float = 0.0
    weighted_wait: float = 0.0
    bins: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, wait_seconds: float, audio_seconds: float) -> None:
        """Count audio that waited so long."""
        self.audio_seconds += audio_seconds
        self.weighted_wait += wait_seconds * audio_seconds
        self.bins[int(wait_seconds / BIN_SECONDS)] += audio_seconds
        if wait_seconds > self.target_seconds:
            self.missed_audio_seconds += audio_seconds

    @property
    def mean_seconds(self) -> float:
        """Mean wait."""
        return self.weighted_wait / self.audio_seconds if self.audio_seconds else 0.0

    @property
    def missed_share(self) -> float:
        """Share of audio that waited longer than the target."""
        return self.missed_audio_seconds / self.audio_seconds if self.audio_seconds else 0.0

    def percentile(self, percent: float) -> float:
        """Return the wait that so many percent of audio did not exceed, rounded up to BIN_SECONDS."""
        left = self.audio_seconds * percent / 100
        for bin_, audio in sorted(self.bins.items()):
            left -= audio
            if left <= 0:
                return (bin_ + 1) * BIN_SECONDS
        return 0.0


class Work:
    """The queue and what is in flight; every window is in exactly one of queued, in flight and done."""

    def __init__(self, target_wait_seconds: float) -> None:
        self.queue: deque[File] = deque()
        self.waits = Waits(target_wait_seconds)
        self.arrived_windows = self.queued_windows = self.in_flight_windows = self.done_windows = 0
        self.arrived_files = self.active_files = 0
        self.arrived_audio_seconds = self.queued_audio_seconds = self.in_flight_audio_seconds = self.done_audio_seconds = 0.0
        self.repeated_windows = 0  # decoded again, for their replica was gone

    def arrive(self, now: float, audio_seconds: float) -> None:
        """Queue a file."""
        windows = windows_of(audio_seconds)
        self.queue.append(File(now, audio_seconds / windows, windows, windows))
        self.arrived_files += 1
        self.active_files += 1
        self.arrived_windows += windows
        self.queued_windows += windows
        self.arrived_audio_seconds += audio_seconds
        self.queued_audio_seconds += audio_seconds

    def take(self, slots: int) -> Batch:
        """Hand out the oldest windows, at most `slots`."""
        parts: list[tuple[File, int]] = []
        queue, free, audio = self.queue, slots, 0.0
        while free and queue:
            file = queue[0]
            count = min(file.waiting, free)
            file.waiting -= count
            free -= count
            if not file.waiting:
                queue.popleft()
            if count:  # 0: windows that came back made it stand in line twice
                audio += count * file.window_audio_seconds
                parts.append((file, count))
        windows = slots - free
        self.queued_windows -= windows
        self.queued_audio_seconds = self.queued_audio_seconds - audio if self.queued_windows else 0.0
        self.in_flight_windows += windows
        self.in_flight_audio_seconds += audio
        return Batch(parts, windows, audio)

    def finish(self, batch: Batch, began_at: float) -> None:
        """Take the results of a batch."""
        for file, count in batch.parts:
            self.waits.add(began_at - file.arrived_at, count * file.window_audio_seconds)
            file.unfinished -= count
            if not file.unfinished:
                self.active_files -= 1
        self.done_windows += batch.windows
        self.done_audio_seconds += batch.audio_seconds
        self._leave_flight(batch)

    def give_back(self, batch: Batch) -> None:
        """Put the windows of a lost batch back to the front, in their order."""
        for file, count in reversed(batch.parts):
            file.waiting += count
            if not (self.queue and self.queue[0] is file):
                self.queue.appendleft(file)
        self.queued_windows += batch.windows
        self.queued_audio_seconds += batch.audio_seconds
        self.repeated_windows += batch.windows
        self._leave_flight(batch)

    def give_up(self, now: float) -> None:
        """Count what still waits as missed; for a scaler that never serves it."""
        for file in self.queue:
            self.waits.add(now - file.arrived_at, file.waiting * file.window_audio_seconds)

    def _leave_flight(self, batch: Batch) -> None:
        self.in_flight_windows -= batch.windows
        left = self.in_flight_audio_seconds - batch.audio_seconds
        self.in_flight_audio_seconds = left if self.in_flight_windows else 0.0
