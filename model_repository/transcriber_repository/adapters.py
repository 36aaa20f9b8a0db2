"""Where the Triton models' own code lies, and what of it goes into a repository."""

import hashlib
from pathlib import Path
from typing import Final

from transcriber_repository.errors import Reason, RepositoryError

ADAPTERS: Final = ("transcribe", "log_mel", "whisper_encoder", "whisper_decoder")
ENTRY: Final = "1/model.py"


def adapters_dir() -> Path:
    """Return the folder with one folder per Triton model: inside the wheel, or beside this package in a checkout."""
    package = Path(__file__).parent
    packaged = package / "triton"
    return packaged if packaged.is_dir() else package.parent / "triton"


def adapter_files(folder: Path) -> dict[str, bytes]:
    """Return the Python files of every adapter by their path below `folder`; raises RepositoryError where one is missing."""
    for name in ADAPTERS:
        if not (folder / name / ENTRY).is_file():
            raise RepositoryError(
                Reason.INVALID_SPEC, str(folder / name / ENTRY), "the Triton model is missing: reinstall the package"
            )
    paths = [path for name in ADAPTERS for path in sorted((folder / name / "1").glob("*.py"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def adapters_hash(files: dict[str, bytes]) -> str:
    """Return one sha256 over names and contents."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    return digest.hexdigest()
