"""The stub of a replica: what it says and does, and the client that feeds it."""

import asyncio
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rig.feeder import Feeder, File
from tests.rig.stub_replicas import PYTHON, STUB, StubReplicas

START_SECONDS = 20.0
POLL_SECONDS = 0.02
SLOW = 1.0  # audio seconds per second
FAST = 1000.0
MEMORY_MEBIBYTES = 40
PORT = 8003


@dataclass
class Stub:
    """A stub that runs, on an address of its own."""

    address: str
    process: asyncio.subprocess.Process
    session: aiohttp.ClientSession

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"http://{self.address}:{PORT}{path}") as response:
            return response.status, await response.json()

    async def post(self, path: str, **body: object) -> int:
        async with self.session.post(f"http://{self.address}:{PORT}{path}", json=body) as response:
            return response.status

    async def load(self) -> dict[str, Any]:
        _, told = await self.get("/load")
        return dict(told["load"])

    async def holds(self, audio_seconds: float) -> None:
        """Wait until so much audio is admitted and not done."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                load = await self.load()
                if load["queued_audio_seconds"] + load["in_flight_audio_seconds"] == audio_seconds:
                    return
                await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def running(number: int, **flags: float) -> AsyncIterator[Stub]:
    """Run a stub until left."""
    address = f"127.77.0.{number}"
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    argv = [*PYTHON, str(STUB), f"--listen={address}:{PORT}", "--triton=nowhere:8001", *words]
    process = await asyncio.create_subprocess_exec(*argv)
    async with aiohttp.ClientSession(trust_env=False) as session:
        stub = Stub(address, process, session)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await answers(stub):
                    await asyncio.sleep(POLL_SECONDS)
            yield stub
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def answers(stub: Stub) -> bool:
    try:
        return (await stub.get("/livez"))[0] == HTTPStatus.OK
    except aiohttp.ClientConnectionError:
        return False


async def test_a_stub_is_small_and_counts_what_it_decodes():
    async with running(1, throughput=FAST, slots=2) as stub:
        assert await stub.post("/work", audio_seconds=70) == HTTPStatus.OK
        load = await stub.load()
        assert (load["queued_audio_seconds"], load["in_flight_audio_seconds"], load["requests"]) == (0, 0, 0)
        assert (load["admitted_audio_seconds_total"], load["processed_audio_seconds_total"]) == (70, 70)
        status = Path(f"/proc/{stub.process.pid}/status").read_text()
        [resident] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
        assert resident < MEMORY_MEBIBYTES * 1024


async def test_a_file_takes_as_long_as_its_audio_at_the_set_rate():
    clock = asyncio.get_running_loop().time
    async with running(2, throughput=100, slots=1, window_seconds=10) as stub:
        began_at = clock()
        assert await stub.post("/work", audio_seconds=50) == HTTPStatus.OK
        assert clock() - began_at >= 0.5


async def test_what_waits_is_told_apart_from_what_is_decoded():
    async with running(3, throughput=SLOW, slots=2, window_seconds=30) as stub:
        work = asyncio.create_task(stub.post("/work", audio_seconds=100))
        await stub.holds(100)
        load = await stub.load()
        assert (load["queued_audio_seconds"], load["in_flight_audio_seconds"]) == (40, 60)
        assert (load["requests"], load["active_slots"]) == (1, 2)
        stub.process.terminate()
        assert await work == HTTPStatus.SERVICE_UNAVAILABLE


async def test_a_stub_that_loads_is_alive_and_takes_no_work():
    async with running(4, load_seconds=600) as stub:
        assert [(await stub.get(path))[0] for path in ("/livez", "/triton/live", "/triton/startup", "/triton/ready")] == [
            HTTPStatus.OK, HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE,
        ]  # fmt: skip
        assert await stub.post("/work", audio_seconds=1) == HTTPStatus.SERVICE_UNAVAILABLE
        assert (await stub.get("/load"))[1]["load"] is None


async def test_a_drain_finishes_what_fits_and_refuses_what_comes():
    async with running(5, throughput=20, slots=1, drain_seconds=30) as stub:
        work = asyncio.create_task(stub.post("/work", audio_seconds=30))
        await stub.holds(30)
        drain = asyncio.create_task(stub.get("/drain"))
        async with asyncio.timeout(START_SECONDS):
            while (await stub.get("/triton/ready"))[0] == HTTPStatus.OK:
                await asyncio.sleep(POLL_SECONDS)
        assert await stub.post("/work", audio_seconds=1) == HTTPStatus.SERVICE_UNAVAILABLE
        assert await work == HTTPStatus.OK
        assert (await drain)[1] == {"drained": True}


async def test_a_drain_that_is_too_short_gives_up_what_is_left_by_a_retriable_answer():
    async with running(6, throughput=SLOW, drain_seconds=0.1) as stub:
        work = asyncio.create_task(stub.post("/work", audio_seconds=600))
        await stub.holds(600)
        assert (await stub.get("/drain"))[1] == {"drained": False}
        stub.process.terminate()
        assert await work == HTTPStatus.SERVICE_UNAVAILABLE
        assert await stub.process.wait() == 0


async def test_a_stub_lies_as_it_is_told_to():
    async with running(7, throughput=SLOW) as stub:
        await stub.post("/control", figures="nan")
        assert math.isnan((await stub.load())["queued_audio_seconds"])
        await stub.post("/control", figures="frozen")
        frozen = await stub.load()
        work = asyncio.create_task(stub.post("/work", audio_seconds=60))
        await stub.post("/control", figures="true")
        await stub.holds(60)
        await stub.post("/control", figures="frozen")
        assert (await stub.load())["requests"] == 1
        assert frozen["requests"] == 0
        await stub.post("/control", figures="absurd")
        assert (await stub.load())["queued_audio_seconds"] == 1e12
        await stub.post("/control", figures="negative")
        assert (await stub.load())["in_flight_audio_seconds"] == -1
        await stub.post("/control", figures="unknown")
        assert (await stub.get("/load"))[1]["load"] is None
        await stub.post("/control", figures="gone")
        assert (await stub.get("/load"))[0] == HTTPStatus.SERVICE_UNAVAILABLE
        stub.process.kill()
        with pytest.raises(aiohttp.ClientError):
            await work


async def test_the_feeder_balances_and_asks_another_pod_when_one_is_lost():
    async with running(8, throughput=SLOW) as slow, running(9, throughput=FAST) as fast:
        ready = [slow.address]
        async with Feeder(lambda: ready) as feeder:
            feeder.feed([File(0, 60), File(0, 60)])
            await slow.holds(120)
            ready[:] = [slow.address, fast.address]
            feeder.feed([File(0, 1), File(0, 1)])
            await fast.holds(0)
            slow.process.kill()
            ready.remove(slow.address)
            await feeder.finished()
            assert feeder.lost() == []
            assert {call.tries[-1].address for call in feeder.calls} == {fast.address}
            assert feeder.figures()["finished"] == 4
            assert feeder.figures()["retriable_failures"] == {"cut": 2}


async def test_the_feeder_counts_what_is_never_answered_as_lost():
    async with Feeder(list, give_up_seconds=0.1) as feeder:
        feeder.feed([File(0, 1)])
        await feeder.finished()
        assert len(feeder.lost()) == 1


def test_only_what_a_replica_is_made_of_is_replaced():
    stubs = StubReplicas(real_pods=1)
    first, second = ({"metadata": {"uid": uid}} for uid in ("first", "second"))
    exporter = (sys.executable, "-m", "transcriber_exporter", "--listen", "x")
    launcher = (sys.executable, "-m", "transcriber_repository.launch", "--root", "x")
    build = (sys.executable, "-m", "transcriber_repository", "build")
    assert [stubs(first, argv) for argv in (exporter, launcher, build)] == [exporter, launcher, build]
    assert stubs(second, exporter)[-2:] == ("--listen", "x")
    assert str(STUB) in stubs(second, exporter)
    assert stubs(second, launcher) == ("sleep", "infinity")
    assert stubs(second, ("sh", "-c", "true")) == ("sh", "-c", "true")
    assert StubReplicas()(first, build) != build
