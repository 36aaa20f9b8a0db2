"""Triton's metrics page."""

import pytest

from tests.unit.exporter.pages import page
from transcriber_exporter.load import Load, parse


def test_idle_is_idle_and_all_that_is_held_is_not() -> None:
    assert parse(page()).load.is_idle
    for name in ("requests", "queued", "in_flight", "pending", "slots"):
        assert not parse(page(**{name: 1})).load.is_idle, name


def test_pending_requests_of_all_models_are_summed() -> None:
    assert parse(page(pending=3, slots=2, tokens=40)).load == Load(pending_requests=6, active_slots=2)
    assert parse(page(tokens=40)).output_tokens == 40


@pytest.mark.parametrize(
    "name", ["transcriber_requests_in_progress", "nv_inference_pending_request_count", "transcriber_slots_active"]
)
def test_a_figure_that_is_missing_is_an_error_that_names_it_and_never_zero(name: str) -> None:
    lines = [line for line in page().splitlines(keepends=True) if name not in line]
    with pytest.raises(ValueError, match=f"^{name} is not among Triton's metrics"):
        parse("".join(lines))
