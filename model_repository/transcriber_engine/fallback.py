"""Temperature fallback: a window that came out badly is decoded again, its tokens drawn at rising temperatures.

The rules are openai/whisper's (`transcribe.py`, `decode_with_fallback`), with one draw per temperature.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from transcriber_engine.guards import is_silent

MAX_SEED: Final = 2**31 - 1
TEMPERATURES: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
COMPRESSION_RATIO_LIMIT: Final = 2.4  # of text: above, it repeats itself
LOGPROB_LIMIT: Final = -1.0  # mean per token: below, the model does not believe it


@dataclass(frozen=True)
class Attempt:
    """What became of a window at one temperature; the figures are those of its result."""

    temperature: float
    compression_ratio: float
    avg_logprob: float
    no_speech_prob: float
    speech_seconds: float | None = None  # what a detector heard, where it was asked
    is_loop: bool = False  # decoding was ended, since it repeated itself


def next_temperature(attempt: Attempt) -> float | None:
    """Return at which temperature to decode the window again, None where the attempt stands: it is good, silence, or the last."""
    if is_silent(attempt.no_speech_prob, attempt.avg_logprob, attempt.speech_seconds):
        return None
    repeats = attempt.is_loop or attempt.compression_ratio > COMPRESSION_RATIO_LIMIT
    if not repeats and attempt.avg_logprob >= LOGPROB_LIMIT:
        return None
    return next((t for t in TEMPERATURES if t > attempt.temperature), None)


def derived_seed(seed: int, *path: float) -> int:
    """Return the seed of a part of what has a seed: of a window, named by its number, or of an attempt, by its temperature."""
    digest = blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest) % (MAX_SEED + 1)
