"""A row's numbers do not depend on the rows beside it: bit for bit, on the CPU that runs this."""

import logging

import pytest
import torch
from torch import Tensor

from transcriber_engine import row_grouping
from transcriber_engine.decoder import attend
from transcriber_engine.linear import InvariantLinear
from transcriber_engine.row_grouping import ALONE, AT_ONCE, RowGrouping, measure

COUNTS = [*range(1, 22), 31, 33, 34, 35, 40, 63, 72, 129, 300]
SHAPES = [(512, 512), (2048, 512), (512, 2048), (51865, 512), (384, 1300)]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_of_a_product_is_the_same_among_any_number_of_rows(outputs: int, inputs: int, threads: None) -> None:
    random = torch.Generator().manual_seed(0)
    layer = InvariantLinear(torch.randn(outputs, inputs, generator=random), torch.randn(outputs, generator=random))
    row = torch.randn(1, inputs, generator=random)
    alone = layer(row)
    counts = COUNTS if outputs < 10_000 else COUNTS[::5]
    assert [count for count in counts if not bool((layer(row.expand(count, -1)) == alone).all())] == []


@pytest.mark.parametrize("keys", [5, 448, 1500])
@pytest.mark.parametrize("heads", [2, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_a_row_of_attention_is_the_same_among_any_number_of_queries(keys: int, heads: int, masked: bool, threads: None) -> None:
    random = torch.Generator().manual_seed(0)
    row = torch.randn(1, heads, 1, 64, generator=random)
    key, value = torch.randn(2, 1, heads, keys, 64, generator=random)
    shown = torch.arange(keys) <= keys // 2

    def attention(batch: int, queries: int) -> Tensor:
        mask = shown.expand(batch, 1, queries, keys) if masked else None
        whole = (batch, -1, -1, -1)
        return attend(row.expand(batch, -1, queries, -1), key.expand(whole), value.expand(whole), mask)

    alone = attention(1, 1)
    assert [(b, q) for b in (1, 3) for q in COUNTS[:-1] if not bool((attention(b, q) == alone).all())] == []


def test_a_product_is_that_of_torch() -> None:
    random = torch.Generator().manual_seed(1)
    weight, bias, x = (torch.randn(*shape, generator=random) for shape in ((40, 1300), (40,), (2, 3, 1300)))
    torch.testing.assert_close(InvariantLinear(weight, bias)(x), torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-4)


def kernels_of(alike: int):
    """A computation whose results differ with the place of a row within the last, smaller group of `alike` rows."""

    def compute(rows: int) -> Tensor:
        whole = rows - rows % alike
        return torch.cat([torch.zeros(whole, 1), torch.ones(rows - whole, 1)])

    return compute


@pytest.mark.parametrize(("alike", "multiple"), [(1, 2), (2, 2), (4, 4), (8, 8), (16, 16), (32, 32)])
def test_the_smallest_grouping_that_is_reproducible_is_found(alike: int, multiple: int) -> None:
    assert measure(kernels_of(alike)) == RowGrouping(multiple, AT_ONCE)


@pytest.mark.parametrize("grouping", [ALONE, RowGrouping(2, AT_ONCE), RowGrouping(32, AT_ONCE), RowGrouping(4, 8)])
def test_groupings_change_the_order_of_sums_at_most(grouping: RowGrouping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_grouping, "measure", lambda _: grouping)
    monkeypatch.setattr(row_grouping, "_measured", {})
    random = torch.Generator().manual_seed(2)
    weight, x = torch.randn(40, 1300, generator=random), torch.randn(2, 9, 1300, generator=random)
    torch.testing.assert_close(InvariantLinear(weight)(x), x @ weight.t(), atol=1e-4, rtol=1e-4)
    query, key, value = (torch.randn(2, 4, rows, 16, generator=random) for rows in (19, 30, 30))
    mask = torch.arange(30) <= torch.arange(19)[:, None].expand(2, 1, -1, -1)
    expected = ((query @ key.mT).masked_fill(~mask, float("-inf")).softmax(dim=-1)) @ value
    torch.testing.assert_close(attend(query, key, value, mask), expected, atol=1e-5, rtol=1e-5)


def test_where_no_grouping_is_reproducible_rows_are_computed_alone_and_a_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(row_grouping, "_measured", {})
    with caplog.at_level(logging.WARNING):
        assert row_grouping.row_grouping("never alike", lambda rows: torch.arange(rows * 1.0)[:, None]) == ALONE
    assert "each row is computed alone" in caplog.text
    assert "never alike" in caplog.text
