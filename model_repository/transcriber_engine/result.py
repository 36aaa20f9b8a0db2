"""What a caller gets: a transcript with true times, and its forms as text and subtitles."""

import html
from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]


class Word(BaseModel):
    """A word with the space and the punctuation that go with it; seconds count as those of its segment."""

    model_config = ConfigDict(frozen=True)

    word: str
    start_seconds: Seconds
    end_seconds: Seconds
    probability: Annotated[float, Field(ge=0, le=1)]  # mean over its tokens

    def moved(self, seconds: float) -> "Word":
        """Return this word later by `seconds`."""
        times = {"start_seconds": round(self.start_seconds + seconds, 3), "end_seconds": round(self.end_seconds + seconds, 3)}
        return self.model_copy(update=times)


class Segment(BaseModel):
    """A stretch of speech; seconds count from the start of the audio (of the window, in a WindowResult)."""

    model_config = ConfigDict(frozen=True)

    id: int
    start_seconds: Seconds
    end_seconds: Seconds
    text: str
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float = 0.0  # at which its window was decoded; above 0 tokens were sampled
    words: tuple[Word, ...] = ()  # that make up the text, where their times were asked for

    def moved(self, number: int, seconds: float) -> "Segment":
        """Return this segment, and its words, renumbered and later by `seconds`."""
        times = {"start_seconds": round(self.start_seconds + seconds, 3), "end_seconds": round(self.end_seconds + seconds, 3)}
        return self.model_copy(update={"id": number, **times, "words": tuple(word.moved(seconds) for word in self.words)})


class Speculation(BaseModel):
    """Totals of speculative decoding."""

    model_config = ConfigDict(frozen=True)

    cycles: int = 0
    output_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens that were the target's own, 0 to 1."""
        return self.accepted_tokens / self.draft_tokens if self.draft_tokens else 0.0

    @property
    def tokens_per_cycle(self) -> float:
        """Tokens committed per verification; 1 without speculation."""
        return self.output_tokens / self.cycles if self.cycles else 0.0

    def __add__(self, other: "Speculation") -> "Speculation":
        return Speculation(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})


class WindowResult(BaseModel):
    """What the decoder says of one window."""

    model_config = ConfigDict(frozen=True)

    language: str
    segments: tuple[Segment, ...]
    speculation: Speculation


class Transcript(BaseModel):
    """What a request is answered with."""

    model_config = ConfigDict(frozen=True)

    text: str
    language: str | None  # of the most speech; None where there is no speech
    duration_seconds: Seconds
    segments: tuple[Segment, ...]
    speculation: Speculation
    warnings: tuple[str, ...] = ()


def to_text(transcript: Transcript) -> str:
    """Return the words alone."""
    return transcript.text


def to_srt(transcript: Transcript) -> str:
    """Return SubRip subtitles."""
    cues = (f"{number}\n{_times(s, ',')}\n{_cue(s.text)}\n" for number, s in enumerate(transcript.segments, start=1))
    return "\n".join(cues)


def to_vtt(transcript: Transcript) -> str:
    """Return WebVTT subtitles; words with times have them inside their cue, for players that show text as it is spoken."""
    cues = (f"{_times(s, '.')}\n{_timed_cue(s)}\n" for s in transcript.segments)
    return "\n".join(["WEBVTT\n", *cues])


def _cue(text: str) -> str:
    return " ".join(text.split()).replace("-->", "→")  # an arrow or an empty line would end the cue


def _timed_cue(segment: Segment) -> str:
    """The segment's text as WebVTT; times inside a cue must grow, and be later than its start and earlier than its end."""
    pieces, latest_seconds = [], segment.start_seconds
    for word in segment.words:
        if latest_seconds < word.start_seconds < segment.end_seconds:
            pieces.append(f"<{_clock(word.start_seconds, '.')}>")
            latest_seconds = word.start_seconds
        pieces.append(html.escape(word.word, quote=False))
    text = "".join(pieces) if segment.words else html.escape(segment.text, quote=False)
    return " ".join(text.replace("--&gt;", "→").split())


def _times(segment: Segment, point: str) -> str:
    end_seconds = max(segment.end_seconds, segment.start_seconds + 0.001)  # a cue without length is not valid
    return f"{_clock(segment.start_seconds, point)} --> {_clock(end_seconds, point)}"


def _clock(seconds: float, point: str) -> str:
    total = round(timedelta(seconds=seconds) / timedelta(milliseconds=1))
    minutes, milliseconds = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
