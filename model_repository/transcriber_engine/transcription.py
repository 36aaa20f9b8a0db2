"""One request from audio to transcript: cut, decode each window by whoever decodes windows, stitch."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.longform import EverythingIsSpeech, Window, WindowCutter, stitch
from transcriber_engine.result import Speculation, Transcript, WindowResult
from transcriber_engine.settings import EngineSettings, Options
from transcriber_engine.vad import SpeechDetector


class RequestCancelledError(Exception):
    """The caller went away; no more windows are sent."""


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
    is_cancelled: Callable[[], bool] = lambda: False,
    on_read: Callable[[float], None] = lambda _seconds: None,
) -> Transcript:
    """Transcribe a stream of 16 kHz blocks; at most `max_in_flight` windows are on their way, so that no request starves others.

    `on_read` is told the seconds of each block. Raises whatever the blocks or a window raise, and RequestCancelledError between
    windows once `is_cancelled()`.
    """
    pending: deque[tuple[Window, Future[WindowResult]]] = deque()
    done: list[tuple[Window, WindowResult]] = []

    def collect(until: int) -> None:
        while len(pending) > until:
            window, future = pending.popleft()
            done.append((window, future.result()))

    def send(window: Window) -> None:
        if is_cancelled():
            raise RequestCancelledError
        collect(max_in_flight - 1)
        pending.append((window, decode_window(window)))

    try:
        for block in blocks:
            on_read(block.shape[0] / SAMPLE_RATE_HZ)
            for window in cutter.add(block):
                send(window)
        for window in cutter.finish():
            send(window)
        collect(0)
    finally:
        for _, future in pending:
            future.cancel()
    return _transcript(done, cutter.total_samples / SAMPLE_RATE_HZ)


def _transcript(done: list[tuple[Window, WindowResult]], seconds: float) -> Transcript:
    spoken: Counter[str] = Counter()
    for window, result in done:
        if result.segments:
            spoken[result.language] += window.samples.shape[0]
    segments = stitch((window, result.segments) for window, result in done)
    return Transcript(
        text=" ".join(text for segment in segments if (text := segment.text.strip())),
        language=spoken.most_common(1)[0][0] if spoken else None,
        duration_seconds=round(seconds, 3),
        segments=segments,
        speculation=sum((result.speculation for _, result in done), Speculation()),
    )
