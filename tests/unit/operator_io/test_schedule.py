"""When the next pass is due: settled, conflict, failure, refusal."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_operator.handlers.schedule import Attempts, End, Outcome, Rest, Timing, plan

TIMING = Timing()


def rests(outcome: Outcome, times: int, after_seconds: float | None = None, spread: float = 0.0) -> list[Rest]:
    """Return the rests after so many passes in a row that ended alike."""
    attempts, found = Attempts(), []
    for _ in range(times):
        attempts, rest = plan(End(outcome, after_seconds), attempts, TIMING, spread)
        found.append(rest)
    return found


def test_a_settled_pass_waits_for_a_change_or_the_resync() -> None:
    assert rests(Outcome.SETTLED, 1) == [Rest(600.0, "AnyChange")]
    assert rests(Outcome.SETTLED, 1, spread=1.0) == [Rest(660.0, "AnyChange")]


def test_a_decision_may_ask_for_an_earlier_look_but_not_for_a_later_one() -> None:
    assert rests(Outcome.SETTLED, 1, after_seconds=15.0) == [Rest(15.0, "AnyChange")]
    assert rests(Outcome.SETTLED, 1, after_seconds=1e6) == [Rest(600.0, "AnyChange")]


def test_failures_back_off_from_one_second_to_five_minutes_and_events_do_not_cut_that_short() -> None:
    found = rests(Outcome.TRANSIENT, 12)
    assert [rest.seconds for rest in found] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert {rest.until for rest in found} == {"NewGeneration"}


def test_success_forgets_earlier_failures() -> None:
    attempts, _ = plan(End(Outcome.TRANSIENT), Attempts(failures=7), TIMING, 0)
    attempts, _ = plan(End(Outcome.SETTLED), attempts, TIMING, 0)
    assert attempts == Attempts()


def test_a_server_that_asks_for_more_time_gets_it() -> None:
    assert rests(Outcome.TRANSIENT, 1, after_seconds=30.0)[0].seconds == 30.0
    assert rests(Outcome.TRANSIENT, 6, after_seconds=30.0)[-1].seconds == 32.0


def test_conflicts_are_tried_again_at_once_a_few_times_and_then_with_backoff() -> None:
    found = rests(Outcome.CONFLICT, 8)
    assert [rest.seconds for rest in found] == [0.5, 0.5, 0.5, 0.5, 0.5, 1, 2, 4]
    assert [rest.until for rest in found] == ["AnyChange"] * 5 + ["NewGeneration"] * 3


@pytest.mark.parametrize("outcome", [Outcome.TERMINAL, Outcome.LEASE_LOST])
def test_what_only_another_spec_can_mend_stays_quiet_until_there_is_one(outcome: Outcome) -> None:
    assert rests(outcome, 2) == [Rest(600.0, "NewGeneration")] * 2


@given(
    outcomes=st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=60),
    spread=st.floats(-1, 1),
    after=st.none() | st.floats(0, 60),
)
def test_there_is_always_a_next_pass_and_never_a_hot_loop(outcomes: list[Outcome], spread: float, after: Any) -> None:
    attempts = Attempts()
    for outcome in outcomes:
        attempts, rest = plan(End(outcome, after), attempts, TIMING, spread)
        assert rest.seconds <= 660
        if outcome is not Outcome.SETTLED:
            assert rest.seconds >= 0.5
