"""Continuous batching: windows wait for a slot, decode side by side at their own pace, and leave when they are done."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition
from typing import Literal

import torch
from torch import Tensor

from transcriber_engine.draft_length import PROBE_CYCLES, Acceptance, Costs, Expectation, choose_length, fit_costs, pays
from transcriber_engine.errors import CancelledByCallerError
from transcriber_engine.settings import Task
from transcriber_engine.speculation import (
    Row,
    accept,
    apply_commit,
    prefix_of,
    propose_by_lookup,
    propose_with_model,
    verify,
)
from transcriber_engine.weights import DecoderPair

MAX_NEW_TOKENS = 224  # half the context, as openai/whisper
CANCELLATION_CHECK_CYCLES = 4

DraftSource = Literal["none", "model", "prompt_lookup"]


@dataclass(frozen=True, eq=False)
class WindowRequest:
    """One window to decode."""

    hidden: Tensor  # [frames, d_model], the encoder's output
    language: str | None = None  # None: detect
    task: Task = "transcribe"
    timestamps: bool = False
    previous_text: str | None = None
    max_draft_tokens: int = 16  # 0: the target alone
    max_new_tokens: int = MAX_NEW_TOKENS


@dataclass(frozen=True)
class WindowTokens:
    """What a window decoded to; `tokens` are as committed, with timestamps, without the end of text."""

    tokens: tuple[int, ...]
    language: str
    avg_logprob: float  # mean over the committed tokens, the end of text included
    no_speech_prob: float  # of <|nospeech|> at the start of transcript
    cycles: int
    draft_tokens: int
    accepted_tokens: int


@dataclass(eq=False)
class Job:
    """A window on its way: `on_done` gets the tokens, or the exception that ended it; it is called once, on the engine's thread."""

    request: WindowRequest
    on_done: Callable[[WindowTokens | BaseException], None]
    is_cancelled: Callable[[], bool] = lambda: False


@dataclass(eq=False)
class _Active:
    job: Job
    row: Row
    language: str
    no_speech_prob: float
    acceptance: Acceptance


@dataclass
class Counters:
    """Totals since the start."""

    windows: int = 0
    cancelled_windows: int = 0
    cycles: int = 0
    output_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


class Scheduler:
    """Owns the slots of one decoder pair. `submit` may be called from any thread, `step` from the engine's thread alone."""

    def __init__(
        self, pair: DecoderPair, slots: int, draft_source: DraftSource, max_draft_tokens: int, costs: Costs | None = None
    ) -> None:
        """Allocate the slots; without `costs` (see `calibrate`) drafts are as long as allowed."""
        self.pair = pair
        self.slots = slots
        self.draft_source: DraftSource = "none" if draft_source == "model" and pair.draft is None else draft_source
        self.max_draft_tokens = max_draft_tokens if self.draft_source != "none" else 0
        self.counters = Counters()
        self._device = pair.target.embed_tokens.device
        self._cache = pair.target.allocate(slots)
        self._draft_cache = pair.draft.allocate(slots) if pair.draft is not None else None
        self._free = list(reversed(range(slots)))
        self._active: list[_Active] = []
        self._waiting: deque[Job] = deque()
        self._changed = Condition()
        self._costs = costs
        # A draft is often good at text and bad at timestamps, or good in one language alone.
        self._expectations: defaultdict[tuple[str, bool], Expectation] = defaultdict(Expectation)

    @property
    def active(self) -> int:
        """Slots in use."""
        return len(self._active)

    @property
    def held(self) -> int:
        """Windows in slots or waiting for one here."""
        return len(self._active) + len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a window; it gets a slot in the order of arrival."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def wait_for_room(self, timeout_seconds: float) -> bool:
        """Wait until a slot is free for one more window; False when the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.held < self.slots, timeout_seconds)

    def wait_for_work(self, timeout_seconds: float) -> bool:
        """Wait until there is a window to decode; False when the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.held > 0, timeout_seconds)

    def fail_all(self, error: BaseException) -> None:
        """End every window with an error: called when the engine cannot go on."""
        with self._changed:
            jobs = [a.job for a in self._active] + list(self._waiting)
            self._free = list(reversed(range(self.slots)))
            self._active.clear()
            self._waiting.clear()
            self._changed.notify_all()
        for job in jobs:
            job.on_done(error)

    @torch.inference_mode()
    def step(self) -> bool:
        """Admit, run one cycle, release what is done; False when there was nothing to do."""
        self._drop_cancelled()
        self._admit_waiting()
        if not self._active:
            return False
        self._cycle()
        return True

    def run_until_idle(self) -> None:
        """Step until every submitted window is done."""
        while self.step():
            pass

    @torch.inference_mode()
    def calibrate(self, now: Callable[[], float] = time.perf_counter) -> Costs | None:
        """Measure what drafting and verifying cost here, so that the draft length fits; also warms everything up."""
        if self.max_draft_tokens == 0:
            return None
        draft_seconds: dict[int, float] = {}
        verify_seconds: dict[tuple[int, int], float] = {}
        prompt = [self.pair.tokenizer.start_of_transcript] * 4
        for count in sorted({1, self.slots}):
            rows = [Row(slot, list(prompt), 4, 64, timestamps=False, draft_cap=1) for slot in range(count)]
            prefix = prefix_of(rows, self.pair.vocabulary, self._device)
            for width in (1, 1 + self.max_draft_tokens):
                drafts = torch.full((count, width - 1), prompt[0], device=self._device)
                verify_seconds[count, width] = _best_seconds(
                    lambda r=rows, d=drafts, p=prefix: verify(  # type: ignore[misc]
                        self.pair.target, self._cache, r, d, p, self.pair.vocabulary
                    ),
                    now,
                )
            draft_seconds[count] = _best_seconds(lambda r=rows: self._propose(r, 2), now) / 2  # type: ignore[misc]
        self._costs = fit_costs(draft_seconds, verify_seconds)
        return self._costs

    def _drop_cancelled(self) -> None:
        with self._changed:
            dropped = [job for job in self._waiting if job.is_cancelled()]
            for job in dropped:
                self._waiting.remove(job)
        due = [a for a in self._active if a.row.cycles % CANCELLATION_CHECK_CYCLES == 0 and a.job.is_cancelled()]
        for active in due:
            self._release(active)
        self.counters.cancelled_windows += len(due) + len(dropped)
        for job in [*dropped, *(a.job for a in due)]:
            job.on_done(CancelledByCallerError("cancelled by the caller"))

    def _admit_waiting(self) -> None:
        while self._free:
            with self._changed:
                if not self._waiting:
                    return
                job = self._waiting.popleft()
                slot = self._free.pop()
            try:
                active = self._admit(job, slot)
            except Exception as error:  # one window's bad request must not end the others
                with self._changed:
                    self._free.append(slot)
                    self._changed.notify_all()
                job.on_done(error)
                continue
            self._active.append(active)

    def _admit(self, job: Job, slot: int) -> _Active:
        request, tokenizer, target = job.request, self.pair.tokenizer, self.pair.target
        if request.language is not None:
            tokenizer.check_language(request.language)
        hidden = request.hidden.to(self._device)
        target.admit(self._cache, slot, hidden)
        language = request.language or self._detect_language(slot)
        prompt = tokenizer.prompt(language, request.task, timestamps=request.timestamps, previous_text=request.previous_text)
        start = prompt.index(tokenizer.start_of_transcript)
        scores = target.logits(self._prefill(slot, prompt)[0, start])
        limit = min(self.pair.config.max_target_positions, len(prompt) + request.max_new_tokens)
        cap = min(request.max_draft_tokens, self.max_draft_tokens)
        if cap and self._draft_cache is not None:
            assert self.pair.draft is not None
            self.pair.draft.admit(self._draft_cache, slot, hidden)
        row = Row(slot, prompt, len(prompt), limit, timestamps=request.timestamps, draft_cap=cap)
        no_speech = float(scores.softmax(dim=-1)[tokenizer.no_speech])
        return _Active(job, row, language, no_speech, Acceptance(self._expectations[language, request.timestamps]))

    def _prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        ids = torch.tensor([list(tokens)], device=self._device)
        zero = torch.zeros(1, dtype=torch.long, device=self._device)
        hidden: Tensor = self.pair.target(self._cache, [slot], ids, zero, len(tokens))
        return hidden

    def _detect_language(self, slot: int) -> str:
        tokenizer = self.pair.tokenizer
        if not tokenizer.languages:
            return "en"
        scores = self.pair.target.logits(self._prefill(slot, [tokenizer.start_of_transcript])[0, 0])
        ids = torch.tensor(sorted(tokenizer.languages.values()), device=self._device)
        return tokenizer.language_of(int(ids[scores[ids].argmax()]))

    def _cycle(self) -> None:
        """Draft, verify and commit for every active row."""
        drafting, count = self._draft_plan()
        offered = {a.row.slot: min(count, a.row.draft_cap) for a in drafting}
        rows = [a.row for a in self._active]
        drafts = torch.zeros((len(rows), count), dtype=torch.long, device=self._device)
        if count:
            where = [i for i, row in enumerate(rows) if row.slot in offered]
            drafts[where] = self._propose([rows[i] for i in where], count)
        vocabulary = self.pair.vocabulary
        prefix = prefix_of(rows, vocabulary, self._device)
        choices, logprobs = verify(self.pair.target, self._cache, rows, drafts, prefix, vocabulary)
        decided = zip(self._active, drafts.tolist(), choices.tolist(), logprobs.tolist(), strict=True)
        for active, draft, choice, logprob in decided:
            given = offered.get(active.row.slot, 0)
            commit = accept(active.row, draft[:given], choice, logprob, vocabulary.end_of_text)
            apply_commit(active.row, commit, given, vocabulary.end_of_text)
            active.acceptance.observe(commit.accepted, given)
            self.counters.output_tokens += len(commit.tokens)
            self.counters.draft_tokens += given
            self.counters.accepted_tokens += commit.accepted
        self.counters.cycles += 1
        for active in [a for a in self._active if a.row.done]:
            self._release(active)
            self.counters.windows += 1
            active.job.on_done(self._outcome(active))

    def _draft_plan(self) -> tuple[list[_Active], int]:
        """Return the rows that draft in this cycle, and how many tokens; a row whose drafts do not pay rests, but for probes."""
        able = [a for a in self._active if a.row.draft_cap]
        most = max((a.row.draft_cap for a in able), default=0)
        if self._costs is None or not able:
            return able, most
        paying = [a for a in able if pays(a.acceptance.rate, len(self._active), self._costs, most)]
        probing = [a for a in able if a not in paying and a.row.cycles % PROBE_CYCLES == 0]
        drafting = paying + probing
        count = choose_length([a.acceptance.rate for a in drafting], len(self._active) - len(drafting), self._costs, most)
        return drafting, max(count, 1) if drafting else 0

    def _propose(self, rows: Sequence[Row], count: int) -> Tensor:
        if self.draft_source == "prompt_lookup":
            return propose_by_lookup(rows, count, self._device)
        assert self.pair.draft is not None
        assert self._draft_cache is not None
        prefix = prefix_of(rows, self.pair.vocabulary, self._device)
        return propose_with_model(self.pair.draft, self._draft_cache, rows, count, prefix, self.pair.vocabulary)

    def _release(self, active: _Active) -> None:
        with self._changed:
            self._active.remove(active)
            self._free.append(active.row.slot)
            self._changed.notify_all()

    def _outcome(self, active: _Active) -> WindowTokens:
        row = active.row
        end = self.pair.vocabulary.end_of_text
        return WindowTokens(
            tokens=tuple(t for t in row.generated if t != end),
            language=active.language,
            avg_logprob=row.sum_logprob / max(len(row.generated), 1),
            no_speech_prob=active.no_speech_prob,
            cycles=row.cycles,
            draft_tokens=row.drafted,
            accepted_tokens=row.accepted,
        )


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
