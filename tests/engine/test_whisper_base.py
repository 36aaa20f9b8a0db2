"""E1 and E2 on whisper-base: real and synthetic speech in ten languages, against ourselves and against Hugging Face.

A few windows by default; `make thorough` takes all.
"""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, GenerationMixin, WhisperConfig, WhisperForConditionalGeneration
from transformers.generation.logits_process import (
    LogitsProcessorList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)
from transformers.modeling_outputs import BaseModelOutput

from tests.engine.conftest import SpokenWindow, decode
from tests.thorough import THOROUGH
from transcriber_engine.decoding import DraftSource
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.pair import MAX_INITIAL_TIMESTAMP_STEPS, DecoderPair
from transcriber_engine.window import MAX_NEW_TOKENS, WindowTokens

pytestmark = pytest.mark.timeout(1800 if THOROUGH else 300)


@pytest.fixture(scope="module", params=[False, True], ids=["without timestamps", "with timestamps"])
def alone(request: pytest.FixtureRequest, pair: DecoderPair, spoken_windows: list[SpokenWindow]) -> tuple[bool, list[WindowTokens]]:
    """The same engine with one slot and no draft: what every other way of decoding must equal."""
    return request.param, decode(pair, spoken_windows, 1, "none", 0, timestamps=request.param, detect=False)


@pytest.mark.parametrize(("slots", "source", "most"), [(1, "model", 8), (7, "model", 5), (16, "prompt_lookup", 4)])
def test_batched_speculation_gives_the_tokens_of_the_target_alone(
    alone: tuple[bool, list[WindowTokens]],
    pair: DecoderPair,
    spoken_windows: list[SpokenWindow],
    slots: int,
    source: DraftSource,
    most: int,
) -> None:
    timestamps, expected = alone
    assert len(spoken_windows) >= (60 if THOROUGH else 7)
    assert len({window.language for window in spoken_windows}) >= 3
    order = random.Random(slots).sample(range(len(spoken_windows)), len(spoken_windows))
    mixed = decode(pair, [spoken_windows[i] for i in order], slots, source, most, timestamps=timestamps, detect=False)
    differing = [spoken_windows[i].name for i, result in zip(order, mixed, strict=True) if result.tokens != expected[i].tokens]
    assert differing == []
    assert sum(result.accepted_tokens for result in mixed) > 0


@pytest.fixture(scope="module")
def oracle(weights_dir: Path) -> WhisperForConditionalGeneration:
    dimensions = ModelConfig.read(weights_dir).model_dump(
        exclude={"suppress_tokens", "begin_suppress_tokens", "alignment_heads", "draft_decoder_layers"}
    )
    model = WhisperForConditionalGeneration(
        WhisperConfig(**dimensions, pad_token_id=50257, bos_token_id=50257, eos_token_id=50257, decoder_start_token_id=50258)
    )
    state = {name: tensor.float() for name, tensor in load_file(weights_dir / "target.safetensors").items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["proj_out.weight"], [])
    model.tie_weights()
    return model.eval()


def greedy_by_hugging_face(
    oracle: WhisperForConditionalGeneration, pair: DecoderPair, window: SpokenWindow, hidden: Any, *, timestamps: bool
) -> tuple[int, ...]:
    """Generate with transformers' own loop and logits processors, in the order in which its Whisper code applies them."""
    tokenizer = pair.tokenizer
    prompt = tokenizer.prompt(window.language, "transcribe", timestamps=timestamps, previous_text=None)
    config = GenerationConfig(
        do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=50257, pad_token_id=50257, decoder_start_token_id=50258
    )
    processors = LogitsProcessorList(
        [
            SuppressTokensAtBeginLogitsProcessor(list(pair.config.begin_suppress_tokens), begin_index=len(prompt)),
            SuppressTokensLogitsProcessor(list(pair.config.suppress_tokens)),
        ]
    )
    if timestamps:
        rules = GenerationConfig(
            no_timestamps_token_id=tokenizer.no_timestamps,
            eos_token_id=50257,
            bos_token_id=50257,
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP_STEPS,
        )
        processors.append(WhisperTimeStampLogitsProcessor(rules, begin_index=len(prompt)))
    sequence = GenerationMixin.generate(
        oracle,
        encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
        decoder_input_ids=torch.tensor([prompt]),
        logits_processor=processors,
        generation_config=config,
    )[0].tolist()
    return tuple(token for token in sequence[len(prompt) :] if token != tokenizer.end_of_text)


@pytest.mark.filterwarnings("default")  # transformers warns of its own deprecations
def test_greedy_decoding_equals_hugging_face_token_for_token(
    alone: tuple[bool, list[WindowTokens]],
    oracle: WhisperForConditionalGeneration,
    pair: DecoderPair,
    spoken_windows: list[SpokenWindow],
) -> None:
    timestamps, ours = alone
    differing = []
    with torch.inference_mode():
        for window, result in zip(spoken_windows, ours, strict=True):
            hidden = oracle.model.encoder(window.mel).last_hidden_state
            torch.testing.assert_close(window.hidden, hidden[0], rtol=0, atol=2e-3)
            theirs = greedy_by_hugging_face(oracle, pair, window, hidden, timestamps=timestamps)
            if theirs != result.tokens:
                differing.append((window.name, theirs, result.tokens))
    assert differing == []


def test_language_is_detected_in_whole_sentences(pair: DecoderPair, spoken_windows: list[SpokenWindow]) -> None:
    sentences = [w for w in spoken_windows if "pangram" in w.name and " " not in w.name and w.language not in ("zh", "ja")]
    found = decode(pair, sentences, 4, "none", 0, timestamps=False, detect=True)
    right = sum(result.language == window.language for result, window in zip(found, sentences, strict=True))
    assert right >= max(1, len(sentences) - 1)  # whisper-base takes one synthetic voice for another language
