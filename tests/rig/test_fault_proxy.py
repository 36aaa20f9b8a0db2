"""The proxy byte by byte, before a small stand-in for the API server: the faults are made in the proxy, so they are seen here.

`test_fault_proxy_kubernetes.py` shows that real clients reach a real API server through it.
"""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession
from yarl import URL

from tests.rig.api_stand_in import StandIn
from tests.rig.certificates import Authority
from tests.rig.fault_proxy import FaultProxy, Upstream
from tests.rig.faults import ANY, ANY_WRITE, Cut, Delay, HalfLine, KillProcess, Rule, Silent, Status

CONFIG_MAPS = "/api/v1/namespaces/ns/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
WATCH = f"{CONFIG_MAPS}?watch=true"
SHORT_SECONDS = 0.2  # long enough to see that nothing comes


@pytest.fixture
def proxy(stand_in_proxy: FaultProxy) -> FaultProxy:
    return stand_in_proxy


@pytest.fixture
def client(stand_in_client: ClientSession) -> ClientSession:
    return stand_in_client


async def apply(client: ClientSession, name: str, path: str = CONFIG_MAPS) -> int:
    headers = {"Content-Type": "application/apply-patch+yaml"}
    async with client.patch(f"{path}/{name}?fieldManager=tester&force=true", data=b"{}", headers=headers) as response:
        await response.read()
        return response.status


async def test_requests_and_answers_pass_unchanged(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    url = URL(f"{proxy.url}{CONFIG_MAPS}?labelSelector=a%3Db%2Cc", encoded=True)
    async with client.get(url, headers={"Authorization": "Bearer mine"}) as response:
        assert await response.json() == {"kind": "List", "items": []}
        assert response.headers["Warning"] == "299 - old"
    assert stand_in.requests == [("GET", f"{CONFIG_MAPS}?labelSelector=a%3Db%2Cc")]
    assert stand_in.headers[0]["authorization"] == "Bearer mine"
    assert stand_in.headers[0]["accept-encoding"] == "identity"
    assert proxy.log.calls == {"list": 1}
    assert proxy.log.bytes_to_client == len(b'{"kind": "List", "items": []}')


async def test_the_proxys_own_token_takes_the_place_of_the_clients(stand_in_url: str, stand_in: StandIn):
    async with FaultProxy(Upstream(stand_in_url, token="own")) as proxy, ClientSession(proxy.url) as client:
        await apply(client, "a")
        async with client.get(CONFIG_MAPS, headers={"Authorization": "Bearer mine"}):
            pass
    assert [headers["authorization"] for headers in stand_in.headers] == ["Bearer own", "Bearer own"]


async def test_clients_may_speak_tls_to_it(stand_in_url: str, tmp_path: Path):
    authority = Authority(tmp_path)
    pair = authority.server("proxy")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pair.certificate, pair.key)
    trusting = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(authority.certificate)))
    async with FaultProxy(Upstream(stand_in_url), tls=tls) as proxy, ClientSession(proxy.url, connector=trusting) as client:
        assert proxy.url.startswith("https://")
        assert await apply(client, "a") == 201


async def test_it_ends_though_clients_hold_watches_silent_calls_and_unanswered_writes(stand_in_url: str, stand_in: StandIn):
    stand_in.gate.clear()
    async with ClientSession() as client, FaultProxy(Upstream(stand_in_url)) as proxy:
        silent = proxy.rules.add(Rule("list", "configmaps", action=Silent()))
        watch = await client.get(f"{proxy.url}{WATCH}")
        stand_in.arrived.clear()
        calls = client.get(f"{proxy.url}{CONFIG_MAPS}"), apply(client, "a", f"{proxy.url}{CONFIG_MAPS}")
        waiting = [asyncio.ensure_future(call) for call in calls]
        await silent.fired.wait()
        await stand_in.arrived.wait()
        async with asyncio.timeout(5):
            await proxy.__aexit__()
        with pytest.raises(aiohttp.ClientError):
            await watch.read()
        for task in waiting:
            with pytest.raises(aiohttp.ClientError):
                await task
    assert [write.fault for write in proxy.log.writes] == ["Unreachable"]


async def test_a_server_that_is_gone_looks_gone_to_the_client():
    async with FaultProxy(Upstream("http://127.0.0.1:1")) as proxy, ClientSession(proxy.url) as client:
        with pytest.raises(aiohttp.ClientError):
            await apply(client, "a")
        with pytest.raises(aiohttp.ClientError):
            await client.get(WATCH)
        [write] = proxy.log.writes
    assert (write.status_code, write.fault) == (None, "Unreachable")


async def test_every_write_is_recorded_with_what_the_server_answered(proxy: FaultProxy, client: ClientSession, tmp_path: Path):
    await apply(client, "a")
    async with client.post(CONFIG_MAPS, json={"metadata": {"name": "b"}}), client.delete(f"{CONFIG_MAPS}/b"):
        pass
    async with client.get(CONFIG_MAPS), client.patch(f"{CONFIG_MAPS}/a?dryRun=All"):
        pass
    shown = [(w.index, w.verb, w.resource, w.namespace, w.name, w.manager, w.status_code, w.uid) for w in proxy.log.writes]
    assert shown == [
        (0, "apply", "configmaps", "ns", "a", "tester", 201, "uid-a"),
        (1, "create", "configmaps", "ns", "b", "", 201, "uid-configmaps"),
        (2, "delete", "configmaps", "ns", "b", "", 200, "uid-b"),
    ]
    assert proxy.log.counts()[("apply", "configmaps", "a")] == 1
    assert proxy.log.calls == {"apply": 1, "create": 1, "delete": 1, "list": 1, "patch": 1}
    lines = (tmp_path / "writes.jsonl").read_text().splitlines()
    assert [json.loads(line)["uid"] for line in lines] == ["uid-a", "uid-configmaps", "uid-b"]


async def test_lease_renewals_do_not_count_as_unrest(proxy: FaultProxy, client: ClientSession):
    await apply(client, "a")
    async with asyncio.TaskGroup() as group:
        quiet = group.create_task(proxy.log.quiet(SHORT_SECONDS))
        while not quiet.done():
            await apply(client, "lock", LEASES)
    assert len(proxy.log.writes) > 2
    assert [write.name for write in proxy.log.lasting_writes] == ["a"]


async def test_a_write_that_is_on_its_way_is_unrest(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    stand_in.gate.clear()
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(apply(client, "a"))
        await stand_in.arrived.wait()
        quiet = group.create_task(proxy.log.quiet(SHORT_SECONDS))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3 * SHORT_SECONDS):
                await asyncio.shield(quiet)
        stand_in.gate.set()
        await quiet
    assert writing.result() == 201


async def test_a_write_whose_client_has_gone_still_reaches_the_server_and_the_record(
    proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    stand_in.gate.clear()
    writing = asyncio.create_task(apply(client, "a"))
    await stand_in.arrived.wait()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    stand_in.gate.set()
    write = await proxy.log.written("apply", "configmaps", "a")
    assert write.status_code == 201


async def test_before_a_status_is_answered_and_the_server_hears_nothing(
    proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    proxy.rules.add(Rule("apply", "configmaps", nth=2, action=Status(429, retry_after_seconds=7)))
    assert await apply(client, "a") == 201
    async with client.patch(f"{CONFIG_MAPS}/a", headers={"Content-Type": "application/apply-patch+yaml"}) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert (await response.json())["reason"] == "TooManyRequests"
    assert await apply(client, "a") == 201
    assert len(stand_in.requests) == 2
    assert [(write.status_code, write.fault) for write in proxy.log.writes] == [(201, ""), (None, "Status"), (201, "")]


async def test_after_a_status_is_answered_though_the_server_did_it(proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule("apply", "configmaps", "a", when="after", action=Status(500)))
    assert await apply(client, "a") == 500
    assert await apply(client, "b") == 201
    assert len(stand_in.requests) == 2
    assert [(write.status_code, write.fault) for write in proxy.log.writes] == [(201, "Status"), (201, "")]


@pytest.mark.parametrize(("when", "reached"), [("before", 0), ("after", 1)])
async def test_a_cut_closes_the_connection(when: Any, reached: int, proxy: FaultProxy, client: ClientSession, stand_in: StandIn):
    proxy.rules.add(Rule(ANY_WRITE, ANY, when=when, action=Cut()))
    with pytest.raises(aiohttp.ClientError):
        await apply(client, "a")
    assert len(stand_in.requests) == reached


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_delay_is_waited_for(when: Any, proxy: FaultProxy, client: ClientSession):
    proxy.rules.add(Rule(ANY_WRITE, ANY, when=when, action=Delay(SHORT_SECONDS)))
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    assert await apply(client, "a") == 201
    assert loop.time() - started_at >= SHORT_SECONDS


async def test_half_an_answer_breaks_off(proxy: FaultProxy, client: ClientSession):
    proxy.rules.add(Rule("list", "configmaps", when="after", action=HalfLine()))
    async with client.get(CONFIG_MAPS) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert proxy.log.bytes_to_client == len(b'{"kind": "List", "items": []}') // 2


@pytest.mark.parametrize(("when", "reached"), [("before", 0), ("after", 1)])
async def test_a_silent_connection_stays_open_without_an_answer(
    when: Any, reached: int, proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    silent = proxy.rules.add(Rule(ANY_WRITE, ANY, when=when, action=Silent()))
    writing = asyncio.create_task(apply(client, "a"))
    await silent.fired.wait()
    done, _ = await asyncio.wait([writing], timeout=SHORT_SECONDS)
    assert not done
    assert len(stand_in.requests) == reached
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


@pytest.mark.parametrize(("when", "status_code", "reached"), [("before", None, 0), ("after", 201, 1)])
async def test_a_kill_comes_before_the_write_reaches_the_server_or_after_it_is_done(
    when: Any, status_code: int | None, reached: int, proxy: FaultProxy, client: ClientSession, stand_in: StandIn
):
    requests_at_kill: list[int] = []
    proxy.rules.add(Rule(ANY_WRITE, ANY, when=when, action=KillProcess(lambda: requests_at_kill.append(len(stand_in.requests)))))
    with pytest.raises(aiohttp.ClientError):
        await apply(client, "a")
    assert requests_at_kill == [reached]
    [write] = proxy.log.writes
    assert (write.status_code, write.fault) == (status_code, "KillProcess")


async def test_a_rule_with_a_time_window_ends_by_itself(proxy: FaultProxy, client: ClientSession):
    proxy.rules.add(Rule(ANY_WRITE, ANY, action=Status(503)), for_seconds=SHORT_SECONDS)
    assert await apply(client, "a") == 503
    await asyncio.sleep(SHORT_SECONDS)  # the time itself is what is tested
    assert await apply(client, "a") == 201
