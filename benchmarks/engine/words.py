"""Words that a cut loses or doubles, and words that nobody said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
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


def words_of(text: str) -> list[str]:
    """Return the words without case and punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def cut_errors(said: str, pieces: Sequence[str]) -> CutErrors:
    """Align what was heard in the pieces, in their order, with what was said.

    A word is lost where the alignment deletes it, and doubled where it inserts one; either counts for a cut when no more than REACH
    heard words stand between them.
    """
    by_piece = [words_of(piece) for piece in pieces]
    heard = [word for words in by_piece for word in words]
    cuts = list(accumulate(len(words) for words in by_piece))[:-1]
    wanted = words_of(said)
    counts = dict.fromkeys(("lost_at_cuts", "doubled_at_cuts", "lost_elsewhere", "doubled_elsewhere", "misheard"), 0)
    [alignment] = jiwer.process_words(" ".join(wanted), " ".join(heard)).alignments
    for chunk in alignment:
        if chunk.type == "substitute":
            counts["misheard"] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type in ("delete", "insert"):
            near = any(chunk.hyp_start_idx - REACH <= cut <= chunk.hyp_end_idx + REACH for cut in cuts)
            kind = "lost" if chunk.type == "delete" else "doubled"
            length = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
            counts[f"{kind}_{'at_cuts' if near else 'elsewhere'}"] += length
    return CutErrors(len(wanted), len(cuts), **counts)


def invented_per_minute(text: str, seconds: float) -> float:
    """Return how many words a minute were heard where nobody spoke; scripts without spaces count by their runs."""
    return len(words_of(text)) * 60 / seconds
