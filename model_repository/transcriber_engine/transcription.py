"""One request from audio to transcript: cut, decode each window by whoever decodes windows, stitch."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Final

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.longform import EverythingIsSpeech, Window, WindowCutter, cut, stitch
from transcriber_engine.result import Segment, Speculation, Transcript, WindowResult
from transcriber_engine.settings import EngineSettings, Options
from transcriber_engine.vad import SpeechDetector

CHECK_SECONDS: Final = 0.2  # how often a wait for a window looks whether there is still reason to wait


def window_cutter(settings: EngineSettings, options: Options) -> WindowCutter:
    """Build the cutter that a request asks for."""
    detection = options.voice_activity_detection or settings.voice_activity_detection
    detector = SpeechDetector() if detection == "silero" else EverythingIsSpeech()
    return WindowCutter(settings.chunk_seconds * SAMPLE_RATE_HZ, detector)


def transcribe(
    blocks: Iterable[Samples],
    cutter: WindowCutter,
    decode_window: Callable[[Window], Future[WindowResult]],
    max_in_flight: int,
    check: Callable[[], None] = lambda: None,
) -> Transcript:
    """Transcribe a stream of 16 kHz blocks; at most `max_in_flight` windows are on their way, so that no request starves others.

    `check` is called before each window and every CHECK_SECONDS of waiting for one; what it raises ends the request, as does
    what the blocks or a window raise. A window's samples are let go when it is decoded: memory does not grow with the audio.
    """
    spoken: Counter[str] = Counter()
    speculation = Speculation()

    def decoded() -> Iterator[tuple[Window, tuple[Segment, ...]]]:
        nonlocal speculation
        for window, result in _decode(cut(blocks, cutter), decode_window, max_in_flight, check):
            speculation += result.speculation
            if result.segments:
                spoken[result.language] += window.samples.shape[0]
            yield window, result.segments

    segments = stitch(decoded())
    return Transcript(
        text=" ".join(text for segment in segments if (text := segment.text.strip())),
        language=spoken.most_common(1)[0][0] if spoken else None,
        duration_seconds=round(cutter.total_samples / SAMPLE_RATE_HZ, 3),
        segments=segments,
        speculation=speculation,
    )


def _decode(
    windows: Iterable[Window],
    decode_window: Callable[[Window], Future[WindowResult]],
    max_in_flight: int,
    check: Callable[[], None],
) -> Iterator[tuple[Window, WindowResult]]:
    """Decode windows side by side and yield them in order, each as soon as room is needed for the next."""
    pending: deque[tuple[Window, Future[WindowResult]]] = deque()
    try:
        for window in windows:
            check()
            if len(pending) >= max_in_flight:
                yield _collect(*pending.popleft(), check)
            pending.append((window, decode_window(window)))
        while pending:
            yield _collect(*pending.popleft(), check)
    finally:
        for _, future in pending:
            future.cancel()


def _collect(window: Window, future: Future[WindowResult], check: Callable[[], None]) -> tuple[Window, WindowResult]:
    while not wait([future], CHECK_SECONDS).done:
        check()
    return window, future.result()
