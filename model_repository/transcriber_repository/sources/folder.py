"""`file:///abs/dir` and `pvc://claim/path`: folders, read without following links."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from transcriber_repository.disk import CHUNK_BYTES, opened_regular
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.request import Source
from transcriber_repository.sources.remote import SAFE_NAME, RemoteFile, refuse, required_files


def list_folder(field_path: str, source: Source) -> list[RemoteFile]:
    """List `file:///abs/dir`; raises RepositoryError."""
    parts = urlsplit(source.uri)
    if parts.netloc or not parts.path.startswith("/") or "\0" in parts.path:
        raise refuse(f"{field_path}.uri", f"{source.uri!r} is not of the form file:///absolute/folder")
    return _list(field_path, source, Path(parts.path))


def list_volume(field_path: str, source: Source, volumes: Mapping[str, Path]) -> list[RemoteFile]:
    """List `pvc://claim/path` in the folder where the claim is mounted; raises RepositoryError."""
    parts = urlsplit(source.uri)
    steps = [step for step in parts.path.split("/") if step]
    if not parts.netloc or any(SAFE_NAME.fullmatch(step) is None for step in steps):
        raise refuse(f"{field_path}.uri", f"{source.uri!r} is not of the form pvc://claim/path of plain folder names")
    if parts.netloc not in volumes:
        raise RepositoryError(
            Reason.INVALID_SPEC,
            f"{field_path}.uri",
            f"no folder is known for claim {parts.netloc!r}: say where it is mounted with `--volume {parts.netloc}=DIR`",
        )
    mounted = volumes[parts.netloc].resolve()
    folder = mounted.joinpath(*steps)
    if folder.resolve() != folder:
        raise refuse(f"{field_path}.uri", f"{source.uri!r} leads through a symbolic link: name the real folder")
    return _list(field_path, source, folder)


def _list(field_path: str, source: Source, folder: Path) -> list[RemoteFile]:
    if not folder.is_dir():
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, f"{field_path}.uri", f"{folder} is not a folder")
    return [_file(field_path, folder, path, sha256) for path, sha256 in required_files(field_path, source).items()]


def _file(field_path: str, folder: Path, name: str, sha256: str) -> RemoteFile:
    subject, path = f"{field_path}.files {name!r}", folder / name
    if path.parent.resolve() != folder.resolve() / Path(name).parent:
        raise refuse(subject, f"leads through a symbolic link: copy the file itself into {folder}")
    try:
        status = path.lstat()
    except OSError as error:
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, subject, f"is not in {path.parent} ({error.strerror})") from None

    def read_from(offset: int) -> Iterator[bytes]:
        try:
            with opened_regular(path) as (descriptor, status):
                if status.st_nlink > 1:
                    raise ValueError("is a hard link to a file that others may change")
                os.lseek(descriptor, offset, os.SEEK_SET)
                while chunk := os.read(descriptor, CHUNK_BYTES):
                    yield chunk
        except ValueError as error:
            raise refuse(subject, f"{error}: copy the file itself into {path.parent}") from None

    # What is no plain file has no size to compare: reading it refuses it.
    return RemoteFile(name, read_from, status.st_size if stat.S_ISREG(status.st_mode) else None, sha256)
