"""What a build tells whoever started it: the JSON of `--result`, which Kubernetes shows as the pod's termination message."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from transcriber_repository.errors import RepositoryError
from transcriber_repository.manifest import read_manifest
from transcriber_repository.request import Role, SourceFile

MAX_BYTES: Final = 4096  # what the kubelet reads of a termination message
Pinned = Mapping[Role, Sequence[SourceFile]]


def success(repository_dir: Path, pinned: Pinned) -> bytes:
    """Return the outcome of a build: digest, size in bytes and, where they fit, the source files with their sha256."""
    manifest = read_manifest(repository_dir)
    content = {"digest": f"sha256-{manifest.digest}", "bytes": sum(file.size for file in manifest.files)}
    files = [
        {"source": role.capitalize(), "path": file.path, "sha256": file.sha256}
        for role, source_files in pinned.items()
        for file in source_files
    ]
    whole = _encode(content | {"files": files})
    return whole if len(whole) <= MAX_BYTES else _encode(content)


def failure(error: RepositoryError) -> bytes:
    """Return the outcome of a build that failed: its reason, and its message on one line, cut where it would not fit."""
    message = " ".join(str(error).split())
    while len(encoded := _encode({"reason": error.reason, "message": message})) > MAX_BYTES:
        message = f"{message[: len(message) * 3 // 4]}…"
    return encoded


def _encode(content: Mapping[str, Any]) -> bytes:
    # Not ASCII: an escape takes up to six times the bytes. A path that is no UTF-8 still becomes valid JSON.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")
