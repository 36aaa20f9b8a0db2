"""Checks a published repository, file by file, against its manifest."""

import hashlib
import os
from pathlib import Path
from typing import Final

from transcriber_repository.disk import CHUNK_BYTES, opened_regular
from transcriber_repository.manifest import (
    BUILD_AGAIN,
    DIGEST_DIR,
    MANIFEST_FILE,
    READY_FILE,
    Manifest,
    ManifestFile,
    corrupt,
    read_manifest,
)
from transcriber_repository.progress import Meter, Reporter, silent

UNLISTED: Final = frozenset({MANIFEST_FILE, READY_FILE})


def verify(repository_dir: Path, report: Reporter = silent) -> Manifest:
    """Read every byte of a published repository and return its manifest; raises RepositoryError that names the file at fault."""
    manifest = read_manifest(repository_dir)
    if DIGEST_DIR.fullmatch(repository_dir.name) and repository_dir.name != f"sha256-{manifest.digest}":
        raise corrupt(repository_dir.name, f"holds sha256-{manifest.digest}: folders of repositories are not renamed")
    listed = {file.path: file for file in manifest.files}
    present = _present(repository_dir)
    for path in sorted(present - listed.keys() - UNLISTED):
        raise corrupt(path, f"is not in {MANIFEST_FILE}: nothing may be added to a repository; {BUILD_AGAIN}")
    for path in sorted(listed.keys() - present):
        raise corrupt(path, f"is missing; {BUILD_AGAIN}")
    with Meter("verify", sum(file.size for file in manifest.files), report) as meter:
        for file in manifest.files:
            _check(repository_dir, file, meter)
    return manifest


def _present(repository_dir: Path) -> set[str]:
    """Return the paths of all files; raises RepositoryError at the first that is none (a link, a device, a pipe)."""
    found = set()
    for path in sorted(repository_dir.rglob("*")):
        name = path.relative_to(repository_dir).as_posix()
        if path.is_symlink():
            raise corrupt(name, f"is a symbolic link; {BUILD_AGAIN}")
        if path.is_file():
            found.add(name)
        elif not path.is_dir():
            raise corrupt(name, f"is not a plain file; {BUILD_AGAIN}")
    return found


def _check(repository_dir: Path, file: ManifestFile, meter: Meter) -> None:
    digest = hashlib.sha256()
    try:
        with opened_regular(repository_dir / file.path) as (descriptor, status):
            if status.st_size != file.size:
                raise corrupt(file.path, f"has {status.st_size} bytes, published were {file.size}; {BUILD_AGAIN}")
            while chunk := os.read(descriptor, CHUNK_BYTES):
                digest.update(chunk)
                meter.advance(len(chunk))
    except ValueError as error:
        raise corrupt(file.path, f"{error}; {BUILD_AGAIN}") from None
    except OSError as error:
        raise corrupt(file.path, f"cannot be read ({error.strerror}); check the disk") from error
    if digest.hexdigest() != file.sha256:
        raise corrupt(file.path, f"has sha256 {digest.hexdigest()}, published was {file.sha256}; {BUILD_AGAIN}")
