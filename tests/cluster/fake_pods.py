"""Pods without containers, for tests of the operator alone: a Job's pod is done at once, any other runs and is ready.

Neither KWOK nor the pod bridge serves here. What the operator reads of a build is the JSON in its pod's termination message, which
KWOK's stages do not write and which has to differ from build to build; the bridge would run a real build for every one of some
hundred runs. Nothing schedules these pods, so no scheduler and no node are needed either, and a pod without a node goes as soon as
it is deleted. Deployments, ReplicaSets and Jobs are run by the real controller manager.
"""

import asyncio
import datetime
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import NotFoundError
from kubernetes.aio.watch import Watch

Manifest = dict[str, Any]
BUILT_BYTES: Final = 1_000_000
MERGE_PATCH: Final = "application/merge-patch+json"


class FakePods:
    """Plays the kubelet for all pods of a namespace while it runs."""

    def __init__(self, client: DynamicClient, namespace: str, rest: Callable[[], Awaitable[None]]) -> None:
        """`rest` is awaited before each change: until the operator has taken in the one before, so that runs are alike."""
        self._client = client
        self._namespace = namespace
        self._rest = rest

    async def run(self) -> None:
        """Bring every pod to its end state, until cancelled."""
        pods = await self._client.resources.get(api_version="v1", kind="Pod")
        pending: asyncio.Queue[Manifest] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(pods, pending))
            while True:
                pod = await pending.get()
                await self._rest()
                await self._play(pods, pod)

    async def _listen(self, pods: Any, pending: "asyncio.Queue[Manifest]") -> None:
        while True:  # a watch ends by itself after some minutes
            async with Watch() as watch:
                async for event in self._client.watch(pods, namespace=self._namespace, watcher=watch):
                    if event["type"] == "ADDED":
                        pending.put_nowait(event["raw_object"])

    async def _play(self, pods: Any, pod: Manifest) -> None:
        status = end_status(pod, datetime.datetime.now(datetime.UTC))
        try:
            await pods.status.patch(
                name=pod["metadata"]["name"], namespace=self._namespace, body={"status": status}, content_type=MERGE_PATCH
            )
        except NotFoundError:
            return  # deleted meanwhile


def end_status(pod: Manifest, now: datetime.datetime) -> Manifest:
    """Return the status of a pod whose containers did what they should: ended well if a Job owns it, else all ready."""
    time = now.isoformat(timespec="seconds").replace("+00:00", "Z")
    job = next((owner["name"] for owner in pod["metadata"].get("ownerReferences", ()) if owner["kind"] == "Job"), None)
    spec = pod["spec"]
    init = [_running(container, time) if container.get("restartPolicy") == "Always" else _ended(container, time, container["name"])
            for container in spec.get("initContainers", ())]  # fmt: skip
    main = [_ended(container, time, job) if job else _running(container, time) for container in spec["containers"]]
    is_ready = "False" if job else "True"
    conditions = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": is_ready, "Ready": is_ready}
    return {
        "phase": "Succeeded" if job else "Running",
        "startTime": time,
        "conditions": [{"type": type_, "status": status, "lastTransitionTime": time} for type_, status in conditions.items()],
        "initContainerStatuses": init,
        "containerStatuses": main,
    }


def build_result(name: str) -> str:
    """Return the termination message of a build that succeeded; its digest is as different as the names are."""
    digest = f"sha256-{hashlib.sha256(name.encode()).hexdigest()}"
    return json.dumps({"digest": digest, "bytes": BUILT_BYTES, "files": []})


def _running(container: Manifest, time: str) -> Manifest:
    return {**_container(container), "ready": True, "started": True, "state": {"running": {"startedAt": time}}}


def _ended(container: Manifest, time: str, name: str) -> Manifest:
    ended = {"exitCode": 0, "reason": "Completed", "message": build_result(name), "startedAt": time, "finishedAt": time}
    return {**_container(container), "ready": False, "started": False, "state": {"terminated": ended}}


def _container(container: Manifest) -> Manifest:
    return {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
