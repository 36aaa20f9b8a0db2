"""Matrix products whose rows do not depend, bit for bit, on which other rows are computed with them.

Two things keep the order of a row's sums fixed: with the weight stored input-major, a product over at most 512 inputs is not split
along the inputs; and rows come in groups that `row_grouping` has measured.
"""

from typing import Final

import torch
from torch import Tensor, nn

from transcriber_engine.row_grouping import row_grouping

INPUT_BLOCK: Final = 512


class InvariantLinear(nn.Module):
    """`y = x Wᵀ + b` for x of shape [..., inputs] and W of shape [outputs, inputs]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.blocks = [block.t().contiguous() for block in torch.split(weight, INPUT_BLOCK, dim=1)]
        self.bias = bias
        self.outputs, self.inputs = weight.shape
        self.kernel = ("linear", self.outputs, self.inputs, weight.dtype, weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        y = row_grouping(self.kernel, self._of_equal_rows).apply(self._product, x.reshape(-1, self.inputs))
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], self.outputs)

    def _product(self, rows: Tensor) -> Tensor:
        """[rows, inputs] -> [rows, outputs], a sum over blocks of inputs in their order."""
        parts = torch.split(rows, INPUT_BLOCK, dim=1)
        y = parts[0] @ self.blocks[0]
        for part, block in zip(parts[1:], self.blocks[1:], strict=True):
            y = y + part @ block
        return y

    def _of_equal_rows(self, count: int) -> Tensor:
        row = torch.linspace(-1, 1, self.inputs).to(self.blocks[0])
        return self._product(row.expand(count, -1).contiguous())
