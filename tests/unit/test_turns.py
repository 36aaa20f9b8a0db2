"""Turns on the cores: one at a time, in order, and nobody's for ever."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select

import pytest

from transcriber_engine.turns import DOOR, VARIABLE, Turns, offer_turns

TAKES_TURNS = """
import sys
from transcriber_engine.turns import Turns
turns = Turns(sys.argv[1])
for _ in sys.stdin:  # a turn for each line, as long as until the next
    with turns.turn():
        print("begins", flush=True)
        sys.stdin.readline()
    print("ends", flush=True)
"""
BECOMES_ANOTHER = """
import os, sys
from transcriber_engine.turns import offer_turns
variables = {**os.environ, **offer_turns()}
opens = "from transcriber_engine.turns import Turns\\nwith Turns.offered('cpu').turn():\\n    print('opened')"
os.execve(sys.executable, [sys.executable, "-c", opens], variables)
"""
PATIENCE_SECONDS = 20


class Other:
    """A process that takes turns when it is told."""

    def __init__(self, file: str) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, "-c", TAKES_TURNS, file], text=True, **pipes)

    def tell(self) -> None:
        """Begin a turn, or end it."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        assert select([self.process.stdout], [], [], PATIENCE_SECONDS)[0], "it says nothing"
        return self.process.stdout.readline().strip()


@pytest.fixture
def file() -> str:
    return offer_turns()[VARIABLE]


@pytest.fixture
def other(file: str) -> Iterator[Other]:
    found = Other(file)
    yield found
    found.process.kill()
    found.process.communicate()


def stands_in_the_door(file: str) -> None:
    """Wait until another process does."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        while True:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, DOOR)
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, DOOR)
            os.sched_yield()
    except BlockingIOError:
        return


def in_thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_who_gives_the_turn_back_cannot_take_it_again_before_who_waits(file: str, other: Other) -> None:
    turns, mine = Turns(file), threading.Event()
    with turns.turn():
        other.tell()
        stands_in_the_door(file)

    def take() -> None:
        with turns.turn():
            mine.set()

    again = in_thread(take)
    assert other.hear() == "begins"
    assert not mine.is_set()
    other.tell()
    assert other.hear() == "ends"
    assert mine.wait(PATIENCE_SECONDS)
    again.join()


def test_the_turn_of_a_process_that_dies_is_over(file: str, other: Other) -> None:
    other.tell()
    assert other.hear() == "begins"
    other.process.kill()
    with Turns(file).turn():
        pass


def test_an_error_ends_a_turn(file: str, other: Other) -> None:
    with pytest.raises(ValueError, match="no window"), Turns(file).turn():
        raise ValueError("no window")
    other.tell()
    assert other.hear() == "begins"


def test_what_the_launcher_becomes_still_offers_turns() -> None:
    told = subprocess.run([sys.executable, "-c", BECOMES_ANOTHER], capture_output=True, text=True, check=True)
    assert told.stdout == "opened\n"


def test_a_gpu_and_a_server_without_an_offer_take_no_turns(file: str, monkeypatch: pytest.MonkeyPatch, other: Other) -> None:
    other.tell()
    assert other.hear() == "begins"
    monkeypatch.setenv(VARIABLE, file)
    with Turns.offered("cuda").turn():  # although it is another's
        pass
    monkeypatch.delenv(VARIABLE)
    with Turns.offered("cpu").turn():
        pass


def test_the_file_is_the_processes_own_and_has_no_name(file: str) -> None:
    assert Path(file).parent == Path(f"/proc/{os.getpid()}/fd")
    assert str(Path(file).readlink()).startswith("/memfd:transcriber-turns")
