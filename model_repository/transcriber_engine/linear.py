"""Matrix products whose rows do not depend, bit for bit, on which other rows are computed with them.

A token must not change because its row shared a batch with others or was verified together with drafts. BLAS libraries
choose a kernel by the number of rows, and kernels add in different orders. Two facts, checked by `tests/engine/test_invariance.py`
on the CPU that runs the tests, keep the order fixed: with the weight stored input-major, a product over at most 512 inputs is
never split along the inputs; and one row alone takes another kernel (a matrix-vector product), so it is computed as two.
"""

from typing import Final

import torch
from torch import Tensor, nn

INPUT_BLOCK: Final = 512
MIN_ROWS: Final = 2


class InvariantLinear(nn.Module):
    """`y = x Wᵀ + b` for x of shape [..., inputs] and W of shape [outputs, inputs]."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.blocks = [block.t().contiguous() for block in torch.split(weight, INPUT_BLOCK, dim=1)]
        self.bias = bias
        self.outputs = weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: [..., inputs] -> [..., outputs]."""
        rows = x.reshape(-1, x.shape[-1])
        count = rows.shape[0]
        if count < MIN_ROWS:
            rows = rows.expand(MIN_ROWS, -1).contiguous()
        parts = torch.split(rows, INPUT_BLOCK, dim=1)
        y: Tensor = parts[0] @ self.blocks[0]
        for part, block in zip(parts[1:], self.blocks[1:], strict=True):
            y = y + part @ block
        if self.bias is not None:
            y = y + self.bias
        return y[:count].view(*x.shape[:-1], self.outputs)
