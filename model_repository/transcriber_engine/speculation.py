"""Exact speculative decoding of ragged rows: draft, verify, accept per row, commit.

A token is committed only where it equals the target's own processed argmax at that position, so the output is the target's, token
for token, whatever the draft says, however many rows share the batch and however long the draft is. Rejecting costs nothing:
`length` says what is committed, and the keys and values past it are overwritten by the next cycle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from transcriber_engine.cache import SlotCache
from transcriber_engine.decoder import Decoder
from transcriber_engine.head import DraftHead
from transcriber_engine.ragged import Block, RaggedTokens
from transcriber_engine.rules import Prefix, Vocabulary, advance, best, choose, rule, sample, split_scores

SEEDS_APART = 1 << 16  # more than the positions of a row


@dataclass
class Row:
    """One window being decoded in a slot: everything that the rules and the caches need to know of it."""

    slot: int
    tokens: list[int]  # prompt and committed tokens
    prompt_length: int
    max_length: int  # prompt and committed tokens at most
    timestamps: bool
    draft_cap: int  # most draft tokens this row takes in a cycle; 0: the target alone decodes it
    temperature: float = 0.0  # 0: the argmax; else tokens are drawn, from `seed` and their position
    seed: int = 0
    draft_length: int = 0  # positions whose keys the draft's cache holds
    sum_logprob: float = 0.0
    done: bool = False
    drafted: int = 0
    accepted: int = 0
    cycles: int = 0

    @property
    def generated(self) -> list[int]:
        """Tokens committed after the prompt."""
        return self.tokens[self.prompt_length :]

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability of the committed tokens, the end of text included; 0 before the first."""
        return self.sum_logprob / max(len(self.generated), 1)

    def rewound(self, temperature: float, seed: int) -> "Row":
        """Return this row at its prompt again, to be drawn at a temperature; the keys of the prompt are still in the slot."""
        prompt = self.tokens[: self.prompt_length]
        return replace(
            self, tokens=prompt, temperature=temperature, seed=seed, draft_cap=0, draft_length=0, sum_logprob=0.0, done=False
        )

    def last_timestamp(self, timestamp_begin: int) -> int:
        """Return the last committed timestamp token, -1 for none."""
        return next((t for t in reversed(self.generated) if t >= timestamp_begin), -1)


@dataclass(frozen=True)
class Verified:
    """The target's choice at each drafted position of a row and the one after, and its log-probability."""

    choices: list[int]
    logprobs: list[float]


@dataclass(frozen=True)
class Commit:
    """What a cycle decided for a row."""

    tokens: list[int]  # accepted drafts and one token of the target's, cut at the end of text and at the row's limit
    accepted: int  # drafts among them before the cut
    logprobs: list[float]


def prefix_of(rows: Sequence[Row], vocabulary: Vocabulary, device: torch.device) -> Prefix:
    """Describe to the rules what the rows have committed."""
    begin = vocabulary.timestamp_begin
    penultimate = [len(r.generated) < 2 or r.tokens[-2] >= begin for r in rows]
    return Prefix(
        generated=torch.tensor([len(r.generated) for r in rows], device=device),
        penultimate_is_timestamp=torch.tensor(penultimate, device=device),
        last_timestamp=torch.tensor([r.last_timestamp(begin) for r in rows], device=device),
        timestamps=torch.tensor([r.timestamps for r in rows], device=device),
        any_timestamps=any(r.timestamps for r in rows),
    )


def _opening(rows: Sequence[Row], widths: Sequence[int], device: torch.device) -> Tensor | None:
    """Which of the rows' tokens, so many of each, are the last before a row generates its first: bool [N], None for none."""
    if all(row.generated for row in rows):
        return None
    marks = [not row.generated and offset == 0 for row, width in zip(rows, widths, strict=True) for offset in range(width)]
    return torch.tensor(marks, device=device)


def catch_up(draft: Decoder, cache: SlotCache, row: Row, until: int) -> None:
    """Feed the draft what it missed of a row, up to position `until`."""
    missed = row.tokens[row.draft_length : until]
    draft(cache, RaggedTokens.of_rows([(row.slot, row.draft_length, missed)], draft.device))
    row.draft_length = until


def propose_with_model(
    draft: Decoder, cache: SlotCache, rows: Sequence[Row], counts: Sequence[int], prefix: Prefix, vocabulary: Vocabulary
) -> list[list[int]]:
    """Let the draft decoder continue each row by its count of tokens, greedily and under the target's rules.

    `counts` fall from row to row: the rows that draft longest come first. The draft's cache lags by one or two tokens after a cycle
    with speculation, and by more after cycles without. The first step feeds the last two to every row, since writing a position
    again is harmless; rows that lag more catch up alone before. `vocabulary` is that of the draft's head.
    """
    lengths = [len(row.tokens) for row in rows]
    width = min(2, *lengths)
    for row, length in zip(rows, lengths, strict=True):
        if row.draft_length < length - width:
            catch_up(draft, cache, row, length - width)
    heads = torch.tensor([(row.slot, length) for row, length in zip(rows, lengths, strict=True)], device=draft.device)
    slots, ends = heads[:, 0].contiguous(), heads[:, 1].contiguous()
    last = torch.tensor([row.tokens[-width:] for row in rows], device=draft.device)
    opening = _opening(rows, [1] * len(rows), draft.device)
    going = [sum(count > step for count in counts) for step in range(max(counts))]
    columns = [each.tolist() for each in continue_rows(draft, cache, slots, last, ends, opening, going, prefix, vocabulary)]
    return [[columns[step][i] for step in range(count)] for i, count in enumerate(counts)]


def continue_rows(
    draft: Decoder,
    cache: SlotCache,
    slots: Tensor | None,
    last: Tensor,
    ends: Tensor,
    opening: Tensor | None,
    going: Sequence[int],
    prefix: Prefix,
    vocabulary: Vocabulary,
) -> list[Tensor]:
    """Continue rows greedily, at each step the first `going[step]` of them: the tokens of each step.

    `last` [B, 1 or 2] are the last tokens of rows of `ends` [B] tokens in `slots` (None: slots 0 to B-1). Asks the device nothing.
    """
    proposed: list[Tensor] = []
    for step, count in enumerate(going):
        last, prefix = last[:count], prefix.first(count)
        starts = (ends[:count] + step - last.shape[1]).clamp(min=0)  # of a row of one token: ignored
        hidden = draft(cache, RaggedTokens.of_equal_rows(None if slots is None else slots[:count], last, starts))
        newest = hidden.unflatten(0, (count, -1))[:, -1]
        opens = opening if step == 0 else None
        if isinstance(draft.head, DraftHead) and opens is None and not prefix.any_timestamps:
            last = draft.head.best(newest)[:, None]
        else:
            scores = draft.score(newest, vocabulary, opens, with_mass=False)
            ruled = rule(scores.of(Block(0, count, 0, 1)), last[:, -1:], prefix, vocabulary)
            prefix = advance(prefix, last[:, -1], vocabulary)
            last = best(ruled)
        proposed.append(last[:, 0])
    return proposed


def propose_by_lookup(rows: Sequence[Row], counts: Sequence[int], longest_match: int = 3) -> list[list[int]]:
    """Continue each row as its own text continued after the latest earlier match of its last tokens.

    Needs no draft model and works in any language; a row without a match proposes its last token again and loses nothing but the
    verification of it.
    """
    return [_look_up(row.tokens, count, longest_match) for row, count in zip(rows, counts, strict=True)]


def _look_up(tokens: Sequence[int], count: int, longest_match: int) -> list[int]:
    for size in range(min(longest_match, len(tokens) - 1), 0, -1):
        tail = list(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if list(tokens[start : start + size]) == tail:
                found = list(tokens[start + size : start + size + count])
                return (found + [tokens[-1]] * count)[:count]
    return [tokens[-1]] * count


def verify(
    target: Decoder, cache: SlotCache, rows: Sequence[Row], drafts: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> list[Verified]:
    """Let the target judge each row's draft: its choice at every token and after them, with the prefix it has if all before hold.

    The choice is the argmax under the rules, or at a row with a temperature what is drawn as its next token. Rows with drafts of
    one length must be neighbours.
    """
    given = zip(rows, drafts, strict=True)
    tokens = RaggedTokens.of_rows(
        [(row.slot, len(row.tokens) - 1, [row.tokens[-1], *draft]) for row, draft in given], target.device
    )
    hidden = target(cache, tokens)
    widths = [len(draft) + 1 for draft in drafts]
    firsts = [0, *accumulate(widths)][:-1]
    scores = target.score(hidden, vocabulary, _opening(rows, widths, target.device), with_mass=True)
    verified: list[Verified] = []
    for block in tokens.blocks:
        prefix = prefix_of(rows[block.first_row : block.first_row + block.rows], vocabulary, target.device)
        choices, logprobs = choose(rule(scores.of(block), block.of_tokens(tokens.ids), prefix, vocabulary))
        verified += [Verified(c, p) for c, p in zip(choices.tolist(), logprobs.tolist(), strict=True)]
    for i, row in enumerate(rows):
        if row.temperature > 0:
            verified[i] = draw(target.logits(hidden[firsts[i]]), row, vocabulary)
    return verified


def draw(logits: Tensor, row: Row, vocabulary: Vocabulary) -> Verified:
    """Draw a row's next token, from its seed and position alone, so that neither neighbours nor slots change what it says."""
    prefix = prefix_of([row], vocabulary, logits.device)
    scores = split_scores(logits[None], vocabulary, _opening([row], [1], logits.device), with_mass=False)
    ruled = rule(scores.of(Block(0, 1, 0, 1)), torch.tensor([[row.tokens[-1]]], device=logits.device), prefix, vocabulary)
    random = torch.Generator().manual_seed(row.seed * SEEDS_APART + len(row.tokens))
    token, logprob = sample(ruled, row.temperature, random)
    return Verified([token], [logprob])


def accept(row: Row, draft: Sequence[int], verified: Verified, end_of_text: int) -> Commit:
    """Decide what a row commits: the longest run of drafts equal to the target's choices, and the choice after them."""
    choices = verified.choices
    accepted = next((i for i, token in enumerate(draft) if token != choices[i]), len(draft))
    room = row.max_length - len(row.tokens)
    tokens = choices[: min(accepted + 1, room)]
    if end_of_text in tokens:
        tokens = tokens[: tokens.index(end_of_text) + 1]
    return Commit(tokens, accepted, verified.logprobs[: len(tokens)])


def apply_commit(row: Row, commit: Commit, drafted: int, end_of_text: int) -> None:
    """Write a commit into its row."""
    if drafted:
        row.draft_length = len(row.tokens) + min(commit.accepted, drafted - 1)
        row.drafted += drafted
        row.accepted += commit.accepted
    row.tokens.extend(commit.tokens)
    row.sum_logprob += sum(commit.logprobs)
    row.cycles += 1
    row.done = commit.tokens[-1] == end_of_text or len(row.tokens) >= row.max_length
