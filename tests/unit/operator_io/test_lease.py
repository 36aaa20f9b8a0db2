"""The Lease's clockwork, on a clock that the test moves; that the API server keeps two writers apart is tested in tests/api."""

import asyncio
from copy import deepcopy
from typing import Any

import pytest

from tests.unit.operator_io.parts import FakeClock
from transcriber_operator.errors import ConflictError, LeaseLostError, NotFoundError, TransientError
from transcriber_operator.execute.lease import Lease, LeaseTimes


class OneLease:
    """The API server's side of one Lease: optimistic locking, and failures on request."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] | None = None
        self.version = 0
        self.failing = False
        self.hanging = False

    @property
    def holder(self) -> str:
        assert self.stored is not None
        return str(self.stored["spec"]["holderIdentity"])

    async def get(self, *_: object) -> dict[str, Any]:
        await self._answer()
        if self.stored is None:
            raise NotFoundError("no lease")
        return deepcopy(self.stored)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        await self._answer()
        if self.stored is not None:
            raise ConflictError("exists")
        return self._store(manifest)

    async def replace(self, manifest: dict[str, Any]) -> dict[str, Any]:
        await self._answer()
        assert self.stored is not None
        if manifest["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise ConflictError("changed meanwhile")
        return self._store(manifest)

    def _store(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.stored = deepcopy(manifest)
        self.stored["metadata"]["resourceVersion"] = str(self.version)
        return deepcopy(self.stored)

    async def _answer(self) -> None:
        if self.hanging:
            await asyncio.Event().wait()
        if self.failing:
            raise TransientError("503")


def hold(server: OneLease, clock: FakeClock, identity: str, **times: float) -> Lease:
    return Lease(server, clock, "transcriber-system", "operator", identity, LeaseTimes(**times))  # type: ignore[arg-type]


async def test_a_free_lease_is_taken_and_allows_to_write() -> None:
    server, clock = OneLease(), FakeClock()
    lease = hold(server, clock, "a")
    with pytest.raises(LeaseLostError, match="transcriber-system/operator is not held by a"):
        lease.require()
    await lease.acquire()
    lease.require()
    assert server.stored is not None
    assert server.stored["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-31T12:00:00.000000Z",
        "renewTime": "2026-01-31T12:00:00.000000Z",
        "leaseTransitions": 0,
    }


async def test_a_second_one_waits_as_long_as_the_first_renews() -> None:
    server, clock = OneLease(), FakeClock()
    first, second = hold(server, clock, "a"), hold(server, clock, "b")
    await first.acquire()
    for _ in range(10):
        assert not await second._attempt()
        clock.seconds += 5
        assert await first._attempt()
    assert server.holder == "a"


async def test_a_dead_holder_is_followed_after_the_duration_and_no_earlier() -> None:
    server, clock = OneLease(), FakeClock()
    first, second = hold(server, clock, "a"), hold(server, clock, "b")
    await first.acquire()
    clock.seconds = 2.0
    await second.acquire()  # its clock runs a second a try
    # It waits the whole duration from when it first saw the hold, whatever times the holder wrote.
    assert clock.seconds == 17.0
    assert server.holder == "b"
    assert server.stored is not None
    assert server.stored["spec"]["leaseTransitions"] == 1
    with pytest.raises(LeaseLostError):
        first.require()


async def test_the_hold_ends_by_our_clock_before_others_may_take_it() -> None:
    clock = FakeClock()
    lease = hold(OneLease(), clock, "a")
    await lease.acquire()
    clock.seconds = 11.9
    lease.require()
    clock.seconds = 12.0
    with pytest.raises(LeaseLostError):
        lease.require()


async def test_a_failed_renewal_is_tried_again_and_saves_the_hold() -> None:
    server, clock = OneLease(), FakeClock()
    lease = hold(server, clock, "a")
    await lease.acquire()
    server.failing = True
    keeping = asyncio.create_task(lease.keep())
    while clock.seconds < 9:
        await asyncio.sleep(0)
    server.failing = False
    while clock.seconds < 40:
        await asyncio.sleep(0)
    assert lease.is_held
    assert not keeping.done()
    keeping.cancel()


async def test_keeping_ends_when_the_api_server_stays_away(caplog: pytest.LogCaptureFixture) -> None:
    server, clock = OneLease(), FakeClock()
    lease = hold(server, clock, "a")
    await lease.acquire()
    server.failing = True
    await lease.keep()
    assert not lease.is_held
    assert 12 <= clock.seconds < 14
    assert caplog.text.count("could not be taken or renewed: 503") == 1


async def test_a_renewal_that_hangs_ends_by_itself() -> None:
    server, clock = OneLease(), FakeClock()
    lease = hold(server, clock, "a", answer=0.05)
    await lease.acquire()
    server.hanging = True
    assert not await lease._attempt()
    assert lease.is_held  # until its time is over
    server.hanging = False
    assert await lease._attempt()


async def test_keeping_ends_at_once_when_another_has_taken_it() -> None:
    server, clock = OneLease(), FakeClock()
    first, second = hold(server, clock, "a"), hold(server, clock, "b")
    await first.acquire()
    assert server.stored is not None
    server.stored["spec"]["holderIdentity"] = ""  # by hand
    await second.acquire()
    await first.keep()
    assert not first.is_held
    assert server.holder == "b"


async def test_a_renewal_whose_answer_was_lost_does_not_lose_the_lease() -> None:
    server, clock = OneLease(), FakeClock()
    lease = hold(server, clock, "a")
    await lease.acquire()
    assert server.stored is not None
    server._store(server.stored)  # written, but we heard nothing of it
    assert not await lease._attempt()
    assert await lease._attempt()
    assert server.holder == "a"


async def test_given_back_it_is_free_at_once() -> None:
    server, clock = OneLease(), FakeClock()
    first, second = hold(server, clock, "a"), hold(server, clock, "b")
    await first.acquire()
    await first.release()
    assert not first.is_held
    assert await second._attempt()
    assert clock.seconds == 0


async def test_a_failure_to_give_back_is_no_failure_to_end() -> None:
    server, clock = OneLease(), FakeClock()
    lease = hold(server, clock, "a")
    await lease.acquire()
    server.failing = True
    await lease.release()
    assert not lease.is_held


async def test_the_guard_cries_once_the_hold_has_run_out_whatever_the_renewal_does() -> None:
    clock = FakeClock()
    lease = hold(OneLease(), clock, "a", watch=0.001)
    await lease.acquire()
    lost = asyncio.Event()
    lease.guard(lost.set)
    await asyncio.sleep(0.01)
    assert not lost.is_set()
    clock.seconds = 90  # the process was stopped meanwhile
    await asyncio.wait_for(lost.wait(), 5)


async def test_the_guard_is_silent_about_a_lease_that_was_given_back() -> None:
    clock = FakeClock()
    lease = hold(OneLease(), clock, "a", watch=0.001)
    await lease.acquire()
    cries: list[None] = []
    lease.guard(lambda: cries.append(None))
    await lease.release()
    await asyncio.sleep(0.01)
    assert cries == []
