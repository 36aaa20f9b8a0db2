"""The screened head: it finds what scoring all ids in full would, whatever rounding hides, and each row alone."""

import pytest
import torch
from torch import Tensor

from tests.engine.toy import toy_pair
from transcriber_engine.head import DraftHead, FullHead, ScreenedHead
from transcriber_engine.linear import InvariantLinear, compiled_kernel
from transcriber_engine.ragged import Block
from transcriber_engine.rules import Prefix, Scores, Vocabulary, best, rule

KERNEL = compiled_kernel(paired=True, surveyed=True) or compiled_kernel(surveyed=True)  # without pairs nothing screens but a test

D_MODEL = 64


@pytest.fixture
def vocabulary() -> Vocabulary:
    return toy_pair(seed=1).vocabulary


def heads(vocabulary: Vocabulary, weight: Tensor) -> tuple[ScreenedHead, FullHead]:
    assert KERNEL is not None
    return ScreenedHead(weight, vocabulary, InvariantLinear, KERNEL), FullHead(weight, InvariantLinear)


def weight_of(vocabulary: Vocabulary) -> Tensor:
    return torch.randn(vocabulary.size, D_MODEL, generator=torch.Generator().manual_seed(2))


def both(vocabulary: Vocabulary, weight: Tensor, hidden: Tensor, opening: Tensor | None = None) -> tuple[Scores, Scores]:
    screened, full = heads(vocabulary, weight)
    found = screened(hidden, vocabulary, opening, with_mass=True)
    return found, full(hidden.clone(), vocabulary, opening, with_mass=True)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_it_finds_what_scoring_all_in_full_finds(rows: int, vocabulary: Vocabulary) -> None:
    opening = torch.arange(rows) % 2 == 0
    found, meant = both(vocabulary, weight_of(vocabulary), torch.randn(rows, D_MODEL), opening)
    assert torch.equal(found.token, meant.token)
    for name in ("highest", "special", "times"):
        torch.testing.assert_close(getattr(found, name), getattr(meant, name))
    torch.testing.assert_close(found.mass, meant.mass, rtol=0, atol=0.03)  # of what is not near the best, as bfloat16 has it


def test_ids_that_rounding_cannot_tell_apart_are_told_apart(vocabulary: Vocabulary) -> None:
    """All ids of text say nearly the same: within bfloat16's rounding they are one."""
    hidden, steps = torch.randn(20, D_MODEL), torch.randn(vocabulary.size, 1) * 1e-5
    weight = torch.ones(vocabulary.size, 1) @ torch.randn(1, D_MODEL) * (1 + steps)
    found, _ = both(vocabulary, weight, hidden)
    text = (hidden.double() @ weight[: vocabulary.text_ids].double().t()).float()
    text[:, vocabulary.suppressed_text] = float("-inf")
    assert torch.equal(found.token, text.argmax(dim=-1))


def test_of_equals_it_takes_the_lowest_id(vocabulary: Vocabulary) -> None:
    hidden, weight = torch.randn(5, D_MODEL), torch.randn(1, D_MODEL).expand(vocabulary.size, -1).contiguous()
    allowed = [i for i in range(vocabulary.text_ids) if i not in vocabulary.suppressed_text.tolist()]
    assert both(vocabulary, weight, hidden)[0].token.tolist() == [allowed[0]] * 5


def test_a_row_is_scored_alike_alone_and_among_others(vocabulary: Vocabulary) -> None:
    screened, _ = heads(vocabulary, weight_of(vocabulary))
    hidden = torch.randn(40, D_MODEL)
    together = screened(hidden, vocabulary, None, with_mass=True)
    for row in range(40):
        alone = screened(hidden[row : row + 1], vocabulary, None, with_mass=True)
        for name in ("token", "highest", "mass", "special", "times"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[row]), (row, name)


@pytest.mark.parametrize("words", [24, 10])
def test_the_short_way_of_a_draft_says_what_the_rules_say(words: int, vocabulary: Vocabulary) -> None:
    """A draft knows the first words alone, and all special ids."""
    assert KERNEL is not None
    weight = weight_of(vocabulary)
    weight = torch.cat([weight[:words], weight[vocabulary.end_of_text :]])
    own = vocabulary.of_head(len(weight))
    head, hidden = DraftHead(weight, own, KERNEL), torch.randn(30, D_MODEL)
    scores, nothing = head(hidden, own, None, with_mass=False), torch.zeros(30, dtype=torch.long)
    prefix = Prefix(nothing, nothing > 0, nothing - 1, nothing > 0, any_timestamps=False)
    by_rules = best(rule(scores.of(Block(0, 30, 0, 1)), nothing[:, None], prefix, own))[:, 0]
    assert torch.equal(head.best(hidden), by_rules)
    assert not set(by_rules.tolist()) & set(range(words, vocabulary.end_of_text))
