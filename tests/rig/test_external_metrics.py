"""The real HPA controller follows a figure of a test, through the aggregation layer of the real API server."""

import asyncio
import json
from typing import Any

from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane
from tests.rig.external_metrics import GROUP, VERSION, ExternalMetrics, autoscaler
from tests.rig.programs import Options

SECONDS = 60.0
POLL_SECONDS = 0.2
OFTEN = Options(controller_manager_arguments=("--horizontal-pod-autoscaler-sync-period=1s",))


def deployment(name: str) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def replicas(plane: ControlPlane, name: str, wanted: int) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            found = json.loads(await asyncio.to_thread(plane.kubectl, "get", f"deployment/{name}", "-o", "json"))
            if found["spec"]["replicas"] == wanted:
                return
            await asyncio.sleep(POLL_SECONDS)


async def test_the_hpa_controller_scales_by_a_figure_of_the_test(binaries: Binaries):
    waiting = 1000.0
    plane = ControlPlane(binaries, OFTEN)
    with plane:
        async with ExternalMetrics(plane, {"queued_audio_seconds": lambda: waiting}):
            target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
            scaler = autoscaler("web", "default", target, "queued_audio_seconds", "250", 10)
            await asyncio.to_thread(plane.apply, deployment("web"), scaler)
            await replicas(plane, "web", 4)
            waiting = 2000.5
            await replicas(plane, "web", 9)
            listed = await asyncio.to_thread(plane.kubectl, "get", "--raw", f"/apis/{GROUP}/{VERSION}")
            assert [resource["name"] for resource in json.loads(listed)["resources"]] == ["queued_audio_seconds"]
