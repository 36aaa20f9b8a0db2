"""Whisper's rules on what may be said next, as pure functions on logits.

They are part of the target's distribution: a draft is accepted against the logits *after* the rules, each position seeing the
prefix it would have seen in plain greedy decoding. Rules follow openai/whisper `decoding.py` and transformers'
`WhisperTimeStampLogitsProcessor`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = float("-inf")


@dataclass(frozen=True)
class Vocabulary:
    """The ids that the rules speak of; `suppressed` and `begin_suppressed` are bool masks [vocab_size]."""

    end_of_text: int
    no_timestamps: int
    timestamp_begin: int
    suppressed: Tensor
    begin_suppressed: Tensor
    max_initial_timestamp: int  # in steps of 20 ms


@dataclass(frozen=True)
class Prefix:
    """What B rows committed before a cycle, as far as the rules look back; tensors of shape [B]."""

    generated: Tensor  # tokens committed after the prompt
    penultimate_is_timestamp: Tensor  # bool; True where fewer than two tokens were generated
    last_timestamp: Tensor  # id of the last committed timestamp, -1 for none
    timestamps: Tensor  # bool: whether the row speaks timestamps at all
    any_timestamps: bool  # the same for the whole batch, known without asking the device


def apply_rules(logits: Tensor, inputs: Tensor, prefix: Prefix, vocabulary: Vocabulary) -> Tensor:
    """Mask what may not follow: logits [B, Q, V] of positions whose inputs [B, Q] are the last committed token and Q-1 drafts."""
    first = (prefix.generated == 0)[:, None] & (torch.arange(inputs.shape[1], device=inputs.device) == 0)
    logits = logits.masked_fill(vocabulary.suppressed, NEVER)
    logits = logits.masked_fill(first[..., None] & vocabulary.begin_suppressed, NEVER)
    if not prefix.any_timestamps:
        return logits
    timed = _apply_timestamp_rules(logits, inputs, prefix, first, vocabulary)
    return torch.where(prefix.timestamps[:, None, None], timed, logits)


def _apply_timestamp_rules(logits: Tensor, inputs: Tensor, prefix: Prefix, first: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Timestamps come in pairs, never go back, open the window, and win when together they outweigh any text token."""
    begin, end_of_text = vocabulary.timestamp_begin, vocabulary.end_of_text
    ids = torch.arange(logits.shape[-1], device=logits.device)
    is_time, is_text = ids >= begin, ids < end_of_text

    last_is_time = (inputs >= begin) & ~first
    # Position i's last token is inputs[i], its penultimate inputs[i-1]; before the first of them stands the committed prefix.
    penultimate_is_time = torch.cat([prefix.penultimate_is_timestamp[:, None], last_is_time[:, :-1]], dim=1)
    # With one generated token there is no penultimate: the rules count that as a timestamp.
    few = prefix.generated[:, None] + torch.arange(inputs.shape[1], device=inputs.device) < 2
    penultimate_is_time = penultimate_is_time | few
    drafted = torch.where(last_is_time, inputs, -1)
    drafted[:, 0] = torch.maximum(drafted[:, 0], prefix.last_timestamp)
    last_time = drafted.cummax(dim=1).values

    opens = last_is_time & penultimate_is_time  # a start stamp stands: text must follow
    closes = last_is_time & ~penultimate_is_time  # an end stamp stands: the next start or the end of text must follow
    floor = torch.where(closes, last_time, last_time + 1)  # a start may repeat the end before it; an end must advance
    floor = torch.where(last_time < 0, begin, floor)
    banned = opens[..., None] & is_time
    banned |= closes[..., None] & is_text
    banned |= is_time & (ids < floor[..., None])
    banned |= ids == vocabulary.no_timestamps
    initial = ~is_time | (ids > begin + vocabulary.max_initial_timestamp)
    banned |= first[..., None] & initial
    logits = logits.masked_fill(banned, NEVER)

    time_mass = logits[..., begin:].logsumexp(dim=-1)
    best_text = logits[..., :begin].amax(dim=-1)
    return logits.masked_fill((time_mass > best_text)[..., None] & ~is_time, NEVER)


def advance(prefix: Prefix, inputs: Tensor, vocabulary: Vocabulary) -> Prefix:
    """Return the prefix after one more token stands behind `inputs` [B], the tokens that were last so far."""
    spoken = prefix.generated > 0
    is_time = (inputs >= vocabulary.timestamp_begin) & spoken
    return Prefix(
        generated=prefix.generated + 1,
        penultimate_is_timestamp=is_time,
        last_timestamp=torch.maximum(prefix.last_timestamp, torch.where(is_time, inputs, -1)),
        timestamps=prefix.timestamps,
        any_timestamps=prefix.any_timestamps,
    )
