"""A Whisper of a few kilobytes, written as Hugging Face safetensors and as CTranslate2's model.bin with the same weights."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.vocabulary import special_tokens
from transcriber_api.v1alpha1 import Spec
from transcriber_repository.adapters import ADAPTERS
from transcriber_repository.formats.layout import decoder_shapes, encoder_shapes

Tensors = dict[str, np.ndarray]
TOKENS = [*"abcdefghij", *special_tokens("en")]
DIMENSIONS = {
    "vocab_size": len(TOKENS) + 1501,
    "d_model": 8,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_mel_bins": 4,
    "max_source_positions": 12,
    "max_target_positions": 16,
}
DRAFT_SHARES = ["model.encoder", "model.decoder.embed_tokens", "model.decoder.embed_positions", "proj_out"]


def tensors(dimensions: Mapping[str, int] = DIMENSIONS, seed: int = 0, dtype: str = "float16") -> Tensors:
    random = np.random.default_rng(seed)
    shapes = encoder_shapes(dimensions) | decoder_shapes(dimensions)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def draft_tensors(seed: int = 1) -> Tensors:
    drawn = tensors(DIMENSIONS | {"decoder_layers": 1}, seed)
    return {name: value for name, value in drawn.items() if ".decoder.layer" in name}


def write_tokenizer(folder: Path, tokens: list[str] = TOKENS) -> None:
    Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="a")).save(str(folder / "tokenizer.json"))


def write_hf(folder: Path, weights: Tensors | None = None, dimensions: Mapping[str, int] = DIMENSIONS, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights if weights is not None else tensors(dimensions), folder / "model.safetensors", {"format": "pt"})
    lists = {"suppress_tokens": [1, 2], "begin_suppress_tokens": [3, 10], "alignment_heads": [[1, 0], [2, 1]]}
    content = {"model_type": "whisper", **lists, **dimensions, **config}
    (folder / "config.json").write_text(json.dumps(content))
    write_tokenizer(folder)
    return folder


def write_draft(folder: Path, weights: Tensors | None = None, **config: Any) -> Path:
    names = ("decoder_layers", "d_model", "decoder_attention_heads", "decoder_ffn_dim", "vocab_size", "num_mel_bins")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights if weights is not None else draft_tensors(), folder / "model.safetensors")
    content = {name: DIMENSIONS[name] for name in (*names, "max_target_positions")} | {"decoder_layers": 1}
    (folder / "config.json").write_text(json.dumps(content | {"shares_with_target": DRAFT_SHARES} | config))
    return folder


NORM_LEAVES = {"weight": "gamma", "bias": "beta"}
ATTENTIONS = {
    "encoder": [("self_attn", "self_attention", ("qkv", ("out",)))],
    "decoder": [
        ("self_attn", "self_attention", ("qkv", ("out",))),
        ("encoder_attn", "attention", ("q", "kv", ("out",))),
    ],
}


def ct2_variables(weights: Tensors) -> Tensors:
    """Fuse and rename as CTranslate2's converter does."""
    made: Tensors = {"decoder/embeddings/weight": weights["model.decoder.embed_tokens.weight"]}
    for side in ("encoder", "decoder"):
        made[f"{side}/position_encodings/encodings"] = weights[f"model.{side}.embed_positions.weight"]
        made[f"{side}/num_heads"] = np.int16(DIMENSIONS[f"{side}_attention_heads"])
        made |= _ct2_norm(weights, f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(DIMENSIONS[f"{side}_layers"]):
            made |= _ct2_layer(weights, side, f"model.{side}.layers.{layer}", f"{side}/layer_{layer}")
    for number in (1, 2):
        for leaf in ("weight", "bias"):
            made[f"encoder/conv{number}/{leaf}"] = weights[f"model.encoder.conv{number}.{leaf}"]
    return made


def _ct2_norm(weights: Tensors, source: str, target: str) -> Tensors:
    return {f"{target}/{theirs}": weights[f"{source}.{ours}"] for ours, theirs in NORM_LEAVES.items()}


def _ct2_layer(weights: Tensors, side: str, source: str, target: str) -> Tensors:
    made = _ct2_norm(weights, f"{source}.final_layer_norm", f"{target}/ffn/layer_norm")
    zeros = np.zeros(DIMENSIONS["d_model"], weights[f"{source}.fc1.bias"].dtype)
    for ours, theirs, linears in ATTENTIONS[side]:
        made |= _ct2_norm(weights, f"{source}.{ours}_layer_norm", f"{target}/{theirs}/layer_norm")
        for number, parts in enumerate(linears):
            names = [f"{source}.{ours}.{part}_proj" for part in parts]
            made[f"{target}/{theirs}/linear_{number}/weight"] = np.concatenate([weights[f"{name}.weight"] for name in names])
            made[f"{target}/{theirs}/linear_{number}/bias"] = np.concatenate([weights.get(f"{name}.bias", zeros) for name in names])
    for number in (0, 1):
        for leaf in ("weight", "bias"):
            made[f"{target}/ffn/linear_{number}/{leaf}"] = weights[f"{source}.fc{number + 1}.{leaf}"]
    return made


def ct2_bytes(variables: Tensors, spec: str = "WhisperSpec") -> bytes:
    codes = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", 6), string(spec), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        parts += [string(name), struct.pack(f"<B{value.ndim}IBI", value.ndim, *value.shape, codes[value.dtype.name], value.nbytes)]
        parts.append(value.tobytes())
    alias = string("decoder/projection/weight") + string("decoder/embeddings/weight")
    return b"".join([*parts, struct.pack("<I", 1), alias])


def write_ct2(folder: Path, content: bytes | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(content if content is not None else ct2_bytes(ct2_variables(tensors())))
    lists = {"suppress_ids": [1, 2], "suppress_ids_begin": [3, 10], "alignment_heads": [[1, 0], [2, 1]], "lang_ids": [12]}
    (folder / "config.json").write_text(json.dumps(lists))
    write_tokenizer(folder)
    return folder


def hashed(folder: Path) -> list[dict[str, str]]:
    return [{"path": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in sorted(folder.iterdir())]


def source(folder: Path) -> dict[str, Any]:
    return {"uri": f"file://{folder}", "files": hashed(folder)}


def spec(target: dict[str, Any], draft: dict[str, Any] | None = None, **decoding: Any) -> Spec:
    return Spec.model_validate(document(target, draft, **decoding)["spec"])


def document(target: dict[str, Any], draft: dict[str, Any] | None = None, **decoding: Any) -> dict[str, Any]:
    model = {"target": target, "precision": "Float32"} | ({"draft": draft} if draft else {})
    return {
        "apiVersion": "serving.transcriber.dev/v1alpha1",
        "kind": "TranscriberDeployment",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": model,
            "decoding": decoding,
            "runtime": {"device": "CPU", "slots": 4},
            "capacity": {"provisioner": "None", "pools": [{"name": "local", "capacityType": "OnDemand"}]},
        },
    }


def write_adapters(folder: Path) -> Path:
    for name in ADAPTERS:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(f'"""{name}"""\n')
    return folder
