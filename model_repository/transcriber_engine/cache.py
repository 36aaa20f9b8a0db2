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
    """Per layer: keys [slots, heads, head_dim, T] and values [slots, heads, T, head_dim]; T: text positions or audio frames.

    Keys have time last, so that attention reads both in the order in which they lie.
    """

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
        frames_dtype: torch.dtype,
        device: torch.device,
    ) -> "SlotCache":
        """Allocate zeroed caches, audio frames in `frames_dtype`; zeros, since masked garbage must still be finite."""

        def buffers(dtype: torch.dtype, *shape: int) -> tuple[Tensor, ...]:
            return tuple(torch.zeros((slots, heads, *shape), dtype=dtype, device=device) for _ in range(layers))

        text = positions + SCRATCH_POSITIONS
        return cls(
            buffers(dtype, head_dim, text),
            buffers(dtype, text, head_dim),
            buffers(frames_dtype, head_dim, frames),
            buffers(frames_dtype, frames, head_dim),
        )
