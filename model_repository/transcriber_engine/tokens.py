"""Whisper's tokenizer: special ids, prompts, text, and timestamps, read from the repository's own `tokenizer.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from transcriber_engine.errors import RequestError
from transcriber_engine.settings import Task

TIMESTAMP_STEP_SECONDS: Final = 0.02
PROMPT_TOKENS: Final = 223  # half the context less its marker, as openai/whisper carries


@dataclass(frozen=True)
class TextSegment:
    """A stretch of a window between two timestamps; seconds are relative to the window."""

    start_seconds: float
    end_seconds: float
    tokens: tuple[int, ...]
    text: str


class WhisperTokenizer:
    """Text and special tokens of one Whisper vocabulary; English-only models have no languages and one task."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.end_of_text = self._id("<|endoftext|>")
        self.start_of_transcript = self._id("<|startoftranscript|>")
        self.start_of_previous = self._id("<|startofprev|>")
        self.no_timestamps = self._id("<|notimestamps|>")
        self.no_speech = self._first_id("<|nospeech|>", "<|nocaptions|>")
        # Timestamps follow directly; some tokenizer files leave them out of the vocabulary.
        self.timestamp_begin = self.no_timestamps + 1

    @classmethod
    def read(cls, path: Path) -> "WhisperTokenizer":
        """Read a `tokenizer.json`; raises ValueError where it is not Whisper's."""
        return cls(Tokenizer.from_file(str(path)))

    def _id(self, token: str) -> int:
        return self._first_id(token)

    def _first_id(self, *tokens: str) -> int:
        for token in tokens:
            found = self._tokenizer.token_to_id(token)
            if found is not None:
                return int(found)
        raise ValueError(f"tokenizer.json has no {' or '.join(tokens)}: not a Whisper tokenizer")

    @cached_property
    def languages(self) -> Mapping[str, int]:
        """Language code -> token id; empty for an English-only model."""
        translate = self._tokenizer.token_to_id("<|translate|>")
        between = range(self.start_of_transcript + 1, translate or self.start_of_transcript)
        names = {i: self._tokenizer.id_to_token(i) for i in between}
        return {name[2:-2]: i for i, name in names.items() if name and name.startswith("<|") and len(name) <= 7}

    def language_of(self, token: int) -> str:
        """Return the code of a language token."""
        return next(code for code, i in self.languages.items() if i == token)

    def check_language(self, language: str) -> None:
        """Raise RequestError unless the model speaks `language`."""
        if language not in (self.languages or {"en": 0}):
            known = ", ".join(sorted(self.languages or ["en"]))
            raise RequestError("OPTIONS.language", f"{language!r} is not a language of this model; known are {known}")

    def check_hotwords(self, hotwords: str) -> None:
        """Raise RequestError where the hotwords do not fit into the room that a prompt has."""
        count = len(self._encode_plain(hotwords))
        if count > PROMPT_TOKENS:
            raise RequestError("OPTIONS.hotwords", f"are {count} tokens, at most {PROMPT_TOKENS} fit; send fewer words")

    def prompt(
        self, language: str, task: Task, *, timestamps: bool, previous_text: str | None, hotwords: str | None = None
    ) -> list[int]:
        """Return the ids that open a row: [hotwords, end of the previous text,] start, language, task[, no timestamps]."""
        ids = self._encode_plain(hotwords)
        text = self._encode_plain(previous_text)
        ids += text[max(len(text) - (PROMPT_TOKENS - len(ids)), 0) :]
        if ids:
            ids.insert(0, self.start_of_previous)
        ids.append(self.start_of_transcript)
        if self.languages:
            ids += [self.languages[language], self._id(f"<|{task}|>")]
        if not timestamps:
            ids.append(self.no_timestamps)
        return ids

    def _encode_plain(self, text: str | None) -> list[int]:
        """Encode ordinary text: a control token written in it stays the characters it is made of."""
        if not text or not text.strip():
            return []
        pieces = (" " + text.strip()).replace("<|", "<\u200b|")
        ids = self._tokenizer.encode(pieces, add_special_tokens=False).ids
        return [i for i in ids if i < self.end_of_text]

    def text(self, tokens: Sequence[int]) -> str:
        """Decode text tokens; special tokens and timestamps are left out."""
        return str(self._tokenizer.decode([t for t in tokens if t < self.end_of_text], skip_special_tokens=True))

    def seconds(self, token: int) -> float:
        """Return the time of a timestamp token within its window."""
        return (token - self.timestamp_begin) * TIMESTAMP_STEP_SECONDS

    def segments(self, tokens: Sequence[int], window_seconds: float) -> list[TextSegment]:
        """Cut a window's tokens at its timestamps; text without a closing stamp ends with the window."""
        found: list[TextSegment] = []
        start, text = 0.0, list[int]()

        def close(end: float) -> None:
            words = self.text(text)
            if words.strip():
                end = min(max(end, start), window_seconds)
                found.append(TextSegment(min(start, end), end, tuple(text), words))
            text.clear()

        for token in tokens:
            if token >= self.timestamp_begin:
                close(self.seconds(token))
                start = self.seconds(token)
            elif token < self.end_of_text:
                text.append(token)
        close(window_seconds)
        return found
