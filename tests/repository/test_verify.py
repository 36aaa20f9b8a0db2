"""A published repository that somebody touched is refused by the name of the file."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repository import tiny
from transcriber_repository.build import build
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.progress import Progress
from transcriber_repository.verify import verify

WEIGHTS = "weights/target.safetensors"


@pytest.fixture
def repository(target: Path, adapters: Path, tmp_path: Path) -> Path:
    return build(tiny.spec(tiny.source(target)), tmp_path / "root", adapters=adapters)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_away(path: Path) -> None:
    path.rename(path.parents[2] / "moved")
    path.symlink_to(path.parents[2] / "moved")


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (WEIGHTS, flip_bit, r"^weights/target.safetensors: has sha256"),
    ("models/log_mel/1/model.py", flip_bit, r"^models/log_mel/1/model.py: has sha256"),
    ("MANIFEST.json", flip_bit, r"^MANIFEST.json: is not the one that READY vouches for"),
    ("READY", flip_bit, r"^MANIFEST.json: is not the one that READY vouches for"),
    (WEIGHTS, lambda path: os.truncate(path, 100), r"^weights/target.safetensors: has 100 bytes, published were"),
    ("READY", lambda path: os.truncate(path, 0), r"^MANIFEST.json: is not the one"),
    (WEIGHTS, lambda path: path.unlink(), r"^weights/target.safetensors: is missing"),
    ("MANIFEST.json", lambda path: path.unlink(), r"^MANIFEST.json: is missing"),
    ("READY", lambda path: path.unlink(), r"^READY: is missing: this repository was never finished"),
    ("models/log_mel/1/extra.py", lambda path: path.write_text("x"), r"^models/log_mel/1/extra.py: is not in MANIFEST.json"),
    (WEIGHTS, link_away, r"^weights/target.safetensors: is a symbolic link"),
    ("models/more", lambda path: path.symlink_to(path.parent / "log_mel"), r"^models/more: is a symbolic link"),
    ("models/pipe", lambda path: os.mkfifo(path), r"^models/pipe: is not a plain file"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGE)
def test_damaged_repository_is_refused_by_the_file_at_fault(
    repository: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(repository / name)
    with pytest.raises(RepositoryError, match=message) as error:
        verify(repository)
    assert error.value.reason is Reason.REPOSITORY_CORRUPT


def test_repository_under_another_digest_is_refused(repository: Path) -> None:
    renamed = repository.rename(repository.with_name(f"sha256-{'0' * 64}"))
    with pytest.raises(RepositoryError, match="folders of repositories are not renamed"):
        verify(renamed)


def test_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not a folder"):
        verify(tmp_path / "absent")


def test_verify_reports_every_byte(repository: Path) -> None:
    events: list[Progress] = []
    manifest = verify(repository, events.append)
    assert events[-1].bytes_done == events[-1].bytes_total == sum(file.size for file in manifest.files)
