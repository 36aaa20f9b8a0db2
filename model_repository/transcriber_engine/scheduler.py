"""Continuous batching: windows wait for a slot, decode side by side at their own pace, and leave when they are done."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from threading import Condition
from typing import TYPE_CHECKING

import torch

from transcriber_engine.admission import Claim, first_in_line
from transcriber_engine.decoding import DraftSource
from transcriber_engine.draft_length import PROBE_CYCLES, Acceptance, Costs, Expectation, choose_lengths
from transcriber_engine.errors import CancelledByCallerError, DeadlinePassedError
from transcriber_engine.fallback import Attempt, derived_seed, next_temperature
from transcriber_engine.graphs import make_decoder
from transcriber_engine.guards import closes_loop, compression_ratio, is_silent, without_loops
from transcriber_engine.pair import DecoderPair
from transcriber_engine.speculation import Commit, Row, accept, apply_commit
from transcriber_engine.window import Job, WindowTokens

if TYPE_CHECKING:
    from transcriber_engine.result import Word

CANCELLATION_CHECK_CYCLES = 4


@dataclass(eq=False)
class _Waiting:
    job: Job
    claim: Claim


@dataclass(eq=False)
class _Active:
    job: Job
    claim: Claim
    row: Row
    language: str
    acceptance: Acceptance
    no_speech_prob: float = 0.0  # until its prompt is read
    is_loop: bool = False  # decoding was ended, since it repeated itself
    output_tokens: int = 0  # committed, over all temperatures

    @property
    def watches_loops(self) -> bool:
        """Whether the request allows to end what repeats itself; what it says then is no longer all that the target says."""
        return self.job.request.guards or self.job.request.temperature_fallback


@dataclass
class Counters:
    """Totals since the start."""

    windows: int = 0
    cancelled_windows: int = 0
    late_windows: int = 0  # whose deadline passed before they had a slot
    fallbacks: int = 0  # times that a window was decoded again at a higher temperature
    cycles: int = 0
    output_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0


class Scheduler:
    """Owns the slots of one decoder pair. `submit` may be called from any thread, `step` from the engine's thread alone."""

    def __init__(
        self,
        pair: DecoderPair,
        slots: int,
        draft_source: DraftSource,
        max_draft_tokens: int,
        costs: Costs | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Allocate the slots; without `costs` (see `calibrate`) drafts are as long as allowed. Deadlines are on the clock `now`."""
        self.pair = pair
        self.slots = slots
        self.decoder = make_decoder(pair, slots, draft_source, max_draft_tokens)
        self.counters = Counters()
        self._free = list(range(slots))  # a heap: low slots first, so that a graph of few rows will do
        self._active: list[_Active] = []
        self._waiting: list[_Waiting] = []
        self._changed = Condition()
        self._costs = costs
        self._now = now
        # A draft is often good at text and bad at timestamps, or good in one language alone.
        of_all = Expectation()
        self._expectations: defaultdict[tuple[str, bool], Expectation] = defaultdict(lambda: Expectation(of_all))

    @property
    def active(self) -> int:
        """Slots in use."""
        return self.slots - len(self._free)

    @property
    def held(self) -> int:
        """Windows in slots or waiting for one here."""
        return self.active + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Windows here that have no slot."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a window; `admission` says in which order the slots are given."""
        request = object() if job.request_key is None else job.request_key
        with self._changed:
            self._waiting.append(_Waiting(job, Claim.of(request, job.deadline_seconds, self._now())))
            self._changed.notify_all()

    def wait_for_room(self, timeout_seconds: float) -> bool:
        """Wait until one more window may come; False when the time ran out first.

        As many may wait here as there are slots: who goes first can only be chosen among those that are here.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.held < 2 * self.slots, timeout_seconds)

    def wait_for_work(self, timeout_seconds: float) -> bool:
        """Wait until there is a window to decode; False when the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.held > 0, timeout_seconds)

    def fail_all(self, error: BaseException) -> None:
        """End every window with an error: called when the engine cannot go on."""
        with self._changed:
            jobs = [a.job for a in self._active] + [w.job for w in self._waiting]
            self._free = list(range(self.slots))
            self._active.clear()
            self._waiting.clear()
            self._changed.notify_all()
        for job in jobs:
            job.on_done(error)

    @torch.inference_mode()
    def step(self) -> bool:
        """Admit, run one cycle, release what is done; False when there was nothing to do."""
        self._drop_cancelled()
        self._drop_late()
        self._admit_waiting()
        if not self._active:
            return False
        self._cycle()
        return True

    def run_until_idle(self) -> None:
        """Step until every submitted window is done."""
        while self.step():
            pass

    def calibrate(self) -> None:
        """Measure what drafting and verifying cost here, so that the draft length fits; also warms up all that a window needs."""
        self._costs = self.decoder.calibrate()

    def _drop_cancelled(self) -> None:
        dropped = self._take_waiting(lambda job: job.is_cancelled())
        due = [a for a in self._active if a.row.cycles % CANCELLATION_CHECK_CYCLES == 0 and a.job.is_cancelled()]
        for active in due:
            self._release(active)
        self.counters.cancelled_windows += len(due) + len(dropped)
        for job in [*dropped, *(a.job for a in due)]:
            job.on_done(CancelledByCallerError("cancelled by the caller"))

    def _drop_late(self) -> None:
        now = self._now()
        late = self._take_waiting(lambda job: job.deadline_seconds is not None and job.deadline_seconds <= now)
        self.counters.late_windows += len(late)
        for job in late:
            job.on_done(DeadlinePassedError())

    def _take_waiting(self, condition: Callable[[Job], bool]) -> list[Job]:
        with self._changed:
            taken = [waiting for waiting in self._waiting if condition(waiting.job)]
            for waiting in taken:
                self._waiting.remove(waiting)
            if taken:
                self._changed.notify_all()
        return [waiting.job for waiting in taken]

    def _admit_waiting(self) -> None:
        """Give slots to windows that wait for one, and read the prompts of all of them at once."""
        before = len(self._active)
        while self._free:
            with self._changed:
                if not self._waiting:
                    break
                held = Counter(active.claim.request for active in self._active)
                first = first_in_line([waiting.claim for waiting in self._waiting], held, self.slots)
                waiting = self._waiting.pop(first)
                slot = heappop(self._free)
            try:
                active = self._admit(waiting, slot)
            except Exception as error:  # one window's bad request must not end the others
                with self._changed:
                    heappush(self._free, slot)
                    self._changed.notify_all()
                waiting.job.on_done(error)
                continue
            self._active.append(active)
        if admitted := self._active[before:]:
            self._read_prompts(admitted)

    def _read_prompts(self, admitted: Sequence[_Active]) -> None:
        tokenizer = self.pair.tokenizer
        prompts = [(a.row.slot, a.row.tokens, a.row.tokens.index(tokenizer.start_of_transcript)) for a in admitted]
        scores = self.decoder.read_prompts(prompts)
        silent = [each.softmax(dim=-1)[tokenizer.no_speech] for each in scores]
        for active, probability in zip(admitted, torch.stack(silent).tolist(), strict=True):
            active.no_speech_prob = probability

    def _admit(self, waiting: _Waiting, slot: int) -> _Active:
        request, tokenizer = waiting.job.request, self.pair.tokenizer
        if request.language is not None:
            tokenizer.check_language(request.language)
        cap = min(request.max_draft_tokens, self.decoder.max_draft_tokens)
        self.decoder.admit(slot, request.hidden, with_draft=cap > 0)
        language = request.language or self._detect_language(slot)
        prompt = tokenizer.prompt(
            language,
            request.task,
            timestamps=request.timestamps,
            previous_text=request.previous_text,
            hotwords=request.hotwords,
        )
        limit = min(self.pair.config.max_target_positions, len(prompt) + request.max_new_tokens)
        row = Row(slot, prompt, len(prompt), limit, timestamps=request.timestamps, draft_cap=cap)
        acceptance = Acceptance(self._expectations[language, request.timestamps])
        return _Active(waiting.job, waiting.claim, row, language, acceptance)

    def _detect_language(self, slot: int) -> str:
        tokenizer = self.pair.tokenizer
        if not tokenizer.languages:
            return "en"
        scores = self.decoder.prefill(slot, [tokenizer.start_of_transcript], 0)
        ids = torch.tensor(sorted(tokenizer.languages.values()), device=scores.device)
        return tokenizer.language_of(int(ids[scores[ids].argmax()]))

    def _cycle(self) -> None:
        """Draft, verify and commit for every active row."""
        end = self.pair.vocabulary.end_of_text
        plan = sorted(zip(self._draft_lengths(), self._active, strict=True), key=lambda planned: -planned[0])
        drafts, verified = self.decoder.cycle([active.row for _, active in plan], [count for count, _ in plan])
        for (_, active), draft, judged in zip(plan, drafts, verified, strict=True):
            commit = accept(active.row, draft, judged, end)
            self._commit(active, commit, len(draft))
            active.acceptance.observe(commit.accepted, len(draft))
        self.counters.cycles += 1
        for active in [a for a in self._active if a.row.done]:
            if not self._decodes_again(active):
                self._finish(active)

    def _commit(self, active: _Active, commit: Commit, given: int) -> None:
        """Write what a cycle decided into its row; what closes a loop ends it, where the request allows that."""
        row, end = active.row, self.pair.vocabulary.end_of_text
        if active.watches_loops and (closed := closes_loop(row.generated, commit.tokens, end)) is not None:
            commit = replace(commit, tokens=commit.tokens[:closed], logprobs=commit.logprobs[:closed])
            active.is_loop = True
        apply_commit(row, commit, given, end)
        row.done = row.done or active.is_loop
        active.output_tokens += len(commit.tokens)
        self.counters.output_tokens += len(commit.tokens)
        self.counters.draft_tokens += given
        self.counters.accepted_tokens += commit.accepted

    def _decodes_again(self, active: _Active) -> bool:
        """Begin a window that came out badly anew, at the next temperature, in its slot and on what its prompt left there."""
        request, row = active.job.request, active.row
        if not request.temperature_fallback:
            return False
        repetition = compression_ratio(self.pair.tokenizer.text(row.generated))
        temperature = next_temperature(
            Attempt(
                row.temperature, repetition, row.avg_logprob, active.no_speech_prob, request.heard_seconds, is_loop=active.is_loop
            )
        )
        if temperature is None:
            return False
        active.row = row.rewound(temperature, derived_seed(request.seed, temperature))
        active.is_loop = False
        self.counters.fallbacks += 1
        return True

    def _finish(self, active: _Active) -> None:
        """Answer a window and give its slot back, in this order: the times of words are read from the slot."""
        try:
            outcome: WindowTokens | Exception = self._outcome(active)
        except Exception as error:  # what is wrong with one window must not end the others
            outcome = error
        self._release(active)
        self.counters.windows += 1
        active.job.on_done(outcome)

    def _draft_lengths(self) -> list[int]:
        """Return how many tokens to draft for each active row; one whose drafts do not pay rests, but for probes."""
        most = [a.row.draft_cap for a in self._active]
        if self._costs is None:
            return most
        lengths = choose_lengths([a.acceptance.rate for a in self._active], most, self._costs)
        return [
            length or min(a.row.draft_cap, a.row.cycles % PROBE_CYCLES == 0)
            for length, a in zip(lengths, self._active, strict=True)
        ]

    def _release(self, active: _Active) -> None:
        with self._changed:
            self._active.remove(active)
            heappush(self._free, active.row.slot)
            self._changed.notify_all()

    def _outcome(self, active: _Active) -> WindowTokens:
        request, row, end = active.job.request, active.row, self.pair.vocabulary.end_of_text
        tokens = tuple(token for token in row.generated if token != end)
        if request.guards:
            tokens = without_loops(tokens, end)
        return WindowTokens(
            tokens=tokens,
            language=active.language,
            avg_logprob=row.avg_logprob,
            no_speech_prob=active.no_speech_prob,
            cycles=row.cycles,
            output_tokens=active.output_tokens,
            draft_tokens=row.drafted,
            accepted_tokens=row.accepted,
            temperature=row.temperature,
            words=self._words(active, tokens) if request.words else (),
        )

    def _words(self, active: _Active, tokens: Sequence[int]) -> "tuple[tuple[Word, ...], ...]":
        from transcriber_engine.alignment import align  # here, since decoding itself needs no pydantic

        request = active.job.request
        if is_silent(active.no_speech_prob, active.row.avg_logprob, request.heard_seconds):
            return ()
        return align(
            self.pair,
            self.decoder.cache,
            active.row.slot,
            self.pair.tokenizer.segments(tokens, request.audio_seconds),
            language=active.language,
            task=request.task,
            audio_seconds=request.audio_seconds,
        )
