"""From options to what is asked of a window, and from its tokens to its result."""

import pytest
import torch

from tests.engine.toy import toy_tokenizer
from transcriber_engine.result import Word
from transcriber_engine.settings import EngineSettings, Options
from transcriber_engine.window import WindowRequest, WindowTokens, window_result

TOKENIZER = toy_tokenizer()
HIDDEN = torch.zeros(6, 16)


def at(step: int) -> int:
    """The timestamp after so many steps of 20 ms."""
    return TOKENIZER.timestamp_begin + step


def decoded(*tokens: int, **figures: object) -> WindowTokens:
    plain = {"language": "en", "avg_logprob": -0.5, "no_speech_prob": 0.1, "cycles": 3, "output_tokens": 9}
    return WindowTokens(tokens, **{**plain, "draft_tokens": 4, "accepted_tokens": 2, **figures})


def asked(**fields: object) -> WindowRequest:
    return WindowRequest(HIDDEN, **{"timestamps": True, "audio_seconds": 0.1, **fields})


def test_a_request_s_options_go_before_the_deployment_s_and_what_neither_chooses_is_off():
    settings = EngineSettings(language="de", timestamps="word", temperature_fallback=True, max_draft_tokens=5)
    request = WindowRequest.of(HIDDEN, Options(), settings, audio_seconds=12.5, speech_seconds=3.0)
    assert (request.language, request.task, request.timestamps, request.words) == ("de", "transcribe", True, True)
    assert (request.temperature_fallback, request.guards, request.seed, request.max_draft_tokens) == (True, False, 0, 5)
    assert (request.audio_seconds, request.speech_seconds, request.heard_seconds) == (12.5, 3.0, None)
    chosen = Options(
        language="en",
        task="translate",
        timestamps="none",
        prompt="before",
        hotwords="Ada",
        temperature_fallback=False,
        hallucination_guards=True,
        seed=7,
        max_draft_tokens=0,
    )
    request = WindowRequest.of(HIDDEN, chosen, settings, speech_seconds=3.0)
    assert (request.language, request.task, request.timestamps, request.words) == ("en", "translate", False, False)
    assert (request.temperature_fallback, request.guards, request.seed, request.max_draft_tokens) == (False, True, 7, 0)
    assert (request.previous_text, request.hotwords, request.heard_seconds) == ("before", "Ada", 3.0)


def test_a_result_has_the_figures_the_temperature_and_the_words_of_its_window():
    word = Word(word="w1", start_seconds=0.0, end_seconds=0.02, probability=0.9)
    tokens = decoded(at(0), 1, at(2), at(2), 2, at(4), temperature=0.4, words=((word,), ()))
    result = window_result(tokens, TOKENIZER, asked())
    first, second = result.segments
    assert (first.start_seconds, first.end_seconds, first.tokens, first.words) == (0.0, 0.04, (1,), (word,))
    assert (second.start_seconds, second.end_seconds, second.tokens, second.words) == (0.04, 0.08, (2,), ())
    assert {segment.temperature for segment in result.segments} == {0.4}
    assert (result.speculation.cycles, result.speculation.output_tokens) == (3, 9)


@pytest.mark.parametrize(("guards", "expected"), [(False, [(0.0, 0.1), (0.1, 0.1)]), (True, [(0.0, 0.1)])])
def test_no_segment_ends_after_the_audio_and_with_guards_none_begins_there(guards, expected):
    tokens = decoded(at(0), 1, at(7), at(8), 2, at(10))
    segments = window_result(tokens, TOKENIZER, asked(guards=guards)).segments
    assert [(segment.start_seconds, segment.end_seconds) for segment in segments] == expected


@pytest.mark.parametrize(("guards", "speech_seconds", "words"), [(False, 0.0, 1), (True, 0.0, 0), (True, 2.0, 1), (True, None, 1)])
def test_what_the_detector_heard_counts_with_guards_alone(guards, speech_seconds, words):
    tokens = decoded(at(0), 1, at(2), no_speech_prob=0.9)
    assert len(window_result(tokens, TOKENIZER, asked(guards=guards, speech_seconds=speech_seconds)).segments) == words
