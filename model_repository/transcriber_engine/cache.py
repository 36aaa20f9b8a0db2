"""Keys and values of every decoding slot, allocated once.

`length` of a row is its only truth: what lies past it is garbage that masks hide and the next cycle overwrites, so a rejected
draft costs nothing to take back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Drafts may be verified past the last position a row can commit; their keys land here and are never attended to.
SCRATCH_POSITIONS = 17


@dataclass(frozen=True)
class SlotCache:
    """Per layer: self-attention [slots, heads, positions, head_dim], cross-attention [slots, heads, frames, head_dim]."""

    self_keys: tuple[Tensor, ...]
    self_values: tuple[Tensor, ...]
    cross_keys: tuple[Tensor, ...]
    cross_values: tuple[Tensor, ...]

    @classmethod
    def allocate(
        cls,
        layers: int,
        slots: int,
        heads: int,
        head_dim: int,
        positions: int,
        frames: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> "SlotCache":
        """Allocate zeroed caches; zeros, since masked garbage must still be finite."""

        def buffers(length: int) -> tuple[Tensor, ...]:
            shape = (slots, heads, length, head_dim)
            return tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers))

        text = positions + SCRATCH_POSITIONS
        return cls(buffers(text), buffers(text), buffers(frames), buffers(frames))
