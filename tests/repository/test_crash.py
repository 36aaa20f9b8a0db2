"""A builder killed at any point leaves no half repository, and the next one finishes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


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
