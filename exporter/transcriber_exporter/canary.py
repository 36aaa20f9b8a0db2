"""What canaries and progress say about Triton: pure, over explicit observations and times (monotonic seconds).

Triton calls itself ready over a model process that is dead, and over one that answers nonsense. So a short clip is transcribed
now and then, and its words are compared. A canary that gets no answer in time says little by itself: it may stand in a long queue.
Then progress decides: tokens committed for others are a sign of life, and without any sign for long enough the server is stuck.
Triton's own count of successes is none: it grows when a model has taken a request in, and by errors too.
"""

import difflib
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from typing import Final

MODEL: Final = "transcribe"
OPTIONS: Final = {"language": "en", "task": "transcribe", "timestamps": "none"}
MAX_WORD_ERRORS: Final = 2  # of nine: small models and low precision may stumble over one
RETRY_SECONDS: Final = 2.0  # after a failure: it costs the server nothing, and the way back is short


class Outcome(StrEnum):
    """How a canary ended."""

    PASSED = "passed"
    WRONG = "wrong"  # an answer, but not the words
    FAILED = "failed"  # an error in place of an answer
    TIMED_OUT = "timed_out"  # no answer in time: in a long queue, or never
    REFUSED = "refused"  # the queue is full
    UNREACHABLE = "unreachable"  # nobody listens: not started yet, or gone


UNDECIDED: Final = frozenset({Outcome.TIMED_OUT, Outcome.REFUSED})  # sick or merely busy: progress tells


@dataclass(frozen=True)
class Result:
    """A canary's outcome, a sentence about it, and its duration."""

    outcome: Outcome
    message: str
    duration_seconds: float


@dataclass(frozen=True)
class Timing:
    """When canaries run and what their absence means, in seconds.

    One is due `interval` after the last, `busy_interval` where tokens flow. Without a sign of life for `stale_after` Triton is not
    ready, for `restart_after` it is to be restarted.
    """

    interval: float = 7.0  # with the time of a failing call and of the readiness probe, below the 10 s in which a death must show
    busy_interval: float = 60.0
    deadline: float = 30.0
    stale_after: float = 45.0
    restart_after: float = 120.0


@dataclass(frozen=True)
class Verdict:
    """Whether something holds, and why not."""

    holds: bool
    message: str = ""


@dataclass(frozen=True)
class CanaryState:
    """All that was seen so far; each observation gives the next state."""

    timing: Timing
    last: Result | None = None
    failure: str | None = None  # of the last canary that was decided
    ended_at: float = 0.0
    passed_at: float | None = None
    progressed_at: float | None = None
    answers_since: float | None = None
    is_answering: bool = False
    has_started: bool = False  # a canary passed since Triton came up
    output_tokens: float | None = None  # at the last look; None: a canary was decided since, and some of the growth is its own

    def with_result(self, result: Result, at: float) -> "CanaryState":
        """Take in how a canary ended."""
        if result.outcome is Outcome.UNREACHABLE:
            return replace(self.with_triton_gone(result.message), last=result, ended_at=at)
        state = replace(self, last=result, ended_at=at, is_answering=True)
        if not self.is_answering:
            state = replace(state, answers_since=at)
        if result.outcome in UNDECIDED:
            return state
        state = replace(state, output_tokens=None)
        if result.outcome is Outcome.PASSED:
            return replace(state, failure=None, passed_at=at, has_started=True)
        return replace(state, failure=result.message)

    def with_output_tokens(self, output_tokens: float, at: float) -> "CanaryState":
        """Take in Triton's count of committed tokens; less than before means that another Triton counts."""
        if self.output_tokens is None or output_tokens == self.output_tokens:
            return replace(self, output_tokens=output_tokens)
        if output_tokens < self.output_tokens:
            return replace(self.with_triton_gone("Triton has restarted"), output_tokens=output_tokens)
        return replace(self, output_tokens=output_tokens, progressed_at=at)

    def with_triton_gone(self, message: str) -> "CanaryState":
        """Take in that nobody listens; what comes back must start anew."""
        return replace(self, failure=message, is_answering=False, has_started=False, output_tokens=None)

    @property
    def next_canary_at(self) -> float:
        """When the next canary is due."""
        if self.last is None:
            return 0.0
        if self.failure is not None or not self.has_started:
            return self.ended_at + RETRY_SECONDS
        quiet_since = max(self.ended_at, self.progressed_at or 0.0)
        return min(quiet_since + self.timing.interval, self.ended_at + self.timing.busy_interval)

    def started(self) -> Verdict:
        """Whether a canary has passed since Triton came up."""
        if self.has_started:
            return Verdict(True)
        return Verdict(False, f"no canary has passed yet: {self.failure or _describe(self.last)}")

    def readiness(self, at: float) -> Verdict:
        """Whether Triton answers rightly, as far as is known at `at`."""
        if not self.has_started:
            return self.started()
        if self.failure is not None:
            return Verdict(False, self.failure)
        return self._alive(at, self.timing.stale_after)

    def liveness(self, at: float) -> Verdict:
        """Whether Triton need not be restarted; one that has never answered is its startup probe's."""
        return Verdict(True) if self.answers_since is None else self._alive(at, self.timing.restart_after)

    def _alive(self, at: float, patience_seconds: float) -> Verdict:
        signs = (self.answers_since, self.passed_at, self.progressed_at)
        silence_seconds = at - max(sign for sign in signs if sign is not None)
        if silence_seconds <= patience_seconds:
            return Verdict(True)
        silence = f"no canary has passed and no token was decoded for {silence_seconds:.0f} s"
        return Verdict(False, f"{silence}; {self.failure or _describe(self.last)}")


def clip() -> bytes:
    """Return the bundled recording, FLAC."""
    return files("transcriber_exporter").joinpath("assets/canary.flac").read_bytes()


def expected_words() -> tuple[str, ...]:
    """Return the words of the bundled recording, normalised."""
    return words(files("transcriber_exporter").joinpath("assets/canary.txt").read_text(encoding="utf-8"))


def words(text: str) -> tuple[str, ...]:
    """Normalise a text: its words in lower case, without punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


def word_errors(heard: tuple[str, ...], expected: tuple[str, ...]) -> int:
    """Count the words that do not match, those left out and those added (one for one: a word in place of another is one)."""
    blocks = difflib.SequenceMatcher(None, heard, expected, autojunk=False).get_matching_blocks()
    return max(len(heard), len(expected)) - sum(block.size for block in blocks)


def judge(text: str, duration_seconds: float) -> Result:
    """Compare a transcript of the clip with its words. The text is not repeated: an answer that is not ours may be somebody's."""
    expected = expected_words()
    errors = word_errors(words(text), expected)
    if errors <= MAX_WORD_ERRORS:
        return Result(Outcome.PASSED, f"passed in {duration_seconds:.1f} s", duration_seconds)
    message = (
        f"the canary's transcript has {errors} errors in {len(expected)} words, at most {MAX_WORD_ERRORS} pass; check the weights"
    )
    return Result(Outcome.WRONG, message, duration_seconds)


def _describe(last: Result | None) -> str:
    return "none has ended" if last is None else f"the last one {last.message}"
