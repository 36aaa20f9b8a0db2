"""Attention over slot caches on a GPU, by kernels in the Triton language (the compiler that comes with torch, not the server).

A few queries of a row attend to many keys, so that reading keys and values takes the time. torch's fused kernels compute tiles of
64 queries and more, and give a head's keys to one multiprocessor, or divide them by how many rows there are. Here the frames are
divided into parts of a fixed number, whatever the batch, and what the parts give is put together in their order: a query's result
does not depend on the queries beside it.
"""

# ruff: noqa: ANN001, ANN202 - what a kernel is given are pointers and numbers of the compiler's own

from typing import Final

import torch
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

# The linters take it for the folder of that name beside this package, which holds no Python package.
from triton import cdiv, jit, next_power_of_2  # type: ignore[attr-defined]

PART_KEYS: Final = 256  # of a program; text is short, and is one part
BLOCK_KEYS: Final = 64  # that are read together
BLOCK_QUERIES: Final = 16  # the fewest that the matrix units multiply
HEAD_DIMS: Final = (16, 32, 64, 128)


def mix(query: Tensor, keys: Tensor, values: Tensor, slots: Tensor | None, visible: Tensor | None) -> Tensor:
    """Attend as `attention.attend` says: query [B, Q, heads, head_dim] to [B, Q, heads, head_dim].

    keys and values [slots, heads, T, head_dim] lie alike, of the query's type; head_dim is one of `HEAD_DIMS`.
    """
    rows, queries, heads, head_dim = query.shape
    time = keys.shape[2]
    parts = 1 if visible is not None else cdiv(time, PART_KEYS)
    mixed = torch.empty(rows, queries, heads, head_dim, dtype=query.dtype, device=query.device)
    found, tops, sums = mixed, mixed, mixed
    if parts > 1:
        found = torch.empty(rows, queries, heads, parts, head_dim, dtype=torch.float32, device=query.device)
        tops, sums = torch.empty(2, rows, queries, heads, parts, dtype=torch.float32, device=query.device)
    _mix_part[rows * cdiv(queries, BLOCK_QUERIES), heads, parts](
        query,
        keys,
        values,
        query if slots is None else slots,
        query if visible is None else visible,
        found,
        tops,
        sums,
        queries,
        time,
        *query.stride()[:3],
        *keys.stride()[:3],
        IN_PLACE=slots is None,
        ALL_VISIBLE=visible is None,
        HEADS=heads,
        HEAD_DIM=head_dim,
        PARTS=parts,
        PART_KEYS=PART_KEYS,
        BLOCK_KEYS=BLOCK_KEYS,
        BLOCK_QUERIES=BLOCK_QUERIES,
    )
    if parts > 1:
        _join_parts[rows * queries * heads,](
            found, tops, sums, mixed, PARTS=parts, ROOM=next_power_of_2(parts), HEAD_DIM=head_dim, num_warps=1
        )
    return mixed


@jit(do_not_specialize=["queries"])  # type: ignore[untyped-decorator]
def _mix_part(  # type: ignore[no-untyped-def]
    query,
    keys,
    values,
    slots,
    visible,
    found,
    tops,
    sums,
    queries,
    time,
    query_row,
    query_step,
    query_head,
    cache_slot,
    cache_head,
    cache_step,
    IN_PLACE: tl.constexpr,
    ALL_VISIBLE: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    PART_KEYS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
):
    """Let a block of a row's queries attend with one head to one part of the keys.

    Writes, of one part, the result; of several, what must still be divided by `sums`, which like it is relative to exp(`tops`).
    """
    blocks = tl.cdiv(queries, BLOCK_QUERIES)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    first_query = tl.program_id(0) % blocks * BLOCK_QUERIES
    head = tl.program_id(1)
    part = tl.program_id(2)
    slot = row if IN_PLACE else tl.load(slots + row)
    step = first_query + tl.arange(0, BLOCK_QUERIES)
    dim = tl.arange(0, HEAD_DIM)
    is_query = step < queries
    at_query = query + row * query_row + head * query_head + step[:, None] * query_step + dim[None, :]
    q = tl.load(at_query, mask=is_query[:, None], other=0.0)
    if ALL_VISIBLE:
        ends = tl.zeros([BLOCK_QUERIES], tl.int32) + time
        first_key = part * PART_KEYS
        end = tl.minimum(first_key + PART_KEYS, time)
    else:
        seen = tl.load(visible + row).to(tl.int32)
        ends = tl.minimum(seen + step, time)
        first_key = 0
        end = tl.minimum(seen + tl.minimum(first_query + BLOCK_QUERIES, queries) - 1, time)
    top = tl.full([BLOCK_QUERIES], float("-inf"), tl.float32)
    sum_ = tl.zeros([BLOCK_QUERIES], tl.float32)
    mixed = tl.zeros([BLOCK_QUERIES, HEAD_DIM], tl.float32)
    in_cache = slot * cache_slot + head * cache_head
    for start in range(first_key, end, BLOCK_KEYS):
        key = start + tl.arange(0, BLOCK_KEYS)
        there = key < time
        k = tl.load(keys + in_cache + dim[:, None] + key[None, :] * cache_step, mask=there[None, :], other=0.0)
        scores = tl.dot(q, k, input_precision="ieee")
        scores = tl.where(key[None, :] < ends[:, None], scores, float("-inf"))
        # The first key of all is seen by every query, so that from the first block on there is a top.
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrunk = tl.exp(top - higher)
        sum_ = sum_ * shrunk + tl.sum(weights, 1)
        v = tl.load(values + in_cache + key[:, None] * cache_step + dim[None, :], mask=there[:, None], other=0.0)
        mixed = mixed * shrunk[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    place = ((row * queries + step) * HEADS + head) * PARTS + part
    if PARTS == 1:
        mixed = mixed / sum_[:, None]
    else:
        tl.store(tops + place, top, mask=is_query)
        tl.store(sums + place, sum_, mask=is_query)
    tl.store(found + place[:, None] * HEAD_DIM + dim[None, :], mixed.to(found.dtype.element_ty), mask=is_query[:, None])


@jit  # type: ignore[untyped-decorator]
def _join_parts(found, tops, sums, mixed, PARTS: tl.constexpr, ROOM: tl.constexpr, HEAD_DIM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Put the parts of one query and head together."""
    place = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, ROOM)
    dim = tl.arange(0, HEAD_DIM)
    there = part < PARTS
    top = tl.load(tops + place * PARTS + part, mask=there, other=float("-inf"))
    weight = tl.exp(top - tl.max(top, 0))
    sum_ = tl.load(sums + place * PARTS + part, mask=there, other=0.0)
    parts = tl.load(found + (place * PARTS + part[:, None]) * HEAD_DIM + dim[None, :], mask=there[:, None], other=0.0)
    joined = tl.sum(weight[:, None] * parts, 0) / tl.sum(weight * sum_, 0)
    tl.store(mixed + place * HEAD_DIM + dim, joined.to(mixed.dtype.element_ty))
