"""Reads CTranslate2's Whisper `model.bin` and renames its variables to Hugging Face's.

Layout, little endian: u32 version, string spec name, u32 revision, u32 count; per variable: string name, u8 rank, u32 dims, u8
data type, u32 byte count, bytes; then u32 alias count and (alias, target) strings. A string is u16 length with the closing NUL.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from transcriber_repository.errors import BuildError

Array = NDArray[np.generic]

SPEC_NAME: Final = "WhisperSpec"
DATA_TYPES: Final = {0: "<f4", 4: "<f2"}
DATA_TYPE_NAMES: Final = {1: "int8", 2: "int16", 3: "int32", 5: "bfloat16"}
MAX_VARIABLES: Final = 20_000
MAX_RANK: Final = 4


class _Reader:
    """A cursor over the file that refuses to read past its end."""

    def __init__(self, path: Path, view: mmap.mmap) -> None:
        self.path, self.view, self.offset = path, view, 0

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize(code)))[0])

    def string(self) -> str:
        return self.take(self.number("H"))[:-1].decode("utf-8", errors="replace")

    def take(self, size: int) -> bytes:
        self.skip(size)
        return self.view[self.offset - size : self.offset]

    def skip(self, size: int) -> None:
        if size < 0 or self.offset + size > len(self.view):
            raise BuildError(f"{self.path.name}: ends in the middle of its data: truncated, or not a CTranslate2 model")
        self.offset += size


def read_variables(path: Path) -> dict[str, Array]:
    """Map a `model.bin` into memory: variable name -> array of float16 or float32; aliases are left out.

    Raises BuildError for anything that is not a whole CTranslate2 Whisper model in float16 or float32.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise BuildError(f"{path.name}: is empty")
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader(path, view)
    version = reader.number("I")
    spec = reader.string() if version < 256 else ""
    if spec != SPEC_NAME:
        raise BuildError(f"{path.name}: is not a CTranslate2 Whisper model (it does not say {SPEC_NAME})")
    reader.number("I")  # revision of the spec: later ones add variables, and variables are looked up by name
    count = reader.number("I")
    if count > MAX_VARIABLES:
        raise BuildError(f"{path.name}: claims {count} variables; a Whisper model has fewer than {MAX_VARIABLES}")
    variables = dict(_read_variable(reader) for _ in range(count))
    for _ in range(reader.number("I")):
        reader.string()
        reader.string()
    if reader.offset != len(view):
        raise BuildError(f"{path.name}: has {len(view) - reader.offset} bytes after its end")
    return variables


def _read_variable(reader: _Reader) -> tuple[str, Array]:
    name = reader.string()
    rank = reader.number("B")
    if rank > MAX_RANK:
        raise BuildError(f"{reader.path.name}: variable {name!r} has rank {rank}; at most {MAX_RANK} make sense")
    shape = tuple(reader.number("I") for _ in range(rank))
    data_type, size = reader.number("B"), reader.number("I")
    start = reader.offset
    reader.skip(size)
    if not name.endswith(("/weight", "/bias", "/gamma", "/beta", "/encodings")):
        return name, np.zeros(0, dtype=np.float32)  # scalars that configure CTranslate2's own runtime
    if data_type not in DATA_TYPES:
        stored = DATA_TYPE_NAMES.get(data_type, f"type {data_type}")
        raise BuildError(f"{reader.path.name}: {name} is {stored}; convert the model with float16 or float32 weights")
    dtype = np.dtype(DATA_TYPES[data_type])
    if int(np.prod(shape, dtype=np.int64)) * dtype.itemsize != size:
        raise BuildError(f"{reader.path.name}: {name} has shape {shape} but {size} bytes")
    return name, np.frombuffer(reader.view, dtype, size // dtype.itemsize, start).reshape(shape)


def to_hugging_face(variables: Mapping[str, Array], file_name: str = "model.bin") -> dict[str, Array]:
    """Rename to transformers' names and split fused attention; raises BuildError naming a variable that is missing."""
    try:
        return dict(_renamed(variables))
    except KeyError as error:
        raise BuildError(f"{file_name}: variable {error} is missing") from None


def count_layers(variables: Mapping[str, Array], side: str) -> int:
    """Count the layers of `encoder` or `decoder`."""
    layers = {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")} - {"layer_norm"}
    return len(layers)


def _renamed(variables: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    for number in (1, 2):
        yield f"model.encoder.conv{number}.weight", variables[f"encoder/conv{number}/weight"]
        yield f"model.encoder.conv{number}.bias", variables[f"encoder/conv{number}/bias"]
    yield "model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", variables[f"{side}/position_encodings/encodings"]
        yield from _norm(variables, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(count_layers(variables, side)):
            yield from _layer(variables, f"{side}/layer_{i}", f"model.{side}.layers.{i}", cross=side == "decoder")


def _layer(variables: Mapping[str, Array], source: str, target: str, *, cross: bool) -> Iterator[tuple[str, Array]]:
    attention = f"{source}/self_attention"
    yield from _norm(variables, f"{attention}/layer_norm", f"{target}.self_attn_layer_norm")
    yield from _fused(variables, f"{attention}/linear_0", f"{target}.self_attn", "qkv")
    yield from _fused(variables, f"{attention}/linear_1", f"{target}.self_attn", ("out",))
    if cross:
        attention = f"{source}/attention"
        yield from _norm(variables, f"{attention}/layer_norm", f"{target}.encoder_attn_layer_norm")
        yield from _fused(variables, f"{attention}/linear_0", f"{target}.encoder_attn", "q")
        yield from _fused(variables, f"{attention}/linear_1", f"{target}.encoder_attn", "kv")
        yield from _fused(variables, f"{attention}/linear_2", f"{target}.encoder_attn", ("out",))
    yield from _norm(variables, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    for number in (0, 1):
        yield f"{target}.fc{number + 1}.weight", variables[f"{source}/ffn/linear_{number}/weight"]
        yield f"{target}.fc{number + 1}.bias", variables[f"{source}/ffn/linear_{number}/bias"]


def _norm(variables: Mapping[str, Array], source: str, target: str) -> Iterator[tuple[str, Array]]:
    yield f"{target}.weight", variables[f"{source}/gamma"]
    yield f"{target}.bias", variables[f"{source}/beta"]


def _fused(variables: Mapping[str, Array], source: str, target: str, parts: str | tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """Split a fused projection; keys have no bias in Whisper, CTranslate2 stores zeros for it."""
    weights = np.split(variables[f"{source}/weight"], len(parts))
    biases = np.split(variables[f"{source}/bias"], len(parts))
    for part, weight, bias in zip(parts, weights, biases, strict=True):
        yield f"{target}.{part}_proj.weight", weight
        if part != "k":
            yield f"{target}.{part}_proj.bias", bias
