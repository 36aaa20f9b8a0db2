"""What calibration measures, and that it leaves nothing for the first request to wait for."""

import random

import pytest

from tests.engine.test_exactness import random_request
from tests.engine.toy import toy_pair
from transcriber_engine import attention, attention_kernel, linear, row_grouping
from transcriber_engine.decoding import DraftSource, PairDecoder
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.window import Job, WindowTokens

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["compiled", "a library's"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In either way of computing, nothing compiled and nothing measured yet."""
    monkeypatch.setattr(row_grouping, "_measured", {})
    attention.compiled_kernel.cache_clear()
    if request.param != "compiled":
        monkeypatch.setattr(attention, "compiled_kernel", lambda *_: None)
        monkeypatch.setattr(linear, "compiled_kernel", lambda **_: None)


@pytest.mark.parametrize("source", ["none", "model"])
def test_after_calibration_the_first_request_compiles_and_measures_nothing(
    way: None, source: DraftSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Scheduler(toy_pair(3), 3, source, 4)
    scheduler.calibrate()
    monkeypatch.setattr(attention_kernel, "compiled", None)
    monkeypatch.setattr(row_grouping, "measure", None)
    outcomes: list[WindowTokens | BaseException] = []
    for seed in range(5):
        scheduler.submit(Job(random_request(random.Random(seed)), outcomes.append))
    scheduler.run_until_idle()
    assert [type(outcome) for outcome in outcomes] == [WindowTokens] * 5


def test_where_nothing_drafts_there_are_no_costs_to_choose_a_length_by() -> None:
    assert PairDecoder(toy_pair(3), 2, "none", 4).calibrate() is None
    assert PairDecoder(toy_pair(3), 2, "prompt_lookup", 4).calibrate() is not None
