"""Exact speculative decoding of ragged rows: draft, verify, accept per row, commit.

A token is committed only where it equals the target's own processed argmax at that position, so the output is the target's, token
for token, whatever the draft says, however many rows share the batch and however long the draft is. Rejecting costs nothing:
`length` says what is committed, and the keys and values past it are overwritten by the next cycle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transcriber_engine.cache import SlotCache
from transcriber_engine.decoder import Decoder
from transcriber_engine.rules import Prefix, Vocabulary, advance, apply_rules

KEY_LIMIT_STEP = 64  # keys are read up to a multiple of this, so that few shapes occur


@dataclass
class Row:
    """One window being decoded in a slot: everything that the rules and the caches need to know of it."""

    slot: int
    tokens: list[int]  # prompt and committed tokens
    prompt_length: int
    max_length: int  # prompt and committed tokens at most
    timestamps: bool
    draft_cap: int  # most draft tokens this row takes in a cycle; 0: the target alone decodes it
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

    def last_timestamp(self, timestamp_begin: int) -> int:
        """Return the last committed timestamp token, -1 for none."""
        return next((t for t in reversed(self.generated) if t >= timestamp_begin), -1)


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


def _run(decoder: Decoder, cache: SlotCache, rows: Sequence[Row], tokens: Tensor, starts: Sequence[int]) -> Tensor:
    """Run tokens [B, Q] standing at `starts`; hidden states [B, Q, d_model]."""
    longest = max(starts) + tokens.shape[1]
    limit = min(-(-longest // KEY_LIMIT_STEP) * KEY_LIMIT_STEP, cache.self_keys[0].shape[2])
    at = torch.tensor(starts, device=tokens.device)
    return decoder(cache, [row.slot for row in rows], tokens, at, limit)  # type: ignore[no-any-return]


def catch_up(draft: Decoder, cache: SlotCache, row: Row, until: int) -> None:
    """Feed the draft what it missed of a row, up to position `until`."""
    missed = torch.tensor([row.tokens[row.draft_length : until]], device=draft.embed_tokens.device)
    _run(draft, cache, [row], missed, [row.draft_length])
    row.draft_length = until


def propose_with_model(
    draft: Decoder, cache: SlotCache, rows: Sequence[Row], count: int, prefix: Prefix, vocabulary: Vocabulary
) -> Tensor:
    """Let the draft decoder continue each row by `count` tokens, greedily and under the target's rules: int64 [B, count].

    The draft's cache lags by one or two tokens after a cycle with speculation, and by more after cycles without. The first step
    feeds the last two to every row, since writing a position again is harmless; rows that lag more catch up alone before.
    """
    lengths = [len(row.tokens) for row in rows]
    width = min(2, *lengths)
    starts = [length - width for length in lengths]
    for row, start in zip(rows, starts, strict=True):
        if row.draft_length < start:
            catch_up(draft, cache, row, start)
    tokens = torch.tensor([row.tokens[-width:] for row in rows], device=draft.embed_tokens.device)
    proposed: list[Tensor] = []
    last = tokens[:, -1]
    for step in range(count):
        hidden = _run(draft, cache, rows, tokens, starts)[:, -1:]
        scores = apply_rules(draft.logits(hidden), last[:, None], prefix, vocabulary)
        prefix = advance(prefix, last, vocabulary)
        last = scores[:, 0].argmax(dim=-1)
        proposed.append(last)
        tokens, starts = last[:, None], [length + step for length in lengths]
    return torch.stack(proposed, dim=1)


def propose_by_lookup(rows: Sequence[Row], count: int, device: torch.device, longest_match: int = 3) -> Tensor:
    """Continue each row as its own text continued after the latest earlier match of its last tokens: int64 [B, count].

    Needs no draft model and works in any language; a row without a match proposes its last token again and loses nothing but the
    verification of it.
    """
    return torch.tensor([_look_up(row.tokens, count, longest_match) for row in rows], device=device)


def _look_up(tokens: Sequence[int], count: int, longest_match: int) -> list[int]:
    for size in range(min(longest_match, len(tokens) - 1), 0, -1):
        tail = list(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if list(tokens[start : start + size]) == tail:
                found = list(tokens[start + size : start + size + count])
                return (found + [tokens[-1]] * count)[:count]
    return [tokens[-1]] * count


def verify(
    target: Decoder, cache: SlotCache, rows: Sequence[Row], drafts: Tensor, prefix: Prefix, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor]:
    """Return the target's choice at every drafted position and the one after, and its log-probability: both [B, K+1].

    Each position is scored under the rules with the prefix it has if all drafts before it are accepted.
    """
    last = torch.tensor([[row.tokens[-1]] for row in rows], device=drafts.device)
    inputs = torch.cat([last, drafts], dim=1)
    hidden = _run(target, cache, rows, inputs, [len(row.tokens) - 1 for row in rows])
    scores = apply_rules(target.logits(hidden), inputs, prefix, vocabulary)
    choices = scores.argmax(dim=-1)
    chosen = scores.gather(-1, choices[..., None])[..., 0]
    return choices, chosen - scores.logsumexp(dim=-1)


def accept(row: Row, draft: Sequence[int], choices: Sequence[int], logprobs: Sequence[float], end_of_text: int) -> Commit:
    """Decide what a row commits: the longest run of drafts equal to the target's choices, and the choice after them."""
    accepted = next((i for i, token in enumerate(draft) if token != choices[i]), len(draft))
    room = row.max_length - len(row.tokens)
    tokens = list(choices[: min(accepted + 1, room)])
    if end_of_text in tokens:
        tokens = tokens[: tokens.index(end_of_text) + 1]
    return Commit(tokens, accepted, list(logprobs[: len(tokens)]))


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
