"""Temperature fallback and loops on toy models: in its slot, on its encoding, and no row notices another's."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.engine.test_exactness import decode, random_request
from tests.engine.toy import toy_pair
from transcriber_engine import guards
from transcriber_engine.decoding import PairDecoder
from transcriber_engine.errors import CancelledByCallerError
from transcriber_engine.guards import closes_loop, compression_ratio, without_loops
from transcriber_engine.pair import DecoderPair
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.window import Job, WindowRequest, WindowTokens

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pair() -> DecoderPair:
    return toy_pair(11)


def requests_of(pair: DecoderPair, count: int, seed: int, **changes: object) -> list[WindowRequest]:
    rng = random.Random(seed)
    return [replace(random_request(rng), max_new_tokens=30, seed=rng.randrange(1 << 31), **changes) for _ in range(count)]


def is_good(result: WindowTokens, pair: DecoderPair) -> bool:
    return result.avg_logprob >= -1 and compression_ratio(pair.tokenizer.text(result.tokens)) <= 2.4


@pytest.fixture(scope="module")
def requests(pair: DecoderPair) -> list[WindowRequest]:
    """Every second may fall back."""
    return [replace(r, temperature_fallback=i % 2 == 0) for i, r in enumerate(requests_of(pair, 28, seed=5))]


@pytest.fixture(scope="module")
def alone(pair: DecoderPair, requests: list[WindowRequest]) -> list[WindowTokens]:
    return decode(pair, requests, slots=1, source="none", most=0)[0]


def test_what_came_out_badly_is_drawn_again_and_what_came_out_well_is_the_target_s(pair, requests, alone):
    greedy, _ = decode(pair, [replace(r, temperature_fallback=False) for r in requests], slots=1, source="none", most=0)
    drawn = 0
    for request, plain, result in zip(requests, greedy, alone, strict=True):
        if request.temperature_fallback and not is_good(plain, pair):
            drawn += 1
            assert result.temperature > 0
            assert result.temperature == 1.0 or is_good(result, pair)
            assert result.output_tokens > len(result.tokens) + 1  # what was given up counts as work
        else:
            assert (result.tokens, result.temperature) == (plain.tokens, 0.0)
    assert 4 < drawn < 14


@pytest.mark.parametrize(("source", "slots", "most"), [("model", 5, 4), ("model", 16, 16), ("prompt_lookup", 3, 7)])
def test_rows_that_fall_back_neither_notice_others_nor_are_noticed(pair, requests, alone, source, slots, most):
    order = random.Random(slots).sample(range(len(requests)), len(requests))
    together, scheduler = decode(pair, [requests[i] for i in order], slots, source, most)
    for i, result in zip(order, together, strict=True):
        assert (result.tokens, result.temperature) == (alone[i].tokens, alone[i].temperature)
        assert result.avg_logprob == alone[i].avg_logprob  # to the last bit: a threshold must not fall between two batches
    assert scheduler.counters.fallbacks > 0
    assert scheduler.counters.windows == len(requests)


def test_another_seed_draws_other_tokens(pair, requests, alone):
    others, _ = decode(pair, [replace(r, seed=r.seed ^ 1) for r in requests], slots=4, source="none", most=0)
    pairs = list(zip(alone, others, strict=True))
    assert all(one.tokens == other.tokens for one, other in pairs if one.temperature == 0)
    drawn = [one.tokens != other.tokens for one, other in pairs if one.temperature > 0]
    assert sum(drawn) > len(drawn) / 2


def counted(monkeypatch: pytest.MonkeyPatch, name: str, count: Callable[..., int]) -> list[int]:
    calls: list[int] = []
    method: Callable[..., object] = getattr(PairDecoder, name)

    def call(self: PairDecoder, given: object, *arguments: object, **named: object) -> object:
        calls.append(count(given))
        return method(self, given, *arguments, **named)

    monkeypatch.setattr(PairDecoder, name, call)
    return calls


def test_a_window_is_encoded_into_its_slot_and_its_prompt_read_once_however_often_it_is_decoded(pair, monkeypatch):
    admitted, read = counted(monkeypatch, "admit", lambda _: 1), counted(monkeypatch, "read_prompts", len)
    requests = requests_of(pair, 12, seed=6, temperature_fallback=True, language="en")
    _, scheduler = decode(pair, requests, slots=4, source="model", most=4)
    assert scheduler.counters.fallbacks > 5
    assert sum(admitted) == sum(read) == len(requests)


def test_a_window_cancelled_while_it_is_decoded_again_frees_its_slot(pair, requests, alone):
    bad = next(r for r, result in zip(requests, alone, strict=True) if result.temperature > 0.2)
    scheduler = Scheduler(pair, 2, "model", 2)
    outcomes: list[object] = []
    scheduler.submit(Job(bad, outcomes.append, lambda: scheduler.counters.fallbacks > 0))
    scheduler.run_until_idle()
    assert [type(outcome) for outcome in outcomes] == [CancelledByCallerError]
    assert (scheduler.counters.fallbacks, scheduler.held) == (1, 0)


def test_a_loop_ends_at_the_token_that_closes_it_and_is_cut_back_whatever_is_drafted(pair, monkeypatch):
    monkeypatch.setattr(guards, "LOOP_TOKENS", 4)  # toys have short breath
    monkeypatch.setattr(guards, "LOOP_REPEATS", 2)
    requests, end = requests_of(pair, 24, seed=7), pair.tokenizer.end_of_text
    plain, _ = decode(pair, requests, slots=8, source="model", most=4)

    def expected(tokens: Sequence[int]) -> tuple[int, ...]:
        return without_loops(tokens[: closes_loop([], tokens, end)], end)

    for source, slots, most in (("none", 1, 0), ("model", 7, 6)):
        guarded, scheduler = decode(pair, [replace(r, guards=True) for r in requests], slots, source, most)
        assert [result.tokens for result in guarded] == [expected(result.tokens) for result in plain]
        assert scheduler.active == 0
    shorter = sum(len(one.tokens) < len(other.tokens) for one, other in zip(guarded, plain, strict=True))
    assert 3 < shorter < 24


def test_an_error_in_the_times_of_words_ends_its_window_alone(pair, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no way through")

    monkeypatch.setattr("transcriber_engine.alignment.align", fail)
    with_words, without = requests_of(pair, 2, seed=8, timestamps=True)
    outcomes: dict[str, object] = {}
    scheduler = Scheduler(pair, 2, "none", 0)
    scheduler.submit(Job(replace(with_words, words=True), lambda outcome: outcomes.__setitem__("words", outcome)))
    scheduler.submit(Job(without, lambda outcome: outcomes.__setitem__("none", outcome)))
    scheduler.run_until_idle()
    assert str(outcomes["words"]) == "no way through"
    assert isinstance(outcomes["none"], WindowTokens)
    assert scheduler.held == 0
