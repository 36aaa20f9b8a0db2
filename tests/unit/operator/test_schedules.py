"""Floors by the clock: when schedules hold, with lead times, over changes of clocks, and which cannot be read."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transcriber_api.v1alpha1 import Schedule
from transcriber_operator.decide.schedules import scheduled, unreadable

BERLIN = ZoneInfo("Europe/Berlin")  # clocks were put forward on 2026-03-29 at 2:00, and back on 2026-10-25 at 3:00
OFFICE = {"name": "office", "cron": "0 8 * * mon-fri", "durationSeconds": 36_000, "minReplicas": 2}


def schedule(**parts: Any) -> Schedule:
    return Schedule.model_validate(OFFICE | parts)


def at(text: str, zone: ZoneInfo | None = None) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=zone or UTC)


def floor(moment: datetime, lead_seconds: float = 0.0, **parts: Any) -> int:
    return scheduled([schedule(**parts)], lead_seconds, moment).floor


@pytest.mark.parametrize(
    ("moment", "wanted"),
    [
        ("2026-01-05T07:59:59", 0),  # a Monday
        ("2026-01-05T08:00:00", 2),
        ("2026-01-05T17:59:59.999", 2),
        ("2026-01-05T18:00:00", 0),
        ("2026-01-10T12:00:00", 0),  # a Saturday
    ],
)
def test_a_schedule_holds_from_its_start_for_its_duration(moment: str, wanted: int):
    assert floor(at(moment)) == wanted


def test_replicas_are_ordered_a_lead_time_before_the_start():
    assert floor(at("2026-01-05T07:55:59"), lead_seconds=240.0) == 0
    assert floor(at("2026-01-05T07:56:00"), lead_seconds=240.0) == 2


def test_a_lead_time_longer_than_the_pause_between_two_runs_keeps_the_floor():
    assert floor(at("2026-01-05T20:00:00"), lead_seconds=13 * 3600.0) == 2


def test_the_next_change_is_told_so_that_nobody_has_to_ask():
    night, day = at("2026-01-05T00:00:00"), at("2026-01-05T12:00:00")
    assert scheduled([schedule()], 240.0, night).changes_at == at("2026-01-05T07:56:00")
    assert scheduled([schedule()], 240.0, day).changes_at == at("2026-01-05T18:00:00")
    assert scheduled([], 240.0, night).changes_at is None


def test_of_several_the_highest_counts_and_is_named():
    peak = schedule(name="peak", cron="30 8 * * *", durationSeconds=1800, minReplicas=9)
    found = scheduled([schedule(), peak], 0.0, at("2026-01-05T08:45:00"))
    assert (found.floor, found.name) == (9, "peak")
    assert scheduled([schedule(), peak], 0.0, at("2026-01-05T09:00:00")).name == "office"
    assert scheduled([schedule(), peak], 0.0, at("2026-01-05T03:00:00")).name is None


def test_names_of_months_and_days_are_read():
    assert floor(at("2026-12-25T00:30:00"), cron="0 0 25 DEC *") == 2
    assert floor(at("2026-01-04T00:30:00"), cron="0 0 * * Sun") == 2
    assert floor(at("2026-01-04T00:30:00"), cron="0 0 * * 7") == 2


@pytest.mark.parametrize("day", ["2026-01-05", "2026-07-06"])
def test_a_start_is_at_the_same_local_time_in_summer_and_winter(day: str):
    assert floor(at(f"{day}T07:59:00", BERLIN), timezone="Europe/Berlin") == 0
    assert floor(at(f"{day}T08:00:00", BERLIN), timezone="Europe/Berlin") == 2


def test_a_duration_is_measured_in_time_that_passes_also_when_clocks_are_changed():
    spring = {"timezone": "Europe/Berlin", "cron": "0 1 29 3 *", "durationSeconds": 4 * 3600}
    assert floor(at("2026-03-29T03:59:59+00:00"), **spring) == 2
    assert floor(at("2026-03-29T04:00:00+00:00"), **spring) == 0


def test_a_start_at_a_time_that_is_skipped_is_just_after_it():
    skipped = {"timezone": "Europe/Berlin", "cron": "30 2 * * *", "durationSeconds": 60}
    assert floor(at("2026-03-29T00:59:59+00:00"), **skipped) == 0
    assert floor(at("2026-03-29T01:00:00+00:00"), **skipped) == 2


def test_a_start_at_a_time_that_comes_twice_is_at_the_first_and_not_missed_in_the_second():
    twice = {"timezone": "Europe/Berlin", "cron": "30 2 * * *", "durationSeconds": 3600}
    assert floor(at("2026-10-25T00:29:59+00:00"), **twice) == 0
    for minute in range(60):  # 0:30 UTC is the first 2:30, 1:30 UTC the second
        assert floor(at("2026-10-25T00:30:00+00:00") + timedelta(minutes=minute), **twice) == 2
    assert floor(at("2026-10-25T01:30:00+00:00"), **twice) == 0


def test_a_day_that_few_years_have_is_found():
    found = scheduled([schedule(cron="0 0 29 2 *")], 0.0, at("2026-01-05T00:00:00"))
    assert found.changes_at == at("2028-02-29T00:00:00")


@pytest.mark.parametrize("cron", ["61 8 * * *", "0 8 31 2 *", "0 8 * * fri-mon", "0 8 * * lundi", "*/0 8 * * *", "0 8 0 * *"])
def test_a_cron_that_names_no_time_is_refused_with_its_schedule(cron: str):
    with pytest.raises(ValueError, match=r"of schedule office cannot be read .*; correct it"):
        floor(at("2026-01-05T08:00:00"), cron=cron)
    assert str(unreadable([schedule(name="good"), schedule(cron=cron)])).startswith(f"cron '{cron}' of schedule office")


@pytest.mark.parametrize("zone", ["Europe/Berlyn", "Europe", "nowhere"])
def test_a_time_zone_that_is_not_known_is_refused_with_its_schedule(zone: str):
    assert "schedule office is not known; use an IANA name" in str(unreadable([schedule(timezone=zone)]))


def test_schedules_that_can_be_read_are_not_complained_of():
    assert unreadable([schedule(), schedule(timezone="Europe/Berlin", cron="*/5 * * * *")]) is None


crons = st.sampled_from(["0 8 * * *", "*/20 * * * *", "30 2 * * *", "15 1-3 * * sun", "0 0 1 * *", "0 */7 * * *"])
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
# About the changes of clocks in March, April, October and November.
moments = st.tuples(
    st.sampled_from(["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"]),
    st.integers(-86_400, 172_800),
).map(lambda drawn: at(f"{drawn[0]}T00:00:00") + timedelta(seconds=drawn[1]))


@settings(max_examples=60, deadline=None)
@given(crons, zones, moments, st.integers(60, 20_000), st.integers(0, 4000), st.floats(0, 1))
def test_nothing_changes_before_the_change_that_is_told(
    cron: str, zone: str, now: datetime, duration: int, lead: int, share: float
):
    one = [schedule(cron=cron, timezone=zone, durationSeconds=duration)]
    found = scheduled(one, lead, now)
    assert found.changes_at is not None
    assert found.changes_at > now
    between = now + (found.changes_at - now) * share
    if between < found.changes_at:
        assert scheduled(one, lead, between).floor == found.floor
