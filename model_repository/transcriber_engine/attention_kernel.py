"""Attention over slot caches, compiled where it runs, at about the speed at which memory gives the keys and values.

A library's matrix products read keys and values again for every few queries, and choose the order of their sums by the number of
queries. Here up to `BLOCK` queries share every load, and each query's sums have one order, that of the code (see vector_code.py):
neither the size of its block nor its place there changes a bit. Keys and values are float32, or bfloat16 to be read in half the
time; what is computed, and the queries, is float32 in either case.

Keys are taken tile by tile from the first on, with the running softmax of Milakov and Gimelshein ("Online normalizer calculation
for softmax", 2018). A tile of which a query sees nothing leaves it as it was: its factor is exp(0) = 1, its weights are 0.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import torch
from llvmlite import ir
from torch import Tensor

from transcriber_engine.vector_code import (
    BF16,
    CACHE_LINE,
    F32,
    I64,
    NOTHING,
    POINTER,
    Code,
    Team,
    bytes_of,
    compiled,
    host_vectors,
)

BLOCK: Final = 8
TILE: Final = 128  # keys; a multiple of every number of lanes
VALUES_AHEAD: Final = 32  # keys whose values are asked for before they are needed

ADDRESSES: Final = ("query", "keys_t", "values", "slots", "visible", "out")
STRIDES: Final = ("key_slot", "key_head", "key_row", "value_slot", "value_head", "value_row")
ARGUMENTS: Final = ("next_task", "tasks", "heads", "queries", "keys", *ADDRESSES, *STRIDES)
"""What the worker is given, 64 bits each; a task is one head of one row, and the threads count `next_task` up as they take them."""
_Arguments = ctypes.c_int64 * len(ARGUMENTS)


@dataclass(frozen=True)
class Shape:
    """What code is made for: the size of a head, floats in a vector register, registers to hold sums in, and the cache's type."""

    head_dim: int
    lanes: int
    sums: int
    halved: bool = False
    """Whether keys and values are bfloat16."""

    @property
    def cached(self) -> ir.Type:
        """What a key's or value's component is."""
        return BF16 if self.halved else F32

    def lines(self, starts: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Of places one vector after the other in the cache, return one for each cache line."""
        return starts[:: max(1, CACHE_LINE // (self.lanes * bytes_of(self.cached)))]

    def width(self, queries: int, floats: int) -> int:
        """Vectors to work on side by side, dividing `floats`, such that the sums of all queries stay in registers."""
        vectors = floats // self.lanes
        return max(width for width in (1, 2, 4, 8) if vectors % width == 0 and queries * width <= max(queries, self.sums))


def host_shape(head_dim: int, *, halved: bool = False) -> Shape | None:
    """Return the shape for this machine, or None if the kernel would be no good on it: it needs fused multiply-add."""
    vectors = host_vectors()
    fitting = [fewer for fewer in (16, 8, 4) if vectors and fewer <= vectors.lanes and head_dim % fewer == 0]
    return Shape(head_dim, fitting[0], vectors.sums, halved) if vectors and fitting else None


def _score(module: ir.Module, shape: Shape, queries: int) -> ir.Function:
    """`score(query, query_row, keys_t, key_row, ahead, scores, keys, seen, step)`: scores of a tile's first `keys` keys.

    Query i sees the first `seen + i step` of them; the score of what it does not see is -inf. Keys that stand `ahead` are
    asked for, to be there for the next tile.
    """
    arguments = (POINTER, I64, POINTER, I64, I64, POINTER, I64, I64, I64)
    code = Code(module, shape.lanes, f"score_{queries}", NOTHING, *arguments)
    query, query_row, keys_t, key_row, ahead, scores, keys, seen, step = code.function.args
    width = shape.width(queries, TILE)
    places = list(product(range(queries), range(width)))
    lanes = ir.Constant(ir.VectorType(I64, shape.lanes), list(range(shape.lanes)))
    with code.loop(keys, width * shape.lanes) as first:
        starts = [code.add(first, I64(j * shape.lanes)) for j in range(width)]
        sums = {place: code.variable(code.splat(0.0)) for place in places}
        with code.loop(shape.head_dim) as d:
            row = code.at(keys_t, code.mul(d, key_row), shape.cached)
            loaded = [code.widened(code.at(row, start, shape.cached), shape.cached) for start in starts]
            for start in shape.lines(starts):
                code.prefetch(code.at(row, code.add(start, ahead), shape.cached))
            for i in range(queries):
                factor = code.splat(code.get(code.at(query, code.add(d, code.mul(query_row, I64(i)))), F32))
                for j in range(width):
                    code.put(code.fma(factor, loaded[j], code.get(sums[i, j])), sums[i, j])
        for i, j in places:
            limit = code.smaller(keys, code.add(seen, code.mul(step, I64(i))))
            shown = code.icmp_signed("<", code.add(code.splat(starts[j]), lanes), code.splat(limit))
            score = code.select(shown, code.get(sums[i, j]), code.splat(float("-inf")))
            code.put(score, code.at(scores, code.add(starts[j], I64(i * TILE))))
    code.ret_void()
    return code.function


def _soften(module: ir.Module, shape: Shape) -> ir.Function:
    """`factor = soften(scores, keys, largest, totals)`: turn `keys` scores into weights relative to the largest so far.

    `totals` is a vector of sums of weights. Returns what all earlier weights must be multiplied by.
    """
    code = Code(module, shape.lanes, "soften", F32, POINTER, I64, POINTER, POINTER)
    scores, keys, largest, totals = code.function.args
    before = code.get(largest, F32)
    running = code.variable(code.splat(before))
    with code.loop(keys, shape.lanes) as t:
        code.put(code.larger(code.get(code.at(scores, t)), code.get(running)), running)
    after = code.largest(code.get(running))
    factors = code.exp(code.fsub(code.splat(before), code.splat(after)))
    total = code.variable(code.fmul(code.get(totals), factors))
    with code.loop(keys, shape.lanes) as t:
        weights = code.exp(code.fsub(code.get(code.at(scores, t)), code.splat(after)))
        code.put(weights, code.at(scores, t))
        code.put(code.fadd(code.get(total), weights), total)
    code.put(after, largest)
    code.put(code.get(total), totals)
    code.ret(code.extract_element(factors, ir.IntType(32)(0)))
    return code.function


def _mix(module: ir.Module, shape: Shape, queries: int) -> ir.Function:
    """`mix(weights, factors, values, value_row, keys, mixed)`: multiply `mixed` by the factors, then add a tile's values."""
    code = Code(module, shape.lanes, f"mix_{queries}", NOTHING, POINTER, POINTER, POINTER, I64, I64, POINTER)
    weights, factors, values, value_row, keys, mixed = code.function.args
    width = shape.width(queries, shape.head_dim)
    places = list(product(range(queries), range(width)))
    with code.loop(shape.head_dim, width * shape.lanes) as first:
        starts = [code.add(first, I64(j * shape.lanes)) for j in range(width)]
        targets = {(i, j): code.at(mixed, code.add(starts[j], I64(i * shape.head_dim))) for i, j in places}
        scale = [code.splat(code.get(code.at(factors, i), F32)) for i in range(queries)]
        sums = {(i, j): code.variable(code.fmul(code.get(targets[i, j]), scale[i])) for i, j in places}
        with code.loop(keys) as t:
            row = code.at(values, code.mul(t, value_row), shape.cached)
            loaded = [code.widened(code.at(row, start, shape.cached), shape.cached) for start in starts]
            ahead = code.at(row, code.mul(value_row, I64(VALUES_AHEAD)), shape.cached)
            for start in shape.lines(starts):
                code.prefetch(code.at(ahead, start, shape.cached))
            for i in range(queries):
                weight = code.splat(code.get(code.at(weights, code.add(t, I64(i * TILE))), F32))
                for j in range(width):
                    code.put(code.fma(weight, loaded[j], code.get(sums[i, j])), sums[i, j])
        for place in places:
            code.put(code.get(sums[place]), targets[place])
    code.ret_void()
    return code.function


def _block(module: ir.Module, shape: Shape, queries: int, soften: ir.Function) -> ir.Function:
    """`block(query, out, row, keys_t, key_row, values, value_row, keys, seen, step)`: one block of one head's queries.

    Rows of `query` and `out` are `row` floats apart; query i sees the first `seen + i step` of `keys` keys.
    """
    score, mix = _score(module, shape, queries), _mix(module, shape, queries)
    arguments = (POINTER, POINTER, I64, POINTER, I64, POINTER, I64, I64, I64, I64)
    code = Code(module, shape.lanes, f"block_{queries}", NOTHING, *arguments)
    query, out, row, keys_t, key_row, values, value_row, keys, seen, step = code.function.args
    vectors = shape.head_dim // shape.lanes
    mixed = code.variable(code.splat(0.0), queries * vectors)
    largest = code.variable(F32(float("-inf")), queries)
    totals = code.variable(code.splat(0.0), queries)
    factors, scores = (code.space(F32, count) for count in (queries, queries * TILE))
    rest = code.space(shape.cached, shape.head_dim * TILE)
    last = code.smaller(keys, code.add(seen, code.mul(step, I64(queries - 1))))
    with code.loop(last, TILE) as t:
        tile, tile_row, left = code.variable(code.at(keys_t, t, shape.cached)), code.variable(key_row), code.sub(keys, t)
        with code.if_then(code.icmp_signed("<", left, I64(TILE))):  # a whole tile would reach past the end of a row
            with code.loop(shape.head_dim) as d:
                own, start = code.mul(d, I64(TILE)), code.add(t, code.mul(d, key_row))
                code.copy(code.at(rest, own, shape.cached), code.at(keys_t, start, shape.cached), left, shape.cached)
            code.put(rest, tile)
            code.put(I64(TILE), tile_row)
        count = code.smaller(I64(TILE), code.sub(last, t))
        ahead = code.select(code.icmp_signed("<", code.add(t, I64(TILE)), last), I64(TILE), I64(0))
        rows = code.get(tile, POINTER), code.get(tile_row, I64)
        code.call(score, [query, row, *rows, ahead, scores, count, code.sub(seen, t), step])
        for i in range(queries):
            own = code.at(scores, i * TILE), count, code.at(largest, i), code.at(totals, i * shape.lanes)
            code.put(code.call(soften, own), code.at(factors, i))
        code.call(mix, [scores, factors, code.at(values, code.mul(t, value_row), shape.cached), value_row, count, mixed])
    for i, j in product(range(queries), range(vectors)):
        total = code.splat(code.total(code.get(code.at(totals, i * shape.lanes))))
        result = code.fdiv(code.get(code.at(mixed, i * shape.head_dim + j * shape.lanes)), total)
        code.put(result, code.at(out, code.add(code.mul(row, I64(i)), I64(j * shape.lanes))))
    code.ret_void()
    return code.function


def _head(module: ir.Module, shape: Shape) -> ir.Function:
    """`head(query, out, queries, row, keys_t, key_row, values, value_row, keys, seen, step)`: a head's queries, in blocks."""
    soften = _soften(module, shape)
    blocks = [_block(module, shape, queries, soften) for queries in range(1, BLOCK + 1)]
    arguments = (POINTER, POINTER, I64, I64, POINTER, I64, POINTER, I64, I64, I64, I64)
    code = Code(module, shape.lanes, "head", NOTHING, *arguments)
    query, out, queries, row, *cache, seen, step = code.function.args
    _, size = code.even(queries, BLOCK)
    with code.loop(queries, size) as first:
        offset = code.mul(row, first)
        given = [code.at(query, offset), code.at(out, offset), row, *cache, code.add(seen, code.mul(step, first)), step]
        code.call_one(blocks, code.smaller(code.sub(queries, first), size), given)
    code.ret_void()
    return code.function


def _worker(module: ir.Module, shape: Shape) -> None:
    """`worker(arguments)`: take one task after the other until none is left; see `ARGUMENTS`."""
    attend = _head(module, shape)
    code = Code(module, shape.lanes, "worker", NOTHING, POINTER, exported=True)
    (arguments,) = code.function.args
    given = code.unpacked(arguments, ARGUMENTS, ADDRESSES)
    begin, work, end = (code.append_basic_block() for _ in range(3))
    code.branch(begin)
    code.position_at_end(begin)
    task = code.atomic_rmw("add", arguments, I64(1), "monotonic")
    code.cbranch(code.icmp_signed("<", task, given["tasks"]), work, end)
    code.position_at_end(work)
    row, head = code.sdiv(task, given["heads"]), code.srem(task, given["heads"])
    slot = code.get(code.at(given["slots"], row, I64), I64)
    keys_t, values = (
        code.at(given[tensor], code.add(code.mul(slot, given[f"{kind}_slot"]), code.mul(head, given[f"{kind}_head"])), shape.cached)
        for tensor, kind in (("keys_t", "key"), ("values", "value"))
    )
    width = code.mul(given["heads"], I64(shape.head_dim))
    start = code.add(code.mul(code.mul(row, given["queries"]), width), code.mul(head, I64(shape.head_dim)))
    growing = code.icmp_unsigned("!=", code.ptrtoint(given["visible"], I64), I64(0))
    seen = code.variable(given["keys"])
    with code.if_then(growing):
        code.put(code.get(code.at(given["visible"], row, I64), I64), seen)
    code.call(attend, [
        code.at(given["query"], start), code.at(given["out"], start), given["queries"], width,
        keys_t, given["key_row"], values, given["value_row"], given["keys"], code.get(seen, I64), code.zext(growing, I64),
    ])  # fmt: skip
    code.branch(begin)
    code.position_at_end(end)
    code.ret_void()


class Kernel:
    """The compiled kernel of one shape."""

    def __init__(self, shape: Shape, openmp: ctypes.CDLL) -> None:
        """`openmp` is as for `Team`."""
        module = ir.Module()
        _worker(module, shape)
        self._team = Team(compiled(module), "worker", openmp)

    def __call__(self, query: Tensor, keys_t: Tensor, values: Tensor, slots: Tensor, visible: Tensor | None) -> Tensor:
        """See `attention.attend`; keys_t and values have stride 1 in their last dimension."""
        batch, queries, heads, _ = query.shape
        query, slots = query.contiguous(), slots.contiguous()
        visible = None if visible is None else visible.contiguous()
        out = torch.empty_like(query)
        addresses = [0 if each is None else each.data_ptr() for each in (query, keys_t, values, slots, visible, out)]
        strides = (*keys_t.stride()[:3], *values.stride()[:3])
        arguments = _Arguments(0, batch * heads, heads, queries, values.shape[2], *addresses, *strides)
        self._team.run(arguments)
        return out
