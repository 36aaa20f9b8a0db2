"""A builder killed at any point leaves no half repository, and the next one finishes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.repository import tiny
from transcriber_repository.build import build


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder in memory where there is one: hundreds of builds wait for a disk's fsync otherwise, and prove no more."""
    memory = "/dev/shm"
    with TemporaryDirectory(dir=memory if Path(memory).is_dir() else None) as path:
        yield path


def test_build_killed_before_every_write_fsync_and_rename_leaves_nothing_or_all_and_the_next_completes(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.repository.crash_runner", folder],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(points) > 200
    assert [point["died"] for point in points] == [True] * (len(points) - 1) + [False]
    assert {point["after"] for point in points} == {"absent", "whole"}
    # Once whole it stays whole: there is one moment of publication.
    states = [point["after"] for point in points]
    assert states == sorted(states)
    assert all(point["left"] == [] for point in points)


def test_every_file_and_folder_is_on_disk_before_the_name_and_the_name_before_ready(
    target: Path, adapters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a killed process cannot show, since its writes survive it: the order that a power cut would test.
    root, synced, moves = tmp_path / "root", set[Path](), list[tuple[str, set[Path], set[Path]]]()
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        real_fsync(descriptor)

    def replace(source: Path, destination: Path) -> None:
        inside = {source, *source.rglob("*")}
        moves.append((destination.name, inside, set(synced)))
        real_replace(source, destination)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    path = build(tiny.spec(tiny.source(target)), root, adapters=adapters)
    assert [name for name, _, _ in moves] == [path.name, "READY"]
    assert all(inside <= before for _, inside, before in moves)
    assert root in moves[1][2]
    assert path in synced
