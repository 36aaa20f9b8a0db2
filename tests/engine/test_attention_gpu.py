"""The GPU's attention kernel, interpreted on a CPU (tests/conftest.py): what it computes, and that a query's result is its own."""

import pytest
import torch
from torch import Tensor

from transcriber_engine.attention_gpu import BLOCK_QUERIES, PART_KEYS, mix

ROWS, HEADS, HEAD_DIM, SLOTS = 2, 2, 16, 3


def cache(time: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of some slots."""
    keys, values = torch.randn(2, SLOTS, HEADS, time, HEAD_DIM).to(dtype)
    return keys, values


def queries(count: int, dtype: torch.dtype) -> Tensor:
    """Queries as they come out of a product with q, k and v side by side."""
    fused = torch.randn(ROWS * count, 3 * HEADS * HEAD_DIM).to(dtype)
    return fused[:, : HEADS * HEAD_DIM].view(ROWS, count, HEADS, HEAD_DIM)


def plainly(query: Tensor, keys: Tensor, values: Tensor, slots: Tensor | None, visible: Tensor | None) -> Tensor:
    """Compute the same in float64."""
    slots = torch.arange(ROWS) if slots is None else slots
    scores = torch.einsum("bqhd,bhtd->bhqt", query.double(), keys[slots].double())
    if visible is not None:
        ends = visible[:, None] + torch.arange(query.shape[1])
        hidden = torch.arange(keys.shape[2]) >= ends[:, :, None]
        scores = scores.masked_fill(hidden[:, None], float("-inf"))
    return torch.einsum("bhqt,bhtd->bqhd", scores.softmax(dim=-1), values[slots].double())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3)])
@pytest.mark.parametrize(
    ("time", "count", "slots", "visible"),
    [
        pytest.param(PART_KEYS + 44, 5, None, None, id="frames of two parts, the second not full"),
        pytest.param(2 * PART_KEYS + 1, 1, torch.tensor([2, 0]), None, id="frames of slots elsewhere"),
        pytest.param(130, 3, None, torch.tensor([1, 128]), id="text, of its first token and of its last"),
        pytest.param(300, BLOCK_QUERIES + 4, torch.tensor([1, 0]), torch.tensor([60, 280]), id="a prompt of two blocks"),
    ],
)
def test_it_computes_attention(
    time: int, count: int, slots: Tensor | None, visible: Tensor | None, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(1)
    query, (keys, values) = queries(count, dtype), cache(time, dtype)
    mixed = mix(query, keys, values, slots, visible)
    assert mixed.dtype == dtype
    assert float((mixed.double() - plainly(query, keys, values, slots, visible)).abs().max()) < tolerance


@pytest.mark.parametrize("visible", [None, torch.tensor([1, 62])])
def test_a_query_s_result_is_that_of_the_query_alone(visible: Tensor | None) -> None:
    torch.manual_seed(2)
    count = BLOCK_QUERIES + 2
    query, (keys, values) = queries(count, torch.float16), cache(PART_KEYS + 44, torch.float16)
    together = mix(query, keys, values, None, visible)
    for row in range(ROWS):
        for step in (0, 1, count - 1):
            seen = None if visible is None else visible[row : row + 1] + step
            alone = mix(query[row : row + 1, step : step + 1], keys, values, torch.tensor([row]), seen)
            assert torch.equal(alone[0, 0], together[row, step])


def test_what_no_query_sees_changes_nothing() -> None:
    torch.manual_seed(3)
    query, (keys, values) = queries(2, torch.float16), cache(200, torch.float16)
    visible = torch.tensor([5, 100])
    before = mix(query, keys, values, None, visible)
    keys[:, :, 101:], values[:, :, 101:] = 7.0, -7.0
    assert torch.equal(mix(query, keys, values, None, visible), before)
