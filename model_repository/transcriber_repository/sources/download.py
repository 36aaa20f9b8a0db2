"""Fetches a source's files into a folder: resumed where an earlier try broke off, hashed while they are read."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from transcriber_repository.disk import read_range, write_all
from transcriber_repository.errors import Reason, RepositoryError, SourceInterruptedError
from transcriber_repository.progress import Meter, Reporter
from transcriber_repository.request import Role, Source
from transcriber_repository.sources.folder import list_folder, list_volume
from transcriber_repository.sources.remote import Access, RemoteFile, check_paths, local_name, refuse

TRIES_WITHOUT_PROGRESS: Final = 5
MAX_FILE_BYTES: Final = 64 << 30
SCHEMES: Final = ("hf", "s3", "https", "file", "pvc")


@dataclass(frozen=True)
class FetchedFile:
    """A file on disk as it was read: its path below the source's uri, size in bytes, sha256 in hex."""

    path: Path
    source_path: str
    size: int
    sha256: str


def fetch(
    role: Role,
    source: Source,
    into: Path,
    report: Reporter,
    access: Access,
    pause: Callable[[float], None] = time.sleep,
) -> list[FetchedFile]:
    """Fetch a source into `into`, where files of an earlier try are resumed; raises RepositoryError."""
    field_path = f"spec.model.{role}"
    check_paths(field_path, [file.path for file in source.files])
    remote = list_source(role, source, access)
    check_paths(field_path, [file.path for file in remote])
    into.mkdir(parents=True, exist_ok=True)
    with Meter(f"fetch {role}", _total(remote), report) as meter:
        return [_download(f"{field_path}.files {file.path!r}", file, into, meter, pause) for file in remote]


def list_source(role: Role, source: Source, access: Access) -> list[RemoteFile]:
    """List what a source offers, with the hashes it must have; raises RepositoryError."""
    # The clients of other schemes are large and optional: only the one in use is imported.
    field_path = f"spec.model.{role}"
    credentials = access.credentials.get(role, {})
    match urlsplit(source.uri).scheme:
        case "hf":
            from transcriber_repository.sources.hub import list_hub

            return list_hub(field_path, source, credentials)
        case "s3":
            from transcriber_repository.sources.bucket import list_bucket

            return list_bucket(field_path, source, credentials)
        case "https":
            from transcriber_repository.sources.web import list_web

            return list_web(field_path, source, access.https, credentials)
        case "file":
            return list_folder(field_path, source)
        case "pvc":
            return list_volume(field_path, source, access.volumes)
        case scheme:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise refuse(f"{field_path}.uri", f"scheme {scheme!r} is not one of {known}")


def _total(files: Sequence[RemoteFile]) -> int | None:
    sizes = [file.size for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _download(subject: str, file: RemoteFile, into: Path, meter: Meter, pause: Callable[[float], None]) -> FetchedFile:
    path = into / local_name(file.path)
    digest = hashlib.sha256()
    size = _resume(path, file.size, digest.update, meter)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    try:
        tries = 0
        while file.size is None or size < file.size:
            size_before = size
            try:
                for chunk in file.read_from(size):
                    write_all(descriptor, chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    meter.advance(len(chunk))
                    _check_size(subject, file, size)
                if file.size is None or size == file.size:
                    break
                raise SourceInterruptedError(f"ended after {size} of {file.size} bytes")
            except SourceInterruptedError as error:
                tries = 1 if size > size_before else tries + 1
                if tries >= TRIES_WITHOUT_PROGRESS:
                    raise RepositoryError(
                        Reason.SOURCE_UNAVAILABLE, subject, f"{error} ({tries} tries; the next build resumes at {size} bytes)"
                    ) from error
                pause(2.0 ** (tries - 1))
    finally:
        os.close(descriptor)
    if file.sha256 is not None and digest.hexdigest() != file.sha256:
        path.unlink()  # a resumed try must not start from wrong bytes
        raise RepositoryError(
            Reason.CHECKSUM_MISMATCH,
            subject,
            f"has sha256 {digest.hexdigest()}, expected {file.sha256}: correct the hash or replace the file",
        )
    return FetchedFile(path, file.path, size, digest.hexdigest())


def _resume(path: Path, announced: int | None, update: Callable[[bytes], None], meter: Meter) -> int:
    """Hash what an earlier try left, and return its size in bytes."""
    if not path.is_file():
        return 0
    size = path.stat().st_size
    if announced is not None and size > announced:
        path.unlink()
        return 0
    for chunk in read_range(path, 0, size):
        update(chunk)
        meter.advance(len(chunk), transferred=False)
    return size


def _check_size(subject: str, file: RemoteFile, size: int) -> None:
    if size > (MAX_FILE_BYTES if file.size is None else file.size):
        expected = f"{file.size} bytes" if file.size is not None else f"{MAX_FILE_BYTES >> 30} GiB"
        raise refuse(subject, f"is longer than the {expected} that were announced or are allowed")
