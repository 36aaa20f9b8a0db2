"""Pods of the bridge under the real controllers: a Job with a podFailurePolicy, and a rollout without a gap."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rig.bridge_fixtures import Apply, Kubectl
from tests.rig.bridge_manifests import container, noted_until_terminated, pod, python
from tests.rig.pod_bridge import PodBridge

TERMINAL_EXIT_CODE = 3


def job(name: str, code: str, **fields: Any) -> dict[str, Any]:
    template = {"spec": pod(name, python("build", code), claim="shared", restartPolicy="Never")["spec"]}
    terminal = {"action": "FailJob", "onExitCodes": {"containerName": "build", "operator": "In", "values": [TERMINAL_EXIT_CODE]}}
    spec = {"backoffLimit": 2, "podFailurePolicy": {"rules": [terminal]}, "template": template, **fields}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def deployment(name: str, revision: str) -> dict[str, Any]:
    probe = {"exec": {"command": ["python3", "-c", f"open('/work/{revision}')"]}, "periodSeconds": 1, "timeoutSeconds": 5}
    template = pod(name, python("main", noted_until_terminated(revision), readinessProbe=probe), claim="shared")
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": template["spec"]},
        },
    }


async def pods_of(kubectl: Kubectl, selector: str) -> list[Mapping[str, Any]]:
    return list(json.loads(await kubectl("get", "pods", f"--selector={selector}", "--output=json"))["items"])


async def test_a_job_that_fails_at_first_completes_and_its_pod_keeps_the_result(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    build = """
import os, sys
if not os.path.exists('/work/once'):
    open('/work/once', 'w').close()
    sys.exit(1)
open('/dev/termination-log', 'w').write('the digest')
"""
    await apply(job("build", build))
    await kubectl("wait", "--for=condition=Complete", "job/build", "--timeout=60s")
    pods = sorted(await pods_of(kubectl, "job-name=build"), key=lambda found: found["status"]["phase"])
    assert [found["status"]["phase"] for found in pods] == ["Failed", "Succeeded"]
    assert container(pods[1], "build")["state"]["terminated"]["message"] == "the digest"
    assert container(pods[0], "build")["state"]["terminated"]["exitCode"] == 1


async def test_a_job_whose_pod_ends_with_a_terminal_exit_code_is_not_tried_again(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    await apply(job("build", f"raise SystemExit({TERMINAL_EXIT_CODE})"))
    await kubectl("wait", "--for=condition=Failed", "job/build", "--timeout=60s")
    found = json.loads(await kubectl("get", "job", "build", "--output=json"))
    [failed] = [entry for entry in found["status"]["conditions"] if entry["type"] == "Failed"]
    assert failed["reason"] == "PodFailurePolicy"
    assert found["status"]["failed"] == 1
    assert len(await pods_of(kubectl, "job-name=build")) == 1


async def test_a_job_that_takes_too_long_is_ended_and_leaves_no_process(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    await apply(job("build", noted_until_terminated("build"), activeDeadlineSeconds=3))
    await kubectl("wait", "--for=condition=Failed", "job/build", "--timeout=60s")
    await kubectl("wait", "--for=delete", "pod", "--selector=job-name=build", "--timeout=60s")
    assert (shared / "events").read_text().splitlines() == ["build starts", "build ends"]


async def test_a_rollout_keeps_all_replicas_until_the_new_ones_are_ready(
    bridge: PodBridge, apply: Apply, kubectl: Kubectl, namespace: str, shared: Path
):
    (shared / "v1").touch()
    await apply(deployment("web", "v1"))
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await apply(deployment("web", "v2"))
    await kubectl("wait", "--for=jsonpath={.status.updatedReplicas}=1", "deployment/web", "--timeout=60s")
    pods = await pods_of(kubectl, "app=web")
    running = [found for found in pods if "deletionTimestamp" not in found["metadata"]]
    assert len(running) == 3  # one more, and no old one goes before it is ready
    assert (shared / "events").read_text().splitlines().count("v1 ends") == 0
    addresses = {found["status"].get("podIP") for found in running}
    assert len(addresses) == 3
    (shared / "v2").touch()
    await kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    await kubectl("wait", "--for=jsonpath={.status.replicas}=2", "deployment/web", "--timeout=60s")
    await kubectl("wait", "--for=jsonpath={.status.terminatingReplicas}=0", "deployment/web", "--timeout=60s")
    events = (shared / "events").read_text().splitlines()
    assert sorted(events) == ["v1 ends"] * 2 + ["v1 starts"] * 2 + ["v2 starts"] * 2
    assert events.index("v1 ends") > events.index("v2 starts")
