"""A small stand-in for the API server, for what is about the proxy alone: it answers anything and streams what it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from tests.rig.fault_proxy import FaultProxy, Upstream


class StandIn:
    """Answers every write with an object, every read with a list, and streams as events what `events` is given."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.watch_ended = asyncio.Event()
        self.gate = asyncio.Event()  # writes wait for it
        self.gate.set()
        self.arrived = asyncio.Event()

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Listen on loopback; yields the URL."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        await runner.cleanup()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path))
        self.headers.append({key.lower(): value for key, value in request.headers.items()})
        self.bodies.append(await request.read())
        self.arrived.set()
        if request.query.get("watch"):
            return await self.watch(request)
        if request.method == "GET":
            return web.json_response({"kind": "List", "items": []}, headers={"Warning": "299 - old"})
        await self.gate.wait()
        name = request.path.rpartition("/")[2]
        if request.method == "DELETE":
            return web.json_response({"kind": "Status", "status": "Success", "details": {"name": name, "uid": f"uid-{name}"}})
        return web.json_response({"kind": "Any", "metadata": {"name": name, "uid": f"uid-{name}"}}, status=201)

    async def watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while (event := await self.events.get()) is not None:
                await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self.watch_ended.set()
        return response

    def changed(self, name: str, **more: Any) -> None:
        self.events.put_nowait({"type": "MODIFIED", "object": {"metadata": {"name": name, "namespace": "ns", **more}}})


@pytest.fixture
def stand_in() -> StandIn:
    """The stand-in, to be told what to stream and asked what it heard."""
    return StandIn()


@pytest.fixture
async def stand_in_url(stand_in: StandIn) -> AsyncIterator[str]:
    """Where it listens."""
    async with stand_in.served() as url:
        yield url


@pytest.fixture
async def stand_in_proxy(stand_in_url: str, tmp_path: Path) -> AsyncIterator[FaultProxy]:
    """A proxy before it, which writes what it records to writes.jsonl."""
    async with FaultProxy(Upstream(stand_in_url), tmp_path / "writes.jsonl") as proxy:
        yield proxy


@pytest.fixture
async def stand_in_client(stand_in_proxy: FaultProxy) -> AsyncIterator[ClientSession]:
    """A client of the proxy."""
    async with ClientSession(stand_in_proxy.url) as session:
        yield session
