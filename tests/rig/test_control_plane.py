"""The control plane itself: it starts, schedules, survives restarts, is honest about what died, and leaves nothing behind."""

import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from kubernetes.client import ApiException

from tests.rig import karpenter, kwok
from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane, KubectlError
from tests.rig.processes import PartError
from tests.rig.programs import AUDIT_METADATA, Options

START_SECONDS = 60
END_SECONDS = 30


@pytest.fixture(scope="module")
def own(binaries: Binaries) -> Iterator[ControlPlane]:
    """A control plane of these tests alone, which may hurt it, with every option in use."""
    options = Options(admission_plugins=("AlwaysPullImages",), audit_policy=AUDIT_METADATA, pod_security="baseline")
    with ControlPlane(binaries, options) as plane:
        plane.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
        yield plane


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "main", "image": "none"}], "tolerations": [kwok.TOLERATION]},
    }


def get(plane: ControlPlane, kind: str, *arguments: str) -> Any:
    return json.loads(plane.kubectl("get", kind, "--output=json", *arguments))


def listen_for_end(pids: dict[str, int]) -> dict[int, str]:
    """Return a descriptor for each process, which the kernel marks when the process ends."""
    return {os.pidfd_open(pid): name for name, pid in pids.items()}


def await_ends(descriptors: dict[int, str]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while descriptors:
        ended, _, _ = select.select(list(descriptors), [], [], max(0.0, deadline - time.monotonic()))
        assert ended, f"still alive: {sorted(descriptors.values())}"
        for descriptor in ended:
            os.close(descriptor)
            del descriptors[descriptor]


def test_a_control_plane_starts_within_a_minute_and_leaves_no_process_and_no_file(binaries: Binaries):
    started_at = time.monotonic()
    with ControlPlane(binaries) as plane:
        assert time.monotonic() - started_at < START_SECONDS
        plane.start_kwok()
        pids = plane.pids()
        assert set(pids) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"}
        folder = plane.folder
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not folder.exists()
    assert not list(Path(tempfile.gettempdir()).glob(f"{plane.context}*"))


def test_all_parts_end_with_a_test_run_that_is_killed(binaries: Binaries):
    program = """
import json, os, signal
from tests.rig.binaries import find_binaries
from tests.rig.control_plane import ControlPlane
plane = ControlPlane(find_binaries(os.environ))
plane.start()
print(json.dumps([plane.pids(), str(plane.folder)]), flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids, folder = json.loads(process.stdout.readline())
        os.kill(pids["kube-apiserver"], signal.SIGSTOP)
        descriptors = listen_for_end(pids)
        assert len(descriptors) == 4
        process.kill()
    await_ends(descriptors)
    shutil.rmtree(folder)


def test_a_part_that_cannot_start_is_named_and_its_log_is_kept(binaries: Binaries, capsys: pytest.CaptureFixture[str]):
    plane = ControlPlane(binaries, Options(api_server_arguments=("--colour=blue",)))
    with pytest.raises(PartError, match=r"(?s)^kube-apiserver ended with exit code 1; .*unknown flag: --colour"), plane:
        pass
    assert plane.pids() == {}
    assert not plane.folder.exists()
    kept = Path(tempfile.gettempdir()) / f"{plane.context}-logs"
    assert capsys.readouterr().err == f"logs of the control plane: {kept}\n"
    assert {file.name for file in kept.iterdir()} == {"etcd.log", "kube-apiserver.log"}
    shutil.rmtree(kept)


def test_versions_of_server_and_client_can_be_parsed(control_plane: ControlPlane):
    versions = json.loads(control_plane.kubectl("version", "--output=json"))
    assert versions["serverVersion"]["gitVersion"] == versions["clientVersion"]["gitVersion"] == "v1.36.2"
    assert (versions["serverVersion"]["major"], versions["serverVersion"]["minor"]) == ("1", "36")


def test_helm_renders_for_the_version_of_the_servers(binaries: Binaries, tmp_path: Path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("{apiVersion: v2, name: chart, version: 0.1.0, kubeVersion: '>= 1.36'}")
    (tmp_path / "templates" / "version.yaml").write_text("version: {{ .Capabilities.KubeVersion.Version }}")
    argv = [str(binaries["helm"]), "template", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=END_SECONDS, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == {"version": "v1.36.0"}


def test_the_context_can_be_told_from_the_user_s_own_clusters(control_plane: ControlPlane):
    [context] = yaml.safe_load(control_plane.kubeconfig.read_text())["contexts"]
    assert context["name"] == control_plane.context
    assert context["name"].startswith("transcriber-test-")
    assert control_plane.kubeconfig.stat().st_mode & 0o077 == 0


def test_the_crd_is_served_and_every_example_is_accepted(control_plane: ControlPlane, namespace: str, root_dir: Path):
    examples = sorted((root_dir / "examples").glob("*.yaml"))
    assert len(examples) >= 2
    for example in examples:
        told = control_plane.kubectl("create", "--dry-run=server", f"--namespace={namespace}", f"--filename={example}")
        assert told.endswith("created (server dry run)\n")


def test_a_pod_that_tolerates_it_runs_on_a_kwok_node_and_one_of_the_bridge_is_left_alone(
    control_plane: ControlPlane, namespace: str
):
    control_plane.start_kwok()
    node = f"node-{namespace}"
    control_plane.apply(
        kwok.fake_node(node),
        pod("bridged", namespace=namespace, annotations={kwok.BRIDGE_ANNOTATION: "process"}),
        pod("plain", namespace=namespace),
    )
    where = f"--namespace={namespace}"
    control_plane.kubectl("wait", "--for=condition=Ready", "pod/plain", where, "--timeout=30s")
    control_plane.kubectl("wait", "--for=condition=PodScheduled", "pod/bridged", where, "--timeout=30s")
    bridged, plain = get(control_plane, "pods", where)["items"]
    assert (plain["spec"]["nodeName"], plain["status"]["phase"]) == (node, "Running")
    assert (bridged["spec"]["nodeName"], bridged["status"]["phase"]) == (node, "Pending")
    assert "podIP" not in bridged["status"]
    control_plane.kubectl("delete", "node", node)


def test_a_pod_s_annotation_delays_it_on_a_kwok_node(control_plane: ControlPlane, namespace: str):
    control_plane.start_kwok()
    node = f"node-{namespace}"
    slow = pod("slow", namespace=namespace, annotations={"pod-ready.stage.kwok.x-k8s.io/delay": "600s"})
    control_plane.apply(kwok.fake_node(node), slow, pod("quick", namespace=namespace))
    where = f"--namespace={namespace}"
    control_plane.kubectl("wait", "--for=condition=Ready", "pod/quick", where, "--timeout=30s")
    control_plane.kubectl("wait", "--for=jsonpath={.status.podIP}", "pod/slow", where, "--timeout=30s")
    assert get(control_plane, "pod/slow", where)["status"]["phase"] == "Pending"
    control_plane.kubectl("delete", "node", node)


def test_pending_gpu_pods_become_nodes_by_karpenter_and_then_run(control_plane: ControlPlane, namespace: str):
    control_plane.start_karpenter()
    requirements = [
        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]},
        {"key": "karpenter.k8s.aws/instance-gpu-name", "operator": "In", "values": ["l4"]},
    ]
    reference = {"group": karpenter.NODE_CLASS_GROUP, "kind": karpenter.NODE_CLASS_KIND, "name": namespace}
    pool = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": namespace},
        "spec": {"template": {"spec": {"requirements": requirements, "nodeClassRef": reference}}},
    }
    control_plane.apply(karpenter.node_class(namespace), pool)
    pods = [pod(f"gpu-{number}", namespace=namespace) for number in range(3)]
    for each in pods:
        each["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    control_plane.apply(*pods)
    names = [f"pod/gpu-{number}" for number in range(3)]
    control_plane.kubectl("wait", "--for=condition=Ready", *names, f"--namespace={namespace}", "--timeout=50s")
    nodes = get(control_plane, "nodes", f"--selector=karpenter.sh/nodepool={namespace}")["items"]
    assert len(nodes) == len(get(control_plane, "nodeclaims", f"--selector=karpenter.sh/nodepool={namespace}")["items"]) == 3
    for node in nodes:
        labels = node["metadata"]["labels"]
        assert labels["node.kubernetes.io/instance-type"] == "g6.xlarge"
        assert labels["karpenter.sh/capacity-type"] == "spot"
        assert labels["karpenter.k8s.aws/instance-gpu-name"] == "l4"
        assert labels["topology.kubernetes.io/zone"] in karpenter.ZONES
    control_plane.kubectl("delete", "nodepool", namespace, "--timeout=50s")


def test_namespaces_enforce_the_pod_security_level_that_was_asked_for(own: ControlPlane):
    privileged = pod("privileged", namespace="default")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(KubectlError, match='violates PodSecurity "baseline:latest": privileged'):
        own.apply(privileged)


def test_extra_admission_plugins_are_on(own: ControlPlane):
    own.apply(pod("pulled", namespace="default"))
    assert get(own, "pod/pulled")["spec"]["containers"][0]["imagePullPolicy"] == "Always"


def test_a_service_account_gets_a_kubeconfig_of_its_own_and_the_audit_log_says_what_it_did(own: ControlPlane):
    own.kubectl("create", "serviceaccount", "reader")
    kubeconfig = own.kubeconfig_for("default", "reader")
    with kubernetes.config.new_client_from_config(str(kubeconfig)) as client, pytest.raises(ApiException) as caught:
        kubernetes.client.CoreV1Api(client).list_namespaced_secret("default")
    assert caught.value.status == 403
    [event] = [event for event in own.audit_events() if event["user"]["username"] == "system:serviceaccount:default:reader"]
    assert (event["verb"], event["objectRef"]["resource"], event["responseStatus"]["code"]) == ("list", "secrets", 403)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_kubeconfig_can_lead_through_a_proxy_that_sees_the_token(own: ControlPlane, scheme: str):
    seen: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers["Authorization"])
            self.send_error(418)

        def log_message(self, *arguments: object):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        if scheme == "https":
            pair = own.authority.server("proxy")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kubeconfig = own.kubeconfig_for("default", "default", server=f"{scheme}://127.0.0.1:{server.server_port}")
        with kubernetes.config.new_client_from_config(str(kubeconfig)) as client, pytest.raises(ApiException) as caught:
            kubernetes.client.VersionApi(client).get_code()
        server.shutdown()
        thread.join()
    assert caught.value.status == 418
    assert seen[0].startswith("Bearer ey")


def test_the_api_server_comes_back_on_its_port_with_all_objects(own: ControlPlane):
    own.kubectl("create", "configmap", "kept", "--from-literal=key=value")
    own.stop_apiserver()
    with pytest.raises(KubectlError, match="refused"):
        own.kubectl("get", "configmap", "kept")
    own.check()
    own.start_apiserver()
    assert get(own, "configmap/kept")["data"] == {"key": "value"}


def test_a_part_that_is_killed_is_named_with_the_end_of_its_log(own: ControlPlane):
    part = own.part("kube-scheduler")
    assert part.pid is not None
    os.kill(part.pid, signal.SIGKILL)
    os.waitid(os.P_PID, part.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(
        PartError, match=r"(?s)^kube-scheduler ended with signal SIGKILL; the last lines of .*kube-scheduler.log:\n"
    ):
        own.check()
    with pytest.raises(PartError, match="kube-scheduler"):
        own.kubectl("get", "no-such-kind")
    part.stop()
    own.check()
    part.start()
    part.await_ready(START_SECONDS)
