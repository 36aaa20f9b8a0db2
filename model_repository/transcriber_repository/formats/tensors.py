"""Tensors as byte ranges of files, so that a conversion copies gigabytes and holds megabytes."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from transcriber_repository.disk import CHUNK_BYTES, read_range, write_file
from transcriber_repository.errors import Reason, RepositoryError

BYTES_PER_ELEMENT: Final = {"F32": 4, "F16": 2, "BF16": 2}
LENGTH_BYTES: Final = 8
METADATA_KEY: Final = "__metadata__"


@dataclass(frozen=True)
class TensorRange:
    """A dense little-endian tensor in row-major order at `offset` of `path`; `dtype` is F32, F16 or BF16."""

    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def byte_count(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * BYTES_PER_ELEMENT[self.dtype]

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes, at most 4 MiB at a time."""
        return read_range(self.path, self.offset, self.byte_count)

    def split(self, parts: int) -> list["TensorRange"]:
        """Cut the first axis into equal parts; raises ValueError where it does not divide."""
        if self.shape[0] % parts:
            raise ValueError(f"first axis of {list(self.shape)} does not divide by {parts}")
        shape = (self.shape[0] // parts, *self.shape[1:])
        step = math.prod(shape) * BYTES_PER_ELEMENT[self.dtype]
        return [TensorRange(self.dtype, shape, self.path, self.offset + index * step) for index in range(parts)]


def unsupported(path: Path, message: str) -> RepositoryError:
    """A weights file that is refused."""
    return RepositoryError(Reason.UNSUPPORTED_FORMAT, path.name, message)


def read_safetensors(path: Path) -> dict[str, TensorRange]:
    """Return the tensors of a safetensors file by name; raises RepositoryError where it is damaged, or not one at all."""
    refuse_pickle(path)
    try:
        # The library checks header length, offsets, overlaps and the file's end; the ranges themselves it does not tell.
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise unsupported(path, f"is not a whole safetensors file ({error}): fetch it again") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header: dict[str, dict[str, object]] = json.loads(file.read(length))
    data_at = LENGTH_BYTES + length
    return {name: _range(path, name, entry, data_at) for name, entry in header.items() if name != METADATA_KEY}


def _range(path: Path, name: str, entry: Mapping[str, object], data_at: int) -> TensorRange:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in BYTES_PER_ELEMENT:
        raise unsupported(path, f"tensor {name!r} is {dtype}: give weights in {', '.join(BYTES_PER_ELEMENT)}")
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise unsupported(path, f"tensor {name!r} has no shape or offsets")
    return TensorRange(str(dtype), tuple(shape), path, data_at + offsets[0])


def write_safetensors(path: Path, tensors: Mapping[str, TensorRange], advance: Callable[[int], None]) -> None:
    """Write a safetensors file in the order of its names; bytes are told to `advance`. Raises OSError."""
    header: dict[str, object] = {METADATA_KEY: {"format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = offset + tensor.byte_count
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)

    def chunks() -> Iterator[bytes]:
        yield len(text).to_bytes(LENGTH_BYTES, "little") + text
        for name in sorted(tensors):
            yield from tensors[name].chunks()

    write_file(path, chunks(), advance)


def equal(left: TensorRange, right: TensorRange) -> bool:
    """Whether two tensors hold the same numbers; of two precisions, the finer is first rounded to the coarser."""
    if left.shape != right.shape:
        return False
    if left.dtype == right.dtype:
        return all(a == b for a, b in zip(left.chunks(), right.chunks(), strict=True))
    fine, coarse = (left, right) if left.dtype == "F32" else (right, left)
    if fine.dtype != "F32":
        return False  # F16 and BF16: neither is a rounding of the other
    fine_chunks = read_in(fine, CHUNK_BYTES)
    coarse_chunks = read_in(coarse, CHUNK_BYTES // 2)
    return all(
        np.array_equal(_rounded(a, coarse.dtype), np.frombuffer(b, "<u2")) for a, b in zip(fine_chunks, coarse_chunks, strict=True)
    )


def read_in(tensor: TensorRange, chunk_bytes: int) -> Iterator[bytes]:
    """Yield a tensor's bytes in steps of `chunk_bytes`, the last one shorter."""
    for start in range(0, tensor.byte_count, chunk_bytes):
        yield b"".join(read_range(tensor.path, tensor.offset + start, min(chunk_bytes, tensor.byte_count - start)))


def _rounded(data: bytes, dtype: str) -> npt.NDArray[np.uint16]:
    """Round float32 bytes to the bit patterns of F16 or BF16, to nearest, ties to even."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return np.frombuffer(data, "<f4").astype("<f2").view("<u2")
    bits = np.frombuffer(data, "<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def refuse_pickle(path: Path) -> None:
    """Refuse what begins like a pickle or a zip archive of pickles, whatever its name; raises RepositoryError."""
    with path.open("rb") as file:
        start = file.read(4)
    # Protocol 2 and later begin with PROTO n; torch.save since 1.6 writes a zip.
    if start[:2] in {b"\x80" + bytes([protocol]) for protocol in range(2, 6)} or start == b"PK\x03\x04":
        raise unsupported(path, "is a pickle, which runs code when it is read: give the safetensors file")
