"""Passes a watch on, event by event as they come, with the faults that rules ask for."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Literal, NoReturn

import aiohttp
from aiohttp import web

from tests.rig.api_calls import Call
from tests.rig.faults import Armed, Cut, Delay, ErrorEvent, HalfLine, Hold, KillProcess, Rules, Silent, error_line
from tests.rig.write_log import WriteLog

# How the client's stream ends: as it should, cut at once, or cut once what was written has left.
Ending = Literal["end", "abort", "close"]


class WatchRelay:
    """One open watch: `response` has been begun."""

    def __init__(self, rules: Rules, call: Call, response: web.StreamResponse, log: WriteLog) -> None:
        self._rules = rules
        self._call = call
        self._response = response
        self._log = log
        self._held: dict[Armed, list[bytes]] = {}
        self._waiting: list[asyncio.Task[None]] = []

    async def run(self, content: aiohttp.StreamReader) -> Ending:
        """Pass on all events until the server or a rule ends the stream; returns how it has to end for the client."""
        try:
            async with aclosing(_lines(content)) as lines:
                async for line in lines:
                    armed = self._rules.firing(_watch_of_event(self._call, line), "after")
                    if armed is None:
                        await self._write(line)
                    elif (ending := await self._fail(armed, line)) is not None:
                        return ending
            return "end"
        finally:
            for task in self._waiting:
                task.cancel()
            await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _write(self, line: bytes) -> None:
        self._log.bytes_to_client += len(line)
        await self._response.write(line)

    async def _fail(self, armed: Armed, line: bytes) -> Ending | None:
        """Do to an event what a rule asks for; returns None while the stream goes on."""
        match armed.rule.action:
            case Hold() as action:
                await self._hold(armed, action, line)
            case Delay(seconds):
                await asyncio.sleep(seconds)
                await self._write(line)
            case ErrorEvent(code):
                await self._write(error_line(code))
                return "end"
            case HalfLine():
                await self._write(half_of(line))
                return "close"
            case Silent():
                await never()
            case KillProcess(kill):
                kill()
                return "abort"
            case Cut():
                return "abort"
        return None

    async def _hold(self, armed: Armed, action: Hold, line: bytes) -> None:
        is_new = armed not in self._held
        held = self._held.setdefault(armed, [])
        if armed.released.is_set():
            await self._release(held, action)
            await self._write(line)
            return
        held.append(line)
        if is_new:
            self._waiting.append(asyncio.create_task(self._release_later(armed.released, held, action)))
        if action.count is not None and armed.fires >= action.count:
            armed.released.set()

    async def _release_later(self, released: asyncio.Event, held: list[bytes], action: Hold) -> None:
        await released.wait()
        await self._release(held, action)

    async def _release(self, held: list[bytes], action: Hold) -> None:
        """Send what is held as one write, so that nothing gets between."""
        released = b"".join(held)
        held.clear()
        if released and not action.lost:
            await self._write(released)


def half_of(line: bytes) -> bytes:
    """Return the first half, at least a byte of it."""
    return line[: max(1, len(line) // 2)]


async def never() -> NoReturn:
    """Wait until cancelled."""
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets was set")


def _watch_of_event(call: Call, line: bytes) -> Call:
    """Return the watch narrowed to the object of an event."""
    event = json.loads(line)["object"]
    metadata = event.get("metadata", {})
    return replace(call, name=metadata.get("name", ""), namespace=metadata.get("namespace", ""))


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"
    if rest:
        yield rest
