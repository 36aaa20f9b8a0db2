"""Attention over slot caches, in which a query's result does not depend, bit for bit, on the queries beside it.

Three ways: on a CPU for float32 queries a kernel compiled for it (attention_kernel.py); on a CPU otherwise torch's products, row by
row; on a GPU a kernel compiled for it (attention_gpu.py), or torch's fused one, for all rows at once.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from transcriber_engine.row_grouping import row_grouping

if TYPE_CHECKING:
    from transcriber_engine.attention_kernel import Kernel

LOG = logging.getLogger(__name__)


def attend(query: Tensor, keys_t: Tensor, values: Tensor, slots: Tensor | None, visible: Tensor | None) -> Tensor:
    """Let query i of row b attend to the first `visible[b] + i` keys (None: to all) of slot `slots[b]` (None: of slot b).

    query [B, Q, heads, head_dim], already scaled; keys_t [slots, heads, head_dim, T]; values [slots, heads, T, head_dim];
    slots and visible [B] of int64, on the query's device; visible >= 1. Returns [B, Q, heads, head_dim], of the query's type, which
    keys and values share, but that on a CPU a float32 query may attend to bfloat16 ones: half the bytes are half the time.

    T is that of the whole cache, whatever the rows need of it; what no query sees is finite. To be fast, a CPU's `keys_t` lies in
    memory as it is said here, and a GPU's is a view of keys that lie as [slots, heads, T, head_dim].
    """
    if query.is_cuda:
        if mix := gpu_kernel(query.shape[3]):
            return mix(query, keys_t.mT, values, slots, visible)
        return _attend_together(query, keys_t, values, slots, _shown(visible, query, values))
    if slots is None:
        slots = torch.arange(len(query))
    cached = keys_t.dtype if keys_t.stride(3) == values.stride(3) == 1 else None
    compiled = query.dtype == torch.float32 and cached in (torch.float32, torch.bfloat16)
    if compiled and (kernel := compiled_kernel(query.shape[3], values.dtype)):
        return kernel(query, keys_t, values, slots, visible)
    return _attend_row_by_row(query, keys_t, values, slots, _shown(visible, query, values))


@cache
def compiled_kernel(head_dim: int, dtype: torch.dtype) -> "Kernel | None":
    """Return the compiled kernel, or None where something that it needs is missing."""
    try:
        from transcriber_engine.attention_kernel import Kernel, host_shape
        from transcriber_engine.vector_code import torch_openmp
    except ImportError as missing:
        LOG.warning("attention runs row by row, which is slower: %s; install `llvmlite`", missing)
        return None
    shape = host_shape(head_dim, dtype)
    openmp = torch_openmp()
    if shape is None or openmp is None:
        LOG.warning("attention runs row by row, which is slower: no kernel for heads of %d on this processor and torch", head_dim)
        return None
    return Kernel(shape, openmp)


@cache
def gpu_kernel(head_dim: int) -> Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor] | None:
    """Return `attention_gpu.mix`, which was compiled and run once here, or None where that fails."""
    try:
        from transcriber_engine.attention_gpu import HEAD_DIMS, mix

        if head_dim not in HEAD_DIMS:
            raise ValueError(f"heads of {head_dim}")
        small = torch.ones(1, 1, 1, head_dim, device="cuda", dtype=torch.float16)
        mix(small, small, small, None, None)
    except Exception as error:  # no such package, no C compiler for what it generates, or a device that it does not know
        LOG.warning("attention is torch's own, which is slower: its kernel does not compile here: %s", error)
        return None
    return mix


def _shown(visible: Tensor | None, query: Tensor, values: Tensor) -> Tensor | None:
    """[B, Q, T] of bool: which key each query sees; None for all."""
    if visible is None:
        return None
    queries, keys = (torch.arange(count, device=query.device) for count in (query.shape[1], values.shape[2]))
    return keys < (visible[:, None] + queries)[:, :, None]


def _attend_together(query: Tensor, keys_t: Tensor, values: Tensor, slots: Tensor | None, shown: Tensor | None) -> Tensor:
    """All rows in one call, with the one fused kernel that never divides a query's keys among thread blocks."""
    keys = keys_t.mT
    keys, values = (each[: len(query)] if slots is None else each[slots] for each in (keys, values))
    mask = None if shown is None else shown[:, None].expand(-1, query.shape[2], -1, -1)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True):
        mixed = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=mask, scale=1.0)
    return mixed.transpose(1, 2)


def _attend_row_by_row(query: Tensor, keys_t: Tensor, values: Tensor, slots: Tensor, shown: Tensor | None) -> Tensor:
    """Row by row over views: to gather 1500 frames a row would copy as many bytes as attention itself reads."""
    heads, head_dim, keys = keys_t.shape[1:]
    grouping = row_grouping(
        ("attention", heads, head_dim, keys, query.dtype, query.device),
        lambda rows: _mix_of_equal_rows(rows, keys_t[0].to(query.dtype), values[0].to(query.dtype)),
    )
    mixed = torch.empty_like(query)
    for row, slot in enumerate(slots.tolist()):
        inputs = [query[row].transpose(0, 1).contiguous()]  # strides choose kernels, too
        if shown is not None:
            inputs.append(shown[row])
        k, v = keys_t[slot].to(query.dtype), values[slot].to(query.dtype)
        mixed[row] = grouping.apply(lambda q, mask=None, k=k, v=v: _mix(q, k, v, mask), *inputs).transpose(0, 1)
    return mixed


def _mix(query: Tensor, keys_t: Tensor, values: Tensor, shown: Tensor | None) -> Tensor:
    """query [heads, Q, head_dim], keys_t [heads, head_dim, T], values [heads, T, head_dim], shown [Q, T] or None."""
    scores = torch.bmm(query, keys_t)
    if shown is not None:
        scores.masked_fill_(~shown, float("-inf"))
    return torch.bmm(scores.softmax(dim=-1), values)


def _mix_of_equal_rows(rows: int, keys_t: Tensor, values: Tensor) -> Tensor:
    """[rows, heads, head_dim]: one query in every row, over made-up keys and values laid out as those of one slot."""
    heads, head_dim = keys_t.shape[:2]
    query = torch.linspace(-1, 1, head_dim).to(keys_t).expand(heads, rows, -1).contiguous()
    k, v = (torch.empty_like(each).copy_(torch.linspace(-1, 1, each.numel()).sin().view_as(each)) for each in (keys_t, values))
    return _mix(query, k, v, None).transpose(0, 1)
