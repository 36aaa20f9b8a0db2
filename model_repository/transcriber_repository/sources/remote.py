"""What every kind of source offers, and which file names a build accepts."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.request import Source

SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MAX_PATH_CHARACTERS: Final = 256
ACCEPTED: Final = re.compile(r".+\.(safetensors|json|txt)|model\.bin")
PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz", ".npy")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a source, by its path below the source's URI; sizes in bytes, sha256 in hex, None where the source does not say.

    `read_from(offset)` yields its bytes from there and raises SourceInterruptedError where it breaks off.
    """

    path: str
    read_from: Callable[[int], Iterator[bytes]]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class HttpsPolicy:
    """Which hosts `https://` may reach, and how: by default only public addresses, verified by the system's authorities."""

    hosts: frozenset[str] = frozenset()
    resolve: Callable[[str, int], Sequence[str]] | None = None
    permits: Callable[[str], bool] | None = None
    ca_file: Path | None = None


@dataclass(frozen=True)
class Access:
    """What a fetch may use: claims mounted as folders, credentials by role, environment, and the rules for https."""

    volumes: Mapping[str, Path] = field(default_factory=dict)
    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    https: HttpsPolicy = HttpsPolicy()


def refuse(subject: str, message: str) -> RepositoryError:
    """A source that is refused for what it is."""
    return RepositoryError(Reason.SOURCE_REFUSED, subject, message)


def local_name(path: str) -> str:
    """Return the name under which a source's file is kept: formats know their files by name, whatever folder they came from."""
    return path.rpartition("/")[2]


def check_paths(field_path: str, paths: Sequence[str]) -> None:
    """Refuse paths that leave the folder, clash or carry code; raises RepositoryError that names the file."""
    seen: dict[str, str] = {}
    for path in paths:
        subject = f"{field_path}.files {path[:80]!r}"
        if len(path) > MAX_PATH_CHARACTERS or any(SAFE_NAME.fullmatch(step) is None for step in path.split("/")):
            raise refuse(
                subject, "is not a plain relative path: letters, digits, '.', '_' and '-' between slashes, at most 256 characters"
            )
        name = local_name(path)
        if not ACCEPTED.fullmatch(name):
            if name.lower().endswith(PICKLES):
                raise refuse(subject, "is a pickle format, which runs code when it is read: give the safetensors file")
            raise refuse(subject, "is not a kind that a build reads: *.safetensors, *.json, *.txt or CTranslate2's model.bin")
        other = seen.setdefault(name.casefold(), path)
        if other is not path:
            raise refuse(subject, f"clashes with {other!r}: files lie in one folder after the fetch, so names must differ")


def required_files(field_path: str, source: Source) -> dict[str, str]:
    """Return name -> sha256 of a source that publishes no hashes itself; raises RepositoryError where one is not given."""
    if not source.files:
        raise RepositoryError(
            Reason.INVALID_SPEC,
            f"{field_path}.files",
            f"list each file of {source.uri} with its sha256 (only hf:// publishes them)",
        )
    return {file.path: file.sha256 for file in source.files}
