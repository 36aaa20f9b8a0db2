"""`transcriber doctor` and `transcriber status` on a real API server that lacks one thing after the other."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.testing import CliRunner, Result

from tests.api.operator_parts import ROOT, transcriber_deployment
from tests.chart.rendering import rendered
from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane
from tests.rig.kwok import fake_node
from transcriber_api.schema import custom_resource_definition
from transcriber_cli.__main__ import app
from transcriber_cli.doctor.rights import Right, rights

SYSTEM: Final = "transcriber-system"
SPEECH: Final = "speech"
LEASE: Final = "transcriber-operator"
CRDS: Final = sorted((ROOT / "crds").glob("*.yaml"))
KINDS: Final = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Deployment")
GPU_RUNTIME: Final = {"device": "GPU"}
MODEL: Final = {
    "target": {"uri": "hf://openai/whisper-base", "revision": "0" * 40, "credentialsSecret": "hub-token"},
    "precision": "Float16",
}


@dataclass(frozen=True)
class Installed:
    """A cluster with our kind and the operator of the chart, and what was said of it before these were there."""

    plane: ControlPlane
    parts: tuple[dict[str, Any], ...]
    bare_doctor: Result
    bare_status: Result


@pytest.fixture(scope="module")
def installed(binaries: Binaries) -> Iterator[Installed]:
    """A cluster in which KWOK runs the pods, the operator's too. It has neither Karpenter nor GPUs."""
    with ControlPlane(binaries) as plane:
        plane.start_kwok()
        plane.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (SYSTEM, SPEECH)))
        plane.apply(fake_node("node-1", tainted=False))
        plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={SPEECH}", "--timeout=30s")
        bare_doctor, bare_status = run(plane, "doctor", "--output=json"), run(plane, "status")
        plane.apply_crds(*CRDS)
        parts = tuple(each for each in rendered() if each["kind"] in KINDS and not _is_hook(each))
        plane.apply(*parts, lease())
        plane.kubectl("wait", "--for=condition=Available", f"deployment/{LEASE}", f"--namespace={SYSTEM}", "--timeout=30s")
        yield Installed(plane, parts, bare_doctor, bare_status)


@pytest.fixture
def plane(installed: Installed) -> Iterator[ControlPlane]:
    """The cluster, without any resource of an earlier test."""
    yield installed.plane
    installed.plane.kubectl("delete", "td", "--all", f"--namespace={SPEECH}")


def lease() -> dict[str, Any]:
    renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "operator-1", "leaseDurationSeconds": 600, "renewTime": renewed}
    metadata = {"name": LEASE, "namespace": SYSTEM}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def run(plane: ControlPlane, *arguments: str, kubeconfig: Path | None = None) -> Result:
    environment = {"COLUMNS": "400", "TERM": "dumb", "NO_PROXY": "127.0.0.1"}
    return CliRunner().invoke(app, [*arguments, f"--kubeconfig={kubeconfig or plane.kubeconfig}"], env=environment)


def doctor(plane: ControlPlane, exit_code: int, *arguments: str, kubeconfig: Path | None = None) -> dict[str, dict[str, str]]:
    """What the doctor finds, by code."""
    result = run(plane, "doctor", "--output=json", *arguments, kubeconfig=kubeconfig)
    assert result.exit_code == exit_code, result.output
    return by_code(result)


def by_code(result: Result) -> dict[str, dict[str, str]]:
    return {finding["code"]: finding for finding in json.loads(result.stdout)["findings"]}


def problems(found: dict[str, dict[str, str]]) -> set[str]:
    return {code for code, finding in found.items() if finding["severity"] == "problem"}


def karpenter_resource(plane: ControlPlane) -> None:
    reference = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
    capacity = {"provisioner": "Karpenter", "nodeClassRef": reference, "pools": [{"name": "spot", "capacityType": "Spot"}]}
    plane.apply(transcriber_deployment(SPEECH, model=MODEL, runtime=GPU_RUNTIME, capacity=capacity))


def make_ready(plane: ControlPlane, **status: Any) -> None:
    """Write the status that an operator would."""
    generation = int(plane.kubectl("get", "td/whisper", f"--namespace={SPEECH}", "--output=jsonpath={.metadata.generation}"))
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "AsExpected", "message": "Replicas pass.", "lastTransitionTime": now}
    told = {"status": {"observedGeneration": generation, "conditions": [ready], **status}}
    plane.kubectl(
        "patch", "td/whisper", f"--namespace={SPEECH}", "--subresource=status", "--type=merge", f"--patch={json.dumps(told)}"
    )


def test_a_bare_cluster_lacks_the_kind_and_the_operator(installed: Installed) -> None:
    assert installed.bare_doctor.exit_code == 1
    found = by_code(installed.bare_doctor)
    assert problems(found) == {"definition-missing", "operator-missing"}
    assert found["operator-missing"]["fix"].startswith("helm upgrade --install transcriber-operator charts/transcriber-operator ")
    command = "kubectl apply --server-side --force-conflicts -f crds/serving.transcriber.dev_transcriberdeployments.yaml"
    assert found["definition-missing"]["fix"].startswith(command)


def test_a_definition_of_other_content_is_told_apart_until_the_fix_is_run(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = custom_resource_definition()
    changed["spec"]["versions"][0]["additionalPrinterColumns"] = [{"name": "Mine", "type": "string", "jsonPath": ".metadata.name"}]
    plane.apply(changed)
    found = doctor(plane, 0)
    assert found["definition-differs"]["severity"] == "warning"
    monkeypatch.chdir(ROOT)
    command, *arguments = shlex.split(found["definition-differs"]["fix"], comments=True)
    assert command == "kubectl"
    plane.kubectl(*arguments)
    assert doctor(plane, 0)["definition"]["severity"] == "ok"


def test_without_karpenter_a_resource_that_asks_for_it_cannot_have_nodes(plane: ControlPlane) -> None:
    karpenter_resource(plane)
    make_ready(plane)
    found = doctor(plane, 1)
    assert problems(found) == {"karpenter-missing", "device-plugin-missing", "secret-missing"}
    assert "speech/whisper asks for it" in found["karpenter-missing"]["seen"]
    assert "or set capacity.provisioner: None" in found["karpenter-missing"]["fix"]


def test_without_gpus_a_resource_that_brings_no_nodes_cannot_run(plane: ControlPlane) -> None:
    plane.apply(transcriber_deployment(SPEECH, model=MODEL, runtime=GPU_RUNTIME))
    make_ready(plane)
    found = doctor(plane, 1)
    assert {"gpus-missing", "device-plugin-missing"} <= problems(found)
    assert "karpenter-missing" not in found
    assert "runtime.device: CPU" in found["gpus-missing"]["fix"]


def test_rights_that_are_missing_are_named_and_the_rule_that_is_told_gives_them(installed: Installed) -> None:
    roles = (each for each in installed.parts if each["kind"] == "ClusterRole")
    role = next(each for each in roles if any("deployments" in rule["resources"] for rule in each["rules"]))
    narrow = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]} if "deployments" in rule["resources"] else rule
        for rule in role["rules"]
    ]
    installed.plane.apply({**role, "rules": narrow})
    try:
        found = doctor(installed.plane, 1)
        assert problems(found) == {"rights-missing"}
        assert found["rights-missing"]["seen"] == "may not create deployments.apps in the whole cluster"
        rule = json.loads(found["rights-missing"]["fix"].partition(": ")[2])
        installed.plane.apply({**role, "rules": [*narrow, rule]})
        assert problems(doctor(installed.plane, 0)) == set()
    finally:
        installed.plane.apply(role)


def test_an_account_without_any_right_is_told_to_be_bound(installed: Installed) -> None:
    bindings = tuple(each for each in installed.parts if each["kind"].endswith("Binding"))
    installed.plane.kubectl("delete", "-f", "-", document=yaml.safe_dump_all(bindings))
    try:
        assert "--set rbac.create=true" in doctor(installed.plane, 1)["rights-missing"]["fix"]
    finally:
        installed.plane.apply(*bindings)


def test_a_healthy_cluster_has_no_problem(plane: ControlPlane) -> None:
    node = fake_node("gpu-1", {"nvidia.com/gpu": "1"}, {"node.kubernetes.io/instance-type": "g6.xlarge"}, tainted=False)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub-token", "namespace": SPEECH}}
    plane.apply(node, {**secret, "stringData": {"token": "confidential"}})
    plane.apply(transcriber_deployment(SPEECH, model=MODEL, runtime=GPU_RUNTIME))
    make_ready(plane)
    try:
        found = doctor(plane, 0)
        assert problems(found) == set()
        assert found["gpus"]["seen"] == "1 offered by 1 of 2 nodes"
        assert found["secret"]["severity"] == "ok"
        table = run(plane, "doctor")
        assert table.exit_code == 0
        assert "0 problems" in table.output
        assert "confidential" not in table.output
    finally:
        plane.kubectl("delete", "node/gpu-1", "--wait=false")
        plane.kubectl("delete", "secret/hub-token", f"--namespace={SPEECH}")


def test_who_may_read_next_to_nothing_is_told_so_and_nothing_is_made_up(plane: ControlPlane) -> None:
    found = run(plane, "doctor", "--output=json", kubeconfig=plane.kubeconfig_of("dev"))
    assert found.exit_code == 0, found.output
    findings = json.loads(found.stdout)["findings"]
    assert {finding["severity"] for finding in findings} <= {"ok", "note"}
    subjects = {finding["subject"] for finding in findings if finding["code"] == "not-allowed"}
    assert {"TranscriberDeployments", "Deployment of the operator"} <= subjects


def test_who_may_look_at_one_namespace_sees_that_one(plane: ControlPlane) -> None:
    plane.apply(transcriber_deployment(SPEECH))
    subject = [{"kind": "User", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}]
    reference = {"kind": "ClusterRole", "name": "dev", "apiGroup": "rbac.authorization.k8s.io"}
    api = "rbac.authorization.k8s.io/v1"
    rule = {"apiGroups": ["serving.transcriber.dev"], "resources": ["transcriberdeployments"], "verbs": ["get", "list"]}
    role = {"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": "dev"}, "rules": [rule]}
    metadata = {"name": "dev", "namespace": SPEECH}
    plane.apply(role, {"apiVersion": api, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": subject})
    kubeconfig = plane.kubeconfig_of("dev")
    assert "not-looked-at" in doctor(plane, 0, f"--namespace={SPEECH}", kubeconfig=kubeconfig)
    content = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    content["contexts"][0]["context"]["namespace"] = SPEECH
    kubeconfig.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = doctor(plane, 0, kubeconfig=kubeconfig)
    assert found["narrowed"]["seen"].endswith("only namespace speech was looked at")
    assert "not-looked-at" in found
    result = run(plane, "status", kubeconfig=kubeconfig)
    assert result.exit_code == 0, result.output
    assert "speech/whisper  not looked at" in result.output
    assert "not read: pods: pods is forbidden" in result.output
    everywhere = run(plane, "status", "--all-namespaces", kubeconfig=kubeconfig)
    assert (everywhere.exit_code, everywhere.output.count("\n")) == (2, 1)


def test_status_shows_the_tree_from_a_resource_to_its_gpu_node(plane: ControlPlane) -> None:
    labels = {"serving.transcriber.dev/deployment": "whisper", "serving.transcriber.dev/pool": "cpu"}
    type_labels = {"node.kubernetes.io/instance-type": "g6.xlarge", "topology.kubernetes.io/zone": "us-east-1a"}
    containers = [{"name": "triton", "image": "serving:1"}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": containers, "nodeName": "gpu-2"}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "whisper-cpu", "namespace": SPEECH, "labels": labels}
    plane.apply(fake_node("gpu-2", {"nvidia.com/gpu": "1"}, {**type_labels, "nvidia.com/gpu.product": "NVIDIA-L4"}, tainted=False))
    plane.apply(transcriber_deployment(SPEECH), {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    make_ready(plane, replicaSummary="1/1", pools=[{"name": "cpu", "desired": 1, "ready": 1, "nodes": 1}])
    plane.kubectl("wait", "--for=condition=Available", "deployment/whisper-cpu", f"--namespace={SPEECH}", "--timeout=30s")
    try:
        lines = [line.rstrip() for line in run(plane, "status", "whisper", f"--namespace={SPEECH}").output.splitlines()]
        assert lines[0].startswith("speech/whisper  Ready  AsExpected")
        tail = lines[-4:]
        assert tail[0] == "└── pool cpu (OnDemand)  1/1 ready, 1 node"
        assert tail[1] == "    └── Deployment whisper-cpu  1/1 ready"
        assert tail[2].startswith("        └── Pod whisper-cpu-")
        assert tail[3] == "            └── Node gpu-2  g6.xlarge NVIDIA-L4 us-east-1a"
        document = json.loads(run(plane, "status", "--all-namespaces", "--output=json").stdout)
        [pod] = document["resources"][0]["pools"][0]["deployment"]["pods"]
        assert pod["node"]["gpu"] == "NVIDIA-L4"
    finally:
        plane.kubectl("delete", "node/gpu-2", "deployment/whisper-cpu", f"--namespace={SPEECH}", "--wait=false")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["absent", "--namespace=speech"], 1, "namespace speech has no TranscriberDeployment absent"),
        (["--namespace=nowhere"], 0, "no TranscriberDeployments in namespace nowhere"),
        (["--all-namespaces"], 0, "no TranscriberDeployments in any namespace"),
    ],
)
def test_status_of_what_is_not_there_is_one_line(plane: ControlPlane, arguments: list[str], exit_code: int, words: str) -> None:
    result = run(plane, "status", *arguments)
    assert (result.exit_code, result.output.count("\n")) == (exit_code, 1)
    assert words in result.output


def test_status_without_our_kind_sends_to_the_doctor(installed: Installed) -> None:
    result = installed.bare_status
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert "`transcriber doctor` says what is missing" in result.output


def test_kubectl_finds_the_commands_as_its_own(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubectl-transcriber"
    program.write_text(f"#!{sys.executable}\nfrom transcriber_cli.plugin import main\nmain()\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("KUBECONFIG", str(plane.kubeconfig))
    done = subprocess.run(
        [plane.binaries["kubectl"], "transcriber", "status", "-A"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == "no TranscriberDeployments in any namespace\n"


@pytest.mark.parametrize("served", [(), (SPEECH,)])
def test_the_rights_that_are_asked_about_are_those_that_the_chart_gives(served: tuple[str, ...]) -> None:
    groups = ("keda.sh", "karpenter.sh", "karpenter.k8s.aws", "eks.amazonaws.com")
    assert set(rights(served, SYSTEM, LEASE, groups)) == set(granted(rendered({"watchNamespaces": list(served)})))


def granted(objects: list[dict[str, Any]]) -> Iterator[Right]:
    """The rights of the operator's account in a rendered chart."""
    roles = {
        (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]): each for each in objects if "rules" in each
    }
    bindings = [each for each in objects if each["kind"].endswith("Binding") and each["subjects"][0]["name"] == LEASE]
    for binding in bindings:
        reference, namespace = binding["roleRef"], binding["metadata"].get("namespace", "")
        for rule in roles[reference["kind"], namespace, reference["name"]]["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        for name in rule.get("resourceNames", [""]):
                            yield Right(verb, group, resource, namespace, name)


def _is_hook(manifest: dict[str, Any]) -> bool:
    return "helm.sh/hook" in (manifest["metadata"].get("annotations") or {})
