"""What wakes a pass: changes seen by the watches, handed to the loop of the resource that they concern."""

import asyncio
from contextlib import suppress

from transcriber_operator.handlers.schedule import Rest


class Signal:
    """What has changed since a resource's last pass began."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._changed = asyncio.Event()
        self._respecified = asyncio.Event()

    @property
    def is_respecified(self) -> bool:
        """Whether the resource has another generation than the last pass began with."""
        return self._respecified.is_set()

    def tell(self, generation: int | None = None) -> None:
        """Note a change: of the resource, with its generation, or of something that belongs to it."""
        if generation is not None and generation != self._generation:
            self._generation = generation
            self._respecified.set()
        self._changed.set()

    def begin(self) -> None:
        """Note that a pass begins, which will see all that has changed so far."""
        self._changed.clear()
        self._respecified.clear()

    async def rest(self, rest: Rest, debounce_seconds: float) -> bool:
        """Wait until the rest is over or a change ends it, and then for what comes along with that change; whether one did."""
        event = self._changed if rest.until == "AnyChange" else self._respecified
        with suppress(TimeoutError):
            async with asyncio.timeout(rest.seconds):
                await event.wait()
            await asyncio.sleep(debounce_seconds)
        return event.is_set()


class Wakes:
    """The signals of all loops, by resource; a name whose resource was made anew has two for a moment."""

    def __init__(self) -> None:
        self._signals: dict[tuple[str, str], list[Signal]] = {}

    def open(self, namespace: str, name: str, generation: int) -> Signal:
        """Return a new signal of a resource that is at this generation."""
        signal = Signal(generation)
        self._signals.setdefault((namespace, name), []).append(signal)
        return signal

    def close(self, namespace: str, name: str, signal: Signal) -> None:
        """Forget a signal."""
        kept = [entry for entry in self._signals.pop((namespace, name), []) if entry is not signal]
        if kept:
            self._signals[namespace, name] = kept

    def tell(self, namespace: str, name: str, generation: int | None = None) -> None:
        """Wake the loops of a resource; nothing where there is none, for a loop begins with a pass."""
        for signal in self._signals.get((namespace, name), []):
            signal.tell(generation)
