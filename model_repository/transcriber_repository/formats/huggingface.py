"""Hugging Face checkpoints: `model.safetensors`, whole or in shards with an index, beside `config.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transcriber_repository.formats.jsonfile import attention_heads, read_object, token_ids
from transcriber_repository.formats.layout import EMBEDDINGS, OUTPUT_HEAD, SourceModel
from transcriber_repository.formats.tensors import TensorRange, equal, read_safetensors, unsupported

WEIGHTS_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
CONFIG_FILE: Final = "config.json"
GENERATION_FILE: Final = "generation_config.json"
DIMENSIONS: Final = (
    "vocab_size",
    "d_model",
    "encoder_layers",
    "decoder_layers",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "num_mel_bins",
    "max_source_positions",
    "max_target_positions",
)
SHARED_KEY: Final = "shares_with_target"


def read_huggingface(folder: Path) -> SourceModel:
    """Read the checkpoint in a folder; raises RepositoryError that names the file."""
    config_path = folder / CONFIG_FILE
    config = read_object(config_path)
    _check_config(config_path, config)
    tensors = _without_head(folder / WEIGHTS_FILE, _tensors(folder))
    generation_path = folder / GENERATION_FILE
    generation = config | (read_object(generation_path) if generation_path.is_file() else {})
    tokenizer = folder / "tokenizer.json"
    return SourceModel(
        file=(INDEX_FILE if (folder / INDEX_FILE).is_file() else WEIGHTS_FILE),
        dimensions={name: config[name] for name in DIMENSIONS if name in config},
        tensors=tensors,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        suppress_tokens=token_ids(generation_path, "suppress_tokens", generation.get("suppress_tokens")),
        begin_suppress_tokens=token_ids(generation_path, "begin_suppress_tokens", generation.get("begin_suppress_tokens")),
        alignment_heads=attention_heads(generation_path, "alignment_heads", generation.get("alignment_heads")),
        shares=tuple(str(prefix) for prefix in config.get(SHARED_KEY, ())),
    )


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    if "auto_map" in config:
        raise unsupported(path, "has auto_map, which names code to run: only plain Whisper checkpoints are read")
    kind = config.get("model_type", "whisper")
    if kind != "whisper":
        raise unsupported(path, f"model_type is {kind!r}: only 'whisper' is served")
    activation = config.get("activation_function", "gelu")
    if activation != "gelu" or config.get("scale_embedding", False):
        raise unsupported(path, f"activation_function {activation!r} or scale_embedding is not Whisper's ('gelu', false)")
    for name in DIMENSIONS:
        value = config.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1 << 20:
            raise unsupported(path, f"{name} is {value!r}, not a whole number from 1 to {1 << 20}")


def _tensors(folder: Path) -> dict[str, TensorRange]:
    if not (folder / INDEX_FILE).is_file():
        return read_safetensors(folder / WEIGHTS_FILE)
    index = read_object(folder / INDEX_FILE)
    where = index.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise unsupported(folder / INDEX_FILE, "has no weight_map of tensor names to files")
    tensors: dict[str, TensorRange] = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise unsupported(folder / INDEX_FILE, f"names {shard!r}, which is not among the files: add it to `files`")
        tensors |= {name: tensor for name, tensor in read_safetensors(folder / shard).items() if where.get(name) == shard}
    lost = sorted(set(where) - set(tensors))
    if lost:
        raise unsupported(folder / INDEX_FILE, f"tensor {lost[0]!r} is not in {where[lost[0]]!r}")
    return tensors


def _without_head(path: Path, tensors: dict[str, TensorRange]) -> dict[str, TensorRange]:
    """Leave out a stored output head, which must be the embedding."""
    head = tensors.get(OUTPUT_HEAD)
    if head is not None and (EMBEDDINGS not in tensors or not equal(head, tensors[EMBEDDINGS])):
        raise unsupported(path, f"{OUTPUT_HEAD!r} differs from {EMBEDDINGS!r}: Whisper ties them")
    return {name: tensor for name, tensor in tensors.items() if name != OUTPUT_HEAD}
