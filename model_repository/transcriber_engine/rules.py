"""Whisper's rules on what may be said next, as pure functions on logits.

They are part of the target's distribution: a draft is accepted against the logits *under* the rules, each position seeing the
prefix it would have seen in plain greedy decoding. Rules follow openai/whisper `decoding.py` and transformers'
`WhisperTimeStampLogitsProcessor`.

The ids of a head are three runs: text, special ones from the end of text on, and timestamps. A rule bans single ids or a whole
run, so that no mask over the vocabulary is ever made: the best of each run is found first, and then the best run.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from transcriber_engine.ragged import Block

NEVER = float("-inf")
ALIGNED = 8  # numbers: a row of so many, or a multiple, begins where a GPU reads several at once


@dataclass(frozen=True)
class Vocabulary:
    """The ids that the rules speak of, and which of them a head can say: the first `text_ids`, and all from the end of text on.

    What is suppressed, or may not open a window, is int64 [n]: ids of text, and special ones counted from the end of text.
    """

    size: int
    text_ids: int
    end_of_text: int
    no_timestamps: int
    timestamp_begin: int
    suppressed_text: Tensor
    suppressed_special: Tensor
    begin_suppressed_text: Tensor
    begin_suppressed_special: Tensor
    max_initial_timestamp: int  # in steps of 20 ms

    def of_head(self, ids: int) -> "Vocabulary":
        """Return the vocabulary of a head of so many ids, which lacks the last ones of text."""
        text_ids = ids - (self.size - self.end_of_text)

        def sayable(text: Tensor) -> Tensor:
            return text[text < text_ids]

        return replace(
            self,
            text_ids=text_ids,
            suppressed_text=sayable(self.suppressed_text),
            begin_suppressed_text=sayable(self.begin_suppressed_text),
        )


@dataclass(frozen=True)
class Scores:
    """What a head says at N positions, or at [B, Q]; suppressed ids are at -inf."""

    token: Tensor  # [N], the best id of text, the lowest of equals; any where there is none
    highest: Tensor  # [N], its score
    mass: Tensor | None  # [N], logsumexp over text; None where it was not asked for
    special: Tensor  # [N, special ids]
    times: Tensor  # [N, timestamps]
    text: Tensor | None = None  # [N, text ids], where all were scored

    def of(self, block: Block) -> "Scores":
        """Return the scores of a block's positions, as [B, Q]."""
        return Scores(
            block.of_tokens(self.token),
            block.of_tokens(self.highest),
            None if self.mass is None else block.of_tokens(self.mass),
            block.of_tokens(self.special),
            block.of_tokens(self.times),
            None if self.text is None else block.of_tokens(self.text),
        )


def split_scores(logits: Tensor, vocabulary: Vocabulary, opening: Tensor | None, *, with_mass: bool) -> Scores:
    """Read logits [N, ids] of a head, which are overwritten; `opening`, bool [N] or None, says which positions open a window."""
    begin, end = vocabulary.timestamp_begin, vocabulary.end_of_text
    text, special, times = torch.split(logits, [vocabulary.text_ids, begin - end, vocabulary.size - begin], dim=-1)
    for run, suppressed, begin_suppressed in (
        (text, vocabulary.suppressed_text, vocabulary.begin_suppressed_text),
        (special, vocabulary.suppressed_special, vocabulary.begin_suppressed_special),
    ):
        run.index_fill_(-1, suppressed, NEVER)
        if opening is not None:
            # By columns, since places of rows would have to be known before: a graph of kernels cannot ask for them.
            run.index_copy_(-1, begin_suppressed, run.index_select(-1, begin_suppressed).masked_fill(opening[:, None], NEVER))
    if not vocabulary.text_ids:
        nothing = torch.full_like(special[:, 0], NEVER)
        return Scores(torch.zeros_like(nothing, dtype=torch.long), nothing, None, special, times)
    token = text.argmax(dim=-1, keepdim=True)
    highest = text.gather(-1, token)
    mass = mass_above(text, highest)[:, 0] if with_mass else None
    return Scores(token[:, 0], highest[:, 0], mass, special, times, text)


@dataclass(frozen=True)
class Prefix:
    """What B rows committed before a cycle, as far as the rules look back; tensors of shape [B]."""

    generated: Tensor  # tokens committed after the prompt
    penultimate_is_timestamp: Tensor  # bool; True where fewer than two tokens were generated
    last_timestamp: Tensor  # id of the last committed timestamp, -1 for none
    timestamps: Tensor  # bool: whether the row speaks timestamps at all
    any_timestamps: bool  # the same for the whole batch, known without asking the device

    def first(self, rows: int) -> "Prefix":
        """Return that of the first rows."""
        return Prefix(
            self.generated[:rows],
            self.penultimate_is_timestamp[:rows],
            self.last_timestamp[:rows],
            self.timestamps[:rows],
            self.any_timestamps,
        )


@dataclass(frozen=True)
class Ruled:
    """Scores under the rules: timestamps that may not follow are at -inf, and `banned` says which whole run is out: [B, Q, 3]."""

    scores: Scores
    banned: Tensor
    tokens: Tensor  # [B, Q, 3], the best id of each run…
    highest: Tensor  # …and its score


def rule(scores: Scores, inputs: Tensor, prefix: Prefix, vocabulary: Vocabulary) -> Ruled:
    """Apply the rules to scores of [B, Q], the special ones overwritten; inputs are the last committed token and Q-1 drafts."""
    if prefix.any_timestamps:
        return _rule_timestamps(scores, inputs, prefix, vocabulary)
    tokens, highest = _best_of_runs(scores, vocabulary)
    return Ruled(scores, torch.zeros_like(highest, dtype=torch.bool), tokens, highest)


def _rule_timestamps(scores: Scores, inputs: Tensor, prefix: Prefix, vocabulary: Vocabulary) -> Ruled:
    """Timestamps come in pairs, never go back, open the window, and win when together they outweigh any other token."""
    begin = vocabulary.timestamp_begin
    step = torch.arange(inputs.shape[1], device=inputs.device)
    first = (prefix.generated[:, None] == 0) & (step == 0)
    last_is_time = (inputs >= begin) & ~first
    # Position i's last token is inputs[i], its penultimate inputs[i-1]; before the first of them stands the committed prefix.
    penultimate_is_time = torch.cat([prefix.penultimate_is_timestamp[:, None], last_is_time[:, :-1]], dim=1)
    # With one generated token there is no penultimate: the rules count that as a timestamp.
    penultimate_is_time = penultimate_is_time | (prefix.generated[:, None] + step < 2)
    stamps = torch.where(last_is_time, inputs, -1)
    stamps[:, 0] = torch.maximum(stamps[:, 0], prefix.last_timestamp)
    last_time = stamps.cummax(dim=1).values

    opens = last_is_time & penultimate_is_time  # a start stamp stands: text must follow
    closes = last_is_time & ~penultimate_is_time  # an end stamp stands: the next start or the end of text must follow
    floor = torch.where(closes, last_time, last_time + 1)  # a start may repeat the end before it; an end must advance
    floor = torch.where(last_time < 0, begin, floor)
    ceiling = torch.where(first, begin + vocabulary.max_initial_timestamp, vocabulary.size)
    ceiling = torch.where(opens, -1, ceiling)

    timed = prefix.timestamps[:, None]
    ids = torch.arange(begin, vocabulary.size, device=inputs.device)
    times = scores.times.masked_fill(timed[..., None] & ((ids < floor[..., None]) | (ids > ceiling[..., None])), NEVER)
    mark = vocabulary.no_timestamps - vocabulary.end_of_text
    scores.special[..., mark] = scores.special[..., mark].masked_fill(timed, NEVER)
    ruled = replace(scores, times=times)
    tokens, highest = _best_of_runs(ruled, vocabulary)
    out = torch.stack([timed & (closes | first), timed & first], dim=-1)  # text, special
    outweighs = timed & (_mass(times) > highest[..., :2].masked_fill(out, NEVER).amax(dim=-1))
    banned = torch.cat([out | outweighs[..., None], torch.zeros_like(out[..., :1])], dim=-1)
    return Ruled(ruled, banned, tokens, highest)


def _best_of_runs(scores: Scores, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """The best id of each run and its score: [B, Q, 3]."""
    special, time = (run.max(dim=-1) for run in (scores.special, scores.times))
    tokens = [scores.token, special.indices + vocabulary.end_of_text, time.indices + vocabulary.timestamp_begin]
    return torch.stack(tokens, dim=-1), torch.stack([scores.highest, special.values, time.values], dim=-1)


def best(ruled: Ruled) -> Tensor:
    """Return the argmax of what the rules allow, the lowest id of equals: [B, Q]."""
    run = ruled.highest.masked_fill(ruled.banned, NEVER).argmax(dim=-1, keepdim=True)
    return ruled.tokens.gather(-1, run)[..., 0]


def choose(ruled: Ruled) -> tuple[Tensor, Tensor]:
    """Return the argmax, as `best` does, and its log-probability among what the rules allow: both [B, Q]."""
    highest = ruled.highest.masked_fill(ruled.banned, NEVER).amax(dim=-1)
    scores = ruled.scores
    assert scores.mass is not None
    masses = torch.stack([scores.mass, _mass(scores.special), _mass(scores.times)], dim=-1)
    return best(ruled), highest - _mass(masses.masked_fill(ruled.banned, NEVER))


def _mass(run: Tensor) -> Tensor:
    """Logsumexp over the last dimension; -inf where all are."""
    highest = run.amax(dim=-1, keepdim=True)
    return mass_above(run, highest).masked_fill(highest == NEVER, NEVER)[..., 0]


def mass_above(run: Tensor, highest: Tensor) -> Tensor:
    """Logsumexp over the last dimension, of which the highest is known: [..., 1].

    By torch's fused log-softmax, which reads the scores a third as often as its logsumexp does, and adds up every row in one order
    whatever their number. On a GPU, that order follows from how a row lies in memory: all must lie alike.
    """
    if run.is_cuda:
        run = F.pad(run, (0, -run.shape[-1] % ALIGNED), value=NEVER)
    return highest - run.log_softmax(dim=-1).amax(dim=-1, keepdim=True)


def sample(ruled: Ruled, temperature: float, random: torch.Generator) -> tuple[int, float]:
    """Draw a token at a temperature from the one position that was scored in full; its log-probability is that of temperature 1."""
    scores = ruled.scores
    assert scores.text is not None
    runs = zip((scores.text, scores.special, scores.times), ruled.banned[0, 0], strict=True)
    allowed = torch.cat([run[0, 0].masked_fill(out, NEVER) for run, out in runs]).cpu()
    token = int(torch.multinomial((allowed / temperature).softmax(dim=-1), 1, generator=random))
    return token, float(allowed[token] - allowed.logsumexp(dim=-1))


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
