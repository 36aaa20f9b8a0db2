"""What a model says where nobody speaks, and what it says for ever: how either is told from speech.

Pure functions on figures and tokens. Without `hallucination_guards` only openai/whisper's own rule of silence applies, so that the
text is what the target says.
"""

import zlib
from collections.abc import Sequence
from typing import Final

# openai/whisper's rule: silence is where the model says so and is unsure of the words it gives.
NO_SPEECH_PROBABILITY: Final = 0.6
NO_SPEECH_LOGPROB: Final = -1.0
HEARD_SECONDS: Final = 0.2  # of speech in a window, below which a detector heard none
# A loop: so many tokens of text that repeat so often. Laughter, a chorus and "no, no, no" have fewer.
LOOP_REPEATS: Final = 5
LOOP_TOKENS: Final = 24
LOOP_LONGEST_PERIOD: Final = 40


def is_silent(no_speech_prob: float, avg_logprob: float, speech_seconds: float | None = None) -> bool:
    """Whether two witnesses say that nobody speaks: the no-speech token, the doubt about the words, and a speech detector.

    `speech_seconds` is what a detector heard; where it was not asked (None) this is openai/whisper's rule.
    """
    nothing_heard = speech_seconds is not None and speech_seconds < HEARD_SECONDS
    return (no_speech_prob > NO_SPEECH_PROBABILITY) + (avg_logprob < NO_SPEECH_LOGPROB) + nothing_heard >= 2


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of it deflated: openai/whisper's measure of repetition."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data)) if data else 0.0


def loop_period(text: Sequence[int]) -> int | None:
    """Return after how many tokens `text` repeats itself at its end, None where it ends in no loop."""
    for period in range(1, min(LOOP_LONGEST_PERIOD, len(text) - 1) + 1):
        if text[-1] != text[-1 - period]:
            continue
        tail = text[-_loop_tokens(period) :]
        if len(tail) == _loop_tokens(period) and tail[period:] == tail[:-period]:
            return period
    return None


def closes_loop(tokens: Sequence[int], new: Sequence[int], end_of_text: int) -> int | None:
    """Return how many of the `new` tokens after `tokens` close a loop of text, None where they close none."""
    text = [token for token in tokens if token < end_of_text]
    for count, token in enumerate(new, start=1):
        if token < end_of_text:
            text.append(token)
            if loop_period(text) is not None:
                return count
    return None


def without_loops(tokens: Sequence[int], end_of_text: int) -> tuple[int, ...]:
    """Leave of each loop in a window's tokens what is said the first time; timestamps between repetitions go with them."""
    places = [i for i, token in enumerate(tokens) if token < end_of_text]
    text = [tokens[i] for i in places]
    dropped = set[int]()
    start = end = 0
    while end < len(text):
        end += 1
        period = loop_period(text[start:end])
        if period is not None:
            repeated = end - _loop_tokens(period) + period
            while end < len(text) and text[end] == text[end - period]:
                end += 1
            dropped.update(range(places[repeated], places[end - 1] + 1))
            start = end
    return tuple(token for i, token in enumerate(tokens) if i not in dropped)


def _loop_tokens(period: int) -> int:
    return max(period * LOOP_REPEATS, LOOP_TOKENS)
