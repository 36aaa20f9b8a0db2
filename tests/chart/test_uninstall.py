"""The clean-up before `helm uninstall`, under its own rights, on a real API server: what serves goes on, and nothing is stuck."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.api.operator_parts import ACCOUNT, PATIENCE, Running, get, grant, kubectl, operator, transcriber_deployment
from tests.chart.hooks import Hook, admit, hook
from tests.chart.kinds import RESOURCE, on_karpenter
from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane
from transcriber_operator.handlers.lifecycle import FINALIZER

NAMESPACE_SECONDS = 60.0
NODE_CLASS = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "gpu"}


@dataclass(frozen=True)
class Installed:
    """An operator of one namespace, its own, with its Deployment and a pod that ends when its process does."""

    plane: ControlPlane
    namespace: str
    folder: Path

    async def kubectl(self, *arguments: str) -> str:
        return await kubectl(self.plane, *arguments, f"--namespace={self.namespace}")

    async def get(self, what: str) -> Any:
        return await get(self.plane, what, f"--namespace={self.namespace}")

    async def ask(self, name: str = "whisper", **spec: Any) -> None:
        await asyncio.to_thread(self.plane.apply, transcriber_deployment(self.namespace, name, **spec))
        await self.kubectl("wait", "--for=create", f"deployment/{name}-cpu", f"--timeout={PATIENCE:.0f}s")

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[Running]:
        kubeconfig = await asyncio.to_thread(self.plane.kubeconfig_for, self.namespace, ACCOUNT)
        async with operator(kubeconfig, self.namespace, self.folder, TRANSCRIBER_NAMESPACES=self.namespace) as running:
            await running.is_in("Leading")
            yield running

    @asynccontextmanager
    async def pod(self, running: Running) -> AsyncIterator[None]:
        """Have the API server know the process as a pod of the operator's Deployment, and end it when that is deleted."""
        await asyncio.to_thread(self.plane.apply, *workload(self.namespace))
        kubelet = asyncio.create_task(self._end_with_deployment(running))
        yield
        await kubelet

    async def uninstall(self, found: Hook, seconds: float = PATIENCE) -> tuple[int, str]:
        """Run the hook as its pod would; returns its exit code and what it said."""
        await asyncio.to_thread(found.grant, self.plane)
        kubeconfig = await asyncio.to_thread(self.plane.kubeconfig_for, self.namespace, found.account)
        process = await asyncio.create_subprocess_exec(
            *found.command, f"--kubeconfig={kubeconfig}", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode()

    async def _end_with_deployment(self, running: Running) -> None:
        await self.kubectl("wait", "--for=delete", f"deployment/{ACCOUNT}", f"--timeout={PATIENCE:.0f}s")
        assert await running.stop() == 0
        await self.kubectl("delete", "pod", "operator-1", "--force", "--grace-period=0")


def workload(namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    labels = {
        "app.kubernetes.io/name": ACCOUNT,
        "app.kubernetes.io/instance": ACCOUNT,
        "app.kubernetes.io/component": "operator",
    }
    spec = {"containers": [{"name": "operator", "image": "none"}]}
    template = {"metadata": {"labels": {"app": "none"}}, "spec": spec}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": ACCOUNT, "namespace": namespace},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "none"}}, "template": template},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "operator-1", "namespace": namespace, "labels": labels},
        "spec": {**spec, "nodeName": "nowhere"},  # it is there until somebody says that it has ended
    }
    return deployment, pod


def left_behind(namespace: str) -> dict[str, Any]:
    """Return a resource as an operator leaves it that does not end by itself."""
    document = transcriber_deployment(namespace)
    document["metadata"]["finalizers"] = [FINALIZER]
    return document


def node_pool(namespace: str, name: str, owner: str) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/managed-by": "transcriber-operator",
        "serving.transcriber.dev/namespace": namespace,
        "serving.transcriber.dev/owner-uid": owner,
    }
    spec = {"nodeClassRef": NODE_CLASS, "requirements": []}
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": name, "labels": labels},
        "spec": {"template": {"spec": spec}},
    }


@pytest.fixture
async def installed(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Installed:
    """The operator's account, over all namespaces."""
    await asyncio.to_thread(grant, control_plane, namespace)
    return Installed(control_plane, namespace, tmp_path)


@pytest.fixture
def karpenter_kinds(control_plane: ControlPlane, binaries: Binaries) -> None:
    """Karpenter's kinds, which stay."""
    control_plane.apply_crds(*binaries.assets("karpenter"))


def kept(installed: Installed, **values: Any) -> Hook:
    return hook("cleanup", installed.namespace, {"watchNamespaces": [installed.namespace], **values})


def deleting(installed: Installed) -> Hook:
    return kept(installed, crds={"keep": False}, cleanup={"timeoutSeconds": 30})


async def node_pools(installed: Installed) -> list[Any]:
    selector = f"--selector=serving.transcriber.dev/namespace={installed.namespace}"
    return list((await get(installed.plane, "nodepools", selector))["items"])


async def test_what_serves_goes_on_and_a_new_operator_adopts_it_without_a_change(installed: Installed) -> None:
    async with installed.operator() as running, installed.pod(running):
        await installed.ask()
        before = await installed.get("deployment/whisper-cpu")
        code, said = await installed.uninstall(kept(installed))
        assert code == 0, said
        assert "whisper released: it serves on, and a new operator adopts it" in said
    left = await installed.get(f"{RESOURCE}/whisper")
    assert not left["metadata"].get("finalizers")
    async with installed.operator() as again:
        await installed.kubectl(
            "wait", f"--for=jsonpath={{.metadata.finalizers[0]}}={FINALIZER}", f"{RESOURCE}/whisper", "--timeout=30s"
        )
        assert await again.stop() == 0
    after = await installed.get("deployment/whisper-cpu")
    for field in ("uid", "generation"):
        assert after["metadata"][field] == before["metadata"][field]


async def test_after_an_operator_that_died_the_namespaces_of_its_resources_go_with_all_that_is_in_them(
    installed: Installed,
) -> None:
    other = f"{installed.namespace}-served"
    await kubectl(installed.plane, "create", "namespace", other)
    await asyncio.to_thread(installed.plane.apply, left_behind(other), *workload(installed.namespace))
    await installed.kubectl("delete", "pod", "operator-1", "--force", "--grace-period=0")
    everywhere = hook("cleanup", installed.namespace, {"watchNamespaces": []})
    code, said = await installed.uninstall(everywhere)
    assert code == 0, said
    code, said = await installed.uninstall(everywhere)
    assert (code, "released: 0" in said) == (0, True), said
    await kubectl(installed.plane, "delete", "namespace", other, f"--timeout={NAMESPACE_SECONDS:.0f}s")


@pytest.mark.usefixtures("karpenter_kinds")
async def test_where_the_kind_goes_too_the_operator_cleans_up_before_it_ends(installed: Installed) -> None:
    async with installed.operator() as running, installed.pod(running):
        await installed.ask()
        nodes = on_karpenter(NODE_CLASS)
        await asyncio.to_thread(installed.plane.apply, transcriber_deployment(installed.namespace, "on-nodes", capacity=nodes))
        async with asyncio.timeout(PATIENCE):
            while not await node_pools(installed):
                await asyncio.sleep(0.2)
        code, said = await installed.uninstall(deleting(installed))
        assert code == 0, said
    assert (await installed.get(RESOURCE))["items"] == []
    assert await node_pools(installed) == []


@pytest.mark.usefixtures("karpenter_kinds")
async def test_where_the_kind_goes_too_and_the_operator_is_dead_the_clean_up_does_its_work(installed: Installed) -> None:
    await asyncio.to_thread(installed.plane.apply, left_behind(installed.namespace))
    uid = (await installed.get(f"{RESOURCE}/whisper"))["metadata"]["uid"]
    pools = (node_pool(installed.namespace, f"{installed.namespace}-{owner}", owner) for owner in (uid, "of-an-earlier-one"))
    await asyncio.to_thread(installed.plane.apply, *pools)
    code, said = await installed.uninstall(deleting(installed))
    assert code == 0, said
    assert (await installed.get(RESOURCE))["items"] == []
    assert await node_pools(installed) == []


async def test_without_a_right_it_ends_with_a_line_that_says_which_and_what_else_to_do(installed: Installed) -> None:
    rightless = kept(installed)
    account = Hook(installed.namespace, [each for each in rightless.objects if "Role" not in each["kind"]])
    installed.plane.expect_refusals(installed.namespace, "get deployments")
    code, said = await installed.uninstall(account)
    last = said.splitlines()[-1]
    assert code == 1
    assert "Not done for want of a right: get of Deployment" in last
    assert "helm uninstall --no-hooks" in last


@pytest.mark.parametrize("template", ["cleanup", "test-trial"])
async def test_the_pod_of_a_hook_is_admitted_at_the_level_restricted(
    control_plane: ControlPlane, namespace: str, template: str
) -> None:
    found = hook(template, namespace, {})
    await asyncio.to_thread(found.grant, control_plane)
    await asyncio.to_thread(admit, control_plane, found)
