"""Attention over slot caches, compiled where it runs, at about the speed at which memory gives the keys and values.

A library's matrix products read keys and values again for every few queries, and choose the order of their sums by the number of
queries. Here up to `BLOCK` queries share every load, and each query's sums have one order, that of the code (see vector_code.py):
neither the size of its block nor its place there changes a bit. Keys and values are float32, or bfloat16 or int8 to be read in a
half or a quarter of the time; what is computed, and the queries, is float32 in any case.

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
    INT8,
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

KINDS: Final = {torch.float32: F32, torch.bfloat16: BF16, torch.int8: INT8}

ADDRESSES: Final = (
    "query",
    "keys_t",
    "values",
    "slots",
    "visible",
    "firsts",
    "new_keys",
    "new_values",
    "key_scales",
    "value_scales",
    "out",
)
STRIDES: Final = ("query_row", "out_row", "key_slot", "key_head", "key_row", "value_slot", "value_head", "value_row")
ARGUMENTS: Final = ("next_task", "tasks", "heads", "keys", *ADDRESSES, *STRIDES)
"""What the worker is given, 64 bits each; a task is one head of one row, and the threads count `next_task` up as they take them.

The queries of row b are those from `firsts[b]` to before `firsts[b + 1]`. Where there are `new_keys` and `new_values`, which lie as
the queries do, each is written into the cache first, where its query's own position is: the last that this query sees. Keys and
values of int8 stand for their products with scales, float32 [slots, heads, head_dim], which no others have.
"""
_Arguments = ctypes.c_int64 * len(ARGUMENTS)


@dataclass(frozen=True)
class Shape:
    """What code is made for: the size of a head, floats in a vector register, registers to hold sums in, and the cache's type."""

    head_dim: int
    lanes: int
    sums: int
    dtype: torch.dtype = torch.float32
    """Of keys and values."""

    @property
    def cached(self) -> ir.Type:
        """What a key's or value's component is."""
        return KINDS[self.dtype]

    def lines(self, starts: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """Of places one vector after the other in the cache, return one for each cache line."""
        return starts[:: max(1, CACHE_LINE // (self.lanes * bytes_of(self.cached)))]

    def width(self, queries: int, floats: int) -> int:
        """Vectors to work on side by side, dividing `floats`, such that the sums of all queries stay in registers."""
        vectors = floats // self.lanes
        return max(width for width in (1, 2, 4, 8) if vectors % width == 0 and queries * width <= max(queries, self.sums))


def host_shape(head_dim: int, dtype: torch.dtype) -> Shape | None:
    """Return the shape for this machine, or None if the kernel would be no good on it: it needs fused multiply-add."""
    vectors = host_vectors()
    fitting = [fewer for fewer in (16, 8, 4) if vectors and fewer <= vectors.lanes and head_dim % fewer == 0]
    return Shape(head_dim, fitting[0], vectors.sums, dtype) if vectors and fitting else None


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


def _scaled(
    code: Code, shape: Shape, queries: int, query: ir.Value, query_row: ir.Value, scales: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Return where queries stand that were multiplied by the scales of keys, and how far from one to the next."""
    own = code.space(F32, queries * shape.head_dim)
    for i, start in product(range(queries), range(0, shape.head_dim, shape.lanes)):
        components = code.get(code.at(query, code.add(code.mul(query_row, I64(i)), I64(start))))
        code.put(code.fmul(components, code.get(code.at(scales, start))), code.at(own, i * shape.head_dim + start))
    return own, I64(shape.head_dim)


def _block(module: ir.Module, shape: Shape, queries: int, soften: ir.Function) -> ir.Function:
    """`block(query, query_row, out, out_row, keys_t, key_row, values, value_row, scales…, keys, seen, step)`: a block of queries.

    Query i sees the first `seen + i step` of `keys` keys. What is kept in int8 is not multiplied by its scales, those of keys and
    those of values: the queries are, and what is mixed.
    """
    score, mix = _score(module, shape, queries), _mix(module, shape, queries)
    arguments = (POINTER, I64, POINTER, I64, POINTER, I64, POINTER, I64, POINTER, POINTER, I64, I64, I64)
    code = Code(module, shape.lanes, f"block_{queries}", NOTHING, *arguments)
    query, query_row, out, out_row, keys_t, key_row, values, value_row, *scales, keys, seen, step = code.function.args
    vectors = shape.head_dim // shape.lanes
    scaled = shape.cached == INT8
    if scaled:
        query, query_row = _scaled(code, shape, queries, query, query_row, scales[0])
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
        code.call(score, [query, query_row, *rows, ahead, scores, count, code.sub(seen, t), step])
        for i in range(queries):
            own = code.at(scores, i * TILE), count, code.at(largest, i), code.at(totals, i * shape.lanes)
            code.put(code.call(soften, own), code.at(factors, i))
        code.call(mix, [scores, factors, code.at(values, code.mul(t, value_row), shape.cached), value_row, count, mixed])
    for i, j in product(range(queries), range(vectors)):
        total = code.splat(code.total(code.get(code.at(totals, i * shape.lanes))))
        result = code.fdiv(code.get(code.at(mixed, i * shape.head_dim + j * shape.lanes)), total)
        if scaled:
            result = code.fmul(result, code.get(code.at(scales[1], j * shape.lanes)))
        code.put(result, code.at(out, code.add(code.mul(out_row, I64(i)), I64(j * shape.lanes))))
    code.ret_void()
    return code.function


def _head(module: ir.Module, shape: Shape) -> ir.Function:
    """`head(query, query_row, out, out_row, queries, keys_t, …, seen, step)`: all queries, in blocks; see `_block`."""
    soften = _soften(module, shape)
    blocks = [_block(module, shape, queries, soften) for queries in range(1, BLOCK + 1)]
    arguments = (POINTER, I64, POINTER, I64, I64, POINTER, I64, POINTER, I64, POINTER, POINTER, I64, I64, I64)
    code = Code(module, shape.lanes, "head", NOTHING, *arguments)
    query, query_row, out, out_row, queries, *cache, seen, step = code.function.args
    _, size = code.even(queries, BLOCK)
    with code.loop(queries, size) as first:
        rows = code.at(query, code.mul(query_row, first)), query_row, code.at(out, code.mul(out_row, first)), out_row
        given = [*rows, *cache, code.add(seen, code.mul(step, first)), step]
        code.call_one(blocks, code.smaller(code.sub(queries, first), size), given)
    code.ret_void()
    return code.function


def _append(module: ir.Module, shape: Shape) -> ir.Function:
    """`append(new_keys, new_values, row, queries, keys_t, key_row, values, value_row, position, keys)`: write a head's new ones.

    What would stand past the end of the cache, as of rows that only fill a batch up, goes to its last place.
    """
    arguments = (POINTER, POINTER, I64, I64, POINTER, I64, POINTER, I64, I64, I64)
    code = Code(module, shape.lanes, "append", NOTHING, *arguments)
    new_keys, new_values, row, queries, keys_t, key_row, values, value_row, position, keys = code.function.args
    with code.loop(queries) as i:
        start, place = code.mul(row, i), code.smaller(code.add(position, i), code.sub(keys, I64(1)))
        code.copy(code.at(values, code.mul(place, value_row)), code.at(new_values, start), I64(shape.head_dim), F32)
        with code.loop(shape.head_dim) as d:
            component = code.get(code.at(new_keys, code.add(start, d)), F32)
            code.put(component, code.at(keys_t, code.add(code.mul(d, key_row), place)))
    code.ret_void()
    return code.function


def _worker(module: ir.Module, shape: Shape) -> None:
    """`worker(arguments)`: take one task after the other until none is left; see `ARGUMENTS`."""
    attend, append = _head(module, shape), _append(module, shape) if shape.cached == F32 else None
    code = Code(module, shape.lanes, "worker", NOTHING, POINTER, exported=True)
    (arguments,) = code.function.args
    given = code.unpacked(arguments, ARGUMENTS, ADDRESSES)
    with code.tasks(arguments, given["tasks"]) as task:
        row, head = code.sdiv(task, given["heads"]), code.srem(task, given["heads"])
        slot, first, after = (
            code.get(code.at(given[name], index, I64), I64)
            for name, index in (("slots", row), ("firsts", row), ("firsts", code.add(row, I64(1))))
        )
        queries = code.sub(after, first)
        keys_t, values = (
            code.at(
                given[name], code.add(code.mul(slot, given[f"{kind}_slot"]), code.mul(head, given[f"{kind}_head"])), shape.cached
            )
            for name, kind in (("keys_t", "key"), ("values", "value"))
        )
        cache = keys_t, given["key_row"], values, given["value_row"]
        column = code.mul(head, I64(shape.head_dim))
        scale = code.add(code.mul(code.mul(slot, given["heads"]), I64(shape.head_dim)), column)
        scales = (code.at(given[name], scale) for name in ("key_scales", "value_scales"))
        start = code.add(code.mul(first, given["query_row"]), column)
        growing = _is_there(code, given["visible"])
        seen = code.variable(given["keys"])
        with code.if_then(growing):
            code.put(code.get(code.at(given["visible"], row, I64), I64), seen)
        if append is not None:
            with code.if_then(_is_there(code, given["new_keys"])):
                new = (code.at(given[name], start) for name in ("new_keys", "new_values"))
                position = code.sub(code.get(seen, I64), I64(1))
                code.call(append, [*new, given["query_row"], queries, *cache, position, given["keys"]])
        target = code.at(given["out"], code.add(code.mul(first, given["out_row"]), column))
        code.call(attend, [
            code.at(given["query"], start), given["query_row"], target, given["out_row"], queries,
            *cache, *scales, given["keys"], code.get(seen, I64), code.zext(growing, I64),
        ])  # fmt: skip
    code.ret_void()


def _is_there(code: Code, pointer: ir.Value) -> ir.Value:
    return code.icmp_unsigned("!=", code.ptrtoint(pointer, I64), I64(0))


class Kernel:
    """The compiled kernel of one shape."""

    def __init__(self, shape: Shape, openmp: ctypes.CDLL) -> None:
        """`openmp` is as for `Team`."""
        module = ir.Module()
        _worker(module, shape)
        self.team = Team(compiled(module), "worker", openmp)

    def __call__(
        self,
        query: Tensor,
        keys_t: Tensor,
        values: Tensor,
        slots: Tensor,
        visible: Tensor | None,
        scales: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """See `attention.attend`; keys_t and values have stride 1 in their last dimension; those of int8 have scales."""
        batch, queries, heads, head_dim = query.shape
        query, slots = query.contiguous(), slots.contiguous()
        visible = None if visible is None else visible.contiguous()
        firsts = torch.arange(0, (batch + 1) * queries, queries) if queries else torch.zeros(batch + 1, dtype=torch.long)
        out = torch.empty_like(query)
        given = (query, keys_t, values, slots, visible, firsts, None, None, *(scales or (None, None)), out)
        addresses = [0 if each is None else each.data_ptr() for each in given]
        strides = (heads * head_dim, heads * head_dim, *keys_t.stride()[:3], *values.stride()[:3])
        self.team.run(_Arguments(0, batch * heads, heads, values.shape[2], *addresses, *strides))
        return out
