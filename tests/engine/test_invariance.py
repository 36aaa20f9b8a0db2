"""A row's numbers do not depend on the rows beside it: bit for bit, on the CPU that runs this."""

import logging

import pytest
import torch
from torch import Tensor

from transcriber_engine import linear, row_grouping
from transcriber_engine.linear import InvariantLinear
from transcriber_engine.row_grouping import ALONE, AT_ONCE, RowGrouping, measure

COUNTS = [*range(1, 22), 31, 33, 34, 35, 40, 63, 72, 129, 300]
SHAPES = [(512, 512), (2048, 512), (512, 2048), (51865, 512), (384, 1300)]


@pytest.fixture
def by_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products where the kernel cannot be compiled."""
    monkeypatch.setattr(linear, "compiled_kernel", lambda **_: None)


@pytest.fixture(params=["compiled", "by_library"])
def way(request: pytest.FixtureRequest) -> None:
    if request.param != "compiled":
        request.getfixturevalue(request.param)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_of_a_product_is_the_same_among_any_number_of_rows(outputs: int, inputs: int, way: None, threads: None) -> None:
    random = torch.Generator().manual_seed(0)
    layer = InvariantLinear(torch.randn(outputs, inputs, generator=random), torch.randn(outputs, generator=random))
    row = torch.randn(1, inputs, generator=random)
    alone = layer(row)
    counts = COUNTS if outputs < 10_000 else COUNTS[::5]
    assert [count for count in counts if not bool((layer(row.expand(count, -1)) == alone).all())] == []


def test_a_product_is_that_of_torch(way: None) -> None:
    random = torch.Generator().manual_seed(1)
    weight, bias, x = (torch.randn(*shape, generator=random) for shape in ((40, 1300), (40,), (2, 3, 1300)))
    torch.testing.assert_close(InvariantLinear(weight, bias)(x), torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-4)


def kernels_of(alike: int):
    """A computation whose results differ with the place of a row within the last, smaller group of `alike` rows."""

    def compute(rows: int) -> Tensor:
        whole = rows - rows % alike
        return torch.cat([torch.zeros(whole, 1), torch.ones(rows - whole, 1)])

    return compute


@pytest.mark.parametrize(("alike", "multiple"), [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32)])
def test_the_smallest_grouping_that_is_reproducible_is_found(alike: int, multiple: int) -> None:
    assert measure(kernels_of(alike)) == RowGrouping(multiple, AT_ONCE)


@pytest.mark.parametrize("grouping", [ALONE, RowGrouping(2, AT_ONCE), RowGrouping(32, AT_ONCE), RowGrouping(4, 8)])
def test_groupings_change_the_order_of_sums_at_most(
    grouping: RowGrouping, by_library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_grouping, "measure", lambda *_: grouping)
    monkeypatch.setattr(row_grouping, "_measured", {})
    random = torch.Generator().manual_seed(2)
    weight, x = torch.randn(40, 1300, generator=random), torch.randn(2, 9, 1300, generator=random)
    torch.testing.assert_close(InvariantLinear(weight)(x), x @ weight.t(), atol=1e-4, rtol=1e-4)


def test_where_no_grouping_is_reproducible_rows_are_computed_alone_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(row_grouping, "_measured", {})
    with caplog.at_level(logging.WARNING):
        assert row_grouping.row_grouping("never alike", lambda rows: torch.arange(rows * 1.0)[:, None]) == ALONE
    assert "each row is computed alone" in caplog.text
    assert "never alike" in caplog.text
