"""The tensors a Whisper model has: names as in transformers' `WhisperForConditionalGeneration`, shapes from its dimensions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from transcriber_repository.formats.tensors import TensorRange

Shapes = dict[str, tuple[int, ...]]
EMBEDDINGS: Final = "model.decoder.embed_tokens.weight"
OUTPUT_HEAD: Final = "proj_out.weight"
CONVOLUTION_WIDTH: Final = 3


@dataclass(frozen=True)
class SourceModel:
    """A model as its files say it is. `dimensions` has ModelConfig's names; a draft may leave out what it shares."""

    file: str  # the file that people know the model by
    dimensions: Mapping[str, int]
    tensors: Mapping[str, TensorRange]
    tokenizer: Path | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    alignment_heads: tuple[tuple[int, int], ...] = ()  # (layer, head); (): not known
    shares: tuple[str, ...] = ()  # prefixes of names that a draft leaves to its target

    def with_prefix(self, prefix: str) -> dict[str, TensorRange]:
        """Return the tensors of one part."""
        return {name: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def encoder_shapes(dimensions: Mapping[str, int]) -> Shapes:
    """Return name -> shape of the encoder's tensors."""
    d_model, mels = dimensions["d_model"], dimensions["num_mel_bins"]
    shapes: Shapes = {
        "model.encoder.conv1.weight": (d_model, mels, CONVOLUTION_WIDTH),
        "model.encoder.conv1.bias": (d_model,),
        "model.encoder.conv2.weight": (d_model, d_model, CONVOLUTION_WIDTH),
        "model.encoder.conv2.bias": (d_model,),
        "model.encoder.embed_positions.weight": (dimensions["max_source_positions"], d_model),
    }
    for layer in range(dimensions["encoder_layers"]):
        prefix = f"model.encoder.layers.{layer}"
        shapes |= _attention(f"{prefix}.self_attn", d_model)
        shapes |= _feed_forward(prefix, d_model, dimensions["encoder_ffn_dim"])
    return shapes | _norm("model.encoder.layer_norm", d_model)


def decoder_shapes(dimensions: Mapping[str, int]) -> Shapes:
    """Return name -> shape of the decoder's tensors; the output head is the embedding and has none of its own."""
    d_model = dimensions["d_model"]
    shapes: Shapes = {
        EMBEDDINGS: (dimensions["vocab_size"], d_model),
        "model.decoder.embed_positions.weight": (dimensions["max_target_positions"], d_model),
    }
    for layer in range(dimensions["decoder_layers"]):
        prefix = f"model.decoder.layers.{layer}"
        shapes |= _attention(f"{prefix}.self_attn", d_model) | _attention(f"{prefix}.encoder_attn", d_model)
        shapes |= _feed_forward(prefix, d_model, dimensions["decoder_ffn_dim"])
    return shapes | _norm("model.decoder.layer_norm", d_model)


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, TensorRange]) -> list[str]:
    """Say what is missing, unexpected or of another shape, each in a few words; empty where all is right."""
    missing = [f"tensor {name!r} is missing" for name in expected if name not in found]
    extra = [f"tensor {name!r} is not Whisper's" for name in found if name not in expected]
    wrong = [
        f"tensor {name!r} has shape {list(found[name].shape)}, its config says {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    return missing + extra + wrong


def _norm(name: str, d_model: int) -> Shapes:
    return {f"{name}.weight": (d_model,), f"{name}.bias": (d_model,)}


def _attention(name: str, d_model: int) -> Shapes:
    shapes: Shapes = {f"{name}.{part}.weight": (d_model, d_model) for part in ("q_proj", "k_proj", "v_proj", "out_proj")}
    # Whisper's keys have no bias: it would cancel in the softmax.
    return (
        shapes
        | {f"{name}.{part}.bias": (d_model,) for part in ("q_proj", "v_proj", "out_proj")}
        | _norm(f"{name}_layer_norm", d_model)
    )


def _feed_forward(prefix: str, d_model: int, ffn_dim: int) -> Shapes:
    shapes: Shapes = {
        f"{prefix}.fc1.weight": (ffn_dim, d_model),
        f"{prefix}.fc1.bias": (ffn_dim,),
        f"{prefix}.fc2.weight": (d_model, ffn_dim),
        f"{prefix}.fc2.bias": (d_model,),
    }
    return shapes | _norm(f"{prefix}.final_layer_norm", d_model)
