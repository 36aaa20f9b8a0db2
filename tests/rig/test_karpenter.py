"""Capacity that runs out and spot nodes that are taken back, by the real Karpenter."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient

from tests.rig import karpenter
from tests.rig.bridge_api import Api
from tests.rig.control_plane import ControlPlane
from tests.rig.karpenter import NoCapacity
from tests.rig.spot import TAINT, Spot

SECONDS = 60.0
POLL_SECONDS = 0.1
CACHE_SECONDS = 2.0
NOTICE_SECONDS = 3.0
SPOT = NoCapacity("spot", instance_type="g5.xlarge")
STUBBORN = {"pod-delete.stage.kwok.x-k8s.io/delay": "600s"}


def node_pool(name: str, *capacity_types: str) -> dict[str, Any]:
    requirements = [
        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": list(capacity_types)},
        {"key": "karpenter.k8s.aws/instance-gpu-name", "operator": "In", "values": ["a10g"]},
    ]
    reference = {"group": karpenter.NODE_CLASS_GROUP, "kind": karpenter.NODE_CLASS_KIND, "name": name}
    taints = [{"key": "pool", "value": name, "effect": "NoSchedule"}]
    template = {"spec": {"requirements": requirements, "nodeClassRef": reference, "taints": taints}}
    return {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": name}, "spec": {"template": template}}


def gpu_pod(name: str, namespace: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    container = {"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    tolerations = [{"key": "pool", "value": namespace}]
    metadata = {"name": name, "namespace": namespace, "annotations": annotations or {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "tolerations": tolerations},
    }


def items(plane: ControlPlane, kind: str, namespace: str) -> list[dict[str, Any]]:
    """The nodes or claims of a test's NodePool."""
    selector = f"--selector=karpenter.sh/nodepool={namespace}"
    found: list[dict[str, Any]] = json.loads(plane.kubectl("get", kind, selector, "-o", "json"))["items"]
    return found


def reasons(plane: ControlPlane, claim: str = "") -> set[str]:
    events = json.loads(plane.kubectl("get", "events", "--namespace=default", "-o", "json"))["items"]
    about = [event["involvedObject"] for event in events]
    claims = [item.get("name", "") if item.get("kind") == "NodeClaim" else "" for item in about]
    return {event["reason"] for event, name in zip(events, claims, strict=True) if name and name.startswith(claim)}


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
def provisioned(control_plane: ControlPlane, namespace: str) -> Iterator[ControlPlane]:
    """Karpenter, with a node class of the test's own; in the end all launches succeed again."""
    control_plane.start_karpenter()
    control_plane.apply(karpenter.node_class(namespace))
    yield control_plane
    control_plane.fail_launches()
    control_plane.kubectl("delete", "pods", "--all", f"--namespace={namespace}", "--force", "--grace-period=0")
    control_plane.kubectl("delete", "nodepool", namespace, "--timeout=50s")


@pytest.fixture
async def spot(provisioned: ControlPlane) -> AsyncIterator[Spot]:
    configuration = Configuration()
    await load_kube_config(str(provisioned.kubeconfig), client_configuration=configuration)
    configuration.client_session_kwargs = {"trust_env": False}

    async def nothing_runs(_node: str) -> None:
        """KWOK's pods have no processes."""

    async with ApiClient(configuration) as connection, Api(provisioned.kubeconfig) as api:
        yield Spot(await DynamicClient(connection), api, nothing_runs)


async def test_a_launch_is_refused_while_capacity_is_out_and_succeeds_when_it_is_back(provisioned: ControlPlane, namespace: str):
    provisioned.fail_launches(SPOT, cache_seconds=CACHE_SECONDS)
    provisioned.apply(node_pool(namespace, "spot"), gpu_pod("one", namespace))
    await until(lambda: "InsufficientCapacityError" in reasons(provisioned, namespace))
    assert items(provisioned, "nodes", namespace) == []
    provisioned.fail_launches()
    where = (f"--namespace={namespace}", "--timeout=50s")
    await asyncio.to_thread(provisioned.kubectl, "wait", "--for=condition=Ready", "pod/one", *where)


async def test_a_launch_takes_the_next_offering_that_has_capacity(provisioned: ControlPlane, namespace: str):
    gone, left = karpenter.ZONES
    provisioned.fail_launches(NoCapacity("spot"), NoCapacity("on-demand", zone=gone), cache_seconds=CACHE_SECONDS)
    provisioned.apply(node_pool(namespace, "spot", "on-demand"), gpu_pod("one", namespace))
    await until(lambda: items(provisioned, "nodes", namespace))
    [node] = items(provisioned, "nodes", namespace)
    labels = node["metadata"]["labels"]
    assert (labels["karpenter.sh/capacity-type"], labels["topology.kubernetes.io/zone"]) == ("on-demand", left)


async def test_an_interrupted_node_is_tainted_at_once_and_gone_when_the_notice_is_over_whatever_runs_there(
    provisioned: ControlPlane, namespace: str, spot: Spot
):
    provisioned.apply(node_pool(namespace, "spot"), gpu_pod("one", namespace, STUBBORN))
    await until(lambda: any(claim.get("status", {}).get("nodeName") for claim in items(provisioned, "nodeclaims", namespace)))
    where = (f"--namespace={namespace}", "--timeout=50s")
    await asyncio.to_thread(provisioned.kubectl, "wait", "--for=condition=Ready", "pod/one", *where)
    [claim] = items(provisioned, "nodeclaims", namespace)
    name = claim["metadata"]["name"]
    await spot.rebalance(name)
    taken = await spot.interrupt(name, NOTICE_SECONDS)
    await until(lambda: any(taint["key"] == "karpenter.sh/disrupted" for taint in node_taints(provisioned, namespace)))
    assert await taken
    assert reasons(provisioned, name) >= {"SpotInterrupted", "SpotRebalanceRecommendation"}
    await until(lambda: not items(provisioned, "nodes", namespace) and not items(provisioned, "nodeclaims", namespace))
    assert provisioned.kubectl("get", "pods", f"--namespace={namespace}", "-o", "name") == ""


async def test_new_nodes_get_a_taint_that_no_pod_tolerates_and_only_a_limit_keeps_more_from_coming(
    provisioned: ControlPlane, namespace: str, spot: Spot
):
    limited = node_pool(namespace, "spot")
    limited["spec"]["limits"] = {"nodes": "2"}
    async with spot.taints_on_new_nodes(f"karpenter.sh/nodepool={namespace}") as tainted:
        provisioned.apply(limited, gpu_pod("one", namespace))
        await until(lambda: len(tainted) == 2)
        await until(lambda: sum(taint["key"] == TAINT["key"] for taint in node_taints(provisioned, namespace)) == 2)
    [waiting] = json.loads(provisioned.kubectl("get", "pods", f"--namespace={namespace}", "-o", "json"))["items"]
    assert waiting["status"]["phase"] == "Pending"


def node_taints(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    return [taint for node in items(plane, "nodes", namespace) for taint in node["spec"].get("taints", [])]
