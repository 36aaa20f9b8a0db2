"""The output head: which id of text scores highest, found with far less work than scoring all of them in full.

Half of a decoding step of Whisper's smaller models is the product of hidden states with 51,865 embeddings, of which one score per
position matters. `ScreenedHead` finds it in two passes: all scores roughly, in bfloat16, and in full only those that may be the
highest, which a bound on the rounding proves the others are not. What it finds is the argmax itself, whatever was rounded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transcriber_engine.linear import HalvedLinear
from transcriber_engine.rules import NEVER, Scores, Vocabulary, mass_above, split_scores

CHUNK: Final = 128  # ids that are looked at together
BLOCKS: Final = 4
ROUNDING: Final = 2.0**-8  # of a result in bfloat16, relative
SUM_ROUNDING: Final = 2.0**-23  # of one float32 addition, relative, and room to spare


Head = Union["FullHead", "ScreenedHead"]


class FullHead(nn.Module):
    """Scores every id that it can say, as the linear layer does that it is given."""

    def __init__(self, weight: Tensor, linear: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
        """`weight` [ids, d_model] has the rows of the first ids of text, and of all from the end of text on."""
        super().__init__()
        self.ids = weight.shape[0]
        self.linear = linear(weight, None)

    def forward(self, hidden: Tensor, vocabulary: Vocabulary, opening: Tensor | None, *, with_mass: bool) -> Scores:
        """Score hidden states [N, d_model]; see `rules.split_scores`."""
        return split_scores(self.linear(hidden).float(), vocabulary, opening, with_mass=with_mass)


class ScreenedHead(nn.Module):
    """Finds the best id of text by screening; special ids and timestamps are scored in full. For float32 on a CPU."""

    def __init__(self, weight: Tensor, vocabulary: Vocabulary, linear: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
        """`weight` is [vocab_size, d_model]."""
        super().__init__()
        self.ids = weight.shape[0]
        text_ids = vocabulary.text_ids
        self.weight = weight[:text_ids]
        self.rest = linear(weight[text_ids:], None)
        # Block by block, so that what is made of the scores of a block is made while they are in the cache.
        self.block_ids = CHUNK * math.ceil(text_ids / (BLOCKS * CHUNK))
        never = torch.full((BLOCKS * self.block_ids,), NEVER)
        never[:text_ids] = 0
        never[vocabulary.suppressed_text] = NEVER
        padded = F.pad(self.weight, (0, 0, 0, len(never) - text_ids))
        blocks = zip(torch.split(padded, self.block_ids), torch.split(never, self.block_ids), strict=True)
        self.rough = [HalvedLinear(*block) for block in blocks]
        self.longest = float(self.weight.norm(dim=1).max())
        self.lost = float((self.weight - self.weight.bfloat16().float()).norm(dim=1).max())  # of a row, to rounding

    def forward(self, hidden: Tensor, vocabulary: Vocabulary, opening: Tensor | None, *, with_mass: bool) -> Scores:
        """Score hidden states [N, d_model]; see `rules.split_scores`. The sum over text is exact where it matters most."""
        halved = hidden.bfloat16()
        rough = [linear.halved(halved) for linear in self.rough]
        if opening is not None:
            for place in vocabulary.begin_suppressed_text.tolist():
                rough[place // self.block_ids][opening, place % self.block_ids] = NEVER
        peaks, masses = zip(*(_survey(block, with_mass=with_mass) for block in rough), strict=True)
        found = self._search(hidden, rough, peaks)
        rest = split_scores(self.rest(hidden), vocabulary.of_head(self.ids - len(self.weight)), opening, with_mass=False)
        mass = _corrected(torch.stack(masses).logsumexp(dim=0), found) if with_mass else None
        return replace(rest, token=found.tokens, highest=found.highest, mass=mass)

    def _search(self, rows: Tensor, rough: Sequence[Tensor], peaks: Sequence[Tensor]) -> "_Found":
        """Score in full what may be the highest, of blocks of rough scores [rows, ids] and the highest of each chunk."""
        top = torch.stack([each.amax(dim=-1) for each in peaks]).amax(dim=0)
        floor = top - 2 * self._error(rows, top)
        near = [_near(block, chunks, floor) for block, chunks in zip(rough, peaks, strict=True)]
        row, roughly = (torch.cat(each) for each in list(zip(*near, strict=True))[::2])
        ids = torch.cat([place + i * self.block_ids for i, (_, place, _) in enumerate(near)])
        # In float64 the order of the sum does not reach the float32 that is compared.
        exactly = (rows[row].double() * self.weight[ids].double()).sum(dim=-1).float()
        highest = torch.full_like(top, NEVER).scatter_reduce_(0, row, exactly, "amax")
        is_best = exactly == highest[row]
        tokens = torch.full_like(top, self.ids, dtype=torch.long).scatter_reduce_(0, row[is_best], ids[is_best], "amin")
        return _Found(tokens, highest, row, roughly, exactly)

    def _error(self, rows: Tensor, top: Tensor) -> Tensor:
        """Bound what a rough score is off: both factors' rounding, by Cauchy and Schwarz, and that of the sum and of the result."""
        rounded = rows.bfloat16().float()
        of_sum = rows.shape[1] * SUM_ROUNDING * (self.longest + self.lost)
        factors = (rows - rounded).norm(dim=1) * self.longest + rounded.norm(dim=1) * (self.lost + of_sum)
        bound: Tensor = factors + top.abs() * ROUNDING * 2
        return bound


@dataclass(frozen=True)
class _Found:
    """By row the best id and its score; and of all that were scored in full the row, the rough and the full score."""

    tokens: Tensor
    highest: Tensor
    row: Tensor
    roughly: Tensor
    exactly: Tensor


def _survey(block: Tensor, *, with_mass: bool) -> tuple[Tensor, Tensor]:
    """Return of scores [rows, ids] the highest of each chunk, and the logsumexp of all, if wanted."""
    scores = block.float()
    peaks = scores.view(len(block), -1, CHUNK).amax(dim=-1)
    top = peaks.amax(dim=-1)
    return peaks, mass_above(scores, top[:, None])[:, 0] if with_mass else top


def _near(block: Tensor, peaks: Tensor, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, place and rough score of what reaches the floor of its row."""
    row, chunk = (peaks >= floor[:, None]).nonzero(as_tuple=True)
    scores = block.view(len(block), -1, CHUNK)[row, chunk].float()
    which, place = (scores >= floor[row, None]).nonzero(as_tuple=True)
    return row[which], chunk[which] * CHUNK + place, scores[which, place]


def _corrected(mass: Tensor, found: _Found) -> Tensor:
    """Put the full scores in the place of the rough ones in a logsumexp [rows]."""
    change = (found.exactly - mass[found.row]).exp() - (found.roughly - mass[found.row]).exp()
    return mass + torch.zeros_like(mass).index_add(0, found.row, change).log1p()
