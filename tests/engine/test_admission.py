"""Who gets a slot: deadlines, patience and fair shares, as a pure rule and on a scheduler with a clock of the test's."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.toy import toy_config, toy_pair
from transcriber_engine.admission import PATIENCE_SECONDS, Claim, first_in_line
from transcriber_engine.errors import DeadlinePassedError
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.window import Job, WindowRequest, WindowTokens

pytestmark = pytest.mark.usefixtures("one_thread")

REQUESTS = st.sampled_from("abcde")
CLAIMS = st.lists(st.builds(Claim, REQUESTS, st.integers(0, 9).map(float)), min_size=1, max_size=12)
HELD = st.dictionaries(REQUESTS, st.integers(1, 4))


@given(CLAIMS, HELD, st.integers(1, 16))
def test_whoever_goes_first_is_below_their_share_or_nobody_waits_with_nothing(claims, held, places):
    first = claims[first_in_line(claims, held, places)]
    share = max(places // len({claim.request for claim in claims} | set(held)), 1)
    if any(claim.request not in held for claim in claims):
        assert held.get(first.request, 0) < share
        claims = [claim for claim in claims if held.get(claim.request, 0) < share]
    assert first.due_seconds == min(claim.due_seconds for claim in claims)
    assert first is next(claim for claim in claims if claim.due_seconds == first.due_seconds)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 8))
def test_every_request_has_a_slot_before_any_has_more_than_its_share(windows, places):
    claims = [Claim(request, 60.0) for request, count in enumerate(windows) for _ in range(count)]  # one file after the other
    held: Counter[object] = Counter()
    while claims and held.total() < places:
        held[claims.pop(first_in_line(claims, held, places)).request] += 1
    if held.total() == places and len(held) < len(windows):
        assert set(held.values()) == {1}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> Scheduler:
    return Scheduler(toy_pair(4), 1, "none", 0, now=clock)


@pytest.fixture
def ended() -> list[tuple[str, object]]:
    return []


def send(scheduler: Scheduler, ended: list[tuple[str, object]], name: str, deadline_seconds: float | None = None) -> None:
    config = toy_config()
    hidden = torch.randn(config.max_source_positions, config.d_model, generator=torch.Generator().manual_seed(1))
    request = WindowRequest(hidden, language="en", max_new_tokens=3)
    scheduler.submit(Job(request, lambda outcome: ended.append((name, outcome)), deadline_seconds=deadline_seconds))


def test_windows_get_the_slot_in_the_order_of_their_deadlines_and_those_without_are_patient(scheduler, ended):
    for name, deadline in (("patient", None), ("late", 90.0), ("soon", 20.0), ("sooner", 10.0)):
        send(scheduler, ended, name, deadline)
    scheduler.run_until_idle()
    assert [name for name, _ in ended] == ["sooner", "soon", "patient", "late"]


def test_a_window_without_a_deadline_is_not_put_off_for_ever(scheduler, ended, clock):
    send(scheduler, ended, "patient")
    clock.seconds = PATIENCE_SECONDS - 10
    send(scheduler, ended, "urgent", clock.seconds + 20)
    scheduler.run_until_idle()
    assert [name for name, _ in ended] == ["patient", "urgent"]


def test_a_window_whose_deadline_passes_while_it_waits_is_refused_and_the_others_are_decoded(scheduler, ended, clock):
    send(scheduler, ended, "first", 1.0)
    scheduler.step()
    send(scheduler, ended, "late", 2.0)
    send(scheduler, ended, "patient")
    clock.seconds = 2.0
    scheduler.run_until_idle()
    outcomes = dict(ended)
    assert isinstance(outcomes["first"], WindowTokens)  # it had its slot in time
    assert isinstance(outcomes["patient"], WindowTokens)
    assert isinstance(outcomes["late"], DeadlinePassedError)
    assert "OPTIONS.deadline_seconds: passed while audio waited" in str(outcomes["late"])
    assert (scheduler.counters.late_windows, scheduler.counters.windows, scheduler.held) == (1, 2, 0)


def test_as_many_windows_as_slots_may_wait_and_no_more(scheduler, ended):
    send(scheduler, ended, "decoded")
    scheduler.step()
    assert scheduler.wait_for_room(0)
    send(scheduler, ended, "waiting")
    assert (scheduler.active, scheduler.waiting) == (1, 1)
    assert not scheduler.wait_for_room(0)
    scheduler.run_until_idle()
    assert scheduler.wait_for_room(0)


def test_a_request_of_many_windows_leaves_slots_to_those_that_come_later(ended):
    scheduler = Scheduler(toy_pair(4), 4, "none", 0, now=Clock())
    config = toy_config()
    hidden = torch.zeros(config.max_source_positions, config.d_model)
    order: list[str] = []
    for name in ["file"] * 9 + ["clip", "call"]:
        request = WindowRequest(hidden, language="en", max_new_tokens=1)
        scheduler.submit(Job(request, lambda _, name=name: order.append(name), request_key=name))
    scheduler.step()
    assert sorted(order) == ["call", "clip", "file", "file"]
    scheduler.run_until_idle()
    assert len(order) == 11
