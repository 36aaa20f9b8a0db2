"""The compiled product: what it computes, that each row's result is its own, bit for bit, and what is there in its place."""

import ctypes
import logging
import sys

import pytest
import torch
from torch import Tensor

from transcriber_engine import linear, linear_kernel, vector_code
from transcriber_engine.linear import FEW_ROWS, DraftLinear, InvariantLinear
from transcriber_engine.linear_kernel import ROWS_AT_ONCE, Kernel, Panels, Shape

OPENMP = ctypes.CDLL(torch._C.__file__)
SHAPES = [(512, 512), (51, 300), (7, 3), (96, 1), (1, 2048)]  # whole panels of 48 and others
COUNTS = [*range(1, 26), ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 300]


@pytest.fixture(params=[(4, 8), (8, 4), (16, 8)], ids=lambda each: f"{each[0]}-lanes", scope="module")
def kernels(request: pytest.FixtureRequest) -> tuple[Kernel, Kernel]:
    """For vectors of each size, and a weight in float32 and in bfloat16."""
    return Kernel(Shape(*request.param, halved=False), OPENMP), Kernel(Shape(*request.param, halved=True), OPENMP)


def layer_of(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(outputs)
    return torch.randn(outputs, inputs, generator=random), torch.randn(outputs, generator=random)


def rows_of(count: int, inputs: int) -> Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(count))


def error(result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> float:
    """Relative to the largest, of the definition in float64."""
    exact = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    return ((result.double() - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_product_is_what_its_definition_says(outputs: int, inputs: int, kernels: tuple[Kernel, Kernel]) -> None:
    (weight, bias), x = layer_of(outputs, inputs), rows_of(50, inputs)
    for kernel, meant in zip(kernels, (weight, weight.bfloat16()), strict=True):
        assert error(Panels(kernel, weight, bias)(x), x, meant, bias) < 1e-5
        assert error(Panels(kernel, weight, None)(x), x, meant, None) < 1e-5


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_has_the_same_result_alone_and_among_any_others(outputs: int, inputs: int, kernels: tuple[Kernel, Kernel]) -> None:
    x = rows_of(300, inputs)
    for kernel in kernels:
        panels = Panels(kernel, *layer_of(outputs, inputs))
        together = panels(x)
        for count in COUNTS:
            assert torch.equal(panels(x[:count]), together[:count]), count
            assert torch.equal(panels(x[-count:]), together[-count:]), count


def test_the_number_of_threads_changes_nothing() -> None:
    layer, x, before = InvariantLinear(*layer_of(512, 512)), rows_of(150, 512), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(layer(x))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_nothing_is_written_beside_the_product(kernels: tuple[Kernel, Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last panel and the last block are whole in no product but this one's neighbours."""
    around = torch.full((3, 13, 51), -7.0)
    monkeypatch.setattr(linear_kernel.torch, "empty", lambda *_: around[1])
    for kernel in kernels:
        Panels(kernel, *layer_of(51, 30))(rows_of(13, 30))
        assert (around[::2] == -7).all()
        assert (around[1] != -7).all()


def test_rows_may_be_views_or_none_at_all() -> None:
    layer, x = InvariantLinear(*layer_of(51, 300)), rows_of(20, 600)
    for view in (x[:, 200:500], x[:, ::2], x[::3, :300], x.view(4, 5, 600)[:, 1:3, 100:400]):
        assert torch.equal(layer(view), layer(view.contiguous()))
    assert layer(x[:0, :300]).shape == (0, 51)


def test_a_row_that_is_not_a_number_shows_in_its_own_result_alone() -> None:
    x = rows_of(20, 300)
    x[7, 5] = float("nan")
    bad = InvariantLinear(*layer_of(51, 300))(x).isnan()
    assert bad[7].all()
    assert bad.sum() == 51


def test_other_types_are_left_to_libraries() -> None:
    weight, bias = (each.bfloat16() for each in layer_of(51, 300))
    layer = InvariantLinear(weight, bias)
    assert layer.panels is None
    assert layer(rows_of(3, 300).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("count", [1, FEW_ROWS, FEW_ROWS + 1])
def test_the_layers_of_a_draft_are_about_right(count: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(linear, "_kernel", lambda _: None)
    (weight, bias), x = layer_of(51, 300), rows_of(count, 300)
    result = DraftLinear(weight, bias)(x[None])
    assert result.shape == (1, count, 51)
    assert result.dtype == torch.float32
    assert error(result[0], x, weight, bias) < 2e-2


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        ({"avx512f": True, "fma": True}, Shape(16, 8, halved=True)),
        ({"avx512f": False, "fma": True}, Shape(8, 4, halved=True)),
        ({"neon": True}, Shape(4, 8, halved=True)),
        ({"avx512f": False, "fma": False}, None),
    ],
)
def test_the_code_suits_the_processor(features: dict[str, bool], shape: Shape | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_code.binding, "get_host_cpu_features", lambda: features)
    assert linear_kernel.host_shape(halved=True) == shape


@pytest.fixture
def anew():
    """Layers as in a process that has not looked for the kernel yet, before and after the test."""
    linear._kernel.cache_clear()
    yield
    linear._kernel.cache_clear()


def test_without_llvmlite_a_library_computes_and_a_warning_says_what_to_install(
    anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "transcriber_engine.linear_kernel", None)
    (weight, bias), x = layer_of(51, 300), rows_of(5, 300)
    with caplog.at_level(logging.WARNING):
        layer = InvariantLinear(weight, bias)
    assert error(layer(x), x, weight, bias) < 1e-5
    assert "install `llvmlite`" in caplog.text


def test_a_processor_without_a_kernel_is_named_in_a_warning(
    anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(linear_kernel, "host_shape", lambda **_: None)
    with caplog.at_level(logging.WARNING):
        assert linear._kernel(False) is None
    assert "no kernel for this processor" in caplog.text
