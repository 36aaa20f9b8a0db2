"""Fixtures around the pod bridge; a conftest takes them by importing them, beside those of `fixtures`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig.bridge_objects import bridge_namespace, make_claim
from tests.rig.control_plane import ControlPlane
from tests.rig.kwok import fake_node
from tests.rig.pod_bridge import PodBridge

Apply = Callable[..., Awaitable[None]]
Kubectl = Callable[..., Awaitable[str]]


@pytest.fixture
def bridge_node(control_plane: ControlPlane, namespace: str) -> Iterator[str]:
    """A node of this test, with GPUs, that any pod can come to."""
    control_plane.start_kwok()
    name = f"node-of-{namespace}"
    control_plane.apply(fake_node(name, {"nvidia.com/gpu": "8"}, tainted=False))
    yield name
    control_plane.kubectl("delete", "node", name, "--ignore-not-found", "--wait=false")


@pytest.fixture
def bridged_namespace(control_plane: ControlPlane, namespace: str, bridge_node: str) -> str:
    """The test's namespace, all new pods of which are the bridge's, and which has a node."""
    bridge_namespace(control_plane, namespace)
    return namespace


@pytest.fixture
async def bridge(control_plane: ControlPlane, bridged_namespace: str, tmp_path: Path) -> AsyncIterator[PodBridge]:
    """The bridge, which runs all pods of the test's namespace; what goes wrong in it fails the test."""
    async with PodBridge(control_plane.kubeconfig, tmp_path / "bridge", namespace=bridged_namespace) as entered:
        yield entered
        entered.check()


@pytest.fixture
def apply(control_plane: ControlPlane, namespace: str) -> Apply:
    """Create or change objects in the test's namespace; awaited, since the bridge needs the event loop meanwhile."""

    async def create(*manifests: dict[str, Any]) -> None:
        placed = [{**manifest, "metadata": {"namespace": namespace, **manifest["metadata"]}} for manifest in manifests]
        await asyncio.to_thread(control_plane.apply, *placed)

    return create


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str) -> Kubectl:
    """Run kubectl in the test's namespace; awaited, since the bridge needs the event loop meanwhile."""

    async def run(*arguments: str) -> str:
        return await asyncio.to_thread(control_plane.kubectl, *arguments, f"--namespace={namespace}")

    return run


@pytest.fixture
def shared(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Path:
    """The folder behind the claim `shared`; it outlives pods."""
    folder = tmp_path / "shared"
    make_claim(control_plane, namespace, "shared", folder)
    return folder
