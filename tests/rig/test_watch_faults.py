"""Watches and their faults byte by byte, before the stand-in for the API server: the faults are made in the proxy."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import ClientSession

from tests.rig.api_stand_in import StandIn
from tests.rig.fault_proxy import FaultProxy
from tests.rig.faults import Delay, ErrorEvent, HalfLine, Hold, KillProcess, Rule, Silent, Status

WATCH = "/api/v1/namespaces/ns/configmaps?watch=true"
SHORT_SECONDS = 0.2  # long enough to see that nothing comes


@pytest.fixture
def proxy(stand_in_proxy: FaultProxy) -> FaultProxy:
    return stand_in_proxy


@pytest.fixture
def client(stand_in_client: ClientSession) -> ClientSession:
    return stand_in_client


async def names(response: aiohttp.ClientResponse, count: int) -> list[str]:
    return [json.loads(await response.content.readline())["object"]["metadata"]["name"] for _ in range(count)]


async def assert_no_byte(response: aiohttp.ClientResponse) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_SECONDS):
            await response.content.readany()


async def test_the_events_of_a_watch_pass_as_they_come(client: ClientSession, stand_in: StandIn):
    async with client.get(WATCH) as response:
        assert response.status == 200
        for name in ("a", "b"):
            stand_in.changed(name, annotations={"long": "x" * 200_000})
            assert await names(response, 1) == [name]
        stand_in.events.put_nowait(None)
        assert await response.content.read() == b""


async def test_a_client_that_leaves_a_watch_ends_it_at_the_server(client: ClientSession, stand_in: StandIn):
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        await names(response, 1)
        response.close()
        await stand_in.watch_ended.wait()


async def test_before_a_watch_may_be_refused(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule("watch", "configmaps", action=Status(410)))
    async with client.get(WATCH) as response:
        assert response.status == 410
        assert (await response.json())["reason"] == "Expired"
    assert not stand_in.requests


@pytest.mark.parametrize("code", [410, 500])
async def test_before_a_watch_may_begin_with_an_error_event(code: int, proxy: FaultProxy, client: ClientSession):
    proxy.rules.add(Rule("watch", "configmaps", action=ErrorEvent(code)))
    async with client.get(WATCH) as response:
        event = json.loads(await response.content.read())
    assert (event["type"], event["object"]["kind"], event["object"]["code"]) == ("ERROR", "Status", code)


async def test_before_a_watch_may_break_off_in_its_first_line(proxy: FaultProxy, client: ClientSession):
    proxy.rules.add(Rule("watch", "configmaps", action=HalfLine()))
    async with client.get(WATCH) as response:
        half = await response.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    assert half.startswith(b'{"type"')
    assert b"\n" not in half


async def test_before_a_watch_may_open_and_say_nothing(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule("watch", "configmaps", action=Silent()))
    async with client.get(WATCH) as response:
        assert response.status == 200
        stand_in.changed("a")
        await assert_no_byte(response)
    assert not stand_in.requests


async def test_an_error_event_takes_the_place_of_the_nth_event_and_ends_the_stream(
    proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    proxy.rules.add(Rule("watch", "configmaps", "b", nth=2, when="after", action=ErrorEvent(410)))
    async with client.get(WATCH) as response:
        for name in ("b", "a", "b", "a"):
            stand_in.changed(name)
        assert await names(response, 2) == ["b", "a"]
        assert json.loads(await response.content.read())["object"]["code"] == 410


async def test_half_of_an_event_breaks_off(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule("watch", "configmaps", nth=2, when="after", action=HalfLine()))
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        assert await names(response, 1) == ["a"]
        stand_in.changed("b")
        half = await response.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    whole = b'{"type": "MODIFIED", "object": {"metadata": {"name": "b", "namespace": "ns"}}}\n'
    assert half == whole[: len(whole) // 2]


async def test_a_watch_that_is_open_may_be_cut_or_fall_silent(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        assert await names(response, 1) == ["a"]
        assert proxy.cut_watches("secrets") == 0
        assert proxy.cut_watches() == 1
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        assert await names(response, 1) == ["a"]
        proxy.rules.add(Rule("watch", "configmaps", when="after", action=Silent()))
        stand_in.changed("b")
        await assert_no_byte(response)


@pytest.mark.parametrize("lost", [False, True])
async def test_events_of_one_object_are_held_until_released_while_others_pass(
    lost: bool, proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    release = asyncio.Event()
    proxy.rules.add(Rule("watch", "configmaps", "a", when="after", action=Hold(release, lost=lost)))
    async with client.get(WATCH) as response:
        for name in ("a", "b", "a", "c"):
            stand_in.changed(name)
        assert await names(response, 2) == ["b", "c"]
        await assert_no_byte(response)
        release.set()
        if not lost:
            assert await names(response, 2) == ["a", "a"]
        stand_in.changed("a")
        assert await names(response, 1) == ["a"]


@pytest.mark.parametrize("lost", [False, True])
async def test_events_are_held_until_there_are_so_many(lost: bool, proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule("watch", "configmaps", when="after", action=Hold(count=2, lost=lost)))
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        await assert_no_byte(response)
        stand_in.changed("b")
        stand_in.changed("c")
        assert await names(response, 1 if lost else 3) == (["c"] if lost else ["a", "b", "c"])


async def test_a_delayed_event_comes_late(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule("watch", "configmaps", "a", when="after", action=Delay(2 * SHORT_SECONDS)))
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        await assert_no_byte(response)
        assert await names(response, 1) == ["a"]


async def test_a_kill_at_an_event_ends_the_stream_before_the_client_sees_it(
    proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    killed = asyncio.Event()
    proxy.rules.add(Rule("watch", "configmaps", "b", when="after", action=KillProcess(killed.set)))
    async with client.get(WATCH) as response:
        stand_in.changed("a")
        assert await names(response, 1) == ["a"]
        stand_in.changed("b")
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    assert killed.is_set()


async def test_opened_watches_are_counted(proxy: FaultProxy, client: ClientSession):
    waiting = asyncio.create_task(proxy.log.watching("configmaps", 2))
    async with client.get(WATCH), client.get(WATCH):
        await waiting
    assert proxy.log.watches_opened == {"configmaps": 2}
