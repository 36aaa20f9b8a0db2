"""Small JSON files that come with weights, read with a size limit and never trusted."""

import json
from pathlib import Path
from typing import Any, Final

from transcriber_repository.formats.tensors import unsupported

MAX_BYTES: Final = 4 << 20


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of at most 4 MiB; raises RepositoryError that names the file."""
    if not path.is_file():
        raise unsupported(path, "is missing beside the weights: add it to `files`")
    if path.stat().st_size > MAX_BYTES:
        raise unsupported(path, f"is larger than {MAX_BYTES >> 20} MiB: not a model's config")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise unsupported(path, f"is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise unsupported(path, "is not a JSON object")
    return content


def token_ids(path: Path, name: str, value: object) -> tuple[int, ...]:
    """Read a list of token ids, None meaning none; raises RepositoryError."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise unsupported(path, f"{name} is not a list of token ids")
    return tuple(item for item in value if item >= 0)  # -1 stands for a default list that the caller adds


def attention_heads(path: Path, name: str, value: object) -> tuple[tuple[int, int], ...]:
    """Read a list of [layer, head], None meaning that none is known; raises RepositoryError."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(_is_head(item) for item in value):
        raise unsupported(path, f"{name} is not a list of [layer, head]")
    return tuple((layer, head) for layer, head in value)


def _is_head(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and all(type(index) is int and index >= 0 for index in item)
