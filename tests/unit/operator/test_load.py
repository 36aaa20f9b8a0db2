"""From samples to one look: what is believed, and what is added up."""

from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.operator.load_stories import EPOCH, NOW, PRIOR, Watch, admitted, reading, sample, working
from transcriber_operator.decide.load import Memory, throughput
from transcriber_operator.decide.scaling_memory import ScalingMemory
from transcriber_operator.decide.sources import LoadSample

# What is believed.


def test_sources_are_added_up():
    found = reading(sample("a", queued=100.0, in_flight=20.0), sample("c", queued=7.0, in_flight=3.0), expected="ac")
    assert found.look is not None
    assert (found.look.queued_audio_seconds, found.look.in_flight_audio_seconds) == (107.0, 23.0)
    assert found.look.is_complete
    assert found.refused == ()


def test_no_samples_are_no_look_and_never_an_idle_one():
    assert reading().look is None
    assert reading(expected="a").look is None


def test_a_source_that_does_not_tell_makes_the_look_incomplete():
    found = reading(sample("a", queued=5.0), expected="ab")
    assert found.look is not None
    assert (found.look.queued_audio_seconds, found.look.is_complete) == (5.0, False)


def test_a_source_that_nobody_expects_counts_where_it_tells():
    found = reading(sample("a", queued=5.0), sample("leaving", queued=8.0, is_draining=True), expected="a")
    assert found.look is not None
    assert (found.look.queued_audio_seconds, found.look.is_complete) == (13.0, True)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"queued": nan}, "queued_audio_seconds is no finite number"),
        ({"in_flight": inf}, "in_flight_audio_seconds is no finite number"),
        ({"queued": -1.0}, "queued_audio_seconds is negative"),
        ({"processed_audio_seconds_total": -inf}, "processed_audio_seconds_total is negative"),
        ({"requests": nan}, "requests is no finite number"),
        ({"queued": 36_001.0}, "queued_audio_seconds is above 36000 s"),
        ({"in_flight": 1001.0}, "in_flight_audio_seconds is above 1000 s"),
        ({"at": -31.0}, "older than 30 s"),
        ({"at": 31.0}, "from the future; set the clock of its node"),
    ],
)
def test_a_lie_is_refused_with_its_source_and_the_source_counts_as_silent(lie: dict[str, Any], words: str):
    found = reading(sample("a", **{"queued": 3.0, **lie}), sample("b", queued=4.0), expected="ab")
    assert found.look is not None
    assert (found.look.queued_audio_seconds, found.look.is_complete) == (4.0, False)
    (sentence,) = found.refused
    assert sentence.startswith("The figures of a ")
    assert words in sentence


def test_where_everybody_lies_there_is_no_look():
    found = reading(sample("a", queued=nan), expected="a")
    assert (found.look, found.age_seconds, len(found.refused)) == (None, None, 1)


def test_a_lie_does_not_touch_what_is_remembered():
    watch = Watch()
    watch.see(admitted("a", 0, 10, 100))
    watch.see(admitted("a", 5, nan, 9e9))
    found = watch.see(admitted("a", 10, 12, 130))
    assert found.look is not None
    assert (found.look.arrived_requests, found.look.arrived_audio_seconds) == (2, 30)


def test_a_clock_that_is_a_little_ahead_is_believed_and_no_look_is_from_the_future():
    found = reading(sample("a", at=10.0), expected="a")
    assert found.look is not None
    assert (found.look.at_seconds, found.age_seconds) == (NOW, 0.0)


def test_the_age_is_that_of_the_oldest_sample_and_the_time_that_of_the_newest():
    found = reading(sample("a", at=-20.0), sample("b", at=-2.0), expected="ab")
    assert found.look is not None
    assert (found.age_seconds, found.look.at_seconds) == (20.0, NOW - 2)


def test_of_two_samples_of_one_source_the_newer_counts():
    found = reading(sample("a", at=-1.0, queued=5.0), sample("a", at=-9.0, queued=70.0), expected="a")
    assert found.look is not None
    assert found.look.queued_audio_seconds == 5.0


def frozen(at: float, **more: Any) -> LoadSample:
    return sample("a", at, 50.0, 30.0, processed_audio_seconds_total=900.0, **more)


def test_figures_that_stand_still_while_audio_is_decoded_are_not_believed():
    watch = Watch()
    for at in range(0, 300, 20):
        assert watch.see(frozen(at)).look is not None
    found = watch.see(frozen(300))
    assert found.look is None
    assert "nothing has changed for 5 min although audio is being decoded" in found.refused[0]
    assert reading(frozen(300), at=301, memory=watch.memory).look is None
    assert watch.see(sample("a", 305, 50.0, 30.0, processed_audio_seconds_total=930.0)).look is not None


def test_an_idle_replica_may_stand_still_for_ever():
    watch = Watch()
    for at in range(0, 3000, 25):
        assert watch.see(sample("a", at, processed_audio_seconds_total=900.0)).look is not None


# What arrived.


def test_arrivals_are_what_the_counters_grew_by():
    watch = Watch()
    first = watch.see(admitted("a", 0, 10, 600), admitted("b", 0, 5, 100))
    found = watch.see(admitted("a", 5, 12, 660), admitted("b", 5, 6, 130))
    assert first.look is not None
    assert found.look is not None
    assert first.look.arrived_audio_seconds == 0
    assert (found.look.arrived_requests, found.look.arrived_audio_seconds) == (3, 90)


def test_reading_the_same_samples_again_adds_nothing():
    watch = Watch()
    watch.see(admitted("a", 0, 10, 600))
    watch.see(admitted("a", 5, 12, 660))
    again = reading(admitted("a", 5, 12, 660), at=6, memory=watch.memory)
    assert again.look is not None
    assert (again.look.arrived_requests, again.look.at_seconds, again.memory) == (0, NOW + 5, watch.memory)


def test_an_answer_that_comes_late_changes_nothing():
    watch = Watch()
    watch.see(admitted("a", 5, 100, 6000))
    watch.see(admitted("a", 30, 3, 90, started=20.0))
    late = reading(admitted("a", 10, 101, 6060), at=31, memory=watch.memory)
    assert late.look is not None
    assert (late.look.arrived_requests, late.memory) == (0, watch.memory)


def test_what_came_while_a_source_was_silent_counts_when_it_tells_again():
    watch = Watch()
    watch.see(admitted("a", 0, 10, 600), sample("b", 0))
    watch.see(sample("b", 60))
    found = watch.see(admitted("a", 65, 20, 900), sample("b", 65))
    assert found.look is not None
    assert found.look.arrived_audio_seconds == 300


def test_after_a_restart_of_the_server_its_counters_begin_at_zero():
    watch = Watch()
    watch.see(admitted("a", 0, 100, 6000))
    found = watch.see(admitted("a", 30, 3, 90, started=20.0))
    assert found.look is not None
    assert (found.look.arrived_requests, found.look.arrived_audio_seconds) == (3, 90)


def test_the_same_start_told_a_little_differently_is_no_restart():
    watch = Watch()
    watch.see(admitted("a", 0, 100, 6000))
    found = watch.see(admitted("a", 30, 101, 6030, started=-999.6))
    assert found.look is not None
    assert found.look.arrived_audio_seconds == 30


def test_where_no_start_is_told_a_fall_is_a_restart():
    watch = Watch()
    before, after = (admitted("a", at, 100 / (at + 1), 6000 / (at + 1)).model_copy(update={"started_at": None}) for at in (0, 9))
    watch.see(before)
    found = watch.see(after)
    assert found.look is not None
    assert found.look.arrived_audio_seconds == 600


def test_a_new_replica_brings_all_it_took_in_and_one_that_was_there_before_the_operator_nothing():
    watch = Watch()
    watch.see(sample("a", 0))
    found = watch.see(sample("a", 90), admitted("b", 90, 4, 80, started=20.0), admitted("c", 90, 999, 99_999))
    assert found.look is not None
    assert (found.look.arrived_requests, found.look.arrived_audio_seconds) == (4, 80)


def test_sources_that_were_silent_so_long_that_they_are_forgotten_bring_nothing():
    watch = Watch()
    watch.see(sample("b", 0))
    watch.see(admitted("a", 10, 4, 80, started=5.0))
    for at in range(20, 4000, 20):
        watch.see(sample("b", at))
    assert [known.sample.source for known in watch.memory.sources] == ["b"]
    found = watch.see(admitted("a", 4000, 400, 8000, started=5.0))
    assert found.look is not None
    assert found.look.arrived_audio_seconds == 0


@pytest.mark.parametrize(
    ("jump", "words"),
    [
        ({"admitted_audio_seconds_total": 1e9}, "admitted_audio_seconds_total grew faster than any replica works"),
        ({"processed_audio_seconds_total": 1e9}, "processed_audio_seconds_total grew faster"),
        ({"processed_audio_seconds_total": 5.0}, "processed_audio_seconds_total fell although its server was not restarted"),
    ],
)
def test_a_counter_that_jumps_is_not_believed_once_and_then_goes_on_from_there(jump: dict[str, float], words: str):
    counters = {"admitted_audio_seconds_total": 700.0, "processed_audio_seconds_total": 700.0}
    watch = Watch()
    watch.see(sample("a", 0, **counters))
    found = watch.see(sample("a", 5, **counters | jump))
    assert found.look is None
    assert words in found.refused[0]
    assert found.processed_audio_seconds == 0
    after = {name: value + 10 for name, value in (counters | jump).items()}
    found = watch.see(sample("a", 10, **after))
    assert found.look is not None
    assert (found.look.arrived_audio_seconds, found.processed_audio_seconds) == (10, 10)


def test_a_new_server_cannot_have_done_more_than_its_time_allows():
    watch = Watch()
    watch.see(sample("a", 0))
    found = watch.see(sample("a", 90), admitted("b", 90, 4, 1e12, started=20.0))
    assert found.look is not None
    assert found.look.arrived_audio_seconds == 0
    assert "admitted_audio_seconds_total grew faster" in found.refused[0]


def test_the_memory_comes_back_from_json():
    watch = Watch()
    for at in range(0, 50, 5):
        watch.see(working(at, 80.0 * at), sample("c", at))
    memory = ScalingMemory(load=watch.memory)
    assert ScalingMemory.model_validate_json(memory.model_dump_json()) == memory


# Whatever is told.

anything = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1000)
stories = st.lists(
    st.lists(
        st.builds(
            LoadSample,
            source=st.sampled_from("abc"),
            at=st.integers(-60, 400).map(lambda at: EPOCH + timedelta(seconds=at)),
            queued_audio_seconds=anything,
            in_flight_audio_seconds=anything,
            active_slots=anything,
            started_at=st.none() | st.sampled_from([EPOCH, EPOCH + timedelta(seconds=100)]),
            admitted_requests_total=anything,
            admitted_audio_seconds_total=anything,
            processed_audio_seconds_total=anything,
            output_tokens_total=anything,
            draft_tokens_total=anything,
            accepted_tokens_total=anything,
        ),
        max_size=4,
    ),
    max_size=12,
)


@given(stories)
def test_whatever_is_told_figures_stay_finite_and_counters_never_fall(story: list[list[LoadSample]]):
    memory, last = Memory(), 0.0
    for step, samples in enumerate(story):
        found = reading(*samples, at=step * 30, memory=memory, expected="ab")
        memory = found.memory
        assert 0 <= found.processed_audio_seconds < inf
        assert PRIOR / 10 <= throughput("spot", memory, PRIOR) <= PRIOR * 10
        assert ScalingMemory.model_validate_json(ScalingMemory(load=memory).model_dump_json()).load == memory
        if found.look is not None:
            look = found.look
            sums = (look.queued_audio_seconds, look.in_flight_audio_seconds, look.arrived_audio_seconds, look.arrived_requests)
            assert all(0 <= figure < inf for figure in sums)
            assert last <= look.at_seconds <= NOW + step * 30
            last = look.at_seconds


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.booleans()), max_size=40))
def test_everything_that_arrives_counts_once_whoever_is_silent_or_restarts_in_between(story: list[tuple[str, int, bool]]):
    watch = Watch()
    totals, born = {"a": 0, "b": 0}, {"a": -1000.0, "b": -1000.0}
    watch.see(admitted("a", 0, 0, 0), admitted("b", 0, 0, 0))
    arrived = came = 0.0
    for step, (source, more, restarts) in enumerate(story, start=1):
        at = 5.0 * step
        if restarts:
            totals[source], born[source] = 0, at - 1
        totals[source] += more
        came += more
        found = watch.see(admitted(source, at, totals[source], 10 * totals[source], started=born[source]))
        assert found.look is not None
        arrived += found.look.arrived_requests
    assert arrived == came
