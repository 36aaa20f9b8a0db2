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

    On a CPU keys lie with time last, so that attention reads both in the order in which they lie; on a GPU as the values do, since
    its fused kernel wants that, and what is kept here is a view of them.
    """

    self_keys: tuple[Tensor, ...]
    self_values: tuple[Tensor, ...]
    cross_keys: tuple[Tensor, ...]
    cross_values: tuple[Tensor, ...]
    cross_scales: tuple[tuple[Tensor, Tensor], ...]  # of frames kept in int8, else none: float32 [slots, heads, head_dim] a layer

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

        def values(dtype: torch.dtype, time: int) -> tuple[Tensor, ...]:
            return tuple(torch.zeros((slots, heads, time, head_dim), dtype=dtype, device=device) for _ in range(layers))

        def keys(dtype: torch.dtype, time: int) -> tuple[Tensor, ...]:
            buffers = values(dtype, time)
            return tuple(each.mT if device.type == "cuda" else each.view(slots, heads, head_dim, time) for each in buffers)

        text = positions + SCRATCH_POSITIONS

        def scale() -> Tensor:
            return torch.zeros((slots, heads, head_dim), device=device)

        scales = tuple((scale(), scale()) for _ in range(layers if frames_dtype == torch.int8 else 0))
        return cls(keys(dtype, text), values(dtype, text), keys(frames_dtype, frames), values(frames_dtype, frames), scales)
