"""When each word of a finished window was said: one pass of the target over its text, whose cross-attention follows the audio.

As openai/whisper's word timestamps: the attention of the heads known to follow speech is normalised, smoothed and averaged into a
map of tokens over frames, and dynamic time warping finds the way through it on which neither goes back. The pass comes after
decoding, so that decoding keeps its fused attention, and its tokens do not change.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from transcriber_engine.cache import SlotCache
from transcriber_engine.pair import DecoderPair
from transcriber_engine.ragged import RaggedTokens
from transcriber_engine.result import Word
from transcriber_engine.settings import Task
from transcriber_engine.tokens import TextSegment
from transcriber_engine.words import natural_times, split_words

FRAME_SECONDS: Final = 0.02  # of the encoder's output
MEDIAN_WIDTH: Final = 7
# Compare and exchange these in order, and the fourth of seven is their median (the network of the fewest steps, Knuth 5.3.4).
MEDIAN_EXCHANGES: Final = (
    *((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6)),
    *((2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4)),
)


@torch.inference_mode()
def align(
    pair: DecoderPair,
    cache: SlotCache,
    slot: int,
    segments: Sequence[TextSegment],
    *,
    language: str,
    task: Task,
    audio_seconds: float,
) -> tuple[tuple[Word, ...], ...]:
    """Return the words of each segment of a window that is decoded to the end, in seconds of the window.

    `cache` is the target's and its slot still holds the window's cross-attention; what it held of text is overwritten. No word
    begins after `audio_seconds`, past which a window is padding.
    """
    text = [token for segment in segments for token in segment.tokens]
    if not text:
        return tuple(() for _ in segments)
    prompt = pair.tokenizer.prompt(language, task, timestamps=False, previous_text=None)
    tokens = [*prompt, *text, pair.tokenizer.end_of_text]
    frames = min(max(int(audio_seconds / FRAME_SECONDS), 1), pair.config.max_source_positions)
    hidden, attention = attend_to_text(pair, cache, slot, tokens, frames)
    # A token is chosen from the state before it: the last of the prompt has the first token's, the last token the end's.
    states = slice(len(prompt) - 1, -1)
    starts = cheapest_path_starts(-attention[states].double().cpu().numpy()) * FRAME_SECONDS
    probabilities = _probabilities(pair, hidden[states][:-1], text)
    return _words(pair, segments, language, starts.tolist(), probabilities)


def attend_to_text(pair: DecoderPair, cache: SlotCache, slot: int, tokens: Sequence[int], frames: int) -> tuple[Tensor, Tensor]:
    """Run the target over all `tokens` at once; returns hidden [tokens, d_model] and attention [tokens, frames].

    The latter is the mean over the alignment heads of the `salience` of their attention over the first `frames`, in float32.
    """
    heads_of = defaultdict[int, list[int]](list)
    for layer, head in pair.config.heads_that_align:
        heads_of[layer].append(head)
    device = cache.cross_keys[0].device
    attention = torch.zeros(len(tokens), frames, device=device)

    def observe(layer: int, query: Tensor) -> None:
        for head in heads_of[layer]:
            keys = cache.cross_keys[layer][slot, head, :, :frames]
            attention.add_(salience((query[:, head].float() @ keys.float()).softmax(dim=-1)))

    hidden: Tensor = pair.target(cache, RaggedTokens.of_rows([(slot, 0, tokens)], device), observe)
    return hidden, attention / len(pair.config.heads_that_align)


def salience(weights: Tensor) -> Tensor:
    """Attention weights [tokens, frames] in standard deviations of each frame over the tokens, without what flickers."""
    deviation, mean = torch.std_mean(weights, dim=0, correction=0)
    return median_filter((weights - mean) / deviation.clamp_min(torch.finfo(weights.dtype).tiny))


def median_filter(values: Tensor) -> Tensor:
    """Median of each value and the three on either side, mirrored at the ends: [..., frames] -> [..., frames].

    Fewer than four frames stay as they are. A network of minima and maxima, since sorting each window takes twenty times as long.
    """
    frames, side = values.shape[-1], MEDIAN_WIDTH // 2
    if frames <= side:
        return values
    padded = F.pad(values[None], (side, side), mode="reflect")[0]
    lanes = [padded[..., i : i + frames] for i in range(MEDIAN_WIDTH)]
    for i, j in MEDIAN_EXCHANGES:
        lanes[i], lanes[j] = torch.minimum(lanes[i], lanes[j]), torch.maximum(lanes[i], lanes[j])
    return lanes[side]


def cheapest_path_starts(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the frame at which the cheapest path through `cost` [tokens, frames] comes to each token.

    Dynamic time warping (Sakoe and Chiba 1978): the path runs from the first token and frame to the last, and steps to the next
    frame, the next token, or both. The cheapest way to (token i, frame j) costs

        total[i, j] = cost[i, j] + min(total[i, j-1], total[i-1, j-1], total[i-1, j]).

    A stay in row i from frame k to j adds a difference of running sums, so a row is one running minimum over where it is entered.
    """
    tokens, frames = cost.shape
    columns = np.arange(frames)
    entered = np.empty((tokens, frames), dtype=np.int64)  # where the best path at (token, frame) came into the token's row
    diagonal = np.zeros((tokens, frames), dtype=bool)  # and whether from the frame before
    entry = np.where(columns == 0, 0.0, np.inf)  # the cheapest total just before entering the row at each frame
    for i, row in enumerate(cost):
        sums = np.concatenate(([0.0], np.cumsum(row)))
        offers = entry - sums[:-1]
        best = np.minimum.accumulate(offers)
        better = np.concatenate(([True], offers[1:] < best[:-1]))
        entered[i] = np.maximum.accumulate(np.where(better, columns, 0))
        total = best + sums[1:]
        if i + 1 < tokens:
            earlier = np.concatenate(([np.inf], total[:-1]))
            diagonal[i + 1] = earlier < total
            entry = np.minimum(earlier, total)
    starts = np.empty(tokens, dtype=np.int64)
    frame = frames - 1
    for i in reversed(range(tokens)):
        starts[i] = entered[i, frame]
        frame = starts[i] - diagonal[i, starts[i]]
    return starts


def _probabilities(pair: DecoderPair, hidden: Tensor, text: Sequence[int]) -> list[float]:
    """Probability of each token of text among all text, given those before it.

    What decoding knew of its tokens does not say it: that is among what the rules allow, after timestamps and a prompt. The two
    differ by 0.02 on average, and by up to a half.
    """
    scores = F.linear(hidden, pair.target.embed_tokens[: pair.tokenizer.end_of_text]).float()
    chosen = torch.tensor(text, device=scores.device)
    probabilities: list[float] = scores.softmax(dim=-1).gather(1, chosen[:, None])[:, 0].tolist()
    return probabilities


def _words(
    pair: DecoderPair, segments: Sequence[TextSegment], language: str, starts: Sequence[float], probabilities: Sequence[float]
) -> tuple[tuple[Word, ...], ...]:
    """Put words together from their tokens' `starts`, the last of which is the end of all, and give them natural times."""
    pieces = [split_words(pair.tokenizer, segment.tokens, language) for segment in segments]
    bounds = pairwise(accumulate((piece.tokens for segment in pieces for piece in segment), initial=0))
    words = [
        [
            Word(
                word=piece.text,
                start_seconds=starts[first],
                end_seconds=starts[last],
                probability=fmean(probabilities[first:last]),
            )
            for piece, (first, last) in zip(segment, bounds, strict=False)  # the bounds go on into the next segment
        ]
        for segment in pieces
    ]
    return natural_times(segments, words)
