"""What is learnt of a replica's throughput, and told of what it decoded: only work at full load teaches anything."""

from dataclasses import replace

import pytest

from tests.unit.operator.load_stories import LIMITS, PRIOR, Watch, reading, sample, working
from transcriber_operator.decide.load import throughput


def test_throughput_is_what_comes_back_while_audio_waits():
    watch = Watch()
    for at in range(0, 205, 5):
        watch.see(working(at, 80.0 * at))
    assert watch.throughput == pytest.approx(80.0)
    assert throughput("steady", watch.memory, PRIOR) == PRIOR


def test_throughput_moves_from_the_prior_over_the_first_half_minute():
    watch = Watch()
    watch.see(working(0, 0))
    watch.see(working(15, 15 * 90.0))
    assert watch.throughput == pytest.approx(0.5 * PRIOR + 0.5 * 90)


def test_nothing_is_learnt_where_the_queue_was_empty_at_either_end():
    watch = Watch()
    for at in range(0, 600, 5):
        watch.see(working(at, 2.0 * at, queued=100.0 if at % 10 else 0.0))
    assert watch.throughput == PRIOR


def test_nothing_is_learnt_while_the_queue_waits_for_its_own_audio_to_be_sent():
    watch = Watch(limits=replace(LIMITS, slots=32))
    for at in range(0, 600, 5):
        watch.see(working(at, 1.0 * at, active_slots=1.0))
    assert watch.throughput == PRIOR
    for at in range(600, 900, 5):
        watch.see(working(at, 600 + 70.0 * (at - 600), active_slots=24.0))
    assert watch.throughput == pytest.approx(70.0)


def test_windows_that_come_back_in_lumps_do_not_bend_the_mean():
    watch = Watch()
    for at in range(0, 1205, 5):
        watch.see(working(at, 480.0 * (at // 40)))
    assert watch.throughput == pytest.approx(12.0)


def test_a_replica_that_hangs_teaches_nothing():
    watch = Watch()
    for at in range(0, 300, 5):
        watch.see(working(at, 80.0 * at))
    for at in range(300, 900, 5):
        watch.see(working(at, 80.0 * 295))
    assert watch.throughput == pytest.approx(80.0)


def test_a_pause_in_looking_teaches_nothing():
    watch = Watch()
    watch.see(working(0, 0))
    watch.see(working(900, 900))
    assert watch.throughput == PRIOR


def test_a_restart_teaches_nothing():
    watch = Watch()
    watch.see(working(0, 90_000))
    watch.see(working(30, 100, started=10.0))
    assert watch.throughput == PRIOR


def test_throughput_follows_a_change():
    watch = Watch()
    for at in range(0, 3600, 5):
        watch.see(working(at, 20.0 * at))
    for at in range(3600, 3600 * 4, 5):
        watch.see(working(at, 72_000 + 90.0 * (at - 3600)))
    assert watch.throughput == pytest.approx(90.0, rel=0.02)


def test_replicas_of_one_pool_learn_together_and_those_of_no_pool_teach_nothing():
    watch = Watch()
    for at in range(0, 305, 5):
        gateway = working(at, 900.0 * at, source="gateway")
        watch.see(working(at, 60.0 * at), working(at, 100.0 * at, source="b"), gateway)
    assert watch.throughput == pytest.approx(80.0, rel=0.01)


@pytest.mark.parametrize(("rate", "believed"), [(0.5, PRIOR / 10), (9000.0, PRIOR * 10)])
def test_a_throughput_far_from_the_prior_is_not_believed(rate: float, believed: float):
    watch = Watch()
    for at in range(0, 305, 5):
        watch.see(working(at, rate * at))
    assert watch.throughput == pytest.approx(believed)


def test_what_was_decoded_since_the_last_reading_is_told_for_the_operator_s_counter():
    watch = Watch()
    watch.see(working(0, 100.0, queued=0.0))
    assert watch.see(working(5, 160.0, queued=0.0)).processed_audio_seconds == 60.0
    assert watch.see(working(10, 12.0, queued=0.0, started=8.0)).processed_audio_seconds == 12.0


def test_speculation_is_told_as_the_share_kept_and_the_tokens_per_pass_of_a_window():
    tokens = {"output_tokens_total": 400.0, "draft_tokens_total": 400.0, "accepted_tokens_total": 300.0, "cycles_total": 7.0}
    found = reading(sample("a", **tokens), sample("b", **tokens))
    assert (found.acceptance_percent, found.tokens_per_cycle) == (75, 4.0)


def test_without_tokens_nothing_is_told_of_speculation():
    found = reading(sample("a"))
    assert (found.acceptance_percent, found.tokens_per_cycle) == (None, None)
    found = reading(sample("a", output_tokens_total=90.0))
    assert (found.acceptance_percent, found.tokens_per_cycle) == (None, 1.0)
