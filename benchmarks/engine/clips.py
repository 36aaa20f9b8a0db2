"""What is transcribed, and what comes of it: the words that all parts of the benchmark share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.engine.roofline import Counts

from transcriber_engine.audio import Samples


@dataclass(frozen=True, eq=False)
class Clip:
    """Speech of at most 30 s in one language: 16 kHz, mono."""

    name: str
    language: str
    samples: Samples
    text: str = ""  # what is said; empty where it is not known word for word

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples.shape[0] / 16_000


@dataclass(frozen=True)
class Answer:
    """What a peer heard in a clip; `seconds` from when a client sent it to its answer."""

    tokens: tuple[int, ...]  # of the text, without special ones
    text: str
    seconds: float


@dataclass(frozen=True)
class Run:
    """One pass over some clips."""

    seconds: float
    answers: tuple[Answer, ...]
    figures: Mapping[str, float] = field(default_factory=dict)  # what a peer tells of itself, by name
    counts: Counts | None = None  # what ours computed


@dataclass(frozen=True)
class Piece:
    """What a peer heard in one stretch of a long file."""

    start_seconds: float
    text: str


@dataclass(frozen=True)
class FileRun:
    """One pass over a long file."""

    seconds: float
    pieces: tuple[Piece, ...]
    resident_bytes: tuple[int, ...] = ()  # samples while it ran

    @property
    def text(self) -> str:
        """All that was heard."""
        return " ".join(piece.text.strip() for piece in self.pieces)


class Peer(Protocol):
    """One engine, its weights loaded, greedy, without timestamps, the language told, at most 224 tokens a window."""

    def transcribe(self, clips: Sequence[Clip], concurrency: int) -> Run:
        """Transcribe clips that so many clients send, each the next one when it has its answer."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class FilePeer(Protocol):
    """A peer that cuts long audio by itself."""

    def transcribe_file(self, samples: Samples, language: str, options: Mapping[str, object]) -> FileRun:
        """Transcribe audio of any length; the options are the peer's own."""
        ...


def closed_loop(done_seconds: Sequence[float], concurrency: int) -> list[float]:
    """Return how long each answer took, given when each was done: client i sends clip i + concurrency when it has clip i."""
    return [done - (done_seconds[i - concurrency] if i >= concurrency else 0.0) for i, done in enumerate(done_seconds)]
