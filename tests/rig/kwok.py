"""KWOK: nodes and pods without machines. Every node with its annotation is kept Ready, every pod on one runs at once."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.rig.binaries import Binaries
from tests.rig.processes import LOOPBACK, Program
from tests.rig.programs import Site

NODE_ANNOTATION: Final = "kwok.x-k8s.io/node"
# Pods with this annotation, whatever its value, belong to the pod bridge: KWOK leaves them alone on any node.
BRIDGE_ANNOTATION: Final = "test.transcriber.dev/run"
LEASE_SECONDS: Final = 40
TAINT: Final = {"key": NODE_ANNOTATION, "value": "fake", "effect": "NoSchedule"}
TOLERATION: Final = {"key": NODE_ANNOTATION, "operator": "Exists"}
CAPACITY: Final = {"cpu": "32", "memory": "256Gi", "pods": "110"}


def program(binaries: Binaries, site: Site, kubeconfig: Path) -> Program:
    """Return KWOK, and write the stages that it plays."""
    stages = [stage for file in binaries.assets("kwok") for stage in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    config = site.folder / "kwok-stages.yaml"
    config.write_text(yaml.safe_dump_all(adapted(stages)), encoding="utf-8")
    return Program(
        "kwok",
        (
            str(binaries["kwok"]),
            f"--kubeconfig={kubeconfig}",
            f"--config={config}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={NODE_ANNOTATION}=fake",
            f"--node-ip={LOOPBACK}",
            f"--node-port={site.ports['kwok']}",
            f"--server-address={LOOPBACK}:{site.ports['kwok']}",
            f"--node-lease-duration-seconds={LEASE_SECONDS}",
            "--cidr=10.244.0.0/16",
        ),
        site.url("kwok", "/readyz", scheme="http"),
    )


def adapted(stages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return KWOK's own stages, made to leave bridged pods alone and to wait only where a pod's annotation says how long.

    Their defaults draw a delay of one to six seconds, so that tests would be slow and each run another.
    """
    result = []
    for stage in stages:
        changed = copy.deepcopy(dict(stage))
        if changed["spec"]["resourceRef"]["kind"] == "Pod":
            changed["spec"]["selector"]["matchExpressions"].append(
                {"key": f'.metadata.annotations["{BRIDGE_ANNOTATION}"]', "operator": "DoesNotExist"}
            )
            delay = changed["spec"]["delay"]
            delay["durationMilliseconds"] = 0
            delay.pop("jitterDurationMilliseconds", None)
            if (
                "expressionFrom" in delay.get("jitterDurationFrom", {})
                and "jitter-delay" in delay["jitterDurationFrom"]["expressionFrom"]
            ):
                del delay["jitterDurationFrom"]
        result.append(changed)
    return result


def fake_node(
    name: str, resources: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None, *, tainted: bool = True
) -> dict[str, Any]:
    """Return a Node that KWOK keeps Ready; `resources` add to 32 CPUs and 256 GiB. Tainted: only pods with TOLERATION come."""
    capacity = {**CAPACITY, **(resources or {})}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {NODE_ANNOTATION: "fake"},
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                **(labels or {}),
            },
        },
        "spec": {"taints": [TAINT] if tainted else []},
        "status": {"allocatable": capacity, "capacity": capacity},
    }
