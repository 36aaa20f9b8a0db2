"""Whisper in miniature: a real vocabulary layout, random weights, and a draft that is right about half of the time."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from tests.vocabulary import special_tokens
from transcriber_engine.decoder import Decoder, MakeLinear
from transcriber_engine.linear import InvariantLinear
from transcriber_engine.model_config import ModelConfig
from transcriber_engine.pair import DecoderPair, vocabulary
from transcriber_engine.tokens import WhisperTokenizer

WORDS = 24
TIMESTAMPS = 12
SPECIAL = special_tokens("en", "de")


def toy_tokenizer() -> WhisperTokenizer:
    """Words w0, w1, … first, then the special tokens in Whisper's order; timestamps follow without names."""
    names = [f"w{i}" for i in range(WORDS)] + SPECIAL
    return WhisperTokenizer(Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="w0")))


def toy_config() -> ModelConfig:
    """Two layers of sixteen dimensions, six frames of audio."""
    specials_but_end = tuple(range(WORDS + 1, WORDS + len(SPECIAL) - 1))
    return ModelConfig(
        vocab_size=WORDS + len(SPECIAL) + TIMESTAMPS,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=6,
        max_target_positions=40,
        suppress_tokens=(3, 7, *specials_but_end),
        begin_suppress_tokens=(5, WORDS),
        draft_decoder_layers=1,
    )


def decoder_tensors(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Random weights, wide enough that the choices differ from step to step."""
    random = torch.Generator().manual_seed(seed)
    d, ffn, prefix = config.d_model, config.decoder_ffn_dim, "model.decoder"

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=random) * scale

    tensors = {
        f"{prefix}.embed_tokens.weight": normal(config.vocab_size, d, scale=1.0),
        f"{prefix}.embed_positions.weight": normal(config.max_target_positions, d, scale=1.0),
        f"{prefix}.layer_norm.weight": torch.ones(d),
        f"{prefix}.layer_norm.bias": torch.zeros(d),
    }
    for i in range(config.decoder_layers):
        layer = f"{prefix}.layers.{i}"
        for norm in ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"):
            tensors |= {f"{layer}.{norm}.weight": torch.ones(d), f"{layer}.{norm}.bias": torch.zeros(d)}
        for attention in ("self_attn", "encoder_attn"):
            for part in ("q", "k", "v", "out"):
                tensors[f"{layer}.{attention}.{part}_proj.weight"] = normal(d, d, scale=0.5)
                if part != "k":
                    tensors[f"{layer}.{attention}.{part}_proj.bias"] = normal(d, scale=0.1)
        for name, shape in (("fc1", (ffn, d)), ("fc2", (d, ffn))):
            tensors[f"{layer}.{name}.weight"] = normal(*shape, scale=0.4)
            tensors[f"{layer}.{name}.bias"] = normal(shape[0], scale=0.1)
    return tensors


def toy_pair(seed: int, draft_noise: float = 0.05, linear: MakeLinear = InvariantLinear) -> DecoderPair:
    """Build a target and a draft with the target's layers, disturbed by noise so that it errs."""
    config = toy_config()
    tensors = decoder_tensors(config, seed)
    random = torch.Generator().manual_seed(seed + 1)
    disturbed = {
        name: t + torch.randn(t.shape, generator=random) * draft_noise if ".layers." in name else t for name, t in tensors.items()
    }
    tokenizer = toy_tokenizer()
    words = vocabulary(config, tokenizer, torch.device("cpu"))
    return DecoderPair(
        config,
        tokenizer,
        replace(words, max_initial_timestamp=4),
        Decoder(config, tensors, config.decoder_layers, linear=linear),
        Decoder(config, disturbed, config.decoder_layers, linear=linear),
    )
