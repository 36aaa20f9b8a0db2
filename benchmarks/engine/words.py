"""Words that a cut loses or doubles, and words that nobody said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Final

import jiwer

REACH: Final = 2  # words on either side of a cut that are its doing; a word cut in two is heard as one or two others


@dataclass(frozen=True)
class CutErrors:
    """What was lost and doubled next to the cuts of a long file, and away from them, in words."""

    said: int
    cuts: int
    lost_at_cuts: int
    doubled_at_cuts: int
    lost_elsewhere: int
    doubled_elsewhere: int
    misheard: int  # another word was heard, anywhere


@dataclass(frozen=True)
class Wrong:
    """A run of words that were heard otherwise than they were said."""

    said_start: int  # the first of them, counted in words said
    said_end: int  # and the one after the last; the same where words were only added
    lost: int
    doubled: int
    misheard: int
    cut: int | None  # which cut is next to them, if one is


def words_of(text: str) -> list[str]:
    """Return the words without case and punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def wrong_words(said: str, pieces: Sequence[str]) -> list[Wrong]:
    """Align what was heard in the pieces, in their order, with what was said.

    A word is lost where the alignment deletes it, doubled where it inserts one, and misheard where it puts another in its place. A
    run of such words is next to a cut when no more than REACH heard words stand between them.
    """
    by_piece = [words_of(piece) for piece in pieces]
    cuts = list(accumulate(len(words) for words in by_piece))[:-1]
    heard = " ".join(word for words in by_piece for word in words)
    [alignment] = jiwer.process_words(" ".join(words_of(said)), heard).alignments
    found = []
    for is_right, chunks in groupby(alignment, lambda chunk: chunk.type == "equal"):
        if is_right:
            continue
        run = list(chunks)
        counts = {"delete": 0, "insert": 0, "substitute": 0}
        for chunk in run:
            counts[chunk.type] += max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        first, last = run[0].hyp_start_idx - REACH, run[-1].hyp_end_idx + REACH
        near = next((number for number, cut in enumerate(cuts) if first <= cut <= last), None)
        found.append(Wrong(run[0].ref_start_idx, run[-1].ref_end_idx, *counts.values(), near))
    return found


def cut_errors(said: str, pieces: Sequence[str]) -> CutErrors:
    """Count what was lost, doubled and misheard, next to cuts and elsewhere."""
    wrong = wrong_words(said, pieces)
    near, far = ([w for w in wrong if (w.cut is not None) is is_near] for is_near in (True, False))
    return CutErrors(
        said=len(words_of(said)),
        cuts=len(pieces) - 1,
        lost_at_cuts=sum(w.lost for w in near),
        doubled_at_cuts=sum(w.doubled for w in near),
        lost_elsewhere=sum(w.lost for w in far),
        doubled_elsewhere=sum(w.doubled for w in far),
        misheard=sum(w.misheard for w in wrong),
    )


def by_the_cut(wrong: Wrong, uncut: Sequence[Wrong], skipped: int) -> tuple[int, int]:
    """Return how many of the words at a cut it lost and doubled: those beyond what is lost and doubled there without it.

    `uncut` is what is wrong where the same speech is heard uncut, whose words said begin `skipped` words later.
    """
    start, end = wrong.said_start - skipped, wrong.said_end - skipped
    also = [w for w in uncut if w.said_start <= end and start <= w.said_end]
    return max(wrong.lost - sum(w.lost for w in also), 0), max(wrong.doubled - sum(w.doubled for w in also), 0)


def invented_per_minute(text: str, seconds: float) -> float:
    """Return how many words a minute were heard where nobody spoke; scripts without spaces count by their runs."""
    return len(words_of(text)) * 60 / seconds
