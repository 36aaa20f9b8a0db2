"""E0 and E1: whatever is drafted, batched or reordered, each row's tokens are those of the target decoding it alone."""

import random
from collections.abc import Sequence

import pytest
import torch

from tests.engine.toy import WORDS, toy_config, toy_pair
from tests.thorough import THOROUGH
from transcriber_engine.decoding import DraftSource
from transcriber_engine.draft_length import Costs
from transcriber_engine.pair import DecoderPair
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.window import Job, WindowRequest, WindowTokens

pytestmark = pytest.mark.usefixtures("one_thread")


def decode(
    pair: DecoderPair, requests: Sequence[WindowRequest], slots: int, source: DraftSource, most: int, costs: Costs | None = None
) -> tuple[list[WindowTokens], Scheduler]:
    scheduler = Scheduler(pair, slots, source, most, costs)
    results: dict[int, WindowTokens] = {}

    def keep(i: int, outcome: WindowTokens | BaseException) -> None:
        assert isinstance(outcome, WindowTokens), outcome
        assert i not in results
        results[i] = outcome

    for i, request in enumerate(requests):
        scheduler.submit(Job(request, lambda outcome, i=i: keep(i, outcome)))
    scheduler.run_until_idle()
    return [results[i] for i in range(len(requests))], scheduler


def random_request(rng: random.Random) -> WindowRequest:
    config = toy_config()
    words = [f"w{rng.randrange(WORDS)}" for _ in range(rng.randrange(0, 9))]
    return WindowRequest(
        hidden=torch.randn(
            config.max_source_positions, config.d_model, generator=torch.Generator().manual_seed(rng.randrange(1 << 30))
        ),
        language=rng.choice(["en", "de", None]),
        task=rng.choice(["transcribe", "translate"]),
        timestamps=rng.random() < 0.5,
        previous_text=" ".join(words) or None,
        max_draft_tokens=rng.choice([0, 1, 2, 5, 16]),
        max_new_tokens=rng.choice([1, 2, 3, 7, 12, 40]),
    )


@pytest.mark.parametrize("seed", range(14 if THOROUGH else 5))  # 360 rows each
def test_tokens_of_ragged_batches_equal_those_of_the_target_alone(seed: int) -> None:
    rng = random.Random(seed)
    pair = toy_pair(seed, draft_noise=rng.choice([0.0, 0.02, 0.05, 0.5]))
    requests = [random_request(rng) for _ in range(120)]
    alone, _ = decode(pair, requests, slots=1, source="none", most=0)
    for source, slots, most in (("model", 5, 4), ("model", 16, 16), ("prompt_lookup", 3, 7)):
        order = rng.sample(range(len(requests)), len(requests))
        together, scheduler = decode(pair, [requests[i] for i in order], slots, source, most)
        for i, result in zip(order, together, strict=True):
            assert result.tokens == alone[i].tokens
            assert result.language == alone[i].language
        assert scheduler.active == 0
        assert scheduler.counters.windows == len(requests)


def test_a_perfect_draft_commits_its_whole_length_and_one_token_more_per_cycle() -> None:
    pair = toy_pair(3, draft_noise=0.0)
    rng = random.Random(3)
    hidden = random_request(rng).hidden
    [result], scheduler = decode(pair, [WindowRequest(hidden, language="en", max_new_tokens=16)], 1, "model", 3)
    assert result.accepted_tokens >= result.draft_tokens - 3  # only the last cycle may be cut
    assert scheduler.counters.cycles == -(-scheduler.counters.output_tokens // 4)


def test_a_cancelled_window_frees_its_slot_and_is_told_so() -> None:
    pair = toy_pair(1)
    rng = random.Random(1)
    scheduler = Scheduler(pair, 2, "model", 2)
    cancelled = False
    outcomes: list[WindowTokens | BaseException] = []
    scheduler.submit(Job(random_request(rng), outcomes.append, lambda: cancelled))
    cancelled = True
    scheduler.run_until_idle()
    assert [type(o).__name__ for o in outcomes] == ["CancelledByCallerError"]
    assert scheduler.held == 0


def test_a_window_in_an_unknown_language_fails_alone() -> None:
    pair = toy_pair(2)
    rng = random.Random(2)
    scheduler = Scheduler(pair, 2, "model", 2)
    outcomes: list[WindowTokens | BaseException] = []
    hidden = random_request(rng).hidden
    scheduler.submit(Job(WindowRequest(hidden, language="xx"), outcomes.append))
    scheduler.submit(Job(WindowRequest(hidden, language="de"), outcomes.append))
    scheduler.run_until_idle()
    assert "OPTIONS.language: 'xx' is not a language of this model; known are de, en" in str(outcomes[0])
    assert isinstance(outcomes[1], WindowTokens)
