"""A target and its draft at work in slots: what the scheduler decides about rows, done with tensors."""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from transcriber_engine.draft_length import Costs, fit_costs
from transcriber_engine.memory import keep_freed_memory
from transcriber_engine.pair import DecoderPair
from transcriber_engine.ragged import RaggedTokens
from transcriber_engine.speculation import Row, Verified, prefix_of, propose_by_lookup, propose_with_model, verify

MEASURED_DRAFT_TOKENS = 4  # a common length: kernels get dearer in steps, and a line is drawn through what is measured

DraftSource = Literal["none", "model", "prompt_lookup"]


class PairDecoder:
    """Owns the caches of a pair's slots; used by one thread. `max_draft_tokens` is 0 where nothing drafts."""

    def __init__(self, pair: DecoderPair, slots: int, draft_source: DraftSource, max_draft_tokens: int) -> None:
        """Allocate the slots; without a draft model, the source "model" drafts nothing."""
        self.pair = pair
        self.slots = slots
        self.draft_source: DraftSource = "none" if draft_source == "model" and pair.draft is None else draft_source
        self.max_draft_tokens = max_draft_tokens if self.draft_source != "none" else 0
        self.device = pair.target.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.cache = pair.target.allocate(slots)
        self._draft = pair.draft if self.draft_source == "model" else None
        self._draft_cache = self._draft.allocate(slots) if self._draft is not None else None
        self._draft_vocabulary = pair.vocabulary.of_head(self._draft.head.ids) if self._draft is not None else None

    @torch.inference_mode()
    def admit(self, slot: int, hidden: Tensor, *, with_draft: bool) -> None:
        """Lay out the keys and values of a window's encoding [frames, d_model] in a slot."""
        hidden = hidden.to(self.device)
        self.pair.target.admit(self.cache, slot, hidden)
        if with_draft and self._draft is not None and self._draft_cache is not None:
            self._draft.admit(self._draft_cache, slot, hidden)

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int], at: int) -> Tensor:
        """Let the target read the tokens that open a slot's row; its scores after token `at`, no rules: float32 [vocab_size]."""
        return self.read_prompts([(slot, tokens, at)])[0]

    @torch.inference_mode()
    def read_prompts(self, prompts: Sequence[tuple[int, Sequence[int], int]]) -> list[Tensor]:
        """Do what `prefill` does for several slots, each given as it is there."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][1]))
        rows = [(slot, 0, tokens) for slot, tokens, _ in (prompts[i] for i in order)]
        hidden = self.pair.target(self.cache, RaggedTokens.of_rows(rows, self.device))
        firsts = dict(zip(order, accumulate((len(tokens) for _, _, tokens in rows), initial=0), strict=False))
        return [self.pair.target.logits(hidden[firsts[i] + at]) for i, (_, _, at) in enumerate(prompts)]

    @torch.inference_mode()
    def propose(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """Draft for each row its count of tokens; the longest drafts come first."""
        if self._draft is None or self._draft_cache is None or self._draft_vocabulary is None:
            return propose_by_lookup(rows, counts)
        prefix = prefix_of(rows, self.pair.vocabulary, self.device)
        return propose_with_model(self._draft, self._draft_cache, rows, counts, prefix, self._draft_vocabulary)

    @torch.inference_mode()
    def verify(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> list[Verified]:
        """Let the target judge the drafts of the rows side by side; rows with drafts of one length are neighbours."""
        return verify(self.pair.target, self.cache, rows, drafts, self.pair.vocabulary)

    def cycle(self, rows: Sequence[Row], counts: Sequence[int]) -> tuple[list[list[int]], list[Verified]]:
        """Draft for each row in use its count of tokens, or fewer, and verify them; the longest drafts come first."""
        drafting = sum(count > 0 for count in counts)
        drafted = self.propose(rows[:drafting], counts[:drafting]) if drafting else []
        drafts = [*drafted, *([] for _ in rows[drafting:])]
        return drafts, self.verify(rows, drafts)

    def calibrate(self, now: Callable[[], float] = time.perf_counter) -> Costs | None:
        """Measure what drafting and verifying cost here, so that the draft length fits; None where nothing drafts.

        Whether or not, a window is taken through all that it needs, so that what is compiled or measured at its first use is so
        before the first request. Overwrites the slots.
        """
        draft_seconds: dict[int, float] = {}
        verify_seconds: dict[tuple[int, int], float] = {}
        prompt = [self.pair.tokenizer.start_of_transcript] * 4
        self.admit(0, torch.zeros(self.pair.config.max_source_positions, self.pair.config.d_model), with_draft=True)
        self.prefill(0, prompt, 0)
        for count in sorted({1, self.slots}):
            rows = [Row(slot, list(prompt), 4, 64, timestamps=False, draft_cap=1) for slot in range(count)]
            for width in sorted({1, 1 + min(self.max_draft_tokens, MEASURED_DRAFT_TOKENS)}):
                drafts = [prompt[:1] * (width - 1)] * count
                verify_seconds[count, width] = _best_seconds(lambda r=rows, d=drafts: self.verify(r, d), now)  # type: ignore[misc]
            if self.max_draft_tokens:
                draft_seconds[count] = _best_seconds(lambda r=rows: self.propose(r, [2] * len(r)), now) / 2  # type: ignore[misc]
        return fit_costs(draft_seconds, verify_seconds) if self.max_draft_tokens else None


def _best_seconds(run: Callable[[], object], now: Callable[[], float], repeats: int = 3) -> float:
    """Return the shortest of a few runs, the first not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        start = now()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(now() - start)
    return min(seconds)
