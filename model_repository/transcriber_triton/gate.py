"""The way of `transcribe` to the model `whisper`: so many windows at a time, and in between them nobody is forgotten."""

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

from transcriber_engine.admission import Claim, first_in_line

CHECK_SECONDS: Final = 0.2  # how often one who waits looks whether there is still reason to wait


class WindowGate:
    """Holds `places` windows at most; who enters next when one leaves, `first_in_line` decides. Safe for use by many threads."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._held: Counter[Hashable] = Counter()
        self._claims: list[Claim] = []
        self._changed = threading.Condition()

    def enter(self, claim: Claim, check: Callable[[], None] = lambda: None) -> None:
        """Wait for a place; what `check` raises meanwhile ends the wait."""
        with self._changed:
            self._claims.append(claim)
        try:
            while not self._enters(claim):
                check()
        except BaseException:
            with self._changed:
                self._claims.remove(claim)
                self._changed.notify_all()
            raise

    def _enters(self, claim: Claim) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_next(claim), CHECK_SECONDS):
                return False
            self._claims.remove(claim)
            self._held[claim.request] += 1
            self._changed.notify_all()
            return True

    def leave(self, claim: Claim) -> None:
        """Give a place back."""
        with self._changed:
            self._held -= Counter({claim.request: 1})  # and forget who has none
            self._changed.notify_all()

    def _is_next(self, claim: Claim) -> bool:
        if self._held.total() >= self._places:
            return False
        return self._claims[first_in_line(self._claims, self._held, self._places)] is claim
