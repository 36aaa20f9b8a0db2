"""Tokens of many rows as one flat run, so that every row may have as many as pay, and no product computes padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Neighbouring rows of one width."""

    first_row: int
    rows: int
    first_token: int
    width: int

    def of_tokens(self, x: Tensor) -> Tensor:
        """[N, …] -> [rows, width, …]."""
        return x[self.first_token : self.first_token + self.rows * self.width].view(self.rows, self.width, *x.shape[1:])

    def of_rows(self, x: Tensor) -> Tensor:
        """[B, …] -> [rows, …]."""
        return x[self.first_row : self.first_row + self.rows]


@dataclass(frozen=True)
class RaggedTokens:
    """N tokens of B rows in the order of the rows; each row's stand at consecutive positions of its slot."""

    ids: Tensor  # [N]
    positions: Tensor  # [N]
    slots: Tensor  # [N]
    row_slots: Tensor | None  # [B]; None: row b is slot b
    row_starts: Tensor  # [B], the position of a row's first token
    blocks: tuple[Block, ...]

    @cached_property
    def visible(self) -> Tensor:
        """How many keys of its row the first token of each row sees, itself among them: [B]."""
        return self.row_starts + 1

    @classmethod
    def of_equal_rows(cls, slots: Tensor | None, ids: Tensor, starts: Tensor) -> "RaggedTokens":
        """Take ids [B, Q] of slots [B] (None: of slots 0 to B-1), which stand at `starts[b] + arange(Q)`."""
        rows, width = ids.shape
        positions = starts[:, None] + torch.arange(width, device=ids.device)
        by_token = (torch.arange(rows, device=ids.device) if slots is None else slots)[:, None].expand(rows, width)
        return cls(ids.flatten(), positions.flatten(), by_token.flatten(), slots, starts, (Block(0, rows, 0, width),))

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, int, Sequence[int]]], device: torch.device) -> "RaggedTokens":
        """Take the rows' slots, first positions and tokens; rows of one width must be neighbours."""
        blocks: list[Block] = []
        row, token = 0, 0
        for width, group in groupby(len(tokens) for _, _, tokens in rows):
            count = len(list(group))
            blocks.append(Block(row, count, token, width))
            row, token = row + count, token + count * width
        table = [(i, start + offset, slot) for slot, start, ids in rows for offset, i in enumerate(ids)]
        flat = torch.tensor(table, device=device).t().contiguous()
        heads = torch.tensor([(slot, start) for slot, start, _ in rows], device=device).t().contiguous()
        return cls(flat[0], flat[1], flat[2], heads[0], heads[1], tuple(blocks))
