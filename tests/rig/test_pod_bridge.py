"""How the pod bridge starts, probes and restarts containers: real processes, API server and scheduler."""

import asyncio
import base64
import json
import signal
import sys
from pathlib import Path

import pytest

from tests.rig.bridge_api import Api
from tests.rig.bridge_fixtures import Apply, Kubectl
from tests.rig.bridge_manifests import (
    POD_IP,
    SLEEP,
    WORK,
    condition,
    container,
    has_phase,
    has_restarted,
    is_ready,
    noted,
    pod,
    python,
    server,
    waiting,
)
from tests.rig.bridge_observing import lines
from tests.rig.bridge_settings import Settings
from tests.rig.control_plane import ControlPlane
from tests.rig.pod_bridge import PodBridge

FAST = {"periodSeconds": 1, "timeoutSeconds": 5}


async def test_a_pod_of_a_plain_manifest_runs_where_the_scheduler_put_it(
    bridge: PodBridge, apply: Apply, namespace: str, bridge_node: str
):
    await apply(pod("web", python("main", SLEEP)))
    found = await bridge.until(namespace, "web", is_ready)
    status = found["status"]
    assert found["metadata"]["annotations"]["test.transcriber.dev/run"] == "process"
    assert found["spec"]["nodeName"] == bridge_node
    assert status["podIP"] == bridge.pod(namespace, "web").address
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["podIP"].startswith("127.")
    assert (status["hostIP"], status["phase"]) == ("127.0.0.1", "Running")
    states = {entry["type"]: entry["status"] for entry in status["conditions"]}
    assert states == dict.fromkeys(("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True")
    [main] = bridge.pod(namespace, "web").processes("main")
    assert main.argv == (sys.executable, "-c", SLEEP)


async def test_containers_start_in_order_and_a_sidecar_s_startup_probe_gates_the_next(
    bridge: PodBridge, apply: Apply, namespace: str, shared: Path
):
    sidecar = noted("sidecar", "time.sleep(0.5); open('/work/up', 'w'); note('is up'); signal.pause()")
    probe = {**FAST, "exec": {"command": ["python3", "-c", "open('/work/up')"]}, "failureThreshold": 60}
    first = python("first", noted("first", "time.sleep(0.2); note('ends')"))
    beside = python("sidecar", sidecar, restartPolicy="Always", startupProbe=probe)
    last = python("last", noted("last", "note('ends')"))
    main = python("main", noted("main", "signal.pause()"))
    await apply(pod("web", main, initContainers=[first, beside, last], claim="shared"))
    found = await bridge.until(namespace, "web", is_ready)
    events = (shared / "events").read_text().splitlines()
    expected = ["first starts", "first ends", "sidecar starts", "sidecar is up", "last starts", "last ends", "main starts"]
    assert events == expected[: len(events)]
    assert len(events) >= len(expected) - 1  # the pod can be ready before main's first line
    assert container(found, "first")["state"]["terminated"]["reason"] == "Completed"
    assert container(found, "sidecar")["started"] is container(found, "sidecar")["ready"] is True


async def test_an_init_container_that_fails_is_run_again_and_nothing_after_it_starts(
    bridge: PodBridge, apply: Apply, namespace: str
):
    flaky = "import os, sys; there = os.path.exists('/work/once'); open('/work/once', 'w'); sys.exit(0 if there else 3)"
    await apply(pod("web", python("main", SLEEP), initContainers=[python("flaky", flaky)]))
    found = await bridge.until(namespace, "web", is_ready)
    assert container(found, "flaky")["restartCount"] == 1
    assert container(found, "flaky")["lastState"]["terminated"]["exitCode"] == 3
    await apply(pod("once", python("main", SLEEP), initContainers=[python("broken", "raise SystemExit(3)")], restartPolicy="Never"))
    found = await bridge.until(namespace, "once", has_phase("Failed"))
    assert condition(found, "Initialized")["status"] == "False"
    assert "waiting" in container(found)["state"]


async def test_environment_arguments_and_paths_are_those_of_the_manifest(
    bridge: PodBridge, apply: Apply, namespace: str, shared: Path
):
    tell = (  # also what the volumes hold, which are gone when the pod has ended
        "import json, os, pathlib, sys; spec, key = (pathlib.Path(word.partition('=')[2]) for word in sys.argv[1:3]); "
        "files = [spec.read_text(), [path.name for path in spec.parent.iterdir()], (key / 'token').read_text()]; "
        "json.dump([sys.argv[1:], dict(os.environ), files], open('/work/told', 'w'))"
    )
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config"},
        "data": {"word": "hello", "deployment.yaml": "{}"},
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "key"},
        "data": {"token": base64.b64encode(b"s3").decode()},
    }
    env = [
        POD_IP,
        {"name": "WORD", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "word"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "token"}}},
        {"name": "ABSENT", "valueFrom": {"configMapKeyRef": {"name": "nowhere", "key": "word", "optional": True}}},
        {"name": "OWN_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "SENTENCE", "value": "$(WORD) from $(OWN_NAME), $$(WORD), $(UNKNOWN)"},
        {"name": "TMP_FILE", "value": "/tmp/x"},
    ]
    mounts = [
        WORK,
        {"name": "config", "mountPath": "/etc/config"},
        {"name": "key", "mountPath": "/credentials/key"},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "work", "mountPath": "/tmp/inner", "subPath": "of/pod"},
    ]
    volumes = [
        {"name": "config", "configMap": {"name": "config", "items": [{"key": "deployment.yaml", "path": "deployment.yaml"}]}},
        {"name": "key", "secret": {"secretName": "key"}},
        {"name": "scratch", "emptyDir": {"medium": "Memory"}},
    ]
    words = [
        "--spec=/etc/config/deployment.yaml",
        "target=/credentials/key",
        "$(TMP_FILE)",
        "/tmp/inner/y",
        "/tmpfile",
        "http://h/tmp/z",
        "$(POD_IP):1",
    ]
    main = {**python("main", tell, *words, env=env), "volumeMounts": mounts}
    await apply(config, secret, pod("told", main, claim="shared", volumes=volumes, restartPolicy="Never"))
    found = await bridge.until(namespace, "told", has_phase("Succeeded", "Failed"))
    assert found["status"]["phase"] == "Succeeded", bridge.log_file(namespace, "told", "main").read_text()
    argv, environment, files = json.loads((shared / "told").read_text())
    assert files == ["{}", ["deployment.yaml"], "s3"]
    assert argv[3] == str(shared / "of/pod/y")
    assert argv[4:] == ["/tmpfile", "http://h/tmp/z", f"{found['status']['podIP']}:1"]
    assert environment["TMP_FILE"] == argv[2] != "/tmp/x"
    assert environment["SENTENCE"] == "hello from told, $(WORD), $(UNKNOWN)"
    assert (environment["WORD"], environment["TOKEN"], environment["POD_IP"]) == ("hello", "s3", found["status"]["podIP"])
    assert "ABSENT" not in environment
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        assert found["metadata"]["uid"] in environment[name]


async def test_an_object_that_is_missing_is_named_and_the_container_starts_once_it_is_there(
    bridge: PodBridge, apply: Apply, namespace: str
):
    env = [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "late", "key": "word"}}}]
    volumes = [{"name": "late", "configMap": {"name": "late"}}]
    await apply(pod("web", python("main", SLEEP, env=env), volumes=volumes))
    found = await bridge.until(namespace, "web", lambda found: waiting(found)["message"])
    assert waiting(found) == {"reason": "ContainerCreating", "message": "volume late: ConfigMap late not found"}
    await apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}})
    found = await bridge.until(namespace, "web", lambda found: waiting(found)["reason"] == "CreateContainerConfigError")
    assert waiting(found)["message"] == "env WORD: not found: Secret late"
    assert found["status"]["phase"] == "Pending"
    await apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"other": "x"}})
    await bridge.until(namespace, "web", lambda found: waiting(found)["message"] == "env WORD: key word not found in Secret late")
    await apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "late"}, "stringData": {"word": "x"}})
    found = await bridge.until(namespace, "web", is_ready)
    assert container(found)["restartCount"] == 0


async def test_a_readiness_probe_gates_ready_and_takes_it_back(bridge: PodBridge, apply: Apply, namespace: str, shared: Path):
    probe = {**FAST, "httpGet": {"path": "/ready", "port": "http"}, "failureThreshold": 1}
    await apply(pod("web", server(readinessProbe=probe), claim="shared"))
    found = await bridge.until(namespace, "web", lambda found: "running" in container(found)["state"])
    assert (condition(found, "Ready")["reason"], condition(found, "Ready")["status"]) == ("ContainersNotReady", "False")
    waiting_for_ready = asyncio.create_task(bridge.until(namespace, "web", is_ready))
    await lines(shared / "asked", 2)
    assert not waiting_for_ready.done()
    (shared / "ready").touch()
    found = await waiting_for_ready
    since = condition(found, "Initialized")["lastTransitionTime"]
    (shared / "ready").unlink()
    found = await bridge.until(namespace, "web", lambda found: not is_ready(found))
    assert container(found)["restartCount"] == 0
    assert found["status"]["phase"] == "Running"
    assert condition(found, "Initialized")["lastTransitionTime"] == since


async def test_a_container_is_not_ready_before_its_probe_has_answered(
    bridge: PodBridge, apply: Apply, namespace: str, shared: Path
):
    wait = "import os, time\nwhile not os.path.exists('/work/go'): time.sleep(0.05)"
    probe = {"exec": {"command": ["python3", "-c", wait]}, "timeoutSeconds": 60}
    await apply(pod("web", python("main", SLEEP, readinessProbe=probe), claim="shared"))
    found = await bridge.until(namespace, "web", lambda found: container(found)["started"])
    assert not is_ready(found)
    (shared / "go").touch()
    await bridge.until(namespace, "web", is_ready)


async def test_a_liveness_probe_that_fails_restarts_the_container_but_not_before_it_has_started(
    bridge: PodBridge, apply: Apply, namespace: str, shared: Path
):
    startup = {**FAST, "httpGet": {"path": "/started", "port": 8080}, "failureThreshold": 60}
    liveness = {**FAST, "httpGet": {"path": "/alive", "port": 8080}, "failureThreshold": 2}
    hook = {"preStop": {"httpGet": {"path": "/drain", "port": "http"}}}
    await apply(pod("web", server(startupProbe=startup, livenessProbe=liveness, lifecycle=hook), claim="shared"))
    found = await bridge.until(namespace, "web", lambda found: "running" in container(found)["state"])
    assert container(found)["started"] is False
    (shared / "started").touch()
    found = await bridge.until(namespace, "web", has_restarted(1))
    ended = container(found)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128 + signal.SIGTERM, "Error")
    asked = (shared / "asked").read_text().split()
    assert asked.index("/alive") > asked.index("/started")
    assert asked[asked.index("/alive") :][:3] == ["/alive", "/alive", "/drain"]
    (shared / "alive").touch()
    found = await bridge.until(namespace, "web", is_ready)


async def test_a_startup_probe_that_never_passes_restarts_the_container(bridge: PodBridge, apply: Apply, namespace: str):
    probe = {**FAST, "tcpSocket": {"port": 9}, "failureThreshold": 1}
    await apply(pod("web", python("main", SLEEP, startupProbe=probe), terminationGracePeriodSeconds=1))
    found = await bridge.until(namespace, "web", has_restarted(1))
    assert container(found)["started"] is False


async def test_a_container_that_crashes_is_restarted_with_growing_back_off(
    bridged_namespace: str, apply: Apply, control_plane: ControlPlane, tmp_path: Path
):
    namespace, settings = bridged_namespace, Settings(backoff_initial_seconds=1)
    async with PodBridge(control_plane.kubeconfig, tmp_path, settings, namespace) as bridge:
        await apply(pod("web", python("main", "raise SystemExit(7)")))
        for seconds in (1, 2):
            message = f"back-off {seconds} s restarting failed container main"
            found = await bridge.until(namespace, "web", lambda found, message=message: waiting(found)["message"] == message)
        assert waiting(found)["reason"] == "CrashLoopBackOff"
        ended = container(found)["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"], found["status"]["phase"]) == (7, "Error", "Running")
        assert container(found)["restartCount"] == 2  # the first restart came at once


async def test_a_container_that_a_signal_ends_or_that_cannot_start_says_so(bridge: PodBridge, apply: Apply, namespace: str):
    await apply(
        pod("killed", python("main", SLEEP), restartPolicy="Never"),
        pod("absent", {"name": "main", "image": "none", "command": ["/no/such/program"]}, restartPolicy="Never"),
    )
    await bridge.until(namespace, "killed", is_ready)
    bridge.pod(namespace, "killed").signal("main", signal.SIGKILL)
    found = await bridge.until(namespace, "killed", has_phase("Failed"))
    assert container(found)["state"]["terminated"]["exitCode"] == 137
    found = await bridge.until(namespace, "absent", has_phase("Failed"))
    ended = container(found)["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert ended["message"] == "/no/such/program: No such file or directory"


async def test_a_termination_message_comes_from_its_file_or_else_from_the_log_of_a_failure(
    bridge: PodBridge, apply: Apply, namespace: str
):
    fall_back = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    write = python("main", "open('/dev/termination-log', 'w').write('the digest'); print('noise')", **fall_back)
    own_path = python("main", "open('/work/message', 'w').write('mine')", terminationMessagePath="/work/message")
    fail = python("main", "print('x' * 3000); print('cause'); raise SystemExit(4)", **fall_back)
    silent = python("main", "print('noise')", **fall_back)
    pods = {"write": write, "own-path": own_path, "fail": fail, "silent": silent}
    await apply(*(pod(name, main, restartPolicy="Never") for name, main in pods.items()))
    messages = {}
    for name in pods:
        found = await bridge.until(namespace, name, has_phase("Succeeded", "Failed"))
        messages[name] = container(found)["state"]["terminated"].get("message", "")
    assert (messages["write"], messages["own-path"], messages["silent"]) == ("the digest", "mine", "")
    assert messages["fail"].endswith("x\ncause\n")
    assert len(messages["fail"]) == 2048


async def test_a_frozen_container_answers_nothing_until_it_goes_on(bridge: PodBridge, apply: Apply, namespace: str, shared: Path):
    probe = {"periodSeconds": 1, "timeoutSeconds": 1, "httpGet": {"path": "/ready", "port": 8080}, "failureThreshold": 1}
    (shared / "ready").touch()
    await apply(pod("web", server(readinessProbe=probe), claim="shared"))
    await bridge.until(namespace, "web", is_ready)
    bridge.pod(namespace, "web").signal_all("main", signal.SIGSTOP)
    await bridge.until(namespace, "web", lambda found: not is_ready(found))
    bridge.pod(namespace, "web").signal_all("main", signal.SIGCONT)
    found = await bridge.until(namespace, "web", is_ready)
    assert container(found)["restartCount"] == 0


async def test_what_the_bridge_cannot_do_is_refused_by_name(bridge: PodBridge, apply: Apply, namespace: str):
    await apply(
        pod("grpc", python("main", SLEEP, livenessProbe={"grpc": {"port": 1}})),
        pod("image", {"name": "main", "image": "none"}),
        pod("nfs", python("main", SLEEP), volumes=[{"name": "far", "nfs": {"server": "s", "path": "/"}}]),
    )
    messages = {}
    for name in ("grpc", "image", "nfs"):
        found = await bridge.until(namespace, name, lambda found: waiting(found)["message"])
        messages[name] = waiting(found)["message"]
    assert messages == {
        "grpc": "livenessProbe: the bridge knows exec, httpGet, tcpSocket, not grpc",
        "image": "containers[main].command: the bridge has no images; say what to run",
        "nfs": "volume far: the bridge does not know nfs",
    }


async def test_nothing_is_written_while_nothing_changes(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path, monkeypatch: pytest.MonkeyPatch
):
    probe = {**FAST, "httpGet": {"path": "/ready", "port": 8080}}
    (shared / "ready").touch()
    await apply(pod("web", server(readinessProbe=probe), claim="shared"))
    found = await bridge.until(namespace, "web", is_ready)
    written = []
    monkeypatch.setattr(Api, "write_status", lambda *arguments: written.append(arguments))
    await kubectl("label", "pod", "web", "colour=blue")
    await bridge.until(namespace, "web", lambda found: found["metadata"].get("labels") == {"colour": "blue"})
    await lines(shared / "asked", len((shared / "asked").read_text().splitlines()) + 3)
    assert written == []
    version = await kubectl("get", "pod", "web", "--output=jsonpath={.status.conditions}")
    assert json.loads(version) == found["status"]["conditions"]


async def test_a_status_is_not_written_to_a_later_pod_of_that_name(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, control_plane: ControlPlane
):
    await apply(pod("web", python("main", SLEEP)))
    gone = await bridge.until(namespace, "web", is_ready)
    await kubectl("delete", "pod", "web", "--force", "--grace-period=0")
    await apply(pod("web", python("main", SLEEP)))
    await bridge.until(namespace, "web", is_ready)
    async with Api(control_plane.kubeconfig) as api:
        assert not await api.write_status(gone, {"message": "of the other"})
        await api.delete(gone)
    found = json.loads(await kubectl("get", "pod", "web", "--output=json"))
    assert "message" not in found["status"]
    assert "deletionTimestamp" not in found["metadata"]


async def test_a_token_of_the_service_account_and_fields_are_files(bridge: PodBridge, apply: Apply, namespace: str, shared: Path):
    source = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    copy = f"import shutil; shutil.copy('{source}', '/work/token')"
    main = python("main", copy)
    await apply(pod("own", main, claim="shared", automountServiceAccountToken=True, restartPolicy="Never"))
    found = await bridge.until(namespace, "own", has_phase("Succeeded", "Failed"))
    assert found["status"]["phase"] == "Succeeded", bridge.log_file(namespace, "own", "main").read_text()
    _, claims, _ = (shared / "token").read_text().split(".")
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert decoded["kubernetes.io"]["pod"]["uid"] == found["metadata"]["uid"]
    assert decoded["sub"] == f"system:serviceaccount:{namespace}:default"
