"""Cuts audio of any length into windows that Whisper can take, on speech, while it arrives, and puts the results back in time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.result import Segment
from transcriber_engine.vad import FRAME_SAMPLES, SpeechDetector

SPEECH_BEGINS: Final = 0.5  # probability at which speech starts…
SPEECH_GOES_ON: Final = 0.35  # …and down to which it goes on
PAD_SAMPLES: Final = int(0.4 * SAMPLE_RATE_HZ)  # kept on both sides of speech, so that soft onsets are not cut
MIN_SILENCE_SAMPLES: Final = int(0.3 * SAMPLE_RATE_HZ)  # a shorter pause does not end speech
MIN_SPEECH_SAMPLES: Final = int(0.1 * SAMPLE_RATE_HZ)  # shorter is a click
MAX_GAP_SAMPLES: Final = 3 * SAMPLE_RATE_HZ  # a longer pause ends a window: silence inside one invites invented words


class FrameScores(Protocol):
    """Says how much speech is in each frame of 512 samples."""

    def probabilities(self, frames: Samples) -> NDArray[np.float32]:
        """[n * 512] samples -> [n] probabilities."""
        ...


class EverythingIsSpeech:
    """Stands in for the detector where it is turned off."""

    def probabilities(self, frames: Samples) -> NDArray[np.float32]:
        """Return 1 for every frame."""
        return np.ones(frames.shape[0] // FRAME_SAMPLES, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Window:
    """A contiguous piece of the audio; `start_sample` counts from the start of the audio."""

    index: int
    start_sample: int
    samples: Samples
    speech_seconds: float | None = None  # what the detector heard in it; None: it was not asked

    @property
    def start_seconds(self) -> float:
        """Where the window starts in the audio."""
        return self.start_sample / SAMPLE_RATE_HZ

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples.shape[0] / SAMPLE_RATE_HZ


@dataclass
class WindowCutter:
    """Cuts a stream into windows of at most `limit_samples`; keeps no more than about two windows of audio.

    A window runs from a start of speech to an end of speech, padded, and takes in the next speech as long as it fits and the
    pause between is short. It ends in the last pause in which it has its pad, or half of a pause that is too short for the pads of
    two: speech fades in and out beyond where the detector hears it. Speech longer than a window is cut at its quietest frame in the
    window's last third. Windows never overlap, and every frame of speech is in exactly one. Without `cuts_on_speech` everything
    counts as speech here, and the detector only says how much of it there is.
    """

    limit_samples: int
    detector: FrameScores = field(default_factory=SpeechDetector)
    cuts_on_speech: bool = True
    total_samples: int = 0
    _buffer: Samples = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    _buffer_start: int = 0
    _scored: int = 0  # samples that the detector has seen
    _loudness: list[float] = field(default_factory=list)  # of the frames since `_loudness_start`
    _is_speech: list[bool] = field(default_factory=list)  # the same frames, to the detector
    _loudness_start: int = 0
    _window_start: int | None = None
    _speech_start: int | None = None  # of the speech going on
    _speech_end: int | None = None  # of the last speech in this window
    _pause: tuple[int, int] | None = None  # from where to where, before the last speech in this window
    _last_voiced: int = 0
    _is_rest: bool = False  # the speech going on is what a cut left over, so it is no click however short
    _emitted_end: int = 0
    _count: int = 0

    def add(self, block: Samples) -> Iterator[Window]:
        """Take in the next samples; yield the windows that are complete."""
        self._buffer = np.concatenate([self._buffer, block])
        self.total_samples += block.shape[0]
        whole = (self.total_samples - self._scored) // FRAME_SAMPLES * FRAME_SAMPLES
        if whole:
            yield from self._score(self._slice(self._scored, self._scored + whole))
        self._forget()

    def finish(self) -> Iterator[Window]:
        """End the stream; yield what is left."""
        rest = self._slice(self._scored, self.total_samples)
        if rest.shape[0]:
            yield from self._score(np.pad(rest, (0, FRAME_SAMPLES - rest.shape[0])))
        if self._speech_start is not None:
            self._end_speech(self.total_samples)
        while self._window_start is not None and self._speech_end is not None:
            yield self._end_in_pause()

    def _score(self, frames: Samples) -> Iterator[Window]:
        speech = self.detector.probabilities(frames)
        energy = np.abs(frames).reshape(-1, FRAME_SAMPLES).mean(axis=1)
        for probability, loudness in zip(speech.tolist(), energy.tolist(), strict=True):
            start = self._scored
            self._scored += FRAME_SAMPLES
            self._is_speech.append(probability >= SPEECH_BEGINS)
            heard = probability if self.cuts_on_speech else 1.0
            self._loudness.append(heard + loudness)
            self._follow_speech(start, heard)
            window = self._window_due(min(self._scored, self.total_samples))  # the last frame may be filled up
            if window is not None:
                yield window

    def _follow_speech(self, start: int, probability: float) -> None:
        if self._speech_start is None:
            if probability >= SPEECH_BEGINS:
                self._speech_start = start
                self._last_voiced = start + FRAME_SAMPLES
                if self._window_start is None:
                    self._window_start = max(start - PAD_SAMPLES, self._emitted_end, 0)
        elif probability >= SPEECH_GOES_ON:
            self._last_voiced = start + FRAME_SAMPLES
        elif start + FRAME_SAMPLES - self._last_voiced >= MIN_SILENCE_SAMPLES:
            self._end_speech(self._last_voiced)

    def _end_speech(self, end: int) -> None:
        assert self._speech_start is not None
        is_click = end - self._speech_start < (1 if self._is_rest else MIN_SPEECH_SAMPLES)
        if not is_click:
            self._pause = None if self._speech_end is None else (self._speech_end, self._speech_start)
            self._speech_end = end
        elif self._speech_end is None:
            self._window_start = None
        self._speech_start, self._is_rest = None, False

    def _window_due(self, now: int) -> Window | None:
        """Return the window that must end at `now`, if any."""
        if self._window_start is None:
            return None
        is_full = now - self._window_start > self.limit_samples
        if self._speech_end is not None:
            # A full window waits for the next speech while that may need a part of the pause for its own pad.
            longest = 2 * PAD_SAMPLES if is_full else MAX_GAP_SAMPLES
            is_over = is_full if self._speech_start is not None else now - self._speech_end >= longest
            return self._end_in_pause() if is_over else None
        if not is_full:
            return None
        quietest = self._quietest(now - self.limit_samples // 3, now)
        window = self._emit(quietest)
        self._window_start = self._speech_start = quietest
        self._is_rest = True
        return window

    def _end_in_pause(self) -> Window:
        """End the window in the last pause, or in the one before where the pad in the last goes beyond the limit."""
        assert self._window_start is not None
        assert self._speech_end is not None
        speech_end, resume = self._speech_end, self._speech_start
        if self._pause is None or self._padded(speech_end, resume) - self._window_start <= self.limit_samples:
            window = self._emit(self._padded(speech_end, resume))
        else:
            pause_start, resume = self._pause
            window = self._emit(self._padded(pause_start, resume))
            self._speech_end = speech_end
        if resume is not None:
            self._window_start = max(resume - PAD_SAMPLES, self._emitted_end)
        return window

    def _padded(self, speech_end: int, resume: int | None) -> int:
        """Return where the pad after speech ends: both sides of a pause have one, or share it."""
        end = speech_end + PAD_SAMPLES
        return min(end if resume is None else min(end, (speech_end + resume) // 2), self.total_samples)

    def _quietest(self, start: int, end: int) -> int:
        frames = self._frames(start, end)
        quietest = int(frames.start) + int(np.argmin(self._loudness[frames]))
        return self._loudness_start + quietest * FRAME_SAMPLES

    def _frames(self, start: int, end: int) -> slice:
        first = max((start - self._loudness_start) // FRAME_SAMPLES, 0)
        return slice(first, max((end - self._loudness_start) // FRAME_SAMPLES, first))

    def _emit(self, end: int) -> Window:
        assert self._window_start is not None
        end = min(end, self._window_start + self.limit_samples, self.total_samples)
        speech_seconds = sum(self._is_speech[self._frames(self._window_start, end)]) * FRAME_SAMPLES / SAMPLE_RATE_HZ
        window = Window(self._count, self._window_start, self._slice(self._window_start, end).copy(), speech_seconds)
        self._count += 1
        self._emitted_end = end
        self._window_start = self._speech_end = self._pause = None
        return window

    def _slice(self, start: int, end: int) -> Samples:
        return self._buffer[start - self._buffer_start : end - self._buffer_start]

    def _forget(self) -> None:
        keep = self._window_start if self._window_start is not None else self._scored - PAD_SAMPLES
        keep = max(min(keep, self._scored), self._buffer_start)
        self._buffer = self._buffer[keep - self._buffer_start :]
        self._buffer_start = keep
        frames = max((keep - self._loudness_start) // FRAME_SAMPLES, 0)
        del self._loudness[:frames], self._is_speech[:frames]
        self._loudness_start += frames * FRAME_SAMPLES


def cut(blocks: Iterable[Samples], cutter: WindowCutter) -> Iterator[Window]:
    """Cut a whole stream."""
    for block in blocks:
        yield from cutter.add(block)
    yield from cutter.finish()


def stitch(parts: Iterable[tuple[Window, Sequence[Segment]]]) -> tuple[Segment, ...]:
    """Give the windows' segments their true times and number them; windows come in order."""
    moved = ((segment, window.start_seconds) for window, segments in parts for segment in segments)
    return tuple(segment.moved(number, seconds) for number, (segment, seconds) in enumerate(moved))
