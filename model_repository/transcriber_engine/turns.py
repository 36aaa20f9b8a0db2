"""Lets the models of one server that compute on the processor take turns, each with all cores for itself.

Encoder and decoder are processes of their own, and each has as many threads as there are cores. Side by side, a thread that the
other model displaced holds up all of its own model's, at every one of a decoding step's dozens of meetings. The file that they
lock has no name: the launcher makes it and tells the models by a variable, and the kernel frees what a dead process had locked.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

VARIABLE: Final = "TRANSCRIBER_TURNS"
DOOR, FLOOR = 0, 1  # bytes of the file


def offer_turns() -> dict[str, str]:
    """Make the file, open for as long as this process lives or what it becomes; returns the variable that tells the models."""
    descriptor = os.memfd_create("transcriber-turns", flags=0)  # not closed by exec
    return {VARIABLE: f"/proc/{os.getpid()}/fd/{descriptor}"}


class Turns:
    """The turns that one model takes, from one thread at a time; without a file, whoever wants to compute does."""

    def __init__(self, file: str | None) -> None:
        """Open the file; raises OSError where it is gone."""
        self._descriptor = None if file is None else os.open(file, os.O_RDWR)

    @classmethod
    def offered(cls, device: str) -> "Turns":
        """Take part in the turns that the launcher offers; a GPU shares itself out."""
        return cls(os.environ.get(VARIABLE) if device == "cpu" else None)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nobody else computes, and compute alone.

        Whoever waits for the floor stands in the door meanwhile, so that one who gives the floor back cannot take it again before
        the one who waits.
        """
        if self._descriptor is None:
            yield
            return
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, DOOR)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, FLOOR)
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, DOOR)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, FLOOR)
