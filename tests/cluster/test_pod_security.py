"""All pods are admitted where the API server enforces the Pod Security Standard `restricted`.

Admission is all that is asked here, and that is the API server's own; whether containers also run so is for a real node to show.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cluster.quick_pods import Operated, Parts, QuickNamespace, quick_namespace
from tests.cluster.transcriber_workload import NAME, document
from tests.rig.control_plane import KubectlError

pytestmark = pytest.mark.asyncio(loop_scope="module")
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"}
VOLUMES: dict[str, dict[str, Any]] = {"claim": {"claimName": "repositories"}, "ephemeral": {"ephemeral": {"sizeLimit": "1Gi"}}}
DEVICES = {"CPU": "Float32", "GPU": "Float16"}


@pytest_asyncio.fixture(loop_scope="module")
async def restricted(parts: Parts, unscheduled: None) -> AsyncIterator[QuickNamespace]:
    async with quick_namespace(parts, RESTRICTED) as entered:
        yield entered


async def test_a_pod_that_asks_for_more_is_refused_there(restricted: QuickNamespace) -> None:
    with pytest.raises(KubectlError, match='violates PodSecurity "restricted:latest"'):
        await restricted.kubectl("run", "root", "--image=none", "--overrides", '{"spec": {"hostNetwork": true}}')


@pytest.mark.parametrize("volume", VOLUMES)
@pytest.mark.parametrize("device", DEVICES)
async def test_builds_and_replicas_are_admitted(operator: Operated, restricted: QuickNamespace, volume: str, device: str) -> None:
    wanted = document(repository__volume=VOLUMES[volume], runtime__device=device, model__precision=DEVICES[device])
    await restricted.apply(wanted)
    await restricted.objects.settled(NAME)
    components = sorted(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in restricted.objects.all("Pod"))
    assert components == (["build"] if volume == "claim" else []) + ["serving", "serving"]
    limits = [pod["spec"]["containers"][0]["resources"].get("limits", {}) for pod in restricted.objects.all("Pod")]
    assert sum("nvidia.com/gpu" in limit for limit in limits) == (2 if device == "GPU" else 0)
