"""The series of each resource: true to the last look, counters that only rise, and none of a resource that is gone."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.operator_io.parts import FakeClock, figures
from transcriber_operator.decide.decision import ColdStart, PoolFigures
from transcriber_operator.figures import FiguresBoard

# What rules and dashboards are written against.
SERIES = {
    "transcriber_desired_replicas",
    "transcriber_ready_replicas",
    "transcriber_pool_replicas",
    "transcriber_pool_nodes",
    "transcriber_pool_lead_time_seconds",
    "transcriber_scaling_queued_audio_seconds",
    "transcriber_scaling_in_flight_audio_seconds",
    "transcriber_scaling_arrival_rate",
    "transcriber_scaling_replica_throughput",
    "transcriber_scaling_metrics_age_seconds",
    "transcriber_cost_dollars_per_hour",
    "transcriber_cost_dollars_total",
    "transcriber_budget_dollars_per_hour",
    "transcriber_cold_start_seconds_bucket",
    "transcriber_cold_start_seconds_count",
    "transcriber_cold_start_seconds_sum",
    "transcriber_interruptions_total",
    "transcriber_insufficient_capacity_total",
    "transcriber_status_condition",
    "transcriber_processed_audio_seconds_total",
}
SPOT = PoolFigures(name="spot", desired=2, ready=1, nodes=3, lead_time_seconds=240.0, interruptions=1, insufficient_capacity=2)


class Board:
    """The figures of whisper in speech, by a clock that the test holds."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.figures = FiguresBoard(self.clock.monotonic)

    def record(self, uid: str = "uid-1", **given: Any) -> None:
        self.figures.record("speech", "whisper", uid, figures(**given))

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        samples = (sample for family in self.figures.collect() for sample in family.samples)
        return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one series of whisper."""
        every = {"namespace": "speech", "name": "whisper", **labels}
        return self.samples().get((f"transcriber_{name}", tuple(sorted(every.items()))))


@pytest.fixture
def board() -> Board:
    return Board()


def test_every_series_is_there_with_its_labels(board: Board) -> None:
    board.record(
        pools=(SPOT,), allowed_per_hour=20.0, cold_starts=(ColdStart(pool="spot", stage="ModelLoad", seconds=42.0),)
    )  # fmt: skip
    board.figures.record_conditions("speech", "whisper", "uid-1", {"Ready": "False"})
    assert {name for name, _ in board.samples()} == SERIES
    assert board.value("desired_replicas") == 2
    assert board.value("ready_replicas") == 1
    assert board.value("pool_replicas", pool="spot", state="desired") == 2
    assert board.value("pool_replicas", pool="spot", state="ready") == 1
    assert board.value("pool_nodes", pool="spot") == 3
    assert board.value("pool_lead_time_seconds", pool="spot") == 240
    assert board.value("scaling_queued_audio_seconds") == 60
    assert board.value("budget_dollars_per_hour") == 20
    assert board.value("interruptions_total", pool="spot") == 1
    assert board.value("insufficient_capacity_total", pool="spot") == 2
    assert board.value("cold_start_seconds_bucket", pool="spot", stage="ModelLoad", le="40.0") == 0
    assert board.value("cold_start_seconds_bucket", pool="spot", stage="ModelLoad", le="60.0") == 1
    assert board.value("cold_start_seconds_sum", pool="spot", stage="ModelLoad") == 42
    assert [board.value("status_condition", condition="Ready", status=status) for status in ("True", "False", "Unknown")] == [
        0,
        1,
        0,
    ]


def test_what_is_not_known_has_no_series(board: Board) -> None:
    board.record(queued_audio_seconds=None, in_flight_audio_seconds=None, metrics_age_seconds=None, allowed_per_hour=None)
    for name in (
        "scaling_queued_audio_seconds",
        "scaling_in_flight_audio_seconds",
        "scaling_metrics_age_seconds",
        "budget_dollars_per_hour",
    ):
        assert board.value(name) is None
    assert board.value("desired_replicas") == 2


def test_figures_grow_old_between_looks(board: Board) -> None:
    board.record(metrics_age_seconds=0.5)
    board.clock.seconds += 30
    assert board.value("scaling_metrics_age_seconds") == 30.5


def test_money_runs_at_the_rate_of_the_last_look_until_the_next(board: Board) -> None:
    board.record(cost_per_hour=3.6)
    board.clock.seconds += 1000
    assert board.value("cost_dollars_total") == pytest.approx(1.0)
    board.record(cost_per_hour=0.0)
    board.clock.seconds += 1000
    assert board.value("cost_dollars_total") == pytest.approx(1.0)


def test_what_is_new_in_each_look_adds_up(board: Board) -> None:
    for _ in range(3):
        board.record(
            processed_audio_seconds=10.0,
            pools=(SPOT,),
            cold_starts=(ColdStart(pool="spot", stage="Scheduling", seconds=0.1),),
        )
    assert board.value("processed_audio_seconds_total") == 30
    assert board.value("interruptions_total", pool="spot") == 3
    assert board.value("cold_start_seconds_count", pool="spot", stage="Scheduling") == 3
    board.record(processed_audio_seconds=0.0)  # the pool has left the spec
    assert board.value("interruptions_total", pool="spot") == 3
    assert board.value("pool_nodes", pool="spot") is None


@given(
    looks=st.lists(
        st.tuples(st.floats(0, 1e4), st.floats(0, 1e3), st.floats(0, 1e5), st.floats(0, 3e3), st.integers(0, 5)),
        min_size=1,
        max_size=20,
    )
)
def test_counters_never_fall(looks: list[tuple[float, float, float, float, int]]) -> None:
    board, before = Board(), {}
    for wait, cost, processed, start, interruptions in looks:
        pool = SPOT.model_copy(update={"interruptions": interruptions})
        started = (ColdStart(pool="spot", stage="ModelLoad", seconds=start),)
        board.record(cost_per_hour=cost, processed_audio_seconds=processed, pools=(pool,), cold_starts=started)
        for _ in range(2):
            rising = {
                key: value for key, value in board.samples().items() if key[0].endswith(("_total", "_bucket", "_sum", "_count"))
            }
            for key, value in before.items():
                assert rising[key] >= value, key
            before = rising
            board.clock.seconds += wait


def test_a_resource_that_is_gone_leaves_nothing_and_one_made_anew_is_kept(board: Board) -> None:
    board.record(uid="uid-1")
    board.record(uid="uid-2", processed_audio_seconds=1.0)  # made anew before the old loop has ended
    board.figures.forget("speech", "whisper", "uid-1")
    assert board.value("processed_audio_seconds_total") == 1
    board.figures.forget("speech", "whisper", "uid-2")
    assert board.samples() == {}
    assert board.figures.desired("speech", "whisper") is None
    board.figures.forget("speech", "whisper", "uid-2")


def test_conditions_are_shown_before_anything_is_decided_about_scaling(board: Board) -> None:
    board.figures.record_conditions("speech", "whisper", "uid-1", {"SpecValid": "False"})
    assert {name for name, _ in board.samples()} == {"transcriber_status_condition"}
    assert board.figures.desired("speech", "whisper") is None
