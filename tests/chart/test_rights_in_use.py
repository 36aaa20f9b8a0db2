"""The operator under the chart's rights: every kind that it may touch, it touches, and in some namespaces alone it serves too."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.operator_parts import ACCOUNT, PATIENCE, get, grant, kubectl, operator, transcriber_deployment
from tests.chart.kinds import NODE_CLASSES, OTHERS_KINDS, RESOURCE, on_karpenter, stray
from tests.rig.binaries import Binaries
from tests.rig.chart import operator_account
from tests.rig.control_plane import ControlPlane, KubectlError
from tests.rig.fixtures import delete_namespace


@pytest.fixture
async def others_kinds(control_plane: ControlPlane, binaries: Binaries, tmp_path: Path) -> AsyncIterator[None]:
    """The kinds of KEDA and of both node classes, which go again; those of Karpenter, which stay."""
    names = [definition["metadata"]["name"] for definition in OTHERS_KINDS]
    files = [tmp_path / f"{name}.yaml" for name in names]
    for file, definition in zip(files, OTHERS_KINDS, strict=True):
        file.write_text(yaml.safe_dump(definition))
    await asyncio.to_thread(control_plane.apply_crds, *files, *binaries.assets("karpenter"))
    async with asyncio.timeout(PATIENCE):
        while not await serves(control_plane, "nodepools.karpenter.sh", *names):
            await asyncio.sleep(0.2)  # a kind that has just come is refused for a moment
    yield
    await kubectl(control_plane, "delete", "crd", *names)


async def serves(plane: ControlPlane, *kinds: str) -> bool:
    try:
        await kubectl(plane, "get", ",".join(kinds), "--all-namespaces")
    except KubectlError:
        return False
    return True


async def is_there(plane: ControlPlane, what: str, namespace: str) -> None:
    await kubectl(plane, "wait", "--for=create", what, f"--namespace={namespace}", f"--timeout={PATIENCE:.0f}s")


async def is_gone(plane: ControlPlane, what: str, namespace: str) -> None:
    await kubectl(plane, "wait", "--for=delete", what, f"--namespace={namespace}", f"--timeout={PATIENCE:.0f}s")


@pytest.fixture
async def served_elsewhere(control_plane: ControlPlane) -> AsyncIterator[str]:
    """A namespace that an operator in another one serves."""
    name = "served-elsewhere"
    await kubectl(control_plane, "create", "namespace", name)
    yield name
    await asyncio.to_thread(delete_namespace, control_plane, name)


@pytest.mark.usefixtures("others_kinds")
async def test_children_of_every_kind_that_some_specs_ask_for_come_and_go(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(grant, control_plane, namespace)
    kubeconfig = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, ACCOUNT)
    url = "http://operator.example.svc:8080"
    there = f"--namespace={namespace}"

    async def ask(**spec: Any) -> None:
        await asyncio.to_thread(control_plane.apply, transcriber_deployment(namespace, **spec))

    async with operator(kubeconfig, namespace, tmp_path, TRANSCRIBER_METRICS_URL=url) as running:
        await ask(scaling={"mode": "Hpa", "maxReplicas": 2}, capacity=on_karpenter(NODE_CLASSES[0]))
        await is_there(control_plane, "hpa/whisper", namespace)
        pools = f"--selector=serving.transcriber.dev/namespace={namespace}"
        async with asyncio.timeout(PATIENCE):
            while not (await get(control_plane, "nodepools", pools))["items"]:
                await asyncio.sleep(0.2)
        await ask(scaling={"mode": "Keda", "maxReplicas": 2}, capacity=on_karpenter(NODE_CLASSES[1], "others"))
        await is_there(control_plane, "scaledobject/whisper", namespace)
        await is_gone(control_plane, "hpa/whisper", namespace)
        await ask()
        await is_gone(control_plane, "scaledobject/whisper", namespace)
        async with asyncio.timeout(PATIENCE):
            while (await get(control_plane, "nodepools", pools))["items"]:
                await asyncio.sleep(0.2)
        owner = await get(control_plane, f"{RESOURCE}/whisper", there)
        await asyncio.to_thread(
            control_plane.apply,
            stray("Service", "v1", owner, ports=[{"port": 1}]),
            stray("NetworkPolicy", "networking.k8s.io/v1", owner, podSelector={}),
        )
        await is_gone(control_plane, "service/stray", namespace)
        await is_gone(control_plane, "networkpolicy/stray", namespace)
        assert await running.stop() == 0
    assert [line for line in running.log() if line.get("level") in {"WARNING", "ERROR", "CRITICAL"}] == []


async def test_an_operator_of_some_namespaces_serves_them_by_roles_alone_and_speaks_of_no_other(
    control_plane: ControlPlane, namespace: str, served_elsewhere: str, tmp_path: Path
) -> None:
    other = "not-served"
    rights = operator_account(namespace, watchNamespaces=[served_elsewhere], rbac={"karpenter": False})
    assert {each["kind"] for each in rights} == {"ServiceAccount", "Role", "RoleBinding"}
    control_plane.expect_refusals(namespace, "list nodepools", "get nodepools")
    await asyncio.to_thread(control_plane.apply, *rights)
    await kubectl(control_plane, "create", "namespace", other)
    # In the operator's own namespace too, which its watches cover for the sake of its Lease.
    unserved = [transcriber_deployment(other, "elsewhere"), transcriber_deployment(namespace, "at-home")]
    await asyncio.to_thread(control_plane.apply, *unserved)
    kubeconfig = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, ACCOUNT)
    async with operator(kubeconfig, namespace, tmp_path, TRANSCRIBER_NAMESPACES=served_elsewhere) as running:
        await running.is_in("Leading")
        await asyncio.to_thread(
            control_plane.apply,
            transcriber_deployment(served_elsewhere),
            transcriber_deployment(served_elsewhere, "on-nodes", capacity=on_karpenter(NODE_CLASSES[0])),
        )
        await is_there(control_plane, "deployment/whisper-cpu", served_elsewhere)
        refused = '--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=ApiRefused'
        of_nodes = f"{RESOURCE}/on-nodes"
        await kubectl(control_plane, "wait", refused, of_nodes, f"--namespace={served_elsewhere}", f"--timeout={PATIENCE:.0f}s")
        ready, *_ = (await get(control_plane, of_nodes, f"--namespace={served_elsewhere}"))["status"]["conditions"]
        assert "nodepools.karpenter.sh" in ready["message"]
        assert "give the operator the right" in ready["message"]
        assert await running.stop() == 0
    for where, name in ((other, "elsewhere"), (namespace, "at-home")):
        untouched = await get(control_plane, f"{RESOURCE}/{name}", f"--namespace={where}")
        assert not untouched["metadata"].get("finalizers")
        assert "status" not in untouched
    said = [line for line in running.log() if line.get("level") in {"WARNING", "ERROR", "CRITICAL"}]
    assert [line for line in said if "nodepools.karpenter.sh" not in line["message"]] == []
    assert not [line for line in running.log() if {"elsewhere", "at-home"} & {line.get("name")} or other in line["message"]]
    await asyncio.to_thread(delete_namespace, control_plane, other)
