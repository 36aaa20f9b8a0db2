"""A window on its way through the decoder: what is asked for, what it decoded to, and the result made of that."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from torch import Tensor

from transcriber_engine.guards import compression_ratio, is_silent
from transcriber_engine.mel import WINDOW_SECONDS

if TYPE_CHECKING:
    from transcriber_engine.result import WindowResult, Word
    from transcriber_engine.settings import EngineSettings, Options, Task
    from transcriber_engine.tokens import WhisperTokenizer

MAX_NEW_TOKENS: Final = 224  # half the context, as openai/whisper


@dataclass(frozen=True, eq=False)
class WindowRequest:
    """One window to decode."""

    hidden: Tensor  # [frames, d_model], the encoder's output
    language: str | None = None  # None: detect
    task: "Task" = "transcribe"
    timestamps: bool = False
    words: bool = False  # times of words, too; needs `timestamps`
    previous_text: str | None = None
    hotwords: str | None = None
    temperature_fallback: bool = False
    seed: int = 0  # of what temperature fallback draws
    guards: bool = False  # against what was never said: the request's `hallucination_guards`
    audio_seconds: float = float(WINDOW_SECONDS)  # of real audio; the rest of the window is padding
    speech_seconds: float | None = None  # what a speech detector heard in it; None: it was not asked
    max_draft_tokens: int = 16  # 0: the target alone
    max_new_tokens: int = MAX_NEW_TOKENS

    @classmethod
    def of(
        cls,
        hidden: Tensor,
        options: "Options",
        settings: "EngineSettings",
        *,
        audio_seconds: float = float(WINDOW_SECONDS),
        speech_seconds: float | None = None,
    ) -> Self:
        """Build the request for a window of a request with these options, in a deployment with these settings."""
        chosen = options.over(settings)
        return cls(
            hidden=hidden,
            language=chosen.language,
            task=chosen.task or settings.task,
            timestamps=chosen.timestamps != "none",
            words=chosen.timestamps == "word",
            previous_text=chosen.prompt,
            hotwords=chosen.hotwords,
            temperature_fallback=bool(chosen.temperature_fallback),
            seed=chosen.seed or 0,
            guards=bool(chosen.hallucination_guards),
            audio_seconds=audio_seconds,
            speech_seconds=speech_seconds,
            max_draft_tokens=settings.max_draft_tokens if chosen.max_draft_tokens is None else chosen.max_draft_tokens,
        )

    @property
    def heard_seconds(self) -> float | None:
        """Seconds of speech that may count against the words: those a detector heard, where the request wants guards."""
        return self.speech_seconds if self.guards else None


@dataclass(frozen=True)
class WindowTokens:
    """What a window decoded to; `tokens` have timestamps and no end of text, and with guards no loops."""

    tokens: tuple[int, ...]
    language: str
    avg_logprob: float  # mean over the committed tokens, the end of text included
    no_speech_prob: float  # of <|nospeech|> at the start of transcript
    cycles: int
    output_tokens: int  # all that were committed, with the end of text and what was decoded again
    draft_tokens: int
    accepted_tokens: int
    temperature: float = 0.0
    words: "tuple[tuple[Word, ...], ...]" = ()  # of each segment, where they were asked for


@dataclass(eq=False)
class Job:
    """A window on its way: `on_done` gets the tokens, or the exception that ended it; it is called once, on the engine's thread."""

    request: WindowRequest
    on_done: Callable[[WindowTokens | BaseException], None]
    is_cancelled: Callable[[], bool] = lambda: False
    request_key: Hashable = None  # windows with the same key share their request's part of the slots; None: a request of its own
    deadline_seconds: float | None = None  # on the scheduler's clock; a window that has no slot by then is not decoded


def window_result(decoded: WindowTokens, tokenizer: "WhisperTokenizer", request: WindowRequest) -> "WindowResult":
    """Build the result of a window: segments with times; one judged to hold no speech has none."""
    from transcriber_engine.result import Segment, Speculation, WindowResult  # here, since decoding itself needs no pydantic

    silent = is_silent(decoded.no_speech_prob, decoded.avg_logprob, request.heard_seconds)
    found = [] if silent else tokenizer.segments(decoded.tokens, request.audio_seconds)
    segments = [
        Segment(
            id=number,
            start_seconds=round(segment.start_seconds, 3),
            end_seconds=round(segment.end_seconds, 3),
            text=segment.text,
            tokens=segment.tokens,
            avg_logprob=decoded.avg_logprob,
            no_speech_prob=decoded.no_speech_prob,
            compression_ratio=compression_ratio(segment.text),
            temperature=decoded.temperature,
            words=decoded.words[number] if decoded.words else (),
        )
        for number, segment in enumerate(found)
        if not request.guards or segment.start_seconds < request.audio_seconds  # said of padding
    ]
    speculation = Speculation(
        cycles=decoded.cycles,
        output_tokens=decoded.output_tokens,
        draft_tokens=decoded.draft_tokens,
        accepted_tokens=decoded.accepted_tokens,
    )
    return WindowResult(language=decoded.language, segments=tuple(segments), speculation=speculation)
