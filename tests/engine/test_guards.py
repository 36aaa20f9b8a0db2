"""What is silence, what is a loop, and what is left of one; and which attempts are decoded again."""

from itertools import chain, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_engine.fallback import MAX_SEED, TEMPERATURES, Attempt, derived_seed, next_temperature
from transcriber_engine.guards import LOOP_REPEATS, LOOP_TOKENS, closes_loop, is_silent, loop_period, without_loops

END = 100  # of text; what is above are timestamps
TEXT = st.lists(st.integers(0, 5), max_size=60)


def said(*parts: object) -> list[int]:
    """Tokens of lists and of (list, times)."""
    return list(chain.from_iterable(chain(*repeat(*part)) if isinstance(part, tuple) else part for part in parts))


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "speech_seconds", "silent"),
    [
        (0.93, -1.85, None, True),  # openai/whisper's rule…
        (0.93, -0.82, None, False),
        (0.30, -1.85, None, False),
        (0.93, -0.82, 0.0, True),  # …and a detector that heard nothing, in half a minute of zeros
        (0.30, -1.85, 0.1, True),
        (0.93, -0.82, 2.0, False),
        (0.30, -0.20, 0.0, False),  # it alone does not take words away
    ],
)
def test_silence_is_what_two_of_three_witnesses_say(no_speech_prob, avg_logprob, speech_seconds, silent):
    assert is_silent(no_speech_prob, avg_logprob, speech_seconds) is silent


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ([], None),
        ([1], None),
        (said(([7], LOOP_TOKENS)), 1),
        (said(([7], LOOP_TOKENS - 1)), None),  # laughter
        (said(([1, 2], 12)), 2),
        (said(([1, 2], 11)), None),  # no, no, no
        (said([9, 9], (list(range(8)), LOOP_REPEATS)), 8),
        (said((list(range(8)), LOOP_REPEATS - 1)), None),  # a chorus
        (said((list(range(40)), LOOP_REPEATS)), 40),
        (said((list(range(41)), LOOP_REPEATS)), None),  # longer than any loop that is looked for
        (said(([1, 2], 12), [3]), None),  # it went on
    ],
)
def test_a_loop_is_so_many_tokens_that_repeat_so_often_at_the_end(text, period):
    assert loop_period(text) == period


def test_a_loop_within_one_segment_is_cut_back_to_its_first_round():
    sentence = [1, 2, 3, 4, 5, 6]
    assert without_loops([100, *said([8, 9], (sentence, 30)), 130], END) == (100, 8, 9, *sentence, 130)


def test_a_loop_over_segments_leaves_the_first_of_them_with_its_times():
    rounds = said(*([100 + n, 1, 2, 3, 101 + n] for n in range(20)))
    assert without_loops([*rounds, 121, 4, 5, 122], END) == (100, 1, 2, 3, 101, 101, 120, 121, 4, 5, 122)


def test_two_loops_are_both_cut_and_what_is_between_them_stays():
    assert without_loops(said(([1], 30), [2, 3], ([4, 5], 20), [6]), END) == (1, 2, 3, 4, 5, 6)


@given(TEXT)
def test_text_without_a_loop_stays_as_it_is(text):
    if not any(loop_period(text[:n]) for n in range(len(text) + 1)):
        assert without_loops(text, END) == tuple(text)


@given(TEXT, st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(LOOP_TOKENS, 40), TEXT)
def test_what_is_left_of_any_loop_is_a_part_of_what_was_said_and_no_loop(before, period, times, after):
    tokens = said(before, (period, times), after)
    left = without_loops(tokens, END)
    assert len(left) < len(tokens)
    rest = iter(tokens)
    assert all(token in rest for token in left)
    assert loop_period(left) is None


@given(TEXT, st.integers(0, 30), st.lists(st.integers(1, 7), min_size=1))
def test_a_loop_is_found_at_the_same_token_however_many_come_at_a_time(before, rounds, steps):
    tokens = said(before, ([100, 1, 2], rounds))
    found, at = None, 0
    for step in chain.from_iterable(repeat(steps)):
        if found is not None or at >= len(tokens):
            break
        closed = closes_loop(tokens[:at], tokens[at : at + step], END)
        found = None if closed is None else at + closed
        at += step
    assert found == closes_loop([], tokens, END)


GOOD = Attempt(temperature=0.0, compression_ratio=1.5, avg_logprob=-0.3, no_speech_prob=0.1)


@pytest.mark.parametrize(
    ("change", "following"),
    [
        ({}, None),
        ({"compression_ratio": 2.41}, 0.2),
        ({"avg_logprob": -1.01}, 0.2),
        ({"is_loop": True}, 0.2),
        ({"avg_logprob": -1.01, "temperature": 0.4}, 0.6),
        ({"avg_logprob": -1.01, "temperature": 1.0}, None),  # the last stands, whatever it is
        ({"avg_logprob": -1.01, "no_speech_prob": 0.7}, None),  # silence
        ({"compression_ratio": 9.0, "avg_logprob": -1.01, "no_speech_prob": 0.7}, None),
        ({"compression_ratio": 9.0, "no_speech_prob": 0.7}, 0.2),
        ({"compression_ratio": 9.0, "no_speech_prob": 0.7, "speech_seconds": 0.0}, None),
    ],
)
def test_an_attempt_that_repeats_itself_or_is_doubted_is_followed_by_a_warmer_one(change, following):
    assert next_temperature(Attempt(**{**vars(GOOD), **change})) == following


def test_seeds_of_windows_and_attempts_are_apart_and_the_same_every_time():
    seeds = [derived_seed(seed, *path) for seed in (0, 1) for path in ((n,) for n in (*range(500), *TEMPERATURES[1:]))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed <= MAX_SEED for seed in seeds)
    assert derived_seed(7, 3) == derived_seed(7, 3)
