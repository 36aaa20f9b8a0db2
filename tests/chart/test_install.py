"""The chart on a real API server: admitted where Pod Security is `restricted`, installed, upgraded and taken away again."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, VALUES_FILES, HelmError, Manifest, helm, pod_specs, read_values, rendered
from tests.rig.control_plane import ControlPlane, KubectlError

RESTRICTED = ("pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/enforce-version=latest")
# What Pod Security does not look at, and other admission would ask for in vain.
ELSEWHERE = ("serviceAccountName", "priorityClassName", "runtimeClassName")
CRD = "transcriberdeployments.serving.transcriber.dev"


@pytest.fixture
def restricted(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace of this test alone that enforces the standard."""
    control_plane.kubectl("label", "namespace", namespace, *RESTRICTED)
    return namespace


class Release:
    """An installation of the chart in a namespace. Its hooks' pods would run nowhere: hooks are left out."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace
        # Objects without a namespace are named after the release's: two tests have two of each.
        self.name = f"transcriber-operator-{secrets.token_hex(3)}"

    def helm(self, command: str, *arguments: str) -> str:
        return helm(command, self.name, *arguments, f"--namespace={self.namespace}", f"--kubeconfig={self.plane.kubeconfig}")

    def apply(self, *values: str) -> str:
        """Install or upgrade; the CRD is there already, applied by hand."""
        given = [f"--set={value}" for value in ("crds.enabled=true", *values)]
        return self.helm("upgrade", str(CHART), "--install", "--no-hooks", "--take-ownership", *given)

    def get(self, kind: str, name: str = "") -> Any:
        return json.loads(self.plane.kubectl("get", kind, name or self.name, f"--namespace={self.namespace}", "--output=json"))

    def environment(self) -> dict[str, str]:
        [container] = self.get("deployment")["spec"]["template"]["spec"]["containers"]
        return {each["name"]: each["value"] for each in container["env"]}


@pytest.fixture
def release(control_plane: ControlPlane, restricted: str) -> Iterator[Release]:
    made = Release(control_plane, restricted)
    yield made
    made.helm("uninstall", "--no-hooks", "--ignore-not-found")


def pods_of_all_values_files(namespace: str) -> list[Manifest]:
    """Every pod that the chart can make, once."""
    specs = {json.dumps(pod, sort_keys=True) for file in VALUES_FILES for pod in pod_specs(rendered(read_values(file))).values()}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", "namespace": namespace},
            "spec": {field: value for field, value in json.loads(spec).items() if field not in ELSEWHERE},
        }
        for number, spec in enumerate(sorted(specs))
    ]


def test_the_namespace_refuses_a_pod_that_asks_for_more(control_plane: ControlPlane, restricted: str) -> None:
    pod, *_ = pods_of_all_values_files(restricted)
    pod["spec"]["hostNetwork"] = True
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted:latest": host namespaces'):
        control_plane.apply(pod)


def test_every_pod_of_every_values_file_is_admitted_there(control_plane: ControlPlane, restricted: str) -> None:
    pods = pods_of_all_values_files(restricted)
    assert len(pods) >= len(VALUES_FILES)
    for pod in pods:  # a DaemonSet's and a Deployment's restart
        pod["spec"].setdefault("restartPolicy", "Always")
    control_plane.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "--server-side", "-f", "-", document=yaml.safe_dump_all(pods)
    )


def test_install_upgrade_and_uninstall_with_the_definition_kept(control_plane: ControlPlane, release: Release) -> None:
    said = release.apply("config.logLevel=Info", "networkPolicy.enabled=true", "pdb.enabled=true", "prometheusRule.enabled=true")
    assert "STATUS: deployed" in said
    assert f"kubectl rollout status deployment/{release.name} --namespace {release.namespace}" in said
    selector = f"--selector=app.kubernetes.io/instance={release.name}"
    control_plane.kubectl("wait", "--for=create", "pod", selector, f"--namespace={release.namespace}", "--timeout=30s")
    assert release.environment()["TRANSCRIBER_LOG_LEVEL"] == "Info"
    assert release.environment()["TRANSCRIBER_LEASE_NAME"] == release.name

    release.apply("config.logLevel=Debug", "pdb.enabled=false")
    assert release.environment()["TRANSCRIBER_LOG_LEVEL"] == "Debug"
    with pytest.raises(KubectlError, match="NotFound"):
        release.get("poddisruptionbudget")

    with pytest.raises(HelmError, match="at '/config': additional properties 'loglevel' not allowed"):
        release.apply("config.loglevel=Debug")

    release.helm("uninstall", "--no-hooks")
    with pytest.raises(KubectlError, match="NotFound"):
        release.get("deployment")
    definition = release.get("customresourcedefinition", CRD)
    assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "deletionTimestamp" not in definition["metadata"]
