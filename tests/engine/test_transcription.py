"""From blocks to a transcript, with a decoder of windows that tests hold in their hands."""

import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from tests.engine.test_longform import LoudIsSpeech
from transcriber_engine import transcription
from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.longform import Window, WindowCutter, cut
from transcriber_engine.result import Segment, Speculation, WindowResult
from transcriber_engine.transcription import transcribe

WINDOW = 5 * SAMPLE_RATE_HZ


def result(window: Window, language: str = "en") -> WindowResult:
    segment = Segment(
        id=0,
        start_seconds=0,
        end_seconds=1,
        text=f" w{window.index}",
        tokens=(window.index,),
        avg_logprob=0,
        no_speech_prob=0,
        compression_ratio=1,
    )
    return WindowResult(language=language, segments=(segment,), speculation=Speculation(cycles=1, output_tokens=2))


def speech(seconds: int):
    return (np.ones(SAMPLE_RATE_HZ, np.float32) for _ in range(seconds))


def cutter() -> WindowCutter:
    return WindowCutter(WINDOW, LoudIsSpeech())


def test_windows_that_finish_out_of_order_are_stitched_in_order():
    count = len(list(cut(speech(25), cutter())))
    assert count > 5
    started: list[tuple[Window, Future]] = []

    def decode_window(window):
        future: Future = Future()
        started.append((window, future))
        if window.index % 2 or window.index == count - 1:
            while started:  # the later before the earlier
                held, late = started.pop()
                late.set_result(result(held, "de" if held.index else "en"))
        return future

    transcript = transcribe(speech(25), cutter(), decode_window, max_in_flight=3)
    assert transcript.text == " ".join(f"w{number}" for number in range(count))
    assert (transcript.language, transcript.duration_seconds) == ("de", 25.0)
    assert (transcript.speculation.cycles, transcript.speculation.output_tokens) == (count, 2 * count)
    starts = [segment.start_seconds for segment in transcript.segments]
    assert starts == sorted(starts)


def test_samples_of_windows_that_are_decoded_are_let_go():
    alive: list[weakref.ref] = []
    most = 0

    def decode_window(window):
        nonlocal most
        alive.append(weakref.ref(window))
        most = max(most, sum(ref() is not None for ref in alive))
        future: Future = Future()
        future.set_result(result(window))
        return future

    transcribe(speech(200), cutter(), decode_window, max_in_flight=2)
    assert len(alive) > 40
    assert most <= 5


def test_no_more_windows_are_on_their_way_than_allowed():
    on_their_way = most = 0

    def decode(window):
        nonlocal on_their_way
        on_their_way -= 1
        return result(window)

    with ThreadPoolExecutor(1) as pool:

        def decode_window(window):
            nonlocal on_their_way, most
            on_their_way += 1
            most = max(most, on_their_way)
            return pool.submit(decode, window)

        transcribe(speech(60), cutter(), decode_window, max_in_flight=3)
    assert most <= 3


class GoneError(Exception):
    pass


def test_a_check_that_raises_ends_a_wait_for_a_window_that_never_comes(monkeypatch):
    monkeypatch.setattr(transcription, "CHECK_SECONDS", 0.01)
    never: list[Future] = []
    checks = 0

    def decode_window(_window):
        never.append(Future())
        return never[-1]

    def check():
        nonlocal checks
        checks += 1
        if checks > 10:
            raise GoneError

    with pytest.raises(GoneError):
        transcribe(speech(30), cutter(), decode_window, max_in_flight=2, check=check)
    assert len(never) == 2
    assert never[1].cancelled()


def test_a_window_that_fails_ends_the_request_with_its_error():
    def decode_window(window):
        future: Future = Future()
        if window.index == 2:
            future.set_exception(GoneError("window 2"))
        else:
            future.set_result(result(window))
        return future

    with pytest.raises(GoneError, match="window 2"):
        transcribe(speech(60), cutter(), decode_window, max_in_flight=2)


def test_silence_is_an_empty_transcript_with_its_duration():
    blocks = (np.zeros(SAMPLE_RATE_HZ, np.float32) for _ in range(7))
    transcript = transcribe(blocks, cutter(), lambda _window: pytest.fail("no window"), max_in_flight=1)
    assert (transcript.text, transcript.language, transcript.duration_seconds) == ("", None, 7.0)
