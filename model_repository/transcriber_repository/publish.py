"""Makes a finished folder the repository of its digest in one step, and removes what nobody serves.

A root holds `sha256-<digest>/` folders and, while somebody works on it, `.lock`, `.building/` (a repository not finished yet),
`.downloads/` (sources, kept for the next try where the network failed) and `.removing/`. Everything under a dot may be deleted
by whoever holds the lock.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from transcriber_repository.disk import move, read_range, remove_tree, sync_folder, sync_folders, write_file
from transcriber_repository.manifest import DIGEST_DIR, MANIFEST_FILE, READY_FILE, Manifest, ManifestFile, is_ready, ready_text
from transcriber_repository.progress import Meter, Reporter

LOCK_FILE: Final = ".lock"
BUILDING_DIR: Final = ".building"
DOWNLOADS_DIR: Final = ".downloads"
REMOVING_DIR: Final = ".removing"


def repository_path(root: Path, digest: str) -> Path:
    """Return where the repository of a digest (64 hex digits) lies."""
    return root / f"sha256-{digest}"


@contextmanager
def locked(root: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the root's lock, so that one process builds or collects in it; `on_wait` is called where another holds it."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # and with it goes the lock, as it does when the process dies


def clean(root: Path) -> None:
    """Remove what builders that died left: unfinished work, and folders that were renamed but never made ready."""
    remove_tree(root / BUILDING_DIR)
    remove_tree(root / REMOVING_DIR)
    for path in repositories(root):
        if not is_ready(path):
            _remove(root, path)


def publish(root: Path, built: Path, digest: str, report: Reporter) -> Path:
    """Turn `built` (a folder within `root`) into the repository of `digest` and return its path; raises OSError.

    A crash at any point leaves no folder of that name, one without READY, which counts as absent, or the whole one.
    """
    paths = sorted(path for path in built.rglob("*") if path.is_file())
    with Meter("publish", sum(path.stat().st_size for path in paths), report) as meter:
        files = tuple(_entry(built, path, meter) for path in paths)
    manifest = Manifest(digest=digest, files=files).model_dump_json(indent=1).encode()
    write_file(built / MANIFEST_FILE, [manifest])
    sync_folders(built)
    published = repository_path(root, digest)
    move(built, published)
    # READY is renamed into place too: a half-written one would be a lie.
    ready = root / BUILDING_DIR / READY_FILE
    write_file(ready, [ready_text(manifest)])
    move(ready, published / READY_FILE)
    return published


def collect(root: Path, keep: Set[str], on_wait: Callable[[], None] = lambda: None) -> list[str]:
    """Remove all repositories but those of the digests to keep (the one that serves and the one before it); return the removed.

    Raises ValueError where none is to be kept, which no deployment wants.
    """
    if not keep:
        raise ValueError("collect: name at least one digest to keep")
    wanted = {repository_path(root, digest.removeprefix("sha256-").removeprefix("sha256:")) for digest in keep}
    with locked(root, on_wait):
        clean(root)
        remove_tree(root / DOWNLOADS_DIR)  # nobody is at work; whose they were may be deleted
        doomed = [path for path in repositories(root) if path not in wanted]
        for path in doomed:
            _remove(root, path)
    return [path.name.removeprefix("sha256-") for path in doomed]


def repositories(root: Path) -> list[Path]:
    """Return the folders below a root that are named as repositories are, finished or not."""
    return sorted(path for path in root.iterdir() if DIGEST_DIR.fullmatch(path.name) and path.is_dir())


def _remove(root: Path, repository_dir: Path) -> None:
    """Take the name away first: a repository half removed must not look like one."""
    move(repository_dir, root / REMOVING_DIR)
    remove_tree(root / REMOVING_DIR)
    sync_folder(root)


def _entry(built: Path, path: Path, meter: Meter) -> ManifestFile:
    digest = hashlib.sha256()
    size = path.stat().st_size
    for chunk in read_range(path, 0, size):
        digest.update(chunk)
        meter.advance(len(chunk))
    return ManifestFile(path=path.relative_to(built).as_posix(), size=size, sha256=digest.hexdigest())
