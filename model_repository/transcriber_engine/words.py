"""Words of a segment: which tokens make one, what punctuation it takes along, and times that a spoken word can have.

The rules are openai/whisper's, but that a word never reaches over the end of its segment, that punctuation after a space, as the
French write it, belongs to the word before it, too, and that a segment keeps the times that the model gave it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from string import punctuation
from typing import Final

from transcriber_engine.result import Word
from transcriber_engine.tokens import TextSegment, WhisperTokenizer

LANGUAGES_WITHOUT_SPACES: Final = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
PUNCTUATION: Final = frozenset(punctuation)
OPENING: Final = frozenset("\"'“¿([{-")  # after a space: goes with the word that follows
CLOSING: Final = frozenset("\"'.。,，!！?？:：”)]}、")  # goes with the word before
SENTENCE_ENDS: Final = frozenset(".。!！?？")
MOST_TYPICAL_SECONDS: Final = 0.7
PAUSE_IN_WORDS: Final = 4  # that many typical words fit into a pause
BORDER_TOLERANCE_SECONDS: Final = 0.5  # a word further than this beyond its segment is wrong, not the segment


@dataclass(frozen=True)
class Piece:
    """Text that is whole characters, and the number of tokens that spell it."""

    text: str
    tokens: int

    def __add__(self, other: "Piece") -> "Piece":
        return Piece(self.text + other.text, self.tokens + other.tokens)


def split_words(tokenizer: WhisperTokenizer, tokens: Sequence[int], language: str) -> list[Piece]:
    """Split text tokens where a space or punctuation begins, or into characters where the language writes no spaces.

    The pieces have all tokens and all text, in order; punctuation is a piece of its own.
    """
    pieces = whole_characters(tokenizer, tokens)
    if language in LANGUAGES_WITHOUT_SPACES:
        return pieces
    words: list[Piece] = []
    for piece in pieces:
        if words and not piece.text.startswith(" ") and not _consists_of(piece.text, PUNCTUATION):
            words[-1] += piece
        else:
            words.append(piece)
    return words


def whole_characters(tokenizer: WhisperTokenizer, tokens: Sequence[int]) -> list[Piece]:
    """Group tokens until they spell whole characters: the bytes of one may be spread over several tokens."""
    text = tokenizer.text(tokens)
    pieces: list[Piece] = []
    offset, first = 0, 0
    for end in range(1, len(tokens) + 1):
        spelled = tokenizer.text(tokens[first:end])
        if text.startswith(spelled, offset):  # part of a character decodes to a mark that the text does not have there
            pieces.append(Piece(spelled, end - first))
            offset, first = offset + len(spelled), end
    if first < len(tokens):
        rest = Piece(text[offset:], len(tokens) - first)
        pieces[-1:] = [pieces[-1] + rest] if pieces else [rest]
    return pieces


def natural_times(segments: Sequence[TextSegment], words: Sequence[Sequence[Word]]) -> tuple[tuple[Word, ...], ...]:
    """Merge punctuation into words and shorten those that have taken in a pause; `words` are those of each segment, unmerged.

    Alignment leaves no gaps: a pause falls to the words around it. Twice the median length is taken for the longest natural word,
    and applied where pauses are: at ends of sentences, and at both borders of a segment.
    """
    lengths = [length for segment in words for word in segment if (length := _seconds(word)) > 0]
    typical_seconds = min(MOST_TYPICAL_SECONDS, median(lengths)) if lengths else 0.0
    speech_end = 0.0
    natural = []
    for segment, own in zip(segments, words, strict=True):
        mended = merge_punctuation(_shortened_at_sentence_ends(own, 2 * typical_seconds))
        mended = _shortened_after_pause(mended, speech_end, typical_seconds)
        mended = _shortened_at_borders(mended, segment, typical_seconds)
        speech_end = mended[-1].end_seconds if mended else speech_end
        natural.append(tuple(_timed(word, round(word.start_seconds, 3), round(word.end_seconds, 3)) for word in mended))
    return tuple(natural)


def merge_punctuation(words: Sequence[Word]) -> list[Word]:
    """Join punctuation to the word that it belongs to, whose times stay as they are."""
    merged: list[Word] = []
    opening: list[Word] = []
    for word in words:
        if word.word.startswith(" ") and _consists_of(word.word, OPENING):
            opening.append(word)
        elif opening:
            merged.append(word.model_copy(update={"word": "".join(each.word for each in (*opening, word))}))
            opening = []
        elif merged and _consists_of(word.word, CLOSING):
            merged[-1] = merged[-1].model_copy(update={"word": merged[-1].word + word.word})
        else:
            merged.append(word)
    return merged + opening


def _shortened_at_sentence_ends(words: Sequence[Word], longest_seconds: float) -> list[Word]:
    """The pause after a sentence goes to the mark that ends it, or to the word after that: leave it to neither."""
    shortened = list(words)
    for i, word in enumerate(words):
        if i == 0 or _seconds(word) <= longest_seconds:
            continue
        if _consists_of(word.word, SENTENCE_ENDS):
            shortened[i] = _timed(word, word.start_seconds, word.start_seconds + longest_seconds)
        elif _consists_of(words[i - 1].word, SENTENCE_ENDS):
            shortened[i] = _timed(word, word.end_seconds - longest_seconds, word.end_seconds)
    return shortened


def _shortened_after_pause(words: list[Word], speech_end: float, typical_seconds: float) -> list[Word]:
    """The first word after a pause, or the second, begins no earlier than the longest natural word would."""
    if not words or words[0].end_seconds - speech_end <= PAUSE_IN_WORDS * typical_seconds:
        return words
    longest_seconds = 2 * typical_seconds
    first, second = words[0], words[min(1, len(words) - 1)]
    if max(_seconds(first), (second.end_seconds - first.start_seconds) / 2) <= longest_seconds:
        return words
    rest = words[1:]
    if rest and _seconds(second) > longest_seconds:
        border = second.end_seconds - longest_seconds
        first, rest[0] = _timed(first, first.start_seconds, border), _timed(second, border, second.end_seconds)
    return [_timed(first, max(first.start_seconds, first.end_seconds - longest_seconds), first.end_seconds), *rest]


def _shortened_at_borders(words: list[Word], segment: TextSegment, typical_seconds: float) -> list[Word]:
    """Bring the first and the last word to their segment's times where they begin long before it, or end long after it."""
    if not words:
        return words
    bordered = list(words)
    first = bordered[0]
    if first.start_seconds + BORDER_TOLERANCE_SECONDS < segment.start_seconds < first.end_seconds:
        start = min(segment.start_seconds, first.end_seconds - typical_seconds)
        bordered[0] = _timed(first, max(start, first.start_seconds), first.end_seconds)
    last = bordered[-1]
    if last.start_seconds < segment.end_seconds < last.end_seconds - BORDER_TOLERANCE_SECONDS:
        end = max(segment.end_seconds, last.start_seconds + typical_seconds)
        bordered[-1] = _timed(last, last.start_seconds, min(end, last.end_seconds))
    return bordered


def _consists_of(text: str, characters: frozenset[str]) -> bool:
    return set(text.strip()) <= characters


def _seconds(word: Word) -> float:
    return word.end_seconds - word.start_seconds


def _timed(word: Word, start_seconds: float, end_seconds: float) -> Word:
    return word.model_copy(update={"start_seconds": start_seconds, "end_seconds": end_seconds})
