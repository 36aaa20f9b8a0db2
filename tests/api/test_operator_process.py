"""The operator as a process with its ServiceAccount's token, on a real API server behind a proxy that writes down what it does."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.api.operator_parts import ACCOUNT, LEASE, PATIENCE, get, grant, kubectl, operator, transcriber_deployment
from tests.rig.control_plane import ControlPlane
from tests.rig.fault_proxy import FaultProxy, Upstream
from tests.rig.faults import ErrorEvent, Hold, Rule, Status

QUIET_SECONDS = 4.0
RESOURCE = "transcriberdeployments"


@pytest.fixture
async def proxy(control_plane: ControlPlane) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(Upstream(control_plane.server, control_plane.authority.certificate)) as running:
        yield running


async def account(plane: ControlPlane, namespace: str, proxy: FaultProxy, everywhere: bool = True) -> Path:
    await asyncio.to_thread(grant, plane, namespace, everywhere)
    return await asyncio.to_thread(plane.kubeconfig_for, namespace, ACCOUNT, proxy.url)


async def apply(plane: ControlPlane, namespace: str, name: str = "whisper") -> None:
    await asyncio.to_thread(plane.apply, transcriber_deployment(namespace, name))


@pytest.mark.parametrize("everywhere", [True, False], ids=["all-namespaces", "one-namespace"])
async def test_it_makes_the_children_falls_silent_and_ends_when_asked_to(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path, everywhere: bool
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy, everywhere)
    settings = {} if everywhere else {"TRANSCRIBER_NAMESPACES": namespace}
    async with operator(kubeconfig, namespace, tmp_path, **settings) as running:
        await running.is_in("Leading")
        await apply(control_plane, namespace)
        async with asyncio.timeout(PATIENCE):
            await proxy.log.written("apply", "deployments", "whisper-cpu")
            await proxy.log.quiet(QUIET_SECONDS)
        live = await get(control_plane, f"{RESOURCE}/whisper", f"--namespace={namespace}")
        assert live["metadata"]["finalizers"] == ["serving.transcriber.dev/operator"]
        assert "annotations" not in live["metadata"]
        assert live["status"]["observedGeneration"] == 1
        by_manager = {write.manager for write in proxy.log.lasting_writes if write.verb == "apply"}
        assert by_manager >= {"transcriber-controller", "transcriber-status"}
        # The status may meet Kopf's finalizer, or what the Deployment controller makes us say, and is then written again.
        refused = [write for write in proxy.log.lasting_writes if not write.succeeded and write.status_code != 409]
        assert refused == []
        explained = await running.debug(namespace, "whisper")
        assert explained["decision"]["apply"] == []
        assert 'transcriber_operator_passes_total{outcome="Settled"}' in await running.metrics()
        assert await running.stop() == 0
    lease = await get(control_plane, f"lease/{LEASE}", f"--namespace={namespace}")
    assert not lease["spec"].get("holderIdentity")
    assert [line for line in running.log() if line.get("level") in {"ERROR", "CRITICAL"} or "exception" in line] == []


async def test_a_child_that_is_deleted_or_edited_is_mended(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    async with operator(kubeconfig, namespace, tmp_path) as running:
        await apply(control_plane, namespace)
        async with asyncio.timeout(PATIENCE):
            await proxy.log.written("apply", "deployments", "whisper-cpu")
            await proxy.log.quiet(QUIET_SECONDS)
        there = f"--namespace={namespace}"
        await kubectl(control_plane, "delete", "service", "whisper", there)
        await kubectl(control_plane, "wait", "--for=create", "service/whisper", there, f"--timeout={PATIENCE:.0f}s")
        await kubectl(
            control_plane, "patch", "service", "whisper", there, "--type=merge", '--patch={"spec": {"ports": [{"port": 1}]}}'
        )
        path = "--for=jsonpath={.spec.ports[0].port}=8001"
        await kubectl(control_plane, "wait", path, "service/whisper", there, f"--timeout={PATIENCE:.0f}s")
        assert await running.stop() == 0


async def test_a_resource_that_is_deleted_goes_with_its_children_and_nothing_is_written_after_it(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    async with operator(kubeconfig, namespace, tmp_path) as running:
        await apply(control_plane, namespace)
        async with asyncio.timeout(PATIENCE):
            await proxy.log.written("apply", "deployments", "whisper-cpu")
            await proxy.log.quiet(QUIET_SECONDS)
        before = len(proxy.log.lasting_writes)
        there = f"--namespace={namespace}"
        started = time.monotonic()
        await kubectl(control_plane, "delete", RESOURCE, "whisper", there)  # waits for the end
        assert time.monotonic() - started < 10
        await kubectl(control_plane, "wait", "--for=delete", "deployment/whisper-cpu", there, f"--timeout={PATIENCE:.0f}s")
        async with asyncio.timeout(PATIENCE):
            await proxy.log.quiet(QUIET_SECONDS)
        after = [(write.verb, write.resource) for write in proxy.log.lasting_writes[before:]]
        assert after == [("patch", RESOURCE)]  # the finalizer
        assert await running.stop() == 0


async def test_of_two_operators_the_one_without_the_lease_writes_nothing_and_one_that_slept_ends_without_a_write(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    async with FaultProxy(Upstream(control_plane.server, control_plane.authority.certificate)) as other_proxy:
        other_config = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, ACCOUNT, other_proxy.url)
        async with operator(kubeconfig, namespace, tmp_path) as first:
            await first.is_in("Leading")
            async with operator(other_config, namespace, tmp_path) as second:
                await second.is_in("Standby")
                await apply(control_plane, namespace)
                async with asyncio.timeout(PATIENCE):
                    await proxy.log.written("apply", "deployments", "whisper-cpu")
                    await proxy.log.quiet(QUIET_SECONDS)
                assert (await second.health())[0] == 200
                assert await second.role() == "Standby"
                assert other_proxy.log.writes == []

                first.send(signal.SIGSTOP)
                written = len(proxy.log.writes)
                await apply(control_plane, namespace, "other")  # the sleeper will wake to news
                await second.is_in("Leading")
                async with asyncio.timeout(PATIENCE):
                    await other_proxy.log.written("apply", "deployments", "other-cpu")
                first.send(signal.SIGCONT)
                assert await first.ended() == 1
                assert proxy.log.writes[written:] == []
                assert "The Lease is lost" in first.log()[-1]["message"]
                assert await second.stop() == 0


async def test_the_heartbeat_comes_through_the_watch(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    async with operator(kubeconfig, namespace, tmp_path) as running:
        await running.is_in("Leading")
        ages = []
        for _ in range(4):
            await asyncio.sleep(3)
            ages.append((await running.health())[1]["secondsSinceHeartbeat"])
        assert max(ages) < 8  # renewed every 5 s
        held = Hold(release=asyncio.Event())
        proxy.rules.add(Rule("watch", "leases", when="after", action=held))
        await asyncio.sleep(10)
        status, body = await running.health()
        assert body["secondsSinceHeartbeat"] > 8
        assert (status, body["healthy"]) == (200, True)  # a minute is the limit
        held.release and held.release.set()
        assert await running.stop() == 0


async def test_a_watch_that_fails_for_good_ends_the_process(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    async with operator(kubeconfig, namespace, tmp_path) as running:
        async with asyncio.timeout(PATIENCE):
            await proxy.log.watching("deployments")
        proxy.rules.add(Rule("watch", "deployments", action=ErrorEvent(500)))
        proxy.cut_watches("deployments")
        assert await running.ended() == 1
    # Kopf may end by itself, or hang in trying to; it must not matter.
    assert any(line["message"].startswith(("The watches ended", "Kopf did not end")) for line in running.log())
    lease = await get(control_plane, f"lease/{LEASE}", f"--namespace={namespace}")
    assert not lease["spec"].get("holderIdentity")  # the next one need not wait


async def test_a_kopf_that_cannot_end_does_not_keep_the_process_alive(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    hanging = (
        "import asyncio, sys, kopf; from transcriber_operator.__main__ import main\n"
        "async def hang(*_, **__): await asyncio.Event().wait()\n"
        "kopf.run_tasks = hang; sys.exit(main())"
    )
    kubeconfig = await account(control_plane, namespace, proxy)
    async with operator(kubeconfig, namespace, tmp_path, ("-c", hanging)) as running:
        await running.is_in("Leading")
        async with asyncio.timeout(PATIENCE):
            await proxy.log.watching("leases")
        assert await running.stop() == 1
    assert running.log()[-1]["message"] == "Kopf did not end within 10 s"
    lease = await get(control_plane, f"lease/{LEASE}", f"--namespace={namespace}")
    assert not lease["spec"].get("holderIdentity")


async def test_without_our_kind_it_ends_and_says_what_to_install(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    proxy.rules.add(Rule("list", RESOURCE, action=Status(404)))
    async with operator(kubeconfig, namespace, tmp_path) as running:
        assert await running.ended() == 1
    assert "the CustomResourceDefinition of TranscriberDeployment is missing; install it" in running.log()[-1]["message"]
    assert proxy.log.writes == []


async def test_on_standby_it_ends_at_once_when_asked_to(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    async with operator(kubeconfig, namespace, tmp_path) as first:
        await first.is_in("Leading")
        async with operator(kubeconfig, namespace, tmp_path) as second:
            await second.is_in("Standby")
            assert await second.stop() == 0
        assert await first.stop() == 0


async def test_an_api_server_that_is_away_at_the_start_is_waited_for(
    control_plane: ControlPlane, namespace: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace, proxy)
    away = proxy.rules.add(Rule("list", RESOURCE, action=Status(503)))
    async with operator(kubeconfig, namespace, tmp_path) as running:
        async with asyncio.timeout(PATIENCE):
            await away.fired.wait()
        proxy.rules.remove(away)
        await running.is_in("Leading")
        assert await running.stop() == 0
    assert any(line["message"].startswith("The API server does not answer as it should") for line in running.log())
