"""The pod bridge: a small kubelet for tests, which runs the containers of pods as processes of this machine (Linux).

    async with PodBridge(control_plane.kubeconfig, tmp_path, namespace=namespace) as bridge:
        pod = await bridge.until(namespace, "web", is_ready)

Its pods are those with the annotation `test.transcriber.dev/run`, on whichever node the scheduler put them; KWOK leaves them
alone. `bridge_objects.bridge_namespace` gives it all pods of a namespace. Each pod has an address 127.x.y.z of its own. What
differs from a kubelet: no images (a command is needed; python3 is this interpreter), no mount namespace (paths below a mountPath
are rewritten in arguments and environment, nowhere else), neither limits, users, readOnly nor network policies, /dev/shm is
shared with the machine, ConfigMaps do not change under a running pod, no events, no logs in the API.

`python -m tests.rig.pod_bridge --kubeconfig FILE --dir FOLDER` is the same as a process of its own, until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import aiohttp
import yaml

from tests.rig.bridge_api import Api
from tests.rig.bridge_environment import Manifest
from tests.rig.bridge_pod import BridgedPod
from tests.rig.bridge_process import Runtime
from tests.rig.bridge_settings import Settings
from tests.rig.kwok import BRIDGE_ANNOTATION

SAFE_CONTEXTS: Final = ("kind-", "transcriber-test-")
NODES_PATH: Final = "/api/v1/nodes"
UNTIL_SECONDS: Final = 60.0
log = logging.getLogger("pod-bridge")
T = TypeVar("T")


class PodBridge:
    """Runs pods while it is entered, as an async context manager; leaving it ends all their processes at once."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        settings: Settings | None = None,
        namespace: str | None = None,
    ) -> None:
        """Take the pods of all namespaces, or of one; two bridges must not share pods. `folder` gets volumes and logs."""
        self._api = Api(kubeconfig)
        self._folder = folder.resolve()
        self._settings = settings or Settings()
        self._pods_path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self._manifests: dict[str, Manifest] = {}  # by uid: all bound pods of the annotation that exist
        self._pods: dict[str, BridgedPod] = {}  # by uid: those that this bridge runs or ran
        self._uids: dict[tuple[str, str], str] = {}  # by namespace and name: the newest of that name
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._lost_nodes: dict[str, str | None] = {}  # name to the uid of what was lost
        self._node_uids: dict[str, str] = {}
        self._waiters: dict[asyncio.Future[Any], Callable[[], object | None]] = {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), trust_env=False)
        self._runtime = Runtime()
        await self._api.__aenter__()
        self._watching = [asyncio.create_task(self._watch_nodes()), asyncio.create_task(self._watch_pods())]
        for task in self._watching:
            task.add_done_callback(self._note_failure)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        tasks = [*self._watching, *self._lives.values()]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await self._runtime.close()
        await self._session.close()
        await self._api.__aexit__(kind, error, trace)
        failures = [result for result in results if isinstance(result, Exception)]
        if failures and error is None:
            raise failures[0]

    def pod(self, namespace: str, name: str) -> BridgedPod:
        """Return the newest pod of a name that this bridge ran, also after its end; raises KeyError."""
        return self._pods[self._uids[namespace, name]]

    def log_file(self, namespace: str, name: str, container: str) -> Path:
        """Return the file with the output of the newest run of a container; it outlives the pod."""
        return self.pod(namespace, name).log_file(container)

    async def until(
        self, namespace: str, name: str, holds: Callable[[Manifest], object], timeout_seconds: float = UNTIL_SECONDS
    ) -> Manifest:
        """Wait until a pod is as wanted, and return it as the API server had it then; raises TimeoutError with its status.

        No state that the API server has told is missed, however short it was.
        """
        return await self._until(
            lambda: next((pod for pod in self._named(namespace, name) if holds(pod)), None),
            f"pod {namespace}/{name}",
            timeout_seconds,
        )

    async def until_gone(self, namespace: str, name: str, timeout_seconds: float = UNTIL_SECONDS) -> None:
        """Wait until there is no pod of that name in the API, and none of its processes; raises TimeoutError."""
        await self._until(lambda: not self._named(namespace, name) or None, f"end of pod {namespace}/{name}", timeout_seconds)
        if life := self._lives.get(self._uids.get((namespace, name), "")):
            await asyncio.wait([life])

    async def lose_node(self, name: str) -> None:
        """Lose a machine without notice: its pods' processes are killed and nobody reports on them any more.

        The Node stays until the test deletes it (and Karpenter, or the garbage collection of pods, sees that). A new Node of
        the same name is another machine.
        """
        self._lost_nodes[name] = self._node_uids.get(name)
        lives = self._cancel([uid for uid, pod in self._manifests.items() if pod["spec"]["nodeName"] == name])
        if lives:
            await asyncio.wait(lives)

    def check(self) -> None:
        """Raise what went wrong in the bridge itself."""
        for task in [*self._watching, *self._lives.values()]:
            if task.done() and not task.cancelled():
                task.result()

    async def _until(self, found: Callable[[], T | None], what: str, timeout_seconds: float) -> T:
        self.check()
        result = found()
        if result is not None:
            return result
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = found
        try:
            async with asyncio.timeout(timeout_seconds):
                return cast("T", await waiter)
        except TimeoutError:
            states = "; ".join(f"{pod['metadata']['name']} {json.dumps(pod.get('status'))}" for pod in self._manifests.values())
            raise TimeoutError(f"{what}: not within {timeout_seconds:g} s; pods: {states or 'none'}") from None
        finally:
            del self._waiters[waiter]

    def _named(self, namespace: str, name: str) -> list[Manifest]:
        pods = self._manifests.values()
        return [pod for pod in pods if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (namespace, name)]

    async def _watch_pods(self) -> None:
        async for kind, pod in self._api.changes(self._pods_path, "spec.nodeName!="):
            if BRIDGE_ANNOTATION not in pod["metadata"].get("annotations", {}):
                continue
            uid = pod["metadata"]["uid"]
            if kind == "GONE":
                self._manifests.pop(uid, None)
                self._cancel([uid])
            else:
                self._manifests[uid] = pod
                self._take(pod)
            self._tell()

    async def _watch_nodes(self) -> None:
        async for kind, node in self._api.changes(NODES_PATH):
            name, uid = node["metadata"]["name"], node["metadata"]["uid"]
            self._node_uids[name] = uid
            if kind == "GONE":
                await self.lose_node(name)
            elif self._lost_nodes.get(name, uid) != uid:
                del self._lost_nodes[name]
                for pod in self._manifests.values():
                    self._take(pod)

    def _take(self, pod: Manifest) -> None:
        """Run a pod, or tell the one that runs what has changed."""
        metadata = pod["metadata"]
        uid, key = metadata["uid"], (metadata["namespace"], metadata["name"])
        if pod["spec"]["nodeName"] in self._lost_nodes:
            return
        if uid not in self._pods:
            log.info("%s/%s: on node %s", *key, pod["spec"]["nodeName"])
            self._pods[uid] = BridgedPod(
                pod, self._address(pod), self._folder, self._api, self._runtime, self._session, self._settings
            )
            self._uids[key] = uid
            life = self._lives[uid] = asyncio.create_task(self._pods[uid].run())
            life.add_done_callback(self._note_failure)
        self._pods[uid].update(pod)

    def _address(self, pod: Manifest) -> str:
        """Return the address that an earlier bridge gave the pod, or a new one that no other pod here has."""
        if given := pod.get("status", {}).get("podIP"):
            return str(given)
        taken = {bridged.address for bridged in self._pods.values()}
        while True:
            address = f"127.{random.randint(1, 254)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
            if address not in taken:
                return address

    def _cancel(self, uids: Sequence[str]) -> list[asyncio.Task[None]]:
        """Have all processes of pods killed; returns what to wait for."""
        lives = [self._lives[uid] for uid in uids if uid in self._lives]
        for life in lives:
            life.cancel()
        return lives

    def _tell(self) -> None:
        """Answer those who wait for what is now so."""
        for waiter, found in self._waiters.items():
            if not waiter.done():
                try:
                    result = found()
                except Exception as error:
                    waiter.set_exception(error)
                else:
                    if result is not None:
                        waiter.set_result(result)

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("the pod bridge failed", exc_info=error)
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(error)


async def serve(kubeconfig: Path, folder: Path, namespace: str | None) -> None:
    """Run the bridge until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with PodBridge(kubeconfig, folder, namespace=namespace):
        log.info("runs pods with the annotation %s", BRIDGE_ANNOTATION)
        await ended.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bridge as a process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.pod_bridge", description="Run pods as processes of this machine.")
    parser.add_argument("--kubeconfig", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dir", type=Path, required=True, metavar="FOLDER", help="gets volumes and logs")
    parser.add_argument("--namespace", help="take the pods of this one only")
    options = parser.parse_args(arguments)
    context = yaml.safe_load(options.kubeconfig.read_text(encoding="utf-8")).get("current-context") or ""
    if not context.startswith(SAFE_CONTEXTS):
        parser.error(
            f"{options.kubeconfig}: context {context!r} is none of a test cluster; those start with {' or '.join(SAFE_CONTEXTS)}"
        )
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(options.kubeconfig, options.dir, options.namespace))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
