"""How the pod bridge ends pods: in order when asked, at once when forced, and never leaving a process."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.rig import kwok
from tests.rig.binaries import Binaries
from tests.rig.bridge_fixtures import Apply, Kubectl
from tests.rig.bridge_manifests import (
    LEAVE_A_CHILD,
    SLEEP,
    STUBBORN,
    condition,
    container,
    has_phase,
    has_restarted,
    is_ready,
    noted,
    noted_until_terminated,
    pod,
    python,
    server,
)
from tests.rig.bridge_observing import ends_of, lines, pids_of
from tests.rig.bridge_shim import descendants
from tests.rig.control_plane import ControlPlane
from tests.rig.pod_bridge import PodBridge


def open_sockets() -> set[str]:
    """Return the sockets of this process."""
    links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return {link for link in links if link.startswith("socket:")}


async def test_deletion_runs_pre_stop_then_terminates_then_removes_the_pod(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    hook = {"preStop": {"exec": {"command": ["python3", "-c", "print('hook', file=open('/work/events', 'a'))"]}}}
    main = python("main", noted_until_terminated("main"), lifecycle=hook)
    await apply(pod("web", main, claim="shared"))
    await bridge.until(namespace, "web", is_ready)
    await lines(shared / "events", 1)
    folder = Path(bridge.pod(namespace, "web").log_file("main")).parents[3] / "pods"
    await kubectl("delete", "pod", "web", "--wait=false")
    found = await bridge.until(namespace, "web", has_phase("Succeeded", "Failed"))
    assert container(found)["state"]["terminated"]["exitCode"] == 0
    await bridge.until_gone(namespace, "web")
    assert (shared / "events").read_text().splitlines() == ["main starts", "hook", "main ends"]
    assert list(folder.iterdir()) == []


async def test_a_stubborn_container_is_killed_at_the_end_of_its_grace(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str
):
    await apply(pod("web", python("main", STUBBORN), terminationGracePeriodSeconds=3))
    await bridge.until(namespace, "web", is_ready)
    await lines(bridge.log_file(namespace, "web", "main"), 1)
    started_at = time.monotonic()
    await kubectl("delete", "pod", "web", "--wait=false")
    found = await bridge.until(namespace, "web", has_phase("Failed"))
    assert time.monotonic() - started_at >= 3
    assert container(found)["state"]["terminated"]["exitCode"] == 137
    await bridge.until_gone(namespace, "web")


async def test_a_hook_that_takes_too_long_is_cut_and_a_later_deletion_can_shorten_the_grace(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str
):
    hook = {"preStop": {"sleep": {"seconds": 500}}}
    await apply(pod("web", python("main", SLEEP, lifecycle=hook), terminationGracePeriodSeconds=600))
    await bridge.until(namespace, "web", is_ready)
    await kubectl("delete", "pod", "web", "--wait=false")
    await bridge.until(namespace, "web", lambda found: found["metadata"].get("deletionGracePeriodSeconds") == 600)
    await kubectl("delete", "pod", "web", "--wait=false", "--grace-period=1")
    await bridge.until_gone(namespace, "web")


async def test_readiness_is_still_probed_while_a_pod_ends_and_health_is_not(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    (shared / "ready").touch()
    (shared / "alive").touch()
    ready = {"periodSeconds": 1, "timeoutSeconds": 5, "httpGet": {"path": "/ready", "port": 8080}, "failureThreshold": 1}
    alive = {**ready, "httpGet": {"path": "/alive", "port": 8080}, "terminationGracePeriodSeconds": 1}
    wait = "import os, time\nwhile not os.path.exists('/work/drained'): time.sleep(0.05)"
    hook = {"preStop": {"exec": {"command": ["python3", "-c", wait]}}}
    main = server(startupProbe={**ready, "failureThreshold": 60}, readinessProbe=ready, livenessProbe=alive, lifecycle=hook)
    await apply(pod("web", main, claim="shared"))
    await bridge.until(namespace, "web", is_ready)
    await kubectl("delete", "pod", "web", "--wait=false")
    await bridge.until(namespace, "web", lambda found: "deletionTimestamp" in found["metadata"])
    (shared / "alive").unlink()
    (shared / "ready").unlink()
    await bridge.until(namespace, "web", lambda found: not is_ready(found))
    await lines(shared / "asked", len((shared / "asked").read_text().splitlines()) + 3)
    (shared / "drained").touch()
    found = await bridge.until(namespace, "web", has_phase("Failed"))
    assert container(found)["restartCount"] == 0
    asked = (shared / "asked").read_text().split()
    assert "/alive" not in asked[-3:]
    await bridge.until_gone(namespace, "web")


async def test_sidecars_end_after_the_main_containers_and_in_reverse_order(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    sidecars = [python(name, noted_until_terminated(name), restartPolicy="Always") for name in ("one", "two")]
    main = python("main", noted_until_terminated("main", "time.sleep(0.5)"))
    await apply(pod("web", main, initContainers=sidecars, claim="shared"))
    await bridge.until(namespace, "web", is_ready)
    await lines(shared / "events", 3)
    await kubectl("delete", "pod", "web", "--wait=false")
    await bridge.until_gone(namespace, "web")
    assert (shared / "events").read_text().splitlines()[3:] == ["main ends", "two ends", "one ends"]


async def test_a_pod_whose_main_containers_are_done_ends_its_sidecars_and_succeeds(
    bridge: PodBridge, apply: Apply, namespace: str, shared: Path
):
    sidecar = python("beside", noted_until_terminated("beside"), restartPolicy="Always")
    main = python("main", noted("main", "while not os.path.exists('/work/go'): time.sleep(0.05)\nnote('ends')"))
    await apply(pod("job", main, initContainers=[sidecar], claim="shared", restartPolicy="Never"))
    await lines(shared / "events", 2)
    bridge.pod(namespace, "job").signal("beside", signal.SIGKILL)
    found = await bridge.until(namespace, "job", has_restarted(1, "beside"))
    assert found["status"]["phase"] == "Running"
    await lines(shared / "events", 3)
    (shared / "go").touch()
    found = await bridge.until(namespace, "job", has_phase("Succeeded", "Failed"))
    assert found["status"]["phase"] == "Succeeded"
    assert condition(found, "Ready")["reason"] == "PodCompleted"
    assert (shared / "events").read_text().splitlines()[-2:] == ["main ends", "beside ends"]


async def test_a_pod_that_was_active_for_too_long_fails(bridge: PodBridge, apply: Apply, namespace: str):
    await apply(pod("job", python("main", SLEEP), activeDeadlineSeconds=1, terminationGracePeriodSeconds=1))
    found = await bridge.until(namespace, "job", has_phase("Succeeded", "Failed"))
    assert (found["status"]["phase"], found["status"]["reason"]) == ("Failed", "DeadlineExceeded")


async def test_a_pod_deleted_by_force_ends_at_once_with_all_its_processes(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str
):
    await apply(pod("web", python("main", LEAVE_A_CHILD), terminationGracePeriodSeconds=600))
    await bridge.until(namespace, "web", is_ready)
    pids = await pids_of(bridge, namespace, "web", 2)
    await kubectl("delete", "pod", "web", "--force", "--grace-period=0")
    await bridge.until_gone(namespace, "web")
    await ends_of(pids)
    assert bridge.pod(namespace, "web").processes("main") == []


async def test_the_end_of_the_main_process_ends_its_children_before_the_restart(bridge: PodBridge, apply: Apply, namespace: str):
    await apply(pod("web", python("main", LEAVE_A_CHILD)))
    await bridge.until(namespace, "web", is_ready)
    pids = await pids_of(bridge, namespace, "web", 2)
    os.kill(pids[0], signal.SIGTERM)
    await bridge.until(namespace, "web", has_restarted(1))
    await ends_of(pids)


async def test_a_lost_node_kills_without_a_word_and_its_name_can_come_back(
    bridge: PodBridge, apply: Apply, namespace: str, shared: Path, bridge_node: str, control_plane: ControlPlane
):
    hook = {"preStop": {"exec": {"command": ["python3", "-c", "open('/work/hook', 'w')"]}}}
    await apply(pod("web", python("main", SLEEP, lifecycle=hook), claim="shared"))
    found = await bridge.until(namespace, "web", is_ready)
    pids = await pids_of(bridge, namespace, "web", 1)
    await bridge.lose_node(bridge_node)
    await ends_of(pids)
    await apply(pod("late", python("main", SLEEP)))
    found = await bridge.until(namespace, "late", lambda found: found["spec"].get("nodeName") == bridge_node)
    assert "containerStatuses" not in found["status"]
    found = await bridge.until(namespace, "web", lambda _: True)
    assert "running" in container(found)["state"]  # as nobody is there to report
    assert not (shared / "hook").exists()
    with pytest.raises(KeyError):
        bridge.pod(namespace, "late")
    await asyncio.to_thread(control_plane.kubectl, "delete", "node", bridge_node)
    await asyncio.to_thread(control_plane.apply, kwok.fake_node(bridge_node, tainted=False))
    await bridge.until(namespace, "late", is_ready)


async def test_a_node_that_is_deleted_takes_its_pods_processes_along(
    bridge: PodBridge, apply: Apply, namespace: str, bridge_node: str, control_plane: ControlPlane
):
    await apply(pod("web", python("main", SLEEP), terminationGracePeriodSeconds=600))
    await bridge.until(namespace, "web", is_ready)
    pids = await pids_of(bridge, namespace, "web", 1)
    await asyncio.to_thread(control_plane.kubectl, "delete", "node", bridge_node)
    await ends_of(pids)


async def test_a_bridge_that_stops_leaves_no_process_and_the_next_one_starts_its_pods_again(
    bridged_namespace: str, apply: Apply, control_plane: ControlPlane, tmp_path: Path
):
    namespace = bridged_namespace
    async with PodBridge(control_plane.kubeconfig, tmp_path / "one", namespace=namespace) as bridge:
        await apply(pod("web", python("main", LEAVE_A_CHILD)), pod("once", python("main", SLEEP), restartPolicy="Never"))
        address = (await bridge.until(namespace, "web", is_ready))["status"]["podIP"]
        await bridge.until(namespace, "once", is_ready)
        pids = await pids_of(bridge, namespace, "web", 2)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    async with PodBridge(control_plane.kubeconfig, tmp_path / "two", namespace=namespace) as bridge:
        found = await bridge.until(namespace, "web", has_restarted(1))
        assert container(found)["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
        assert found["status"]["podIP"] == address
        found = await bridge.until(namespace, "once", has_phase("Failed"))
        assert container(found)["state"]["terminated"]["exitCode"] == 137


async def test_a_bridge_that_is_left_at_any_moment_leaves_no_socket(
    bridged_namespace: str, apply: Apply, control_plane: ControlPlane, tmp_path: Path
):
    await apply(*(pod(f"web-{number}", python("main", SLEEP)) for number in range(3)))
    before = open_sockets()
    for turn in range(6):
        async with PodBridge(control_plane.kubeconfig, tmp_path, namespace=bridged_namespace):
            await asyncio.sleep(turn * 0.05)  # not to wait for anything, but to be anywhere
        assert open_sockets() == before


async def test_a_bridge_that_is_killed_leaves_no_process(
    bridged_namespace: str, apply: Apply, control_plane: ControlPlane, tmp_path: Path
):
    argv = [
        sys.executable,
        "-m",
        "tests.rig.pod_bridge",
        f"--kubeconfig={control_plane.kubeconfig}",
        f"--dir={tmp_path / 'bridge'}",
    ]
    with subprocess.Popen([*argv, f"--namespace={bridged_namespace}"], stderr=subprocess.PIPE) as process:
        try:
            await apply(pod("web", python("main", LEAVE_A_CHILD)))
            logs = tmp_path / "bridge" / "logs"
            async with asyncio.timeout(30):
                while not [log for log in logs.glob("*/main/0.log") if log.read_text() == "up\n"]:
                    await asyncio.sleep(0.05)
            before = descendants(process.pid)
            assert len(before) == 3  # the shim, the main process and its child
        finally:
            process.kill()
    await ends_of(before)


async def test_the_bridge_goes_on_after_the_api_server_was_away(binaries: Binaries, tmp_path: Path):
    web = pod("web", python("main", SLEEP), nodeName="none-that-is-known")
    web["metadata"] |= {"namespace": "default", "annotations": {kwok.BRIDGE_ANNOTATION: "process"}}
    with ControlPlane(binaries) as plane:
        plane.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
        async with PodBridge(plane.kubeconfig, tmp_path) as bridge:
            await asyncio.to_thread(plane.apply, web)
            await bridge.until("default", "web", is_ready)
            await asyncio.to_thread(plane.stop_apiserver)
            bridge.pod("default", "web").signal("main", signal.SIGKILL)
            await asyncio.to_thread(plane.start_apiserver)
            await bridge.until("default", "web", has_restarted(1))
