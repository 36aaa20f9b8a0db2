"""What one model's process sees of another's: whether a request is still wanted, and whether a process has died."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from transcriber_triton.presence import Presence, withdrawal

PACKAGES = Path(__file__).parents[2] / "model_repository"
HOLD = """
from transcriber_triton.presence import Presence
import json
held = Presence()
print(json.dumps(held.parameters), flush=True)
input()
"""
WATCH = """
from transcriber_triton.processes import ModelProcesses
watched = ModelProcesses()
while True:
    input()
    try:
        watched.check()
        print("all live", flush=True)
    except Exception as error:
        print(error, flush=True)
"""


@contextmanager
def python(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {"PYTHONPATH": str(PACKAGES)}
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def say(process: "subprocess.Popen[str]", line: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_a_request_is_wanted_until_it_lets_go():
    with Presence() as presence:
        is_gone = withdrawal(json.dumps(presence.parameters))
        assert not is_gone()
        with Presence() as another:  # the next file takes the next number, or this one once it is free
            assert not withdrawal(json.dumps(another.parameters))()
    assert is_gone()
    with Presence():
        assert is_gone()


def test_a_request_is_gone_with_the_process_that_held_it():
    with python("-c", HOLD) as process:
        assert process.stdout is not None
        is_gone = withdrawal(process.stdout.readline())
        assert not is_gone()
        process.kill()
        process.wait()
        assert is_gone()


@pytest.mark.parametrize(
    "parameters",
    ["", "{}", '{"other": 1}', '{"transcriber_wanted_by": "../../etc/passwd"}', '{"transcriber_wanted_by": 7}'],
)
def test_a_request_that_names_no_presence_is_never_withdrawn(parameters):
    assert not withdrawal(parameters)()


def test_the_death_of_another_model_beside_is_seen_and_named_and_that_of_other_processes_is_not(tmp_path):
    model = tmp_path / "whisper_decoder" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text("input()")
    with python(str(model)) as decoder, python("-c", "input()") as other, python("-c", WATCH) as watcher:
        assert say(watcher) == "all live"
        other.kill()
        other.wait()
        assert say(watcher) == "all live"
        decoder.kill()
        decoder.wait()
        for _ in range(2):
            assert say(watcher) == "the process of model whisper_decoder has died; restart the server"
