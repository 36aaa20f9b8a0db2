"""`MANIFEST.json` and `READY`: what a published repository holds, and the word that it is whole."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transcriber_repository.errors import Reason, RepositoryError

MANIFEST_FILE: Final = "MANIFEST.json"
READY_FILE: Final = "READY"
DIGEST_DIR: Final = re.compile(r"sha256-[0-9a-f]{64}")
BUILD_AGAIN: Final = "remove the folder and build it again"


class ManifestFile(BaseModel):
    """One file: POSIX path below the repository, size in bytes, sha256 in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """Every file of a repository but `MANIFEST.json` and `READY`, by path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    files: tuple[ManifestFile, ...]


def ready_text(manifest: bytes) -> bytes:
    """Return the content of READY: the manifest's own sha256, so that nothing is left unchecked."""
    return hashlib.sha256(manifest).hexdigest().encode() + b"\n"


def is_ready(repository_dir: Path) -> bool:
    """Whether a repository was published whole. This reads no weights: `verify` does."""
    ready, manifest = repository_dir / READY_FILE, repository_dir / MANIFEST_FILE
    if not (ready.is_file() and manifest.is_file()):
        return False
    return ready.read_bytes() == ready_text(manifest.read_bytes())


def read_manifest(repository_dir: Path) -> Manifest:
    """Read the manifest of a ready repository; raises RepositoryError that names the file."""
    if not repository_dir.is_dir():
        raise corrupt(str(repository_dir), "is not a folder: give the path of a published repository")
    if not (repository_dir / READY_FILE).is_file():
        raise corrupt(READY_FILE, f"is missing: this repository was never finished; {BUILD_AGAIN}")
    if not (repository_dir / MANIFEST_FILE).is_file():
        raise corrupt(MANIFEST_FILE, f"is missing; {BUILD_AGAIN}")
    content = (repository_dir / MANIFEST_FILE).read_bytes()
    if (repository_dir / READY_FILE).read_bytes() != ready_text(content):
        raise corrupt(MANIFEST_FILE, f"is not the one that {READY_FILE} vouches for; {BUILD_AGAIN}")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise corrupt(MANIFEST_FILE, f"{error.errors(include_url=False)[0]['msg']}; {BUILD_AGAIN}") from None


def corrupt(subject: str, message: str) -> RepositoryError:
    """A published repository that must not serve."""
    return RepositoryError(Reason.REPOSITORY_CORRUPT, subject, message)
