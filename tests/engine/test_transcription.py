"""From blocks to a transcript, with a decoder of windows that tests hold in their hands."""

import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from tests.engine.test_longform import LoudIsSpeech
from transcriber_engine import transcription
from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.fallback import derived_seed
from transcriber_engine.longform import EverythingIsSpeech, Window, WindowCutter, cut
from transcriber_engine.result import Segment, Speculation, WindowResult
from transcriber_engine.settings import MAX_PROMPT_CHARACTERS, EngineSettings, Options
from transcriber_engine.transcription import text_before_next, transcribe, window_cutter, window_options
from transcriber_engine.vad import SpeechDetector

WINDOW = 5 * SAMPLE_RATE_HZ


def result(window: Window, language: str = "en", text: str | None = None, temperature: float = 0.0) -> WindowResult:
    segment = Segment(
        id=0,
        start_seconds=0,
        end_seconds=1,
        text=f" w{window.index}" if text is None else text,
        tokens=(window.index,),
        avg_logprob=0,
        no_speech_prob=0,
        compression_ratio=1,
        temperature=temperature,
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

    def decode_window(window, _options):
        future: Future = Future()
        started.append((window, future))
        if window.index % 2 or window.index == count - 1:
            while started:  # the later before the earlier
                held, late = started.pop()
                late.set_result(result(held, "de" if held.index else "en"))
        return future

    transcript = transcribe(speech(25), cutter(), decode_window, Options(), max_in_flight=3)
    assert transcript.text == " ".join(f"w{number}" for number in range(count))
    assert (transcript.language, transcript.duration_seconds) == ("de", 25.0)
    assert (transcript.speculation.cycles, transcript.speculation.output_tokens) == (count, 2 * count)
    starts = [segment.start_seconds for segment in transcript.segments]
    assert starts == sorted(starts)


def test_samples_of_windows_that_are_decoded_are_let_go():
    alive: list[weakref.ref] = []
    most = 0

    def decode_window(window, _options):
        nonlocal most
        alive.append(weakref.ref(window))
        most = max(most, sum(ref() is not None for ref in alive))
        future: Future = Future()
        future.set_result(result(window))
        return future

    transcribe(speech(200), cutter(), decode_window, Options(), max_in_flight=2)
    assert len(alive) > 40
    assert most <= 5


def test_no_more_windows_are_on_their_way_than_allowed():
    on_their_way = most = 0

    def decode(window):
        nonlocal on_their_way
        on_their_way -= 1
        return result(window)

    with ThreadPoolExecutor(1) as pool:

        def decode_window(window, _options):
            nonlocal on_their_way, most
            on_their_way += 1
            most = max(most, on_their_way)
            return pool.submit(decode, window)

        transcribe(speech(60), cutter(), decode_window, Options(), max_in_flight=3)
    assert most <= 3


class GoneError(Exception):
    pass


def test_a_check_that_raises_ends_a_wait_for_a_window_that_never_comes(monkeypatch):
    monkeypatch.setattr(transcription, "CHECK_SECONDS", 0.01)
    never: list[Future] = []
    checks = 0

    def decode_window(_window, _options):
        never.append(Future())
        return never[-1]

    def check():
        nonlocal checks
        checks += 1
        if checks > 10:
            raise GoneError

    with pytest.raises(GoneError):
        transcribe(speech(30), cutter(), decode_window, Options(), max_in_flight=2, check=check)
    assert len(never) == 2
    assert never[1].cancelled()


def test_a_window_that_fails_ends_the_request_with_its_error():
    def decode_window(window, _options):
        future: Future = Future()
        if window.index == 2:
            future.set_exception(GoneError("window 2"))
        else:
            future.set_result(result(window))
        return future

    with pytest.raises(GoneError, match="window 2"):
        transcribe(speech(60), cutter(), decode_window, Options(), max_in_flight=2)


def test_silence_is_an_empty_transcript_with_its_duration():
    blocks = (np.zeros(SAMPLE_RATE_HZ, np.float32) for _ in range(7))
    transcript = transcribe(blocks, cutter(), lambda _window, _options: pytest.fail("no window"), Options(), max_in_flight=1)
    assert (transcript.text, transcript.language, transcript.duration_seconds) == ("", None, 7.0)


def prompts_of(options: Options, answers: list[dict[str, object]]) -> list[str | None]:
    """What windows are asked with, one after another, where each is answered so."""
    prompts: list[str | None] = []
    on_their_way = 0

    with ThreadPoolExecutor(1) as pool:

        def decode(window):
            nonlocal on_their_way
            on_their_way -= 1
            return result(window, **answers[window.index % len(answers)])

        def decode_window(window, chosen):
            nonlocal on_their_way
            on_their_way += 1
            assert on_their_way == 1
            prompts.append(chosen.prompt)
            return pool.submit(decode, window)

        transcribe(speech(25), cutter(), decode_window, options, max_in_flight=4)
    return prompts


def test_windows_that_follow_the_text_before_them_go_one_by_one_and_know_it():
    options = Options(condition_on_previous_text=True)
    assert prompts_of(options, [{}])[:4] == ["", " w0", " w0 w1", " w0 w1 w2"]


def test_the_prompt_of_a_request_stands_before_the_text_of_its_windows():
    options = Options(condition_on_previous_text=True, prompt="Names: Ada.")
    assert prompts_of(options, [{}])[:3] == ["Names: Ada.", "Names: Ada. w0", "Names: Ada. w0 w1"]


@pytest.mark.parametrize("answer", [{"text": ""}, {"text": " thank you" * 40}, {"temperature": 0.6}])
def test_after_silence_a_loop_or_a_hot_window_the_text_before_is_forgotten(answer):
    options = Options(condition_on_previous_text=True, prompt="Ada.")
    assert prompts_of(options, [{"text": " one"}, answer, {"text": " two"}])[:4] == ["Ada.", "Ada. one", "Ada.", "Ada. two"]


def test_of_a_long_text_before_as_much_is_kept_as_a_prompt_may_have():
    window = Window(0, 0, np.zeros(16, np.float32))
    text = text_before_next("x" * MAX_PROMPT_CHARACTERS, result(window, text=" end"))
    assert len(text) == MAX_PROMPT_CHARACTERS
    asked = window_options(Options(condition_on_previous_text=True, prompt="begin"), window, text)
    assert Options.parse(asked.model_dump_json(exclude_none=True)).prompt == text
    assert text.endswith("x end")


def test_each_window_has_a_seed_of_its_own_and_else_the_options_of_its_request():
    seeds = []

    def decode_window(window, chosen):
        seeds.append(chosen.seed)
        assert chosen.model_copy(update={"seed": 5}) == options
        future: Future = Future()
        future.set_result(result(window))
        return future

    options = Options(seed=5, prompt="Ada.", temperature_fallback=True)
    transcribe(speech(25), cutter(), decode_window, options, max_in_flight=2)
    assert seeds == [derived_seed(5, index) for index in range(len(seeds))]
    assert len(set(seeds)) == len(seeds) > 4


def test_a_request_without_detection_or_guards_has_no_detector_and_guards_need_one():
    def cutter_of(**chosen: object) -> tuple[type, bool]:
        made = window_cutter(EngineSettings(voice_activity_detection="none"), Options(**chosen))
        return type(made.detector), made.cuts_on_speech

    assert cutter_of() == (EverythingIsSpeech, False)
    assert cutter_of(hallucination_guards=True) == (SpeechDetector, False)
    assert cutter_of(voice_activity_detection="silero") == (SpeechDetector, True)
