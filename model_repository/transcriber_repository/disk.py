"""Durable writes: every byte and every name that a published repository rests on goes through these few functions."""

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 4 << 20


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; raises OSError (disk full, quota, file size limit)."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_file(path: Path, chunks: Iterable[bytes], advance: Callable[[int], None] | None = None) -> None:
    """Create `path` (mode 0644; it must not exist), write, fsync; `advance` is told of each chunk's bytes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        for chunk in chunks:
            write_all(descriptor, chunk)
            if advance is not None:
                advance(len(chunk))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(top: Path) -> None:
    """Make the names in a folder and in all folders below it durable, deepest first."""
    for folder in sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True):
        sync_folder(folder)
    sync_folder(top)


def move(source: Path, destination: Path) -> None:
    """Rename within one file system and make both folders' names durable."""
    os.replace(source, destination)  # noqa: PTH105  the one place where names change hands
    sync_folder(destination.parent)
    if source.parent != destination.parent:
        sync_folder(source.parent)


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it; not there is fine."""
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def opened_regular(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Open a plain file for reading, never through a symlink and never waiting on a pipe; raises ValueError where it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if path.is_symlink():
            raise ValueError("is a symbolic link") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a plain file")
        yield descriptor, status
    finally:
        os.close(descriptor)


def read_range(path: Path, offset: int, count: int) -> Iterator[bytes]:
    """Yield `count` bytes from `offset` in chunks of at most 4 MiB; raises EOFError where the file ends before."""
    with path.open("rb") as file:
        file.seek(offset)
        while count > 0:
            chunk = file.read(min(CHUNK_BYTES, count))
            if not chunk:
                raise EOFError(f"{path.name} ends {count} bytes early")
            count -= len(chunk)
            yield chunk
