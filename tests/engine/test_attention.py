"""Attention: what it computes, in each of its ways, and that a query's result is its own, bit for bit."""

import ctypes
import logging
import sys

import pytest
import torch
from llvmlite import ir
from torch import Tensor

from transcriber_engine import attention, attention_kernel, row_grouping, vector_code
from transcriber_engine.attention import attend
from transcriber_engine.attention_kernel import Kernel, Shape
from transcriber_engine.row_grouping import ALONE, RowGrouping
from transcriber_engine.vector_code import NOTHING, POINTER, Code, compiled

SLOTS = 4
CROSS, TEXT, TOY = (8, 64, 1500), (8, 64, 465), (2, 8, 6)  # heads, head_dim, keys


@pytest.fixture(params=["compiled", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(attention, "compiled_kernel", lambda *_: None)
    return request.param


def cache_of(heads: int, head_dim: int, keys: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(keys)
    return (
        torch.randn(SLOTS, heads, head_dim, keys, generator=random),
        torch.randn(SLOTS, heads, keys, head_dim, generator=random),
    )


def queries_of(batch: int, queries: int, heads: int, head_dim: int) -> Tensor:
    return torch.randn(batch, queries, heads, head_dim, generator=torch.Generator().manual_seed(queries)) * head_dim**-0.5


def reference(query: Tensor, keys_t: Tensor, values: Tensor, slots: Tensor, visible: Tensor | None) -> Tensor:
    """The definition, in float64."""
    scores = torch.einsum("bqhd,bhdt->bhqt", query.double(), keys_t[slots].double())
    if visible is not None:
        last = visible[:, None] + torch.arange(query.shape[1])
        scores = scores.masked_fill(torch.arange(keys_t.shape[3]) >= last[:, None, :, None], float("-inf"))
    return torch.einsum("bhqt,bhtd->bqhd", scores.softmax(dim=-1), values[slots].double())


def error(result: Tensor, expected: Tensor) -> float:
    return (result.double() - expected).abs().max().item()


@pytest.mark.parametrize("shape", [CROSS, TEXT, TOY, (3, 20, 130)])
@pytest.mark.parametrize("queries", [1, 5, 8, 19])
def test_attention_is_what_its_definition_says(shape: tuple[int, int, int], queries: int, way: str) -> None:
    keys_t, values = cache_of(*shape)
    query, slots = queries_of(3, queries, *shape[:2]), torch.tensor([2, 0, 3])
    expected = reference(query, keys_t, values, slots, None)
    assert error(attend(query, keys_t, values, slots, None), expected) < 1e-5


@pytest.mark.parametrize("shape", [CROSS, (3, 20, 130)])
@pytest.mark.parametrize("queries", [1, 3, 19])
def test_keys_and_values_in_bfloat16_are_attended_to_as_the_floats_that_they_are(
    shape: tuple[int, int, int], queries: int, way: str
) -> None:
    keys_t, values = (each.bfloat16() for each in cache_of(*shape))
    query, slots = queries_of(3, queries, *shape[:2]), torch.tensor([2, 0, 3])
    for shown in (None, torch.tensor([1, 2, 100])):
        result = attend(query, keys_t, values, slots, shown)
        assert result.dtype == torch.float32
        assert torch.equal(result, attend(query, keys_t.float(), values.float(), slots, shown))


@pytest.mark.parametrize("queries", [1, 3, 19])
def test_keys_and_values_in_int8_stand_for_their_products_with_scales(queries: int) -> None:
    random = torch.Generator().manual_seed(queries)
    keys_t, values = (torch.randint(-127, 128, each.shape, generator=random).to(torch.int8) for each in cache_of(*CROSS))
    scales = torch.rand(2, SLOTS, *CROSS[:2], generator=random) / 64
    query, slots = queries_of(3, queries, *CROSS[:2]), torch.tensor([2, 0, 3])
    expected = reference(query, keys_t * scales[0][..., None], values * scales[1][:, :, None], slots, None)
    kernel = attention.compiled_kernel(CROSS[1], torch.int8)
    assert kernel is not None
    assert error(kernel(query, keys_t, values, slots, None, (scales[0], scales[1])), expected) < 1e-5


@pytest.mark.parametrize("queries", [1, 5, 8, 19, 230])
def test_a_query_sees_the_keys_up_to_its_own_and_no_other(queries: int, way: str) -> None:
    keys_t, values = cache_of(*TEXT)
    query, slots = queries_of(4, queries, *TEXT[:2]), torch.tensor([2, 0, 3, 1])
    visible = torch.tensor([1, 100, 128, TEXT[2] - queries + 1])
    seen_by_any = torch.arange(TEXT[2]) < (visible + queries - 1)[slots.argsort()][:, None]
    keys_t = torch.where(seen_by_any[:, None, None, :], keys_t, 1e30)
    values = torch.where(seen_by_any[:, None, :, None], values, 1e30)
    expected = reference(query, keys_t, values, slots, visible)
    assert error(attend(query, keys_t, values, slots, visible), expected) < 1e-5


def test_the_compiled_way_reads_nothing_into_what_is_not_seen() -> None:
    keys_t, values = cache_of(*TEXT)
    query, slots, visible = queries_of(1, 3, *TEXT[:2]), torch.tensor([1]), torch.tensor([200])
    expected = attend(query, keys_t, values, slots, visible)
    keys_t[..., 202:], values[:, :, 202:] = float("nan"), float("nan")
    assert torch.equal(attend(query, keys_t, values, slots, visible), expected)


@pytest.mark.parametrize("shape", [CROSS, TEXT, TOY])
@pytest.mark.parametrize("growing", [False, True])
def test_a_query_has_the_same_result_alone_and_among_any_others(
    shape: tuple[int, int, int], growing: bool, way: str, threads: None
) -> None:
    keys_t, values = cache_of(*shape)
    slots, most = torch.tensor([3, 0, 2, 1, 3, 2]), 17 if shape[2] > 17 else 3
    visible = torch.tensor([1, 2, 3, 1, 120, 448]).clamp(max=shape[2] - most + 1) if growing else None
    query = queries_of(len(slots), most, *shape[:2])
    together = attend(query, keys_t, values, slots, visible)
    for queries in range(1, most + 1):
        for first in {0, most - queries, (most - queries) // 2}:
            rows = torch.arange(len(slots)).roll(queries)[: 1 + queries % len(slots)]
            shown = None if visible is None else visible[rows] + first
            some = attend(query[rows, first : first + queries], keys_t, values, slots[rows], shown)
            assert torch.equal(some, together[rows, first : first + queries]), (queries, first)


def test_the_number_of_threads_changes_nothing_in_the_compiled_way() -> None:
    keys_t, values = cache_of(*CROSS)
    query, slots, before = queries_of(3, 6, *CROSS[:2]), torch.tensor([0, 1, 2]), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(attend(query, keys_t, values, slots, None))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_without_slots_a_row_is_at_the_slot_of_its_number(way: str) -> None:
    keys_t, values = cache_of(*TOY)
    query = queries_of(3, 2, *TOY[:2])
    assert torch.equal(attend(query, keys_t, values, None, None), attend(query, keys_t, values, torch.arange(3), None))


def test_keys_and_queries_may_be_views(way: str) -> None:
    keys_t, values = cache_of(*TEXT)
    query, slots, visible = queries_of(2, 10, *TEXT[:2])[:, ::2], torch.tensor([3, 9, 1, 9])[::2], torch.tensor([7, 9, 8, 9])[::2]
    expected = reference(query, keys_t, values, slots, visible)
    for view in (keys_t, torch.nn.functional.pad(keys_t, (3, 4))[..., 3:-4], keys_t.mT.contiguous().mT):
        assert error(attend(query, view, values, slots, visible), expected) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 3e-2), (torch.float16, 5e-3), (torch.float64, 1e-12)])
def test_other_types_are_computed_by_torch(dtype: torch.dtype, tolerance: float) -> None:
    query, (keys_t, values) = queries_of(2, 3, *TEXT[:2]).to(dtype), (each.to(dtype) for each in cache_of(*TEXT))
    slots, visible = torch.tensor([1, 3]), torch.tensor([5, 300])
    result = attend(query, keys_t, values, slots, visible)
    assert result.dtype == dtype
    expected = reference(query, keys_t, values, slots, visible)
    assert error(result, expected) < tolerance


@pytest.mark.parametrize("grouping", [ALONE, RowGrouping(2, 128), RowGrouping(32, 128), RowGrouping(4, 8)])
def test_however_torch_must_group_the_queries_the_result_is_right(grouping: RowGrouping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_grouping, "measure", lambda *_: grouping)
    monkeypatch.setattr(row_grouping, "_measured", {})
    monkeypatch.setattr(attention, "compiled_kernel", lambda *_: None)
    keys_t, values = cache_of(*TEXT)
    query, slots, visible = queries_of(2, 19, *TEXT[:2]), torch.tensor([1, 3]), torch.tensor([5, 300])
    expected = reference(query, keys_t, values, slots, visible)
    assert error(attend(query, keys_t, values, slots, visible), expected) < 1e-5


@pytest.mark.parametrize(
    ("lanes", "sums", "dtype"),
    [(4, 24, torch.float32), (8, 12, torch.float32), (16, 24, torch.float32), (4, 24, torch.bfloat16)],
)
def test_code_for_vectors_of_any_size_is_right(lanes: int, sums: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_kernel, "BLOCK", 3)
    kernel = Kernel(Shape(64, lanes, sums, dtype), ctypes.CDLL(torch._C.__file__))
    keys_t, values = (each.to(dtype) for each in cache_of(*TEXT))
    query, slots, visible = queries_of(2, 7, *TEXT[:2]), torch.tensor([1, 3]), torch.tensor([5, 300])
    expected = reference(query, keys_t, values, slots, visible)
    assert error(kernel(query, keys_t, values, slots, visible), expected) < 1e-5


@pytest.mark.parametrize(
    ("features", "head_dim", "shape"),
    [
        ({"avx512f": True, "fma": True}, 64, Shape(64, 16, 24)),
        ({"avx512f": True, "fma": True}, 24, Shape(24, 8, 24)),
        ({"avx512f": False, "fma": True}, 64, Shape(64, 8, 12)),
        ({"neon": True}, 64, Shape(64, 4, 24)),
        ({"avx512f": True, "fma": True}, 6, None),
        ({"avx512f": False, "fma": False}, 64, None),
    ],
)
def test_the_code_suits_the_processor_and_the_size_of_heads(
    features: dict[str, bool], head_dim: int, shape: Shape | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_code.binding, "get_host_cpu_features", lambda: features)
    assert attention_kernel.host_shape(head_dim, torch.float32) == shape


@pytest.fixture
def anew():
    """Attention as in a process that has not looked for its kernel yet, before and after the test."""
    attention.compiled_kernel.cache_clear()
    yield
    attention.compiled_kernel.cache_clear()


def test_without_llvmlite_torch_computes_and_a_warning_says_what_to_install(
    anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "transcriber_engine.attention_kernel", None)
    keys_t, values = cache_of(*TOY)
    query, slots = queries_of(2, 3, *TOY[:2]), torch.tensor([1, 3])
    with caplog.at_level(logging.WARNING):
        result = attend(query, keys_t, values, slots, None)
    assert error(result, reference(query, keys_t, values, slots, None)) < 1e-5
    assert "install `llvmlite`" in caplog.text


def test_a_processor_without_a_kernel_is_named_in_a_warning(
    anew: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention_kernel, "host_shape", lambda *_, **__: None)
    with caplog.at_level(logging.WARNING):
        assert attention.compiled_kernel(8, False) is None
    assert "no kernel for heads of 8 on this processor" in caplog.text


def test_a_query_that_is_not_a_number_shows_in_its_own_result_alone(way: str) -> None:
    keys_t, values = cache_of(*TEXT)
    query = queries_of(1, 3, *TEXT[:2])
    query[0, 1, 2, 5] = float("nan")
    bad = attend(query, keys_t, values, torch.tensor([0]), torch.tensor([4])).isnan()
    assert bad[0, 1, 2].all()
    assert bad.sum() == 64


def exponentials(x: Tensor) -> Tensor:
    """e^x as the kernel computes it, of a multiple of 16 floats."""
    module = ir.Module()
    code = Code(module, 16, "exponentials", NOTHING, POINTER, POINTER, exported=True)
    source, target = code.function.args
    with code.loop(len(x), 16) as i:
        code.put(code.exp(code.get(code.at(source, i))), code.at(target, i))
    code.ret_void()
    engine, result = compiled(module), torch.empty_like(x)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(engine.get_function_address("exponentials"))
    function(x.data_ptr(), result.data_ptr())
    return result


def test_exponentials_are_exact_to_the_last_bits() -> None:
    x = torch.cat([torch.linspace(-87, 0, 2**17), -torch.logspace(-30, 1, 2**14)])
    exact = x.double().exp()
    assert ((exponentials(x).double() - exact) / exact).abs().max() < 2e-7
    ends = exponentials(torch.tensor([0.0, -0.0, -87.1, -1e4, float("-inf"), float("nan")] + [0.0] * 10))
    assert ends[:5].tolist() == [1, 1, 0, 0, 0]
    assert ends[5].isnan()
