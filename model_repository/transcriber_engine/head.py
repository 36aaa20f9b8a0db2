"""The output head: which id of text scores highest, found with far less work than scoring all of them in full.

Half of a decoding step of Whisper's smaller models is the product of hidden states with 51,865 embeddings, of which one score per
position matters. `ScreenedHead` finds it in two passes: all scores roughly, in bfloat16, and in full only those that may be the
highest, which a bound on the rounding proves the others are not. What it finds is the argmax itself, whatever was rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Union

import torch
from torch import Tensor, nn

from transcriber_engine.rules import NEVER, Scores, Vocabulary, mass_above, split_scores

if TYPE_CHECKING:
    from transcriber_engine.linear_kernel import Kernel, Surveyed

SUM_ROUNDING: Final = 2.0**-23  # of one float32 addition, relative, and room to spare


Head = Union["FullHead", "DraftHead", "ScreenedHead"]


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


class DraftHead(nn.Module):
    """Scores every id that a draft can say, in bfloat16, and knows a short way to the best. For float32 on a CPU with pairs."""

    def __init__(self, weight: Tensor, vocabulary: Vocabulary, kernel: "Kernel") -> None:
        """`weight` [ids, d_model] as in `FullHead`, of which `vocabulary` tells; `kernel` takes pairs and surveys."""
        from transcriber_engine.linear_kernel import SurveyedPanels  # here, since not every machine has a compiler

        super().__init__()
        self.ids = weight.shape[0]
        self.text_ids, self.unsaid = vocabulary.text_ids, vocabulary.end_of_text - vocabulary.text_ids
        suppressed = torch.cat([vocabulary.suppressed_text, vocabulary.suppressed_special + self.text_ids])
        self.panels = SurveyedPanels(kernel, weight, torch.zeros(self.ids).index_fill(0, suppressed, NEVER))

    def forward(self, hidden: Tensor, vocabulary: Vocabulary, opening: Tensor | None, *, with_mass: bool) -> Scores:
        """Score hidden states [N, d_model]; see `rules.split_scores`."""
        return split_scores(self.panels.survey(hidden).scores[:, : self.ids], vocabulary, opening, with_mass=with_mass)

    def best(self, hidden: Tensor) -> Tensor:
        """Return what `rules.best` would, where no row opens a window and none speaks timestamps: [N, d_model] -> [N]."""
        surveyed = self.panels.survey(hidden)
        panel = surveyed.peaks.argmax(dim=-1, keepdim=True)
        scores = surveyed.scores.view(len(hidden), -1, surveyed.columns)
        within = scores.take_along_dim(panel[..., None], dim=1)[:, 0].argmax(dim=-1, keepdim=True)
        place = (panel * surveyed.columns + within)[:, 0]
        return torch.where(place < self.text_ids, place, place + self.unsaid)


class ScreenedHead(nn.Module):
    """Finds the best id of text by screening; special ids and timestamps are scored in full. For float32 on a CPU with pairs."""

    def __init__(
        self, weight: Tensor, vocabulary: Vocabulary, linear: Callable[[Tensor, Tensor | None], nn.Module], kernel: "Kernel"
    ) -> None:
        """`weight` is [vocab_size, d_model]; `kernel` takes pairs and surveys."""
        from transcriber_engine.linear_kernel import SurveyedPanels  # here, since not every machine has a compiler

        super().__init__()
        self.ids = weight.shape[0]
        text_ids = vocabulary.text_ids
        self.weight = weight[:text_ids]
        self.rest = linear(weight[text_ids:], None)
        never = torch.zeros(text_ids).index_fill(0, vocabulary.suppressed_text, NEVER)
        self.rough = SurveyedPanels(kernel, self.weight, never)
        self.longest = float(self.weight.norm(dim=1).max())
        self.lost = float((self.weight - self.weight.bfloat16().float()).norm(dim=1).max())  # of a row, to rounding

    def forward(self, hidden: Tensor, vocabulary: Vocabulary, opening: Tensor | None, *, with_mass: bool) -> Scores:
        """Score hidden states [N, d_model]; see `rules.split_scores`. The sum over text is exact where it matters most."""
        rough = self.rough.survey(hidden)
        if opening is not None:
            for place in vocabulary.begin_suppressed_text.tolist():
                _suppress(rough, opening, place)
        found = self._search(hidden, rough)
        rest = split_scores(self.rest(hidden), vocabulary.of_head(self.ids - len(self.weight)), opening, with_mass=False)
        mass = _corrected(_mass(rough), found) if with_mass else None
        return replace(rest, token=found.tokens, highest=found.highest, mass=mass)

    def _search(self, rows: Tensor, rough: "Surveyed") -> "_Found":
        """Score in full what may be the highest."""
        top = rough.peaks.amax(dim=-1)
        row, ids, roughly = _near(rough, top - 2 * self._error(rows))
        # In float64 the order of the sum does not reach the float32 that is compared.
        exactly = (rows[row].double() * self.weight[ids].double()).sum(dim=-1).float()
        highest = torch.full_like(top, NEVER).scatter_reduce_(0, row, exactly, "amax")
        is_best = exactly == highest[row]
        tokens = torch.full_like(top, self.ids, dtype=torch.long).scatter_reduce_(0, row[is_best], ids[is_best], "amin")
        return _Found(tokens, highest, row, roughly, exactly)

    def _error(self, rows: Tensor) -> Tensor:
        """Bound what a rough score is off: both factors' rounding, by Cauchy and Schwarz, and that of the sum."""
        rounded = rows.bfloat16().float()
        of_sum = rows.shape[1] * SUM_ROUNDING * (self.longest + self.lost)
        bound: Tensor = (rows - rounded).norm(dim=1) * self.longest + rounded.norm(dim=1) * (self.lost + of_sum)
        return bound


@dataclass(frozen=True)
class _Found:
    """By row the best id and its score; and of all that were scored in full the row, the rough and the full score."""

    tokens: Tensor
    highest: Tensor
    row: Tensor
    roughly: Tensor
    exactly: Tensor


def _suppress(rough: "Surveyed", opening: Tensor, place: int) -> None:
    """Take an id out of rough scores, and of their survey, in the rows that open a window."""
    panel = place // rough.columns
    rough.scores[opening, place] = NEVER
    scores = rough.scores[opening, panel * rough.columns : (panel + 1) * rough.columns]
    rough.peaks[opening, panel] = peak = scores.amax(dim=-1)
    rough.masses[opening, panel] = (scores - peak[:, None].clamp(min=torch.finfo().min)).exp().sum(dim=-1)


def _mass(rough: "Surveyed") -> Tensor:
    """Return the logsumexp of each row of rough scores: [N]."""
    by_panel = rough.peaks + rough.masses.log()
    return mass_above(by_panel, by_panel.amax(dim=-1, keepdim=True))[:, 0]


def _near(rough: "Surveyed", floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, id and rough score of what reaches the floor of its row."""
    row, panel = (rough.peaks >= floor[:, None]).nonzero(as_tuple=True)
    scores = rough.scores.view(len(floor), -1, rough.columns)[row, panel]
    which, place = (scores >= floor[row, None]).nonzero(as_tuple=True)
    return row[which], panel[which] * rough.columns + place, scores[which, place]


def _corrected(mass: Tensor, found: _Found) -> Tensor:
    """Put the full scores in the place of the rough ones in a logsumexp [rows]."""
    change = (found.exactly - mass[found.row]).exp() - (found.roughly - mass[found.row]).exp()
    return mass + torch.zeros_like(mass).index_add(0, found.row, change).log1p()
