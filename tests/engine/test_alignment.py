"""Times of words: the parts against plain definitions, the whole against CTranslate2, transformers and the recording itself."""

import random
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2
import numpy as np
import pytest
import torch
from benchmarks.recordings import samples_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.generation.utils import GenerateEncoderDecoderOutput

from tests.engine.recordings import READING
from tests.engine.test_exactness import decode, random_request
from tests.engine.toy import WORDS, toy_pair
from transcriber_engine.alignment import align, attend_to_text, cheapest_path_starts, median_filter, salience
from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.cache import SlotCache
from transcriber_engine.mel import log_mel
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.pair import DecoderPair
from transcriber_engine.tokens import TextSegment
from transcriber_engine.weights import load_encoder

FRAMES_PER_SECOND = 50


def starts_by_trying_every_path(cost):
    """Frames at which each row begins on the cheapest of all monotone paths."""
    rows, columns = cost.shape

    def paths(i, j):
        if (i, j) == (rows - 1, columns - 1):
            yield [(i, j)]
        for di, dj in ((0, 1), (1, 0), (1, 1)):
            if i + di < rows and j + dj < columns:
                for rest in paths(i + di, j + dj):
                    yield [(i, j), *rest]

    best = min(paths(0, 0), key=lambda path: sum(cost[step] for step in path))
    return [min(j for row, j in best if row == i) for i in range(rows)]


@given(rows=st.integers(1, 5), columns=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_path_is_the_cheapest_of_all_there_are(rows, columns, seed):
    cost = np.random.default_rng(seed).standard_normal((rows, columns))
    assert cheapest_path_starts(cost).tolist() == starts_by_trying_every_path(cost)


def test_path_follows_a_diagonal_of_low_cost_and_waits_where_nothing_is_said():
    spoken_at = [0, 3, 4, 9]
    cost = np.ones((4, 12))
    for token, frame in enumerate(spoken_at):
        cost[token, frame : [*spoken_at, 12][token + 1]] = -1
    assert cheapest_path_starts(cost).tolist() == spoken_at


@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_median_filter_is_the_median_of_seven_mirrored_at_the_ends(frames, seed):
    values = np.random.default_rng(seed).integers(-3, 4, (2, frames)).astype("float32")
    expected = values
    if frames > 3:
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, ((0, 0), (3, 3)), mode="reflect"), 7, axis=1)
        expected = np.median(windows, axis=-1)
    np.testing.assert_array_equal(median_filter(torch.from_numpy(values)), expected)


def test_salience_of_a_frame_that_no_token_prefers_is_zero():
    weights = torch.full((3, 9), 1 / 9)
    assert torch.equal(salience(weights), torch.zeros(3, 9))


@pytest.fixture
def admitted() -> tuple[DecoderPair, SlotCache]:
    pair = toy_pair(seed=3)
    cache = pair.target.allocate(2)
    random = torch.Generator().manual_seed(3)
    for slot in range(2):
        pair.target.admit(cache, slot, torch.randn(pair.config.max_source_positions, pair.config.d_model, generator=random))
    return pair, cache


def toy_segment(pair: DecoderPair, start: float, end: float, *tokens: int) -> TextSegment:
    return TextSegment(start, end, tokens, pair.tokenizer.text(tokens))


def test_every_segment_gets_its_words_in_order_and_within_the_audio(admitted):
    pair, cache = admitted
    segments = [toy_segment(pair, 0.0, 0.06, 1, 2), toy_segment(pair, 0.06, 0.08), toy_segment(pair, 0.06, 0.1, 4, 6, 8)]
    words = align(pair, cache, 1, segments, language="de", task="transcribe", audio_seconds=0.11)
    assert [" ".join(segment.text.split()) for segment in segments] == ["w1 w2", "", "w4 w6 w8"]
    assert ["".join(word.word for word in own) for own in words] == [segment.text for segment in segments]
    seconds = [second for own in words for word in own for second in (word.start_seconds, word.end_seconds)]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
    assert seconds[-1] <= 0.11


def test_window_without_text_has_no_words_and_takes_no_pass(admitted):
    pair, cache = admitted
    before = [keys.clone() for keys in cache.self_keys]
    assert align(pair, cache, 0, [], language="de", task="transcribe", audio_seconds=0.1) == ()
    assert align(pair, cache, 0, [toy_segment(pair, 0, 0.1)], language="de", task="transcribe", audio_seconds=0.1) == ((),)
    assert all(torch.equal(keys, kept) for keys, kept in zip(cache.self_keys, before, strict=True))


def test_other_slots_and_the_audio_of_the_own_are_left_as_they_were(admitted):
    pair, cache = admitted
    before = [tensor.clone() for tensor in (*cache.cross_keys, *cache.cross_values)]
    others = [tensor[0].clone() for tensor in (*cache.self_keys, *cache.self_values)]
    align(pair, cache, 1, [toy_segment(pair, 0, 0.1, 1, 2, 4)], language="en", task="transcribe", audio_seconds=0.1)
    assert all(torch.equal(*tensors) for tensors in zip((*cache.cross_keys, *cache.cross_values), before, strict=True))
    assert all(torch.equal(tensor[0], kept) for tensor, kept in zip((*cache.self_keys, *cache.self_values), others, strict=True))


def test_words_do_not_depend_on_what_the_slot_held_before(admitted):
    pair, cache = admitted
    segment = toy_segment(pair, 0, 0.1, 1, 2, 4)
    first = align(pair, cache, 1, [segment], language="en", task="transcribe", audio_seconds=0.1)
    for tensor in (*cache.self_keys, *cache.self_values):
        tensor.fill_(7.0)
    assert align(pair, cache, 1, [segment], language="en", task="transcribe", audio_seconds=0.1) == first


def test_attention_is_that_of_the_declared_heads_and_of_the_upper_layers_where_none_are(admitted):
    pair, cache = admitted
    tokens = [*range(4), WORDS]

    def seen(*heads: tuple[int, int]) -> Any:
        declared = SimpleNamespace(config=pair.config.model_copy(update={"alignment_heads": heads}), target=pair.target)
        with torch.inference_mode():
            return attend_to_text(declared, cache, 0, tokens, 6)[1]

    torch.testing.assert_close(seen((0, 1), (1, 0)), (seen((0, 1)) + seen((1, 0))) / 2)
    torch.testing.assert_close(seen(), seen((1, 0), (1, 1)))
    assert not torch.allclose(seen((0, 1)), seen((1, 0)))


def test_more_tokens_than_frames_are_said_at_once(admitted):
    pair, cache = admitted
    segment = toy_segment(pair, 0, 0.02, *range(8))
    [[*words]] = align(pair, cache, 0, [segment], language="en", task="transcribe", audio_seconds=0.005)
    assert {(word.start_seconds, word.end_seconds) for word in words} == {(0.0, 0.0)}


def test_times_of_words_change_no_token_and_do_not_depend_on_what_is_decoded_beside_them():
    rng = random.Random(5)
    pair = toy_pair(5)
    requests = [replace(random_request(rng), timestamps=True, words=True, audio_seconds=0.12) for _ in range(40)]
    without, _ = decode(pair, [replace(request, words=False) for request in requests], 1, "none", 0)
    alone, _ = decode(pair, requests, 1, "none", 0)
    together, _ = decode(pair, requests, 5, "model", 4)
    assert [result.tokens for result in alone] == [result.tokens for result in without]
    assert [(result.tokens, result.words) for result in together] == [(result.tokens, result.words) for result in alone]
    assert all(not result.words for result in without)
    assert sum(len(own) for result in alone for own in result.words) > 40


# The real model, on the first sentences of a reading; whoever hears them can check the times.
SECONDS = 8.5
TEXT = " It was the best of times, it was the worst of times. It was the age of wisdom, it was the age of foolishness."


@pytest.fixture(scope="module")
def reading() -> np.ndarray:
    return samples_of(READING)[: int(SECONDS * SAMPLE_RATE_HZ)]


@pytest.fixture(scope="module")
def hidden(reading: np.ndarray, weights_dir: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_encoder(weights_dir, "float32", "cpu")(torch.from_numpy(log_mel(reading, 80))[None])[0]


@pytest.fixture(scope="module")
def text(weights_dir: Path) -> list[int]:
    """The tokens as the model says them: words, all but one of which are a token."""
    ids = Tokenizer.from_file(str(weights_dir / "tokenizer.json")).get_vocab()
    return [ids[piece.replace(" ", "Ġ")] for piece in re.findall(r" foolish|ness| \w+|\W", TEXT)]


@pytest.fixture(scope="module")
def prompt(pair: DecoderPair) -> list[int]:
    return pair.tokenizer.prompt("en", "transcribe", timestamps=False, previous_text=None)


@pytest.fixture(scope="module")
def cache(pair: DecoderPair, hidden: torch.Tensor) -> SlotCache:
    cache = pair.target.allocate(1)
    pair.target.admit(cache, 0, hidden)
    return cache


@pytest.fixture(scope="module")
def starts(pair: DecoderPair, cache: SlotCache, prompt: list[int], text: list[int]) -> np.ndarray:
    """Frame at which each token of the text begins, and at which the last ends."""
    tokens = [*prompt, *text, pair.tokenizer.end_of_text]
    with torch.inference_mode():
        _, attention = attend_to_text(pair, cache, 0, tokens, int(SECONDS * FRAMES_PER_SECOND))
    return cheapest_path_starts(-attention[len(prompt) - 1 : -1].double().numpy())


def test_tokens_begin_where_ctranslate2_has_them_begin(whisper_base: Path, hidden, pair, prompt, text, starts):
    model = ctranslate2.models.Whisper(str(whisper_base), device="cpu", compute_type="float32")
    encoded = ctranslate2.StorageView.from_array(hidden.numpy()[None])
    [theirs] = model.align(encoded, prompt[:-1], [text], int(SECONDS * 100))
    first: dict[int, int] = {}
    for token, frame in theirs.alignments:
        first.setdefault(token, frame)
    assert list(first) == list(range(len(text) + 1))
    assert np.abs(starts - list(first.values())).max() <= 1


def test_tokens_begin_where_transformers_has_them_begin(weights_dir: Path, hidden, pair, prompt, text, starts):
    """But for what differs by definition: transformers normalises over the text alone, and crops padding after the softmax.

    Its `generate` also drops the attention that chose the first token, so that each gets the time of the next; here it may not.
    """
    fields = {"suppress_tokens", "begin_suppress_tokens", "draft_decoder_layers", "alignment_heads"}
    dimensions = ModelConfig.read(weights_dir).model_dump(exclude=fields)
    model = WhisperForConditionalGeneration._from_config(WhisperConfig(**dimensions), attn_implementation="eager").eval()
    model.load_state_dict(
        {name: each.float() for name, each in load_file(weights_dir / "target.safetensors").items()}, strict=False
    )
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *text]])
        seen = model.model.decoder(ids, encoder_hidden_states=hidden[None], output_attentions=True)
        seconds = model._extract_token_timestamps(
            GenerateEncoderDecoderOutput(cross_attentions=[seen.cross_attentions], sequences=ids),
            pair.config.alignment_heads,
            num_frames=int(SECONDS * 100),
            num_input_ids=len(prompt) - 1,
        )
    theirs = seconds[0, len(prompt) - 1 : -1].numpy()
    assert theirs.shape == starts.shape
    assert np.abs(theirs - starts / FRAMES_PER_SECOND).mean() <= 0.04


def test_words_of_a_reading_are_spoken_when_they_say(pair, cache, text, reading):
    segment = TextSegment(0.0, SECONDS, tuple(text), TEXT)
    [words] = align(pair, cache, 0, [segment], language="en", task="transcribe", audio_seconds=SECONDS)
    assert "".join(word.word for word in words) == TEXT
    assert [word.word.strip() for word in words] == TEXT.split()
    seconds = [second for word in words for second in (word.start_seconds, word.end_seconds)]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
    assert seconds[-1] <= SECONDS
    assert np.mean([word.probability for word in words]) > 0.9

    def loudness(start: float, end: float) -> float:
        return float(np.abs(reading[int(start * SAMPLE_RATE_HZ) : int(end * SAMPLE_RATE_HZ)]).mean())

    pauses = [
        (one.end_seconds, after.start_seconds) for one, after in pairwise(words) if after.start_seconds > one.end_seconds + 0.3
    ]
    assert len(pauses) == 3  # after both sentences' halves and between them
    loudness_of_words = np.mean([loudness(word.start_seconds, word.end_seconds) for word in words])
    assert np.mean([loudness(*pause) for pause in pauses]) < loudness_of_words / 2
