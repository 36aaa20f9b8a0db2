"""A pair's decoder for a GPU: a whole cycle is one captured graph of kernels, replayed on buffers that never move.

A cycle of a large model is thousands of kernels of a few microseconds each, which Python cannot start as fast as they run. So
there is one graph for each bucket of rows and of drafts: it reads a table of what the rows have committed, drafts, verifies,
chooses under the rules, and writes a table of what came of it. Rows are slots 0 to B-1, in use or not; what a slot that is free
computes is read by nobody. The host writes the one table and waits for the other, once a cycle.

On a CPU the same code runs without capture, so that all but the capture itself is tested there.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Final, NamedTuple

import torch
from torch import Tensor

from transcriber_engine.capture import Capture, CudaCapture, Run, bring, plainly
from transcriber_engine.decoding import DraftSource, PairDecoder
from transcriber_engine.draft_length import Costs
from transcriber_engine.pair import DecoderPair
from transcriber_engine.ragged import Block, RaggedTokens
from transcriber_engine.rules import Prefix, choose, rule
from transcriber_engine.slot_reader import SlotReader, Unread
from transcriber_engine.speculation import Row, Verified, continue_rows, draw, prefix_of, propose_by_lookup

ROW_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 48)
ROWS_APART: Final = 64  # of the larger ones
DRAFTS_APART: Final = 2
NOT_GIVEN: Final = -1


class Shape(NamedTuple):
    """What a graph computes: rows, drafts for each, whether the draft model makes them and the target judges them.

    `timed` is whether any of the rows may speak timestamps: their rules are half of a draft step's kernels.
    """

    rows: int
    drafts: int
    drafting: bool
    verifying: bool
    timed: bool


class Column:
    """Columns of the table that a cycle reads; the drafts that are given follow."""

    PENULTIMATE, LAST, LENGTH, GENERATED, PENULTIMATE_IS_TIMESTAMP, LAST_TIMESTAMP, TIMESTAMPS, GIVEN = range(8)


@dataclass(frozen=True)
class Buffers:
    """What graphs read and write."""

    state: Tensor  # int64 [slots, Column.GIVEN + drafts]
    drafts: Tensor  # float64 [slots, drafts]; it and the next two are parts of `outcome`, which is copied as one
    choices: Tensor  # [slots, drafts + 1]
    logprobs: Tensor  # [slots, drafts + 1]
    outcome: Tensor
    hidden: Tensor  # [slots, d_model], after the last committed token

    @classmethod
    def allocate(cls, slots: int, drafts: int, hidden: Tensor) -> "Buffers":
        """Allocate them for so many slots and drafts, with hidden states like those of `hidden` [..., d_model]."""
        # float64 holds ids and log-probabilities alike, without loss.
        outcome = torch.zeros(slots, 3 * drafts + 2, dtype=torch.float64, device=hidden.device)
        state = torch.tensor(_idle_row(drafts), device=hidden.device).repeat(slots, 1)
        made, choices, logprobs = torch.split(outcome, [drafts, drafts + 1, drafts + 1], dim=1)
        return cls(state, made, choices, logprobs, outcome, hidden.new_zeros(slots, hidden.shape[-1]))


class GraphedDecoder(PairDecoder):
    """A `PairDecoder` whose cycles are captured. A cycle must be given every row in use: other slots are written over."""

    def __init__(
        self, pair: DecoderPair, slots: int, draft_source: DraftSource, max_draft_tokens: int, capture: Capture | None = None
    ) -> None:
        """Allocate the slots and buffers; graphs are captured by `calibrate`, or when they are needed first."""
        super().__init__(pair, slots, draft_source, max_draft_tokens)
        if self.device.type == "cuda":
            _multiply_exactly()
        self._capture = capture or (CudaCapture() if self.device.type == "cuda" else plainly)
        self._buffers = Buffers.allocate(slots, self.max_draft_tokens, pair.target.embed_tokens)
        self._row_buckets = row_buckets(slots)
        self._draft_buckets = draft_buckets(self.max_draft_tokens)
        self._runs: dict[Shape, Run] = {}
        self._reader = SlotReader(pair.target, self.cache, self._capture)
        self._draft_reader: SlotReader | None = None
        if self._draft is not None and self._draft_cache is not None:
            self._draft_reader = SlotReader(self._draft, self._draft_cache, self._capture)

    @torch.inference_mode()
    def admit(self, slot: int, hidden: Tensor, *, with_draft: bool) -> None:
        """See `PairDecoder.admit`."""
        self._reader.admit(slot, hidden)
        if with_draft and self._draft_reader is not None:
            self._draft_reader.admit(slot, hidden)

    @torch.inference_mode()
    def read_prompts(self, prompts: Sequence[tuple[int, Sequence[int], int]]) -> list[Tensor]:
        """See `PairDecoder.read_prompts`."""
        self._reader.read([Unread(slot, 0, tokens[:at]) for slot, tokens, at in prompts if at])
        states = self._reader.read([Unread(slot, at, tokens[at:]) for slot, tokens, at in prompts])
        return [self.pair.target.logits(hidden) for hidden in states]

    @torch.inference_mode()
    def propose(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """See `PairDecoder.propose`."""
        if self._draft is None:
            return propose_by_lookup(rows, counts)
        counts = self._caught_up(rows, counts)
        outcome = self._run(rows, max(counts), None, drafting=True, verifying=False)
        return self._drafts_in(outcome, rows, counts)

    @torch.inference_mode()
    def verify(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> list[Verified]:
        """See `PairDecoder.verify`."""
        counts = [len(draft) for draft in drafts]
        outcome = self._run(rows, max(counts), drafts, drafting=False, verifying=True)
        return self._verified_in(outcome, rows, counts)

    @torch.inference_mode()
    def cycle(
        self, rows: Sequence[Row], counts: Sequence[int], given: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[list[int]], list[Verified]]:
        """See `PairDecoder.cycle`. Drafts that are `given` stand in for those that the draft model makes all the same."""
        if self._draft is None:
            given = propose_by_lookup(rows, counts) if given is None else given
        else:
            counts = self._caught_up(rows, counts)
        outcome = self._run(rows, max(counts), given, drafting=self._draft is not None, verifying=True)
        return self._drafts_in(outcome, rows, counts), self._verified_in(outcome, rows, counts)

    @torch.inference_mode()
    def calibrate(self, now: Callable[[], float] = time.perf_counter) -> Costs | None:
        """Capture every cycle, the largest first, whose memory the others then share; and measure as `PairDecoder` does."""
        buckets = product(reversed(self._row_buckets), reversed(self._draft_buckets), (True, False))
        for rows, drafts, timed in buckets:
            self._captured(Shape(rows, drafts, drafts > 0 and self._draft is not None, verifying=True, timed=timed))
        for reader in (self._reader, self._draft_reader):
            if reader is not None:
                reader.capture_all()
        return super().calibrate(now)

    def _caught_up(self, rows: Sequence[Row], counts: Sequence[int]) -> list[int]:
        """Let the draft read what it missed, but for the last two tokens; how many tokens each row may draft then."""
        most = self.max_draft_tokens
        possible = [min(count, most) if len(row.tokens) > 1 else 0 for row, count in zip(rows, counts, strict=True)]
        lagging = [row for row, count in zip(rows, possible, strict=True) if count and row.draft_length < len(row.tokens) - 2]
        assert self._draft_reader is not None
        self._draft_reader.read([Unread(row.slot, row.draft_length, row.tokens[row.draft_length : -2]) for row in lagging])
        for row in lagging:
            row.draft_length = len(row.tokens) - 2
        return possible

    def _run(
        self, rows: Sequence[Row], drafts: int, given: Sequence[Sequence[int]] | None, *, drafting: bool, verifying: bool
    ) -> list[list[float]]:
        """Write what the rows are, run the graph that they fit in, and wait for what it wrote: by slot."""
        shape = Shape(
            rows=_bucket(self._row_buckets, 1 + max(row.slot for row in rows)),
            drafts=(most := _bucket(self._draft_buckets, drafts)),
            drafting=drafting and most > 0,
            verifying=verifying,
            timed=any(row.timestamps for row in rows),
        )
        state = torch.tensor(_idle_row(self.max_draft_tokens)).repeat(shape.rows, 1)
        slots = [row.slot for row in rows]
        state[slots, : Column.GIVEN] = _state_of(rows, prefix_of(rows, self.pair.vocabulary, state.device))
        for slot, tokens in zip(slots, given or (), strict=bool(given)):
            state[slot, Column.GIVEN : Column.GIVEN + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        bring(self._buffers.state[: shape.rows], state)
        self._captured(shape)()
        outcome: list[list[float]] = self._buffers.outcome[: shape.rows].tolist()
        return outcome

    def _captured(self, shape: Shape) -> Run:
        if shape not in self._runs:
            self._runs[shape] = self._capture(partial(self._compute, shape))
        return self._runs[shape]

    def _compute(self, shape: Shape) -> None:
        """Compute a cycle on the buffers. What is in here is captured: it asks the device nothing and brings it nothing."""
        rows, count = shape.rows, shape.drafts
        state = self._buffers.state[:rows]
        prefix = Prefix(
            generated=state[:, Column.GENERATED],
            penultimate_is_timestamp=state[:, Column.PENULTIMATE_IS_TIMESTAMP].bool(),
            last_timestamp=state[:, Column.LAST_TIMESTAMP],
            timestamps=state[:, Column.TIMESTAMPS].bool(),
            any_timestamps=shape.timed,
        )
        drafts = self._drafted(state, prefix, shape)
        self._buffers.drafts[:rows, :count].copy_(drafts)
        if not shape.verifying:
            return
        target, vocabulary = self.pair.target, self.pair.vocabulary
        ids = torch.cat([state[:, Column.LAST, None], drafts], dim=1)
        hidden = target(self.cache, RaggedTokens.of_equal_rows(None, ids, state[:, Column.LENGTH] - 1))
        opening = (prefix.generated[:, None] == 0) & (torch.arange(count + 1, device=ids.device) == 0)
        scores = target.score(hidden, vocabulary, opening.flatten(), with_mass=True)
        choices, logprobs = choose(rule(scores.of(Block(0, rows, 0, count + 1)), ids, prefix, vocabulary))
        self._buffers.choices[:rows, : count + 1].copy_(choices)
        self._buffers.logprobs[:rows, : count + 1].copy_(logprobs)
        self._buffers.hidden[:rows].copy_(hidden.view(rows, count + 1, -1)[:, 0])

    def _drafted(self, state: Tensor, prefix: Prefix, shape: Shape) -> Tensor:
        """Return the drafts of each row, [rows, drafts]: those given, and where there are none the model's."""
        given = state[:, Column.GIVEN : Column.GIVEN + shape.drafts]
        if not shape.drafting:
            return given.clamp(min=0)
        assert self._draft is not None
        assert self._draft_cache is not None
        assert self._draft_vocabulary is not None
        made = continue_rows(
            self._draft,
            self._draft_cache,
            None,
            state[:, : Column.LENGTH],
            state[:, Column.LENGTH],
            prefix.generated == 0,
            [shape.rows] * shape.drafts,
            prefix,
            self._draft_vocabulary,
        )
        return torch.where(given == NOT_GIVEN, torch.stack(made, dim=1), given)

    def _drafts_in(self, outcome: list[list[float]], rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        return [[int(token) for token in outcome[row.slot][:count]] for row, count in zip(rows, counts, strict=True)]

    def _verified_in(self, outcome: list[list[float]], rows: Sequence[Row], counts: Sequence[int]) -> list[Verified]:
        """Read what the target chose; rows with a temperature draw from what it scored."""
        most = self.max_draft_tokens
        verified = []
        for row, count in zip(rows, counts, strict=True):
            if row.temperature > 0:
                verified.append(draw(self.pair.target.logits(self._buffers.hidden[row.slot]), row, self.pair.vocabulary))
                continue
            choices, logprobs = outcome[row.slot][most : 2 * most + 1], outcome[row.slot][2 * most + 1 :]
            verified.append(Verified([int(token) for token in choices[: count + 1]], logprobs[: count + 1]))
        return verified


def make_decoder(pair: DecoderPair, slots: int, draft_source: DraftSource, max_draft_tokens: int) -> PairDecoder:
    """Return what decodes with a pair on the device that it is on."""
    kind = GraphedDecoder if pair.target.device.type == "cuda" else PairDecoder
    return kind(pair, slots, draft_source, max_draft_tokens)


def row_buckets(slots: int) -> tuple[int, ...]:
    """Return the numbers of rows that graphs are captured for."""
    return (*(rows for rows in (*ROW_BUCKETS, *range(ROWS_APART, slots, ROWS_APART)) if rows < slots), slots)


def draft_buckets(most: int) -> tuple[int, ...]:
    """Return the numbers of drafts that graphs are captured for; 0 is the target alone."""
    return (*range(0, most, DRAFTS_APART), most)


def _bucket(buckets: Sequence[int], count: int) -> int:
    """Return the smallest that is large enough."""
    return buckets[bisect_left(buckets, count)]


def _idle_row(drafts: int) -> list[int]:
    """Return the state of a slot that is free, or of a row before its first token: nothing that it computes is read."""
    return [0, 0, 1, 0, 1, -1, 0, *[NOT_GIVEN] * drafts]


def _state_of(rows: Sequence[Row], prefix: Prefix) -> Tensor:
    """Return what the rows have committed, as `Column` has it: [B, Column.GIVEN]."""
    tokens = torch.tensor([[row.tokens[-2:][0], row.tokens[-1], len(row.tokens)] for row in rows])
    rules = [prefix.generated, prefix.penultimate_is_timestamp, prefix.last_timestamp, prefix.timestamps]
    return torch.cat([tokens, torch.stack([each.long() for each in rules], dim=1)], dim=1)


def _multiply_exactly() -> None:
    """Keep torch from rounding factors or partial sums to fewer bits than a weight has, in this process."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
