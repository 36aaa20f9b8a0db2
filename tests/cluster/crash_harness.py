"""The crash test itself, on a real API server: it passes a small operator that is right, and finds each bug that one can have."""

import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient

from tests.cluster.crash_runs import CrashTest, Step, Workload
from tests.cluster.transcriber_workload import API_VERSION, KIND, NAME, document
from tests.rig.control_plane import ControlPlane
from tests.rig.processes import Program

TOY = Path(__file__).with_name("toy_operator.py")


@pytest.fixture
async def client(control_plane: ControlPlane) -> AsyncIterator[DynamicClient]:
    configuration = Configuration()
    await load_kube_config(str(control_plane.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as connection:
        yield await DynamicClient(connection)


def account(plane: ControlPlane, namespace: str, server: str) -> Path:
    binding = f"toy-{namespace}"
    plane.kubectl("create", "clusterrolebinding", binding, "--clusterrole=cluster-admin", f"--serviceaccount={namespace}:default")
    return plane.kubeconfig_for(namespace, "default", server)


def unsettled(objects: Any) -> str:
    uids = {item["metadata"]["uid"] for item in objects}
    for item in objects:
        if item["kind"] == KIND and item.get("status", {}).get("observedGeneration") != item["metadata"]["generation"]:
            return "the status is of an earlier generation"
        if any(owner["uid"] not in uids for owner in item["metadata"].get("ownerReferences", ())):
            return "a child has lost its owner"
    return ""


def workload(bug: str) -> Workload:
    def operator(namespace: str, kubeconfig: Path) -> Program:
        return Program("toy", (sys.executable, str(TOY), str(kubeconfig), namespace, bug), "")

    return Workload(
        api_version=API_VERSION,
        kind=KIND,
        plural="transcriberdeployments",
        name=NAME,
        steps=(
            Step("create", applies=document()),
            Step("change", applies=document(decoding__language="de")),
            Step("delete", deletes=True),
        ),
        kinds=((API_VERSION, KIND), ("v1", "ConfigMap")),
        unsettled=unsettled,
        operator=operator,
        prepare=account,
        quiet_seconds=1.0,
        step_seconds=60.0,
    )


async def failures(bug: str, plane: ControlPlane, client: DynamicClient) -> dict[str, tuple[str, ...]]:
    test = CrashTest(plane, client, workload(bug))
    await test.record()
    verdicts = await test.kill()
    assert len(verdicts) == len(set(test.points)) == len(test.points)
    assert all(verdict.is_reached for verdict in verdicts)
    assert all(verdict.recovery_seconds < 30 for verdict in verdicts)
    return {str(verdict.point): verdict.problems for verdict in verdicts if verdict.is_failure}


async def test_an_operator_that_is_right_survives_every_kill(control_plane: ControlPlane, client: DynamicClient):
    assert await failures("none", control_plane, client) == {}


async def test_a_status_before_its_child_is_found_at_every_write_between(control_plane: ControlPlane, client: DynamicClient):
    found = await failures("status-first", control_plane, client)
    assert sorted(re.sub(r"td-\w{8}", "child", point) for point in found) == [
        "change: after apply configmaps child (1)",
        "change: after apply transcriberdeployments/status td (1)",
        "change: before apply configmaps child (1)",
        "change: before delete configmaps child (1)",
        "create: after apply transcriberdeployments/status td (1)",
        "create: before apply configmaps child (1)",
    ]
    assert any(line.startswith("ConfigMap/td-") and "missing" in line for lines in found.values() for line in lines)


async def test_a_child_that_is_made_anew_is_found_though_the_end_is_as_it_should_be(
    control_plane: ControlPlane, client: DynamicClient
):
    found = await failures("made-anew-at-start", control_plane, client)
    assert {point.split(":")[0] for point in found} == {"create", "change"}
    for lines in found.values():
        assert re.fullmatch(r"configmaps/td-\w{8}: created 2 and deleted 1 times, not 1 and 0", "\n".join(lines))


async def test_an_operator_whose_runs_differ_by_themselves_is_refused(control_plane: ControlPlane, client: DynamicClient):
    with pytest.raises(AssertionError, match="two undisturbed runs differ"):
        await failures("new-name-each-time", control_plane, client)


async def test_an_operator_that_does_not_come_back_is_named_with_its_log(control_plane: ControlPlane, client: DynamicClient):
    test = CrashTest(control_plane, client, replace(workload("dies-when-restarted"), step_seconds=20.0))
    await test.record()
    [verdict] = await test.kill(1)
    assert verdict.is_failure
    assert "toy ended with exit code 1" in verdict.problems[0]
    assert "this toy starts once" in verdict.problems[0]
