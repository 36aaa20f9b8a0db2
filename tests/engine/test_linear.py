"""The compiled product: what it computes, that each row's result is its own, bit for bit, and what is there in its place."""

import ctypes
import logging
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from transcriber_engine import linear, linear_kernel, vector_code
from transcriber_engine.linear import InvariantLinear
from transcriber_engine.linear_kernel import ROWS_AT_ONCE, Kernel, Panels, Shape, SurveyedPanels
from transcriber_engine.weights import draft_linear

OPENMP = ctypes.CDLL(torch._C.__file__)
SHAPES = [(512, 512), (51, 300), (7, 3), (96, 1), (1, 2048)]  # whole panels of 48 and others
COUNTS = [*range(1, 26), ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 300]


KINDS = [Shape(4, 8), Shape(8, 4), Shape(16, 8)]
PAIRED = [shape] if (shape := linear_kernel.host_shape(paired=True)) else []  # what not every processor can do


@pytest.fixture(params=KINDS + PAIRED, ids=lambda each: f"{each.lanes}-lanes{'-of-pairs' * each.paired}", scope="module")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """For vectors of each size, and for pairs of bfloat16."""
    return Kernel(request.param, OPENMP)


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
def test_a_product_is_what_its_definition_says(outputs: int, inputs: int, kernel: Kernel) -> None:
    (weight, bias), x = layer_of(outputs, inputs), rows_of(50, inputs)
    meant = [each.bfloat16() if kernel.shape.paired else each for each in (x, weight)]
    assert error(Panels(kernel, weight, bias)(x), *meant, bias) < 1e-5
    assert error(Panels(kernel, weight, None)(x), *meant, None) < 1e-5


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_row_has_the_same_result_alone_and_among_any_others(outputs: int, inputs: int, kernel: Kernel) -> None:
    x = rows_of(300, inputs)
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


def test_nothing_is_written_beside_the_product(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last panel and the last block are whole in no product but this one's neighbours."""
    around = torch.full((3, 13, 51), -7.0)
    monkeypatch.setattr(linear_kernel.torch, "empty", lambda *_: around[1])
    Panels(kernel, *layer_of(51, 30))(rows_of(13, 30))
    assert (around[::2] == -7).all()
    assert (around[1] != -7).all()


@pytest.mark.parametrize("shape", [replace(shape, surveyed=True) for shape in KINDS + PAIRED])
def test_a_survey_tells_of_each_panel_the_highest_and_the_sum_above_it(shape: Shape) -> None:
    (weight, bias), x = layer_of(1000, 64), rows_of(13, 64)
    bias[: 2 * shape.columns] = float("-inf")  # two whole panels and part of a third
    bias[-1] = float("-inf")
    surveyed = SurveyedPanels(Kernel(shape, OPENMP), weight, bias).survey(x)
    panels = surveyed.scores.view(13, -1, shape.columns)
    assert torch.equal(surveyed.scores[:, :1000].isinf(), bias.isinf().expand(13, -1))
    assert torch.equal(surveyed.peaks, panels.amax(dim=-1))
    sums = (panels - surveyed.peaks[..., None]).exp().sum(dim=-1)
    torch.testing.assert_close(surveyed.masses, sums.nan_to_num(0), rtol=1e-5, atol=0)


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


@pytest.mark.parametrize("count", [1, 16, 100])
def test_the_layers_of_a_draft_are_about_right(count: int) -> None:
    (weight, bias), x = layer_of(51, 300), rows_of(count, 300)
    result = draft_linear("float32", "cpu")(weight, bias)(x[None])
    assert result.shape == (1, count, 51)
    assert result.dtype == torch.float32
    assert error(result[0], x, weight, bias) < 2e-2


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        ({"avx512f": True, "fma": True, "avx512bf16": True}, Shape(16, 8)),
        ({"avx512f": True, "fma": True}, Shape(16, 8)),
        ({"avx512f": False, "fma": True}, Shape(8, 4)),
        ({"neon": True}, Shape(4, 8)),
        ({"avx512f": False, "fma": False}, None),
    ],
)
def test_the_code_suits_the_processor(features: dict[str, bool], shape: Shape | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_code.binding, "get_host_cpu_features", lambda: features)
    assert linear_kernel.host_shape() == shape
    assert linear_kernel.host_shape(paired=True) == (Shape(16, 8, paired=True) if features.get("avx512bf16") else None)


@pytest.fixture
def anew():
    """Layers as in a process that has not looked for the kernel yet, before and after the test."""
    linear.compiled_kernel.cache_clear()
    yield
    linear.compiled_kernel.cache_clear()


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
        assert linear.compiled_kernel(paired=True) is None
        assert not caplog.text  # that is a gain that many a good processor does without
        assert linear.compiled_kernel() is None
    assert "no kernel for this processor" in caplog.text
