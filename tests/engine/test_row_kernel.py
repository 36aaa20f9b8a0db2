"""What stands between a decoder's products: what it computes, and that steps of a sequence wait for the one before."""

import ctypes
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transcriber_engine.row_kernel import ARGUMENTS, Function, Kernel, Shape
from transcriber_engine.sequence import Sequence

OPENMP = ctypes.CDLL(torch._C.__file__)
SIZE = 48


@pytest.fixture(params=[4, 8, 16], ids=lambda lanes: f"{lanes}-lanes", scope="module")
def lanes(request: pytest.FixtureRequest) -> int:
    return request.param  # type: ignore[no-any-return]


def step(kernel: Kernel, rows: Tensor, out: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> list[int]:
    addresses = [0 if each is None else each.data_ptr() for each in (rows, out, weight, bias)]
    assert ARGUMENTS == ("next_task", "tasks", "size", "rows", "out", "weight", "bias")
    return [kernel.team.address, 0, len(rows), rows.shape[1], *addresses]


def computed(function: Function, lanes: int, rows: Tensor, *parameters: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.full((len(rows) + 1, rows.shape[1]), -7.0, dtype=dtype)
    kernel = Kernel(Shape(function, lanes, dtype == torch.bfloat16), OPENMP)
    Sequence(OPENMP).run(np.array([step(kernel, rows, out, *parameters)]))
    assert (out[-1] == -7).all()  # what stands after the results is left alone
    return out[:-1]


def test_a_layer_norm_is_torch_s(lanes: int) -> None:
    rows, weight, bias = torch.randn(9, SIZE) * 30 + 5, torch.randn(SIZE), torch.randn(SIZE)
    torch.testing.assert_close(computed("norm", lanes, rows, weight, bias), F.layer_norm(rows, (SIZE,), weight, bias))


def test_gelu_is_torch_s(lanes: int) -> None:
    rows = torch.linspace(-12, 12, 20 * SIZE).view(20, SIZE)
    rows[0, :3] = torch.tensor([0.0, -1e30, 1e30])
    torch.testing.assert_close(computed("gelu", lanes, rows), F.gelu(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", ["norm", "gelu", "round"])
def test_results_are_rounded_to_the_nearest(function: Function, lanes: int) -> None:
    rows, ones = torch.randn(9, SIZE), [torch.ones(SIZE)] * 2
    meant = rows if function == "round" else computed(function, lanes, rows, *ones)
    assert torch.equal(computed(function, lanes, rows, *ones, dtype=torch.bfloat16), meant.bfloat16())


def test_a_step_begins_when_all_threads_are_through_with_the_one_before() -> None:
    """Each step reads what the step before wrote, rows of which another thread may have taken."""
    kernel, steps = Kernel(Shape("norm", 8, rounded=False), OPENMP), 300
    weight, bias, before = torch.full((8,), 1.5), torch.arange(8.0), torch.get_num_threads()
    buffers = [torch.randn(7, 8), *(torch.zeros(7, 8) for _ in range(steps))]
    meant = buffers[0]
    for _ in range(steps):
        meant = F.layer_norm(meant, (8,), weight, bias)
    torch.set_num_threads(3)
    Sequence(OPENMP).run(np.array([step(kernel, *pair, weight, bias) for pair in pairwise(buffers)]))
    torch.set_num_threads(before)
    torch.testing.assert_close(buffers[-1], meant)
