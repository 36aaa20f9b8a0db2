"""What canaries and progress say about Triton, told by explicit observations and times."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_exporter.canary import (
    MAX_WORD_ERRORS,
    RETRY_SECONDS,
    CanaryState,
    Outcome,
    Result,
    Timing,
    clip,
    expected_words,
    judge,
    word_errors,
    words,
)

TIMING = Timing()
FAILURES = (Outcome.WRONG, Outcome.FAILED, Outcome.UNREACHABLE)


def ended(outcome: Outcome) -> Result:
    return Result(outcome, f"it {outcome}", 1.0)


def after(*events: tuple[float, Outcome | float]) -> CanaryState:
    """The state after canaries that ended so, and counts of output tokens that were seen, each at its time."""
    state = CanaryState(TIMING)
    for at, event in events:
        state = state.with_result(ended(event), at) if isinstance(event, Outcome) else state.with_output_tokens(event, at)
    return state


def test_nothing_is_ready_before_a_canary_has_passed_and_the_first_is_due_at_once() -> None:
    state = CanaryState(TIMING)
    assert (state.started().holds, state.readiness(0).holds, state.liveness(0).holds) == (False, False, True)
    assert state.next_canary_at == 0
    assert state.readiness(0).message == "no canary has passed yet: none has ended"


def test_a_canary_that_passes_makes_it_ready() -> None:
    state = after((5, Outcome.PASSED))
    assert (state.started().holds, state.readiness(5).holds, state.liveness(5).holds) == (True, True, True)


@pytest.mark.parametrize("outcome", FAILURES)
def test_one_failure_makes_it_unready_at_once_and_says_why_and_one_pass_ready_again(outcome: Outcome) -> None:
    state = after((0, Outcome.PASSED), (8, outcome))
    assert not state.readiness(8).holds
    assert f"it {outcome}" in state.readiness(8).message
    assert state.next_canary_at == 8 + RETRY_SECONDS
    assert after((0, Outcome.PASSED), (8, outcome), (10, Outcome.PASSED)).readiness(10).holds


@pytest.mark.parametrize("outcome", FAILURES)
def test_progress_excuses_no_failure(outcome: Outcome) -> None:
    assert not after((0, Outcome.PASSED), (8, outcome), (9, 100), (10, 200)).readiness(10).holds


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.REFUSED])
def test_a_canary_that_waits_in_a_long_queue_is_no_failure_while_tokens_flow(outcome: Outcome) -> None:
    events: list[tuple[float, Outcome | float]] = [(0, Outcome.PASSED)]
    for second in range(1, 600, 50):
        events += [(second, outcome), *((second + step, 1000.0 * second + step) for step in range(1, 20))]
    state = after(*events)
    now = events[-1][0]
    assert state.readiness(now).holds
    assert state.liveness(now).holds


def test_tokens_decoded_while_a_canary_waited_for_nothing_are_progress() -> None:
    # Canaries that follow each other closely must not hide what is decoded for others meanwhile.
    state = after((0, Outcome.PASSED), (1, 0.0), (40, Outcome.TIMED_OUT), (40, 30.0), (80, Outcome.TIMED_OUT), (80, 60.0))
    assert state.progressed_at == 80
    assert state.readiness(80).holds


def test_a_server_without_any_sign_of_life_becomes_unready_and_later_is_to_be_restarted() -> None:
    state = after((0, Outcome.PASSED), (37, Outcome.TIMED_OUT))
    assert state.readiness(TIMING.stale_after).holds
    stuck = state.readiness(TIMING.stale_after + 1)
    assert stuck.message == "no canary has passed and no token was decoded for 46 s; the last one it timed_out"
    assert state.liveness(TIMING.restart_after).holds
    assert not state.liveness(TIMING.restart_after + 1).holds


def test_a_full_queue_that_does_not_move_is_stuck() -> None:
    state = after((0, Outcome.PASSED), *((float(second), event) for second in range(8, 130, 8) for event in (Outcome.REFUSED, 7.0)))
    assert not state.readiness(130).holds
    assert not state.liveness(130).holds


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_server_that_fails_for_long_is_to_be_restarted_unless_others_get_their_tokens(outcome: Outcome) -> None:
    failing = [(float(second), outcome) for second in range(2, 124, 2)]
    assert not after((0, Outcome.PASSED), *failing).liveness(124).holds
    assert after((0, Outcome.PASSED), *failing, (123, 10.0), (124, 20.0)).liveness(124).holds


def test_tokens_of_the_canary_itself_are_no_progress() -> None:
    # Wrong words are decoded too: a server that talks nonsense to canaries alone must be restarted.
    state, tokens = after((0, Outcome.PASSED), (0.5, 0.0)), 0.0
    for second in range(2, 126, 2):
        tokens += 12
        state = state.with_result(ended(Outcome.WRONG), second).with_output_tokens(tokens, second + 1)
    assert state.progressed_at is None
    assert not state.liveness(126).holds


def test_a_triton_that_has_never_answered_is_left_to_its_startup_probe() -> None:
    state = after(*((float(second), Outcome.UNREACHABLE) for second in range(0, 3600, 7)))
    assert state.liveness(3600).holds
    assert not state.started().holds


def test_a_triton_that_answered_but_never_rightly_is_to_be_restarted_in_the_end() -> None:
    # The exporter itself may have started anew beside a server that was long stuck.
    state = after((10, Outcome.TIMED_OUT))
    assert state.liveness(10 + TIMING.restart_after).holds
    assert not state.liveness(11 + TIMING.restart_after).holds


def test_a_triton_that_comes_back_must_pass_anew_and_is_given_time() -> None:
    gone = after((0, Outcome.PASSED)).with_triton_gone("Triton does not listen")
    assert not gone.started().holds
    assert gone.next_canary_at == RETRY_SECONDS
    assert not gone.liveness(200).holds
    back = gone.with_result(ended(Outcome.TIMED_OUT), 300)
    assert (back.started().holds, back.readiness(300).holds, back.liveness(300).holds) == (False, False, True)
    assert back.with_result(ended(Outcome.PASSED), 310).readiness(310).holds


def test_a_count_of_tokens_that_falls_means_another_triton() -> None:
    state = after((0, Outcome.PASSED), (1, 500.0), (2, 0.0))
    assert not state.started().holds
    assert state.readiness(2).message == "no canary has passed yet: Triton has restarted"


def test_canaries_pause_while_tokens_flow_but_not_for_ever() -> None:
    quiet = after((10, Outcome.PASSED))
    assert quiet.next_canary_at == 10 + TIMING.interval
    busy = after((10, Outcome.PASSED), (11, 0.0), (16, 50.0))
    assert busy.next_canary_at == 16 + TIMING.interval
    assert after((10, Outcome.PASSED), (11, 0.0), (69, 50.0)).next_canary_at == 10 + TIMING.busy_interval


def test_a_death_in_idle_shows_within_ten_seconds() -> None:
    # The pause before the next canary, a call that fails, and a readiness probe every two seconds that asks.
    assert after((0, Outcome.PASSED)).next_canary_at + 1 + 2 <= 10


@given(st.lists(st.tuples(st.floats(0.1, 50), st.one_of(st.sampled_from(Outcome), st.floats(0, 1e6))), max_size=40))
def test_ready_always_means_started_live_and_no_failure_open(steps: list[tuple[float, Outcome | float]]) -> None:
    now, events = 0.0, []
    for pause, event in steps:
        now += pause
        events.append((now, event))
    state = after(*events)
    if state.readiness(now).holds:
        assert state.started().holds
        assert state.liveness(now).holds
        assert state.failure is None
    assert all(verdict.holds or verdict.message for verdict in (state.started(), state.readiness(now), state.liveness(now)))
    assert state.next_canary_at <= now + max(TIMING.interval, RETRY_SECONDS)


@pytest.mark.parametrize(
    ("heard", "errors"),
    [
        ("The quick brown fox jumps over the lazy dog.", 0),
        ("the QUICK, brown fox - jumps over the lazy dog", 0),
        ("The quick brown fox jumped over a lazy dog.", 2),
        ("The quick brown fox jumps over the lazy dog. Thank you for watching.", 4),
        ("The quick brown fox", 5),
        ("", 9),
        ("dog lazy the over jumps fox brown quick the", 8),
    ],
)
def test_word_errors_count_what_was_changed_added_and_left_out(heard: str, errors: int) -> None:
    assert word_errors(words(heard), expected_words()) == errors
    passed = judge(heard, 1.0).outcome is Outcome.PASSED
    assert passed == (errors <= MAX_WORD_ERRORS)


def test_a_wrong_transcript_is_counted_but_never_repeated() -> None:
    result = judge("my card number is four two four two", 1.0)
    assert result.message == "the canary's transcript has 9 errors in 9 words, at most 2 pass; check the weights"


def test_the_clip_is_short_flac() -> None:
    assert clip().startswith(b"fLaC")
    assert len(clip()) < 64_000


def test_a_state_is_never_changed_in_place() -> None:
    state = after((0, Outcome.PASSED))
    before = replace(state)
    state.with_result(ended(Outcome.FAILED), 1)
    state.with_output_tokens(5, 1)
    assert state == before
