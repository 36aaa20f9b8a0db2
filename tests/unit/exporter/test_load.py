"""Triton's metrics page."""

import pytest

from tests.unit.exporter.pages import page
from transcriber_exporter.load import SERIES, Counters, Load, parse


def test_idle_is_idle_and_all_that_is_held_is_not() -> None:
    assert parse(page()).load.is_idle
    for name in ("requests", "queued", "in_flight", "pending", "slots"):
        assert not parse(page(**{name: 1})).load.is_idle, name
    assert parse(page(canaries=1)).load.is_idle


def test_every_figure_is_read_from_its_place_and_those_of_several_models_are_summed() -> None:
    text = page(pending=3, slots=2, requests=4, queued=50.5, in_flight=9, started=1.8e9, canaries=1)
    seen = parse(text)
    assert seen.load == Load(4, 50.5, 9, pending_requests=6, active_slots=2)
    assert (seen.server_start_time_seconds, seen.canaries) == (1.8e9, 1)
    counted = parse(page(admitted_requests=1, admitted=2, decoded=3, tokens=4, drafted=5, accepted=6, cycles=7)).counters
    assert counted == Counters(1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize("name", sorted(SERIES))
def test_a_figure_that_is_missing_is_an_error_that_names_it_and_never_zero(name: str) -> None:
    lines = [line for line in page().splitlines(keepends=True) if name not in line]
    with pytest.raises(ValueError, match=f"^{name} is not among Triton's metrics"):
        parse("".join(lines))


@pytest.mark.parametrize("lie", ["NaN", "+Inf", "-Inf", "-1", "-0.001"])
@pytest.mark.parametrize("name", ["queued", "slots", "admitted", "tokens", "started", "canaries", "pending"])
def test_a_figure_that_cannot_be_is_refused_by_name(name: str, lie: str) -> None:
    with pytest.raises(ValueError, match=r"^(transcriber|nv)_\w+ is (nan|inf|-inf|-1|-0\.001), which no server of ours can mean"):
        parse(page(**{name: lie}))


def test_figures_of_others_may_be_what_they_like() -> None:
    assert parse(page() + "nv_gpu_power_usage NaN\n").load.is_idle


@pytest.mark.parametrize("text", ["", "garbage{ 1\n", "transcriber_cycles_total{} one\n"])
def test_a_page_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)
