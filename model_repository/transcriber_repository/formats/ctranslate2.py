"""CTranslate2 checkpoints: `model.bin`, whose attention is stored fused, read under Hugging Face names without a copy.

The file, little endian: u32 version, string spec (u16 length with NUL), u32 revision, u32 count; per variable its name, u8 rank,
u32 dims…, u8 dtype, u32 byte count, bytes; then u32 alias count and pairs of strings.
"""

import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from transcriber_repository.formats.jsonfile import attention_heads, read_object, token_ids
from transcriber_repository.formats.layout import EMBEDDINGS, SourceModel
from transcriber_repository.formats.tensors import BYTES_PER_ELEMENT, TensorRange, equal, refuse_pickle, unsupported

WEIGHTS_FILE: Final = "model.bin"
CONFIG_FILE: Final = "config.json"
VERSION: Final = 6
SPEC: Final = "WhisperSpec"
DTYPES: Final = {0: "F32", 4: "F16", 5: "BF16"}
INTEGER_DTYPES: Final = {1: "int8", 2: "int16", 3: "int32"}
GELU: Final = 3
MAX_VARIABLES: Final = 100_000
MAX_RANK: Final = 8
SCALAR_BYTES: Final = 8
HEAD_DIM: Final = 64  # of every Whisper
PROJECTION, EMBEDDING_VARIABLE = "decoder/projection/weight", "decoder/embeddings/weight"
# Cross-attention heads that follow the audio, as a matrix of (layer, head): the config has them, too.
NOT_WEIGHTS: Final = ("decoder/alignment_heads",)
LAYER: Final = re.compile(r"(encoder|decoder)/layer_(\d+)/(.+)/([^/]+)")
LINEARS: Final = {
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "ffn/layer_norm": ("final_layer_norm",),
}
LEAVES: Final = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
TOP: Final = {
    EMBEDDING_VARIABLE: EMBEDDINGS,
    **{f"encoder/conv{n}/{leaf}": f"model.encoder.conv{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")},
    **{f"{side}/position_encodings/encodings": f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")},
    **{
        f"{side}/layer_norm/{leaf}": f"model.{side}.layer_norm.{LEAVES[leaf]}"
        for side in ("encoder", "decoder")
        for leaf in ("gamma", "beta")
    },
}


@dataclass(frozen=True)
class _Variables:
    tensors: dict[str, TensorRange]
    scalars: dict[str, int]


def read_ctranslate2(folder: Path) -> SourceModel:
    """Read the checkpoint in a folder; raises RepositoryError that names the file."""
    path, config_path = folder / WEIGHTS_FILE, folder / CONFIG_FILE
    config = read_object(config_path)
    variables = read_variables(path)
    for name, meant in (("decoder/activation", GELU), ("decoder/scale_embeddings", 0), ("decoder/pre_norm", 1)):
        if variables.scalars.get(name, meant) != meant:
            raise unsupported(path, f"{name} is {variables.scalars[name]}, Whisper's is {meant}")
    tensors = dict(_renamed(path, variables.tensors))
    tokenizer = folder / "tokenizer.json"
    return SourceModel(
        file=WEIGHTS_FILE,
        dimensions=_dimensions(path, tensors, variables.scalars),
        tensors=tensors,
        tokenizer=tokenizer if tokenizer.is_file() else None,
        suppress_tokens=token_ids(config_path, "suppress_ids", config.get("suppress_ids")),
        begin_suppress_tokens=token_ids(config_path, "suppress_ids_begin", config.get("suppress_ids_begin")),
        alignment_heads=attention_heads(config_path, "alignment_heads", config.get("alignment_heads")),
    )


def read_variables(path: Path) -> _Variables:
    """Read the directory of `model.bin`, not its tensors; raises RepositoryError where it is damaged, quantised or no Whisper."""
    refuse_pickle(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            version, spec, _revision, count = _u32(file), _string(file), _u32(file), _u32(file)
            if version != VERSION or spec != SPEC:
                raise unsupported(
                    path, f"is {spec[:40]!r} version {version}, not {SPEC} {VERSION}: convert it again with CTranslate2"
                )
            if count > MAX_VARIABLES:
                raise unsupported(path, f"claims {count} variables: not a whole CTranslate2 file")
            variables = _Variables({}, {})
            for _ in range(count):
                _variable(path, file, size, variables)
            aliases = {_string(file): _string(file) for _ in range(_u32(file))}
        except (struct.error, UnicodeDecodeError) as error:
            raise unsupported(path, f"ends or breaks at byte {file.tell()} of {size} ({error}): fetch it again") from None
        if file.read(1):
            raise unsupported(path, f"has more than its {file.tell() - 1} bytes: fetch it again")
    for alias, name in aliases.items():
        if alias == PROJECTION and name == EMBEDDING_VARIABLE:
            continue  # the tied output head
        if name not in variables.tensors:
            raise unsupported(path, f"alias {alias!r} points to {name!r}, which is not there")
        variables.tensors[alias] = variables.tensors[name]
    return variables


def _variable(path: Path, file: BinaryIO, size: int, variables: _Variables) -> None:
    name, (rank,) = _string(file), _unpack(file, "B")
    if rank > MAX_RANK:
        raise unsupported(path, f"variable {name!r} has {rank} dimensions: not a whole CTranslate2 file")
    shape = _unpack(file, f"{rank}I")
    (dtype,), byte_count, offset = _unpack(file, "B"), _u32(file), 0
    offset = file.tell()
    if offset + byte_count > size:
        raise unsupported(path, f"variable {name!r} needs {offset + byte_count - size} bytes beyond the end: fetch it again")
    if name in variables.tensors or name in variables.scalars:
        raise unsupported(path, f"variable {name!r} is there twice")
    if rank == 0 and byte_count <= SCALAR_BYTES:
        variables.scalars[name] = int.from_bytes(file.read(byte_count), "little")
        return
    file.seek(offset + byte_count)
    if name in NOT_WEIGHTS:
        return
    if dtype not in DTYPES:
        raise unsupported(
            path,
            f"variable {name!r} is {INTEGER_DTYPES.get(dtype, f'of unknown type {dtype}')}: quantised weights are not served; "
            "convert again with `--quantization float16`",
        )
    if math.prod(shape) * BYTES_PER_ELEMENT[DTYPES[dtype]] != byte_count:
        raise unsupported(path, f"variable {name!r} of shape {list(shape)} has {byte_count} bytes: not a whole CTranslate2 file")
    variables.tensors[name] = TensorRange(DTYPES[dtype], shape, path, offset)


def _renamed(path: Path, variables: Mapping[str, TensorRange]) -> Iterator[tuple[str, TensorRange]]:
    for name, tensor in variables.items():
        layer = LAYER.fullmatch(name)
        if name in TOP:
            yield TOP[name], tensor
        elif name == PROJECTION:
            if EMBEDDING_VARIABLE not in variables or not equal(tensor, variables[EMBEDDING_VARIABLE]):
                raise unsupported(path, f"{PROJECTION!r} differs from {EMBEDDING_VARIABLE!r}: Whisper ties them")
        elif layer is not None and layer[3] in LINEARS and layer[4] in LEAVES:
            yield from _layer_tensors(path, name, tensor, layer)
        else:
            raise unsupported(path, f"variable {name!r} is not Whisper's")


def _layer_tensors(path: Path, name: str, tensor: TensorRange, layer: re.Match[str]) -> Iterator[tuple[str, TensorRange]]:
    side, index, block, leaf = layer.groups()
    targets = LINEARS[block]
    try:
        parts = tensor.split(len(targets))
    except ValueError as error:
        raise unsupported(path, f"variable {name!r}: {error}") from None
    for target, part in zip(targets, parts, strict=True):
        if leaf == "bias" and target.endswith("k_proj"):
            if any(chunk.strip(b"\0") for chunk in part.chunks()):
                raise unsupported(path, f"variable {name!r} has a bias for keys, which Whisper has not")
            continue
        yield f"model.{side}.layers.{index}.{target}.{LEAVES[leaf]}", part


def _dimensions(path: Path, tensors: Mapping[str, TensorRange], scalars: Mapping[str, int]) -> dict[str, int]:
    """Read the dimensions off the shapes; CTranslate2's config has none."""

    def axis(name: str, index: int) -> int:
        if name not in tensors or len(tensors[name].shape) <= index:
            raise unsupported(path, f"tensor {name!r} is missing: not a Whisper model")
        return tensors[name].shape[index]

    def layers(side: str) -> int:
        prefix = f"model.{side}.layers."
        return 1 + max((int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix)), default=-1)

    d_model = axis(EMBEDDINGS, 1)
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (
            ("layers", layers(side)),
            ("attention_heads", scalars.get(f"{side}/num_heads", d_model // HEAD_DIM)),
            ("ffn_dim", axis(f"model.{side}.layers.0.fc1.weight", 0)),
        )
    }
    return sides | {
        "vocab_size": axis(EMBEDDINGS, 0),
        "d_model": d_model,
        "num_mel_bins": axis("model.encoder.conv1.weight", 1),
        "max_source_positions": axis("model.encoder.embed_positions.weight", 0),
        "max_target_positions": axis("model.decoder.embed_positions.weight", 0),
    }


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))


def _u32(file: BinaryIO) -> int:
    return _unpack(file, "I")[0]


def _string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "H")
    (text,) = struct.unpack(f"<{length}s", file.read(length))
    return str(text.rstrip(b"\0").decode())
