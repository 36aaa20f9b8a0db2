"""The record of what a client asked of the API server: every write, and counts of all calls and bytes."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.rig.api_calls import Call
from tests.rig.faults import LEASES


@dataclass(frozen=True)
class Write:
    """One write; `index` counts from 0 in the order of the answers, `time` is in seconds since the epoch.

    `status_code` is what the server answered, None if the write never reached it. `uid` is of the object that was written or
    deleted, empty if the answer named none. `fault` names the action that the write met, empty if none.
    """

    index: int
    time: float
    verb: str
    resource: str
    namespace: str
    name: str
    manager: str
    status_code: int | None
    uid: str
    fault: str = ""

    @property
    def is_lease(self) -> bool:
        """Whether it is one of the renewals that go on for ever."""
        return self.resource == LEASES

    @property
    def succeeded(self) -> bool:
        """Whether the server did what it asks."""
        return self.status_code is not None and 200 <= self.status_code < 300


class WriteLog:
    """Everything since the start; with `file`, each write is added there as a line of JSON."""

    def __init__(self, file: Path | None = None) -> None:
        self.writes: list[Write] = []
        self.calls: Counter[str] = Counter()  # by verb
        self.watches_opened: Counter[str] = Counter()  # by resource
        self.bytes_from_client = 0
        self.bytes_to_client = 0
        self._file = file
        self._in_flight = 0  # writes but Lease renewals
        self._touched = asyncio.Event()  # by a write; replaced each time that it is set
        self._watched = asyncio.Event()  # by a watch; replaced likewise

    @property
    def lasting_writes(self) -> list[Write]:
        """All writes but the renewals of Leases: what must be none in a steady state."""
        return [write for write in self.writes if not write.is_lease]

    def counts(self) -> Counter[tuple[str, str, str]]:
        """Return how many writes there were by verb, resource and name."""
        return Counter((write.verb, write.resource, write.name) for write in self.writes)

    def begin(self, call: Call, body_bytes: int) -> None:
        """Count a call that has arrived."""
        self.calls[call.verb] += 1
        self.bytes_from_client += body_bytes
        if call.is_write and call.resource != LEASES:
            self._in_flight += 1
            self._touch()

    def end(self, call: Call, status_code: int | None, uid: str, name: str, fault: str = "") -> None:
        """Record a write whose fate is known."""
        write = Write(
            len(self.writes), time.time(), call.verb, call.resource, call.namespace, name, call.manager, status_code, uid, fault
        )
        self.writes.append(write)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(asdict(write)) + "\n")
        if not write.is_lease:
            self._in_flight -= 1
            self._touch()

    def watch_opened(self, call: Call) -> None:
        """Count a watch that the server has answered."""
        self.watches_opened[call.resource] += 1
        self._watched.set()
        self._watched = asyncio.Event()

    async def watching(self, resource: str, times: int = 1) -> None:
        """Wait until watches of a resource were opened so many times since the start."""
        while self.watches_opened[resource] < times:
            await self._watched.wait()

    async def quiet(self, seconds: float) -> None:
        """Wait until there was no write but Lease renewals for so long, none on its way either."""
        while True:
            touched = self._touched
            try:
                async with asyncio.timeout(seconds):
                    await touched.wait()
            except TimeoutError:
                if not self._in_flight:
                    return

    async def written(self, verb: str, resource: str, name: str) -> Write:
        """Wait for a write that succeeded, and return the first."""
        while True:
            touched = self._touched
            for write in self.writes:
                if write.succeeded and (write.verb, write.resource, write.name) == (verb, resource, name):
                    return write
            await touched.wait()

    def _touch(self) -> None:
        self._touched.set()
        self._touched = asyncio.Event()
