"""Matrix products whose rows do not depend, bit for bit, on which other rows are computed with them.

On a CPU in float32 they are a kernel's that is compiled for it (linear_kernel.py), which treats all rows alike. On a CPU otherwise
they are oneDNN's with the weight packed once: for the few rows of a decoding step two to four times as fast as a product that packs
its weight at every call. Whatever library multiplies, rows come in groups that `row_grouping` has measured to be reproducible.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transcriber_engine.row_grouping import ALWAYS_AS_MANY, UP_TO_256, row_grouping

if TYPE_CHECKING:
    from transcriber_engine.linear_kernel import Kernel, Panels

LOG = logging.getLogger(__name__)

PACKED_FOR_ROWS: Final = 16  # the number of rows that oneDNN chooses the layout of a packed weight for
INPUT_BLOCK: Final = 512  # a product over more inputs may be split among threads, and is added up in another order


class InvariantLinear(nn.Module):
    """`y = x Wᵀ + b` for x of shape [..., inputs] and W of shape [outputs, inputs]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.bias = bias
        self.outputs, self.inputs = weight.shape
        self.kernel = ("linear", self.outputs, self.inputs, weight.dtype, weight.device)
        self.like = weight[:0, :0]
        self.panels = None if weight.is_cuda or weight.dtype != torch.float32 else _panels(weight, bias)
        self.packed = None if self.panels is not None else _packed(weight)
        is_packed = self.panels is not None or self.packed is not None
        self.whole = weight if weight.is_cuda else None
        in_blocks = not is_packed and self.whole is None
        self.blocks = [b.t().contiguous() for b in torch.split(weight, INPUT_BLOCK, dim=1)] if in_blocks else []

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        rows = x.reshape(-1, self.inputs)
        if self.panels is not None:
            y = self.panels(rows)
        else:
            groupings = UP_TO_256 if self.whole is None else ALWAYS_AS_MANY
            y = row_grouping(self.kernel, self._of_equal_rows, groupings).apply(self._product, rows)
        return y.view(*x.shape[:-1], self.outputs)

    def _product(self, rows: Tensor) -> Tensor:
        """[rows, inputs] -> [rows, outputs]."""
        if self.packed is not None:
            return _of_onednn(rows, self.packed, self.bias)
        if self.whole is not None:
            return F.linear(rows, self.whole, self.bias)
        parts = torch.split(rows, INPUT_BLOCK, dim=1)
        y = parts[0] @ self.blocks[0]
        for part, block in zip(parts[1:], self.blocks[1:], strict=True):
            y = y + part @ block
        return y if self.bias is None else y + self.bias

    def _of_equal_rows(self, count: int) -> Tensor:
        row = torch.linspace(-1, 1, self.inputs).to(self.like)
        return self._product(row.expand(count, -1).contiguous())


class PlainLinear(nn.Module):
    """The same product by torch, of as many rows as there are: for what nothing exact depends on, or what has always as many."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        return F.linear(x, self.weight, self.bias)


class PackedLinear(nn.Module):
    """The same product, of always as many rows, with Whisper's GELU after it where that is wanted; for oneDNN alone."""

    def __init__(self, linear: nn.Linear, *, rows: int, gelu: bool = False) -> None:
        super().__init__()
        self.bias = linear.bias
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight, rows)
        self.activation = "gelu" if gelu else "none"

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")
        return y


def packs(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by such a weight."""
    is_there = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return is_there and not weight.is_cuda and weight.dtype in (torch.float32, torch.bfloat16)


class DraftLinear(nn.Module):
    """The same product of factors in bfloat16, for float32 rows of a draft, whose numbers nothing exact depends on.

    A step of a draft is over when its weights have been read: half the bytes are half the time.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Needs the kernel of pairs; see `compiled_kernel`."""
        super().__init__()
        self.outputs, self.inputs = weight.shape
        panels = _panels(weight, bias, paired=True)
        assert panels is not None
        self.panels = panels

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: float32 [..., inputs] -> float32 [..., outputs]."""
        return self.panels(x.reshape(-1, self.inputs)).view(*x.shape[:-1], self.outputs)


def _panels(weight: Tensor, bias: Tensor | None, *, paired: bool = False) -> "Panels | None":
    """Pack a weight for the compiled kernel; None where there is none."""
    kernel = compiled_kernel(paired=paired)
    if kernel is None:
        return None
    from transcriber_engine.linear_kernel import Panels

    return Panels(kernel, weight, bias)


@cache
def compiled_kernel(*, paired: bool = False, surveyed: bool = False, adds: bool = False) -> "Kernel | None":
    """Return the kernel of a kind (linear_kernel.Shape), or None where something that it needs is missing."""
    try:
        from transcriber_engine.linear_kernel import Kernel, host_shape
        from transcriber_engine.vector_code import torch_openmp
    except ImportError as missing:
        LOG.warning("linear layers are a library's, which are slower: %s; install `llvmlite`", missing)
        return None
    shape, openmp = host_shape(paired=paired, surveyed=surveyed, adds=adds), torch_openmp()
    if shape is None or openmp is None:
        if not paired:  # many a good processor has no pairs
            LOG.warning("linear layers are a library's, which are slower: no kernel for this processor and torch")
        return None
    return Kernel(shape, openmp)


def unpacked_product(weight: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the fastest product `(rows, weight)` for one row and a weight that is not to be held twice.

    oneDNN reads it with all cores, torch's own library with one.
    """
    return _of_onednn if packs(weight) else F.linear


def _of_onednn(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return y


def _packed(weight: Tensor) -> Tensor | None:
    """Pack a weight as oneDNN likes it; None where it does not multiply."""
    if not packs(weight):
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)
    return packed
