"""One request from audio to transcript: cut, decode each window by whoever decodes windows, stitch."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Final

from transcriber_engine.audio import SAMPLE_RATE_HZ, Samples
from transcriber_engine.fallback import COMPRESSION_RATIO_LIMIT, derived_seed
from transcriber_engine.guards import compression_ratio
from transcriber_engine.longform import EverythingIsSpeech, Window, WindowCutter, cut, stitch
from transcriber_engine.result import Segment, Speculation, Transcript, WindowResult
from transcriber_engine.settings import MAX_PROMPT_CHARACTERS, EngineSettings, Options
from transcriber_engine.vad import SpeechDetector

CHECK_SECONDS: Final = 0.2  # how often a wait for a window looks whether there is still reason to wait
RESET_TEMPERATURE: Final = 0.5  # text drawn at this temperature or above is no context for the next window, as openai/whisper


def window_cutter(settings: EngineSettings, options: Options) -> WindowCutter:
    """Build the cutter that a request asks for; guards want to know of speech even where nothing is cut on it."""
    chosen = options.over(settings)
    cuts_on_speech = chosen.voice_activity_detection == "silero"
    detector = SpeechDetector() if cuts_on_speech or chosen.hallucination_guards else EverythingIsSpeech()
    return WindowCutter(settings.chunk_seconds * SAMPLE_RATE_HZ, detector, cuts_on_speech)


def window_options(options: Options, window: Window, previous_text: str) -> Options:
    """Return what is asked of one window: its own seed, and the text before it where the request wants to have it heeded."""
    asked: dict[str, object] = {"seed": derived_seed(options.seed or 0, window.index)}
    if options.condition_on_previous_text:
        asked["prompt"] = f"{options.prompt or ''}{previous_text}"[-MAX_PROMPT_CHARACTERS:]
    return options.model_copy(update=asked)


def text_before_next(previous_text: str, result: WindowResult) -> str:
    """Return the text that the window after this one follows; nothing after silence, or after text that may lead it astray."""
    text = "".join(segment.text for segment in result.segments)
    is_drawn = any(segment.temperature >= RESET_TEMPERATURE for segment in result.segments)
    if not text or is_drawn or compression_ratio(text) > COMPRESSION_RATIO_LIMIT:
        return ""
    return (previous_text + text)[-MAX_PROMPT_CHARACTERS:]


def transcribe(
    blocks: Iterable[Samples],
    cutter: WindowCutter,
    decode_window: Callable[[Window, Options], Future[WindowResult]],
    options: Options,
    max_in_flight: int,
    check: Callable[[], None] = lambda: None,
) -> Transcript:
    """Transcribe a stream of 16 kHz blocks; at most `max_in_flight` windows are on their way, so that no request starves others.

    `decode_window` gets what is asked of the one window. Where each is to follow the text of the one before, they go one by one.
    `check` is called before each window and every CHECK_SECONDS of waiting for one; what it raises ends the request, as does
    what the blocks or a window raise. A window's samples are let go when it is decoded: memory does not grow with the audio.
    """
    spoken: Counter[str] = Counter()
    speculation = Speculation()
    previous_text = ""
    at_once = 1 if options.condition_on_previous_text else max_in_flight

    def ask(window: Window) -> Future[WindowResult]:
        return decode_window(window, window_options(options, window, previous_text))

    def decoded() -> Iterator[tuple[Window, tuple[Segment, ...]]]:
        nonlocal speculation, previous_text
        for window, result in _decode(cut(blocks, cutter), ask, at_once, check):
            speculation += result.speculation
            previous_text = text_before_next(previous_text, result)
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
