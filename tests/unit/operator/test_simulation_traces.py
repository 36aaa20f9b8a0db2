"""Traces: the made-up ones have the load they state, and recorded ones are read or refused with line and column."""

from itertools import pairwise
from random import Random

import pytest

from transcriber_operator.simulation.recorded import TraceError, read_trace
from transcriber_operator.simulation.trace import HOUR, MIX, TRACES, Trace, draw_trace, multiplied, windows_of
from transcriber_operator.simulation.world import Service

SERVICE = Service()


def drawn(name: str, load: int = 1, seed: int = 1, hours: float = 24.0) -> Trace:
    return draw_trace(name, load, hours, SERVICE, Random(seed))


def offered(trace: Trace, start: float = 0.0, end: float | None = None) -> float:
    """Replicas that the files between two times keep busy."""
    end = trace.horizon_seconds if end is None else end
    files = zip(trace.at_seconds, trace.audio_seconds, strict=True)
    windows = sum(windows_of(audio) for at, audio in files if start <= at < end)
    return windows / SERVICE.windows_per_second / (end - start)


@pytest.mark.parametrize("name", TRACES)
def test_times_ascend_and_lie_within_the_horizon(name: str) -> None:
    trace = drawn(name)
    assert all(before <= after for before, after in pairwise(trace.at_seconds))
    assert trace.at_seconds[0] >= 0
    assert trace.at_seconds[-1] <= trace.horizon_seconds == 24 * HOUR
    assert set(trace.audio_seconds) == {audio for _, audio in MIX}
    assert trace == drawn(name)
    assert trace != drawn(name, seed=2)


@pytest.mark.parametrize(("name", "replicas"), [("steady", 5.0), ("diurnal", 7.0), ("spike", 6.3), ("on-off", 2.0)])
def test_a_trace_keeps_as_many_replicas_busy_as_it_states(name: str, replicas: float) -> None:
    assert offered(drawn(name, load=10)) == pytest.approx(replicas, rel=0.06)


def test_files_are_mixed_as_stated() -> None:
    audio = drawn("steady", load=10).audio_seconds
    for share, length in MIX:
        assert audio.count(length) / len(audio) == pytest.approx(share, rel=0.05)


def test_noon_is_busy_and_night_is_not() -> None:
    trace = drawn("diurnal", load=10)
    assert offered(trace, 11 * HOUR, 13 * HOUR) > 8 * offered(trace, 0, 2 * HOUR)


def test_a_bulk_trace_drops_250_files_at_once_every_four_hours() -> None:
    trace = drawn("bulk")
    together = [at for at in set(trace.at_seconds) if trace.at_seconds.count(at) >= 250]
    assert len(together) == 6


def test_a_spot_storm_has_three_times_without_spot() -> None:
    market = drawn("spot-storm").market
    assert [round(end - start) for start, end in market.shortages] == [2400] * 3
    assert market.is_short(market.shortages[1][0])
    assert not market.is_short(market.shortages[1][1])


def test_a_trace_times_three_has_every_file_three_times_before_the_next_arrives() -> None:
    trace = multiplied(Trace("t", (0.0, 3.0), (10.0, 20.0), 9.0), 3)
    assert trace.at_seconds == (0.0, 1.0, 2.0, 3.0, 5.0, 7.0)
    assert trace.audio_seconds == (10.0,) * 3 + (20.0,) * 3


def read(text: str) -> Trace:
    return read_trace(text.splitlines(keepends=True), "monday.csv")


def test_a_recorded_trace_is_sorted_and_begins_at_zero() -> None:
    trace = read("\ufefftime_s, audio_s,owner\n1020,45,b\n\n1000.5,600,a\n")
    assert trace.at_seconds == (0.0, 19.5)
    assert trace.audio_seconds == (600.0, 45.0)
    assert (trace.name, trace.horizon_seconds) == ("monday.csv", 19.5)


def test_columns_are_found_by_name() -> None:
    assert read("audio_s,time_s\n45,0\n").audio_seconds == (45.0,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "monday.csv:1: column time_s is missing; the first line names the columns: time_s,audio_s"),
        ("time,audio_s\n1,2\n", "monday.csv:1: column time_s is missing"),
        ("time_s,audio_s,audio_s\n1,2,3\n", "monday.csv:1: column audio_s is there twice"),
        ("time_s,audio_s\n", "monday.csv: has no files"),
        ("time_s,audio_s\n1,45\n2\n", "monday.csv:3: has 1 columns; the header has 2"),
        ("time_s,audio_s\n1,45\n2,long\n", "monday.csv:3: audio_s: 'long' is not a number of seconds"),
        ("time_s,audio_s\nnoon,45\n", "monday.csv:2: time_s: 'noon' is not a number of seconds"),
        ("time_s,audio_s\ninf,45\n", "monday.csv:2: time_s: 'inf' is not a finite number"),
        ("time_s,audio_s\n1,0\n", "monday.csv:2: audio_s: 0 is not between 0 and 604800 seconds of audio"),
        ("time_s,audio_s\n1,-3\n", "monday.csv:2: audio_s: -3 is not between"),
        ("time_s,audio_s\n0,45\n1e9,45\n", "monday.csv: time_s: spans 11,574 days, more than 366; it is in seconds"),
        ('time_s,audio_s\n1,"' + "4" * 200_000 + '"\n', "monday.csv:2: is not CSV: field larger"),
    ],
)
def test_a_trace_that_cannot_be_used_is_refused_with_line_and_column(text: str, words: str) -> None:
    with pytest.raises(TraceError) as refused:
        read(text)
    assert words in str(refused.value)
