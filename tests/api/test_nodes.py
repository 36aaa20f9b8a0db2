"""The operator where Karpenter's kinds exist, where they do not, and where they come while it runs; on a real API server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.operator_parts import ACCOUNT, PATIENCE, Running, get, grant, kubectl, operator, transcriber_deployment
from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane, KubectlError
from transcriber_operator.clock import SystemClock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import EVENT, NODE_CLAIM, NODE_POOL, POD, SCALED_OBJECT
from transcriber_operator.decide.decision import Apply, Decision, PodDelete
from transcriber_operator.decide.observed import Installation, Observed
from transcriber_operator.errors import ForbiddenError, KindMissingError
from transcriber_operator.execute.executor import Executor
from transcriber_operator.metrics import Metrics
from transcriber_operator.observe.nodes import EVENT_SELECTORS, EVENTS_NAMESPACE, node_event
from transcriber_operator.render.names import DEPLOYMENT_LABEL, NAMESPACE_LABEL, OWNER_UID_LABEL

RESOURCE = "transcriberdeployments"
# Asks every second, and not every minute, whether Karpenter is there by now.
IMPATIENT = ("-c", "import sys, transcriber_operator.__main__ as m; m.KARPENTER_SECONDS = 1.0; sys.exit(m.main())")


@pytest.fixture
async def karpenter_kinds(control_plane: ControlPlane, binaries: Binaries) -> None:
    """Karpenter's kinds, which stay; Karpenter itself need not run."""
    await asyncio.to_thread(control_plane.apply_crds, *binaries.assets("karpenter"))
    async with asyncio.timeout(PATIENCE):
        while not await serves_karpenter(control_plane):
            await asyncio.sleep(0.2)  # a kind that has just come is refused for a moment


async def serves_karpenter(plane: ControlPlane) -> bool:
    try:
        await kubectl(plane, "get", "nodepools,nodeclaims")
    except KubectlError:
        return False
    return True


@pytest.fixture
async def plain_plane(binaries: Binaries, root_dir: Path) -> AsyncIterator[ControlPlane]:
    """A control plane of this test's own, without Karpenter's kinds."""
    plane = ControlPlane(binaries)
    await asyncio.to_thread(plane.start)
    try:
        await asyncio.to_thread(plane.apply_crds, *sorted((root_dir / "crds").glob("*.yaml")))
        await kubectl(plane, "create", "namespace", "speech")
        yield plane
    finally:
        await asyncio.to_thread(plane.close)


async def account(plane: ControlPlane, namespace: str) -> Path:
    await asyncio.to_thread(grant, plane, namespace)
    return await asyncio.to_thread(plane.kubeconfig_for, namespace, ACCOUNT)


def labels(namespace: str, uid: str) -> dict[str, str]:
    return {DEPLOYMENT_LABEL: "whisper", NAMESPACE_LABEL: namespace, OWNER_UID_LABEL: uid}


def node_spec(**more: Any) -> dict[str, Any]:
    reference = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "gpu"}
    requirements = [{"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}]
    return {"nodeClassRef": reference, "requirements": requirements, **more}


def node_pool(namespace: str, name: str, uid: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels(namespace, uid)}
    return {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": metadata, "spec": {"template": {"spec": node_spec()}}}


def node_claim(namespace: str, name: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {DEPLOYMENT_LABEL: "whisper", NAMESPACE_LABEL: namespace}}
    return {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": metadata, "spec": node_spec()}


async def node_pools(plane: ControlPlane, uid: str) -> list[str]:
    found = await get(plane, "nodepools", f"--selector={OWNER_UID_LABEL}={uid}")
    return [item["metadata"]["name"] for item in found["items"]]


async def passes(running: Running) -> float:
    lines = (await running.metrics()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("transcriber_operator_passes_total{"))


async def settled(running: Running) -> float:
    """Wait until passes come to rest; returns how many there were."""
    await running.is_in("Leading")
    async with asyncio.timeout(PATIENCE):
        before = -1.0
        while (now := await passes(running)) != before or now == 0:
            before = now
            await asyncio.sleep(3)
        return now


async def test_without_karpenter_it_warns_of_nothing_and_where_karpenter_comes_later_it_ends_to_be_started_anew(
    plain_plane: ControlPlane, binaries: Binaries, tmp_path: Path
) -> None:
    kubeconfig = await account(plain_plane, "speech")
    async with operator(kubeconfig, "speech", tmp_path, IMPATIENT) as running:
        await asyncio.to_thread(plain_plane.apply, transcriber_deployment("speech"))
        await settled(running)
        await kubectl(plain_plane, "delete", RESOURCE, "whisper", "--namespace=speech", "--timeout=10s")
        assert [line for line in running.log() if line.get("level") not in {"INFO", None}] == []
        await asyncio.to_thread(plain_plane.apply_crds, *binaries.assets("karpenter"))
        assert await running.ended() == 1
    assert "Karpenter is there now" in [line for line in running.log() if line["level"] == "WARNING"][-1]["message"]
    lease = await get(plain_plane, "lease/transcriber-operator", "--namespace=speech")
    assert not lease["spec"].get("holderIdentity")  # the next one need not wait
    async with operator(kubeconfig, "speech", tmp_path, IMPATIENT) as again:
        await again.is_in("Leading")
        await asyncio.sleep(3)
        assert await again.stop() == 0


@pytest.fixture
async def no_nodes_left(control_plane: ControlPlane, namespace: str) -> AsyncIterator[None]:
    """Whatever a test makes of nodes is gone before a Karpenter may see it."""
    yield
    await kubectl(control_plane, "delete", "nodeclaims,nodepools", f"--selector={NAMESPACE_LABEL}={namespace}")


@pytest.mark.usefixtures("karpenter_kinds", "no_nodes_left")
async def test_nodes_wake_their_resource_and_its_node_pools_go_with_it_also_when_the_operator_was_away(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = await account(control_plane, namespace)
    there = f"--namespace={namespace}"
    async with operator(kubeconfig, namespace, tmp_path) as running:
        await asyncio.to_thread(control_plane.apply, transcriber_deployment(namespace))
        before = await settled(running)
        await asyncio.to_thread(control_plane.apply, node_claim(namespace, f"{namespace}-spot-1"))
        async with asyncio.timeout(PATIENCE):
            while await passes(running) == before:
                await asyncio.sleep(0.2)

        uid = (await get(control_plane, f"{RESOURCE}/whisper", there))["metadata"]["uid"]
        await asyncio.to_thread(
            control_plane.apply,
            node_pool(namespace, f"{namespace}-spot", uid),
            node_pool(namespace, f"{namespace}-foreign", "uid-of-another"),
        )
        await kubectl(control_plane, "delete", RESOURCE, "whisper", there, f"--timeout={PATIENCE:.0f}s")
        assert await node_pools(control_plane, uid) == []
        assert await node_pools(control_plane, "uid-of-another") == [f"{namespace}-foreign"]

        await asyncio.to_thread(control_plane.apply, transcriber_deployment(namespace))
        await settled(running)
        assert await running.stop() == 0

    uid = (await get(control_plane, f"{RESOURCE}/whisper", there))["metadata"]["uid"]
    await asyncio.to_thread(control_plane.apply, node_pool(namespace, f"{namespace}-spot", uid))
    await kubectl(control_plane, "delete", RESOURCE, "whisper", there, "--wait=false")
    async with operator(kubeconfig, namespace, tmp_path) as running:
        await kubectl(control_plane, "wait", "--for=delete", f"{RESOURCE}/whisper", there, f"--timeout={PATIENCE:.0f}s")
        assert await node_pools(control_plane, uid) == []
        assert await running.stop() == 0
    assert [line for line in running.log() if line.get("level") in {"ERROR", "CRITICAL"} or "exception" in line] == []


@pytest.mark.usefixtures("karpenter_kinds")
async def test_the_operators_rights_are_enough_for_nodes_events_and_pods_and_no_more(
    control_plane: ControlPlane, namespace: str
) -> None:
    kubeconfig = await account(control_plane, namespace)
    control_plane.expect_refusals(namespace, "list kwoknodeclasses", "list events")
    async with Kube(kubeconfig, Metrics()) as kube:
        with pytest.raises(KindMissingError):
            await kube.select(SCALED_OBJECT, namespace, "app=ours")
        with pytest.raises(KindMissingError):
            await kube.look_up("karpenter.kwok.sh", "OtherNodeClass")
        with pytest.raises(KindMissingError):
            await kube.look_up("unheard.of", "NodeClass")
        found = await kube.look_up("karpenter.kwok.sh", "KWOKNodeClass")
        assert (found.api_version, found.plural, found.is_namespaced) == ("karpenter.kwok.sh/v1alpha1", "kwoknodeclasses", False)
        with pytest.raises(ForbiddenError):
            await kube.select(found, None)  # one is read, by the name that a spec gives
        with pytest.raises(ForbiddenError):
            await kube.select(EVENT, namespace)

        written = await kube.apply(node_pool(namespace, f"{namespace}-spot", "uid-1"), "transcriber-controller")
        same = await kube.apply(node_pool(namespace, f"{namespace}-spot", "uid-1"), "transcriber-controller")
        assert written["metadata"]["resourceVersion"] == same["metadata"]["resourceVersion"]
        await kube.delete(NODE_POOL, None, f"{namespace}-spot", written["metadata"]["uid"])
        assert await kube.select(NODE_CLAIM, None, f"{NAMESPACE_LABEL}={namespace}") == []

        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": EVENTS_NAMESPACE, "name": f"{namespace}.1"},
            "involvedObject": {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": f"{namespace}-spot-1"},
            "reason": "SpotInterrupted",
            "message": "taken back",
            "type": "Warning",
            "source": {"component": "karpenter"},
            "count": 2,
            "firstTimestamp": "2026-01-31T12:00:00Z",
            "lastTimestamp": "2026-01-31T12:01:00Z",
        }
        await asyncio.to_thread(control_plane.apply, event)  # as Karpenter posts them
        listed = [await kube.select(EVENT, EVENTS_NAMESPACE, fields=selector) for selector in EVENT_SELECTORS]
        ours = [[node_event(entry) for entry in entries if entry["metadata"]["name"] == f"{namespace}.1"] for entries in listed]
        assert [len(entries) for entries in ours] == [1, 0, 0]
        [told] = ours[0]
        assert (told.reason, told.name, told.message, told.count) == ("SpotInterrupted", f"{namespace}-spot-1", "taken back", 2)
        assert told.at.isoformat() == "2026-01-31T12:01:00+00:00"


async def test_a_pod_is_marked_and_told_to_end_under_its_uid_and_never_made(control_plane: ControlPlane, namespace: str) -> None:
    kubeconfig = await account(control_plane, namespace)
    control_plane.expect_refusals(namespace, "get pods")
    await asyncio.to_thread(control_plane.apply, transcriber_deployment(namespace))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": "one"},
        "spec": {"containers": [{"name": "triton", "image": "none"}], "nodeName": "nowhere"},
    }
    await asyncio.to_thread(control_plane.apply, pod)
    there = f"--namespace={namespace}"
    live = await get(control_plane, "pod/one", there)
    resource = await get(control_plane, f"{RESOURCE}/whisper", there)
    annotations = {"controller.kubernetes.io/pod-deletion-cost": "-1"}
    mark = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": "one", "annotations": annotations}}
    decision = Decision(
        apply=(Apply(manifest=mark, manager="transcriber-autoscaler"),),
        pod_deletes=(PodDelete(name="one", uid=live["metadata"]["uid"], grace_seconds=7),),
    )
    async with Kube(kubeconfig, Metrics()) as kube:
        executor = Executor(kube, "operator-1", Metrics(), SystemClock())
        seen = Observed(installation=Installation(serving_image="serving:1", namespace=namespace), resource=resource, pods=(live,))
        await executor.execute(seen, decision)
        after = await get(control_plane, "pod/one", there)
        assert after["metadata"]["annotations"] == annotations
        assert after["metadata"]["deletionGracePeriodSeconds"] == 7
        await kubectl(control_plane, "delete", "pod", "one", there, "--force", "--grace-period=0")
        await executor.execute(seen, decision)  # gone
        await asyncio.to_thread(control_plane.apply, pod)
        await executor.execute(seen, decision)  # another of its name
        again = await get(control_plane, "pod/one", there)
        assert "annotations" not in again["metadata"] or not annotations.items() <= again["metadata"]["annotations"].items()
        assert "deletionTimestamp" not in again["metadata"]
        with pytest.raises(ForbiddenError):
            await kube.get(POD, namespace, "one")  # pods are listed
