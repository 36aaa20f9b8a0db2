"""Real clients before a real API server, through the proxy: kubectl and kubernetes.aio work, and each fault reaches the client."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.resource import Resource
from kubernetes.aio.watch import Watch

from tests.rig.certificates import write_kubeconfig
from tests.rig.control_plane import ControlPlane
from tests.rig.fault_proxy import FaultProxy, Upstream
from tests.rig.faults import ANY_WRITE, Cut, Delay, ErrorEvent, HalfLine, Hold, Rule, Silent, Status
from tests.rig.oracle import Footprint, creates_and_deletes

SHORT_SECONDS = 0.5  # long enough to see that nothing comes


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[FaultProxy]:
    """A proxy that speaks to the API server as admin."""
    admin = control_plane.authority.client("proxied-admin", ["system:masters"])
    async with FaultProxy(Upstream(control_plane.server, control_plane.authority.certificate, client=admin)) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[DynamicClient]:
    async with ApiClient(Configuration(host=proxy.url)) as connection:
        yield await DynamicClient(connection)


@pytest.fixture
async def config_maps(client: DynamicClient) -> Resource:
    return await client.resources.get(api_version="v1", kind="ConfigMap")


def config_map(namespace: str, name: str, value: str = "1") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"test": "proxy"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}


async def apply(config_maps: Resource, namespace: str, name: str, value: str = "1") -> Any:
    body = config_map(namespace, name, value)
    return await config_maps.server_side_apply(body=body, field_manager="tester", force_conflicts=True)


async def kubectl(plane: ControlPlane, kubeconfig: Path, *arguments: str, document: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(plane.binaries["kubectl"]),
        f"--kubeconfig={kubeconfig}",
        f"--cache-dir={plane.folder / 'proxied-kubectl-cache'}",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
    )
    stdout, stderr = await process.communicate(document.encode())
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


class Listener:
    """A watch of the labelled ConfigMaps of a namespace, from now on, read line by line without a client's retries."""

    def __init__(self, proxy: FaultProxy, namespace: str, resource_version: str = "") -> None:
        self._url = f"{proxy.url}/api/v1/namespaces/{namespace}/configmaps"
        self._query = {"watch": "true", "labelSelector": "test=proxy", "resourceVersion": resource_version}

    async def __aenter__(self) -> aiohttp.ClientResponse:
        self._session = aiohttp.ClientSession()
        self._response = await self._session.get(self._url, params=self._query)
        return self._response

    async def __aexit__(self, *_: object) -> None:
        self._response.close()
        await self._session.close()


async def event(response: aiohttp.ClientResponse) -> tuple[str, str]:
    document = json.loads(await response.content.readline())
    return document["type"], document["object"]["metadata"].get("name", "")


async def assert_no_byte(response: aiohttp.ClientResponse) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT_SECONDS):
            await response.content.readany()


async def test_kubectl_works_through_it_and_its_writes_are_recorded(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
):
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "transcriber-test-proxy", proxy.url, Path(), {})
    document = json.dumps(config_map(namespace, "a"))
    code, _, error = await kubectl(control_plane, kubeconfig, "apply", "--server-side", "-f", "-", document=document)
    assert code == 0, error
    code, output, error = await kubectl(control_plane, kubeconfig, "get", "configmap", "a", "-n", namespace, "-o", "json")
    assert json.loads(output)["data"] == {"value": "1"}, error
    uid = json.loads(output)["metadata"]["uid"]
    code, output, _ = await kubectl(control_plane, kubeconfig, "get", "configmaps", "-n", namespace, "--selector=test=proxy")
    assert "a      1      " in output
    code, _, error = await kubectl(control_plane, kubeconfig, "delete", "configmap", "a", "-n", namespace)
    assert code == 0, error
    shown = [(w.verb, w.resource, w.namespace, w.name, w.manager, w.status_code, w.uid) for w in proxy.log.writes]
    assert shown == [
        ("apply", "configmaps", namespace, "a", "kubectl", 201, uid),
        ("delete", "configmaps", namespace, "a", "", 200, uid),
    ]
    assert creates_and_deletes(proxy.log.writes) == {("configmaps", "a"): Footprint(1, 1)}


async def test_a_fault_reads_like_the_api_servers_own_to_kubectl(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
):
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "transcriber-test-proxy", proxy.url, Path(), {})
    proxy.rules.add(Rule("apply", "configmaps", action=Status(409)))
    document = json.dumps(config_map(namespace, "a"))
    code, _, error = await kubectl(control_plane, kubeconfig, "apply", "--server-side", "-f", "-", document=document)
    assert code == 1
    assert "injected by the fault proxy: 409 Conflict" in error


async def test_without_credentials_of_its_own_it_passes_the_clients_token_on(control_plane: ControlPlane, namespace: str):
    control_plane.kubectl("create", "role", "reader", "--verb=list", "--resource=configmaps", f"--namespace={namespace}")
    control_plane.kubectl(
        "create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:default", f"--namespace={namespace}"
    )
    async with FaultProxy(Upstream(control_plane.server, control_plane.authority.certificate)) as proxy:
        configuration = Configuration()
        kubeconfig = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, "default", proxy.url)
        await load_kube_config(str(kubeconfig), client_configuration=configuration)
        async with ApiClient(configuration) as connection:
            client = await DynamicClient(connection)
            config_maps = await client.resources.get(api_version="v1", kind="ConfigMap")
            assert (await config_maps.get(namespace=namespace)).kind == "ConfigMapList"
            with pytest.raises(ApiException, match=f"system:serviceaccount:{namespace}:default") as refused:
                await apply(config_maps, namespace, "a")
    assert refused.value.status == 403
    assert [write.status_code for write in proxy.log.writes] == [403]


async def test_server_side_apply_and_watch_work_through_it(namespace: str, proxy: FaultProxy, config_maps: Resource):
    created = await apply(config_maps, namespace, "a")
    unchanged = await apply(config_maps, namespace, "a")
    version = created.metadata.resourceVersion
    assert unchanged.metadata.resourceVersion == version
    async with Watch() as watch:
        stream = watch.stream(config_maps.get, namespace=namespace, serialize=False, resource_version=version)
        await apply(config_maps, namespace, "a", "2")
        seen = await anext(stream)
        assert (seen["type"], seen["object"]["data"]) == ("MODIFIED", {"value": "2"})
    assert [(write.verb, write.status_code, write.manager) for write in proxy.log.writes] == [
        ("apply", 201, "tester"),
        ("apply", 200, "tester"),
        ("apply", 200, "tester"),
    ]


@pytest.mark.parametrize(("when", "is_there"), [("before", False), ("after", True)])
@pytest.mark.parametrize("code", [409, 422, 429, 500, 503, 504])
async def test_a_status_is_seen_whether_or_not_the_write_was_done(
    code: int, when: Any, is_there: bool, namespace: str, proxy: FaultProxy, config_maps: Resource
):
    proxy.rules.add(Rule(ANY_WRITE, "configmaps", nth=1, when=when, action=Status(code, retry_after_seconds=5)))
    with pytest.raises(ApiException) as refused:
        await apply(config_maps, namespace, "a")
    assert refused.value.status == code
    assert refused.value.headers["Retry-After"] == "5"
    found = await config_maps.get(namespace=namespace, label_selector="test=proxy")
    assert [item.metadata.name for item in found.items] == (["a"] if is_there else [])
    assert proxy.log.writes[0].status_code == (201 if is_there else None)


@pytest.mark.parametrize(("when", "is_there"), [("before", False), ("after", True)])
async def test_a_cut_is_seen_whether_or_not_the_write_was_done(
    when: Any, is_there: bool, namespace: str, proxy: FaultProxy, config_maps: Resource
):
    proxy.rules.add(Rule("apply", "configmaps", "a", namespace, when=when, action=Cut()))
    with pytest.raises(aiohttp.ClientError):
        await apply(config_maps, namespace, "a")
    found = await config_maps.get(namespace=namespace, label_selector="test=proxy")
    assert [item.metadata.name for item in found.items] == (["a"] if is_there else [])


async def test_a_delayed_or_silent_call_runs_into_the_clients_deadline(namespace: str, proxy: FaultProxy, config_maps: Resource):
    for action in (Delay(60), Silent()):
        armed = proxy.rules.add(Rule("list", "configmaps", action=action))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT_SECONDS):
                await config_maps.get(namespace=namespace)
        assert armed.fires == 1
        proxy.rules.remove(armed)
    assert (await config_maps.get(namespace=namespace)).kind == "ConfigMapList"


async def test_half_an_answer_is_no_answer(namespace: str, proxy: FaultProxy, config_maps: Resource):
    proxy.rules.add(Rule("list", "configmaps", when="after", action=HalfLine()))
    with pytest.raises(aiohttp.ClientPayloadError):
        await config_maps.get(namespace=namespace)


async def test_events_come_on_time_and_every_fault_of_a_watch_is_seen(namespace: str, proxy: FaultProxy, config_maps: Resource):
    created = await apply(config_maps, namespace, "a")
    version = created.metadata.resourceVersion
    async with Listener(proxy, namespace, version) as response:
        await apply(config_maps, namespace, "b")
        async with asyncio.timeout(SHORT_SECONDS * 10):
            assert await event(response) == ("ADDED", "b")
        proxy.rules.add(Rule("watch", "configmaps", "b", when="after", nth=1, action=ErrorEvent(500)))
        await apply(config_maps, namespace, "b", "2")
        assert await event(response) == ("ERROR", "")
        assert await response.content.read() == b""
    async with Listener(proxy, namespace, version) as response:
        assert await event(response) == ("ADDED", "b")
        assert await event(response) == ("MODIFIED", "b")
        proxy.rules.add(Rule("watch", "configmaps", "b", when="after", nth=1, action=HalfLine()))
        await apply(config_maps, namespace, "b", "3")
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    async with Listener(proxy, namespace, version) as response:
        assert await event(response) == ("ADDED", "b")
        assert proxy.cut_watches("configmaps") == 1
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_events_of_one_object_are_held_or_lost_while_others_pass(namespace: str, proxy: FaultProxy, config_maps: Resource):
    created = await apply(config_maps, namespace, "a")
    release = asyncio.Event()
    proxy.rules.add(Rule("watch", "configmaps", "held", namespace, when="after", action=Hold(release)))
    proxy.rules.add(Rule("watch", "configmaps", "lost", namespace, when="after", action=Hold(count=1, lost=True)))
    async with Listener(proxy, namespace, created.metadata.resourceVersion) as response:
        for name in ("held", "lost", "free"):
            await apply(config_maps, namespace, name)
        assert await event(response) == ("ADDED", "free")
        await assert_no_byte(response)
        release.set()
        assert await event(response) == ("ADDED", "held")
        await apply(config_maps, namespace, "lost", "2")
        assert await event(response) == ("MODIFIED", "lost")


async def test_a_restart_of_the_api_server_looks_as_it_is_and_a_410_by_a_rule_like_the_one_that_follows(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, config_maps: Resource
):
    created = await apply(config_maps, namespace, "a")
    async with Listener(proxy, namespace, created.metadata.resourceVersion) as response:
        await apply(config_maps, namespace, "a", "2")
        assert await event(response) == ("MODIFIED", "a")
        await asyncio.to_thread(control_plane.part("kube-apiserver").kill)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
        with pytest.raises(aiohttp.ClientError):
            await config_maps.get(namespace=namespace)
        await asyncio.to_thread(control_plane.start_apiserver)
    async with Listener(proxy, namespace, created.metadata.resourceVersion) as response:
        genuine = json.loads(await response.content.readline())
    proxy.rules.add(Rule("watch", "configmaps", action=ErrorEvent(410)))
    async with Listener(proxy, namespace) as response:
        injected = json.loads(await response.content.readline())
    assert injected["type"] == genuine["type"] == "ERROR"
    assert injected["object"] | {"message": ""} == genuine["object"] | {"message": ""}
