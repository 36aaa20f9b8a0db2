"""Resources that scale on nodes of Karpenter: stubs as replicas, files as work, and what was ordered when.

A namespace, a bridge and NodePools for each, so that many can be watched side by side.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.cluster.live import CLUSTER_PATHS, PATHS, RESOURCE, Change, Manifest, Objects, condition, is_ready
from tests.cluster.quick_pods import USER, Parts
from tests.cluster.transcriber_workload import API_VERSION, account, operator
from tests.rig import karpenter
from tests.rig.bridge_objects import bridge_namespace
from tests.rig.bridge_settings import Settings
from tests.rig.feeder import WORK_PORT, Feeder
from tests.rig.pod_bridge import PodBridge
from tests.rig.processes import Part, Spawner
from tests.rig.spot import Spot
from tests.rig.stub_replicas import StubReplicas

NODE_CLASS: Final = "gpu"
REGISTRATION_SECONDS: Final = 6  # from a launch to a node: what a machine takes to boot
NAME: Final = "whisper"
REVISION: Final = "0" * 40
NAMESPACE_LABEL: Final = "serving.transcriber.dev/namespace"
CAPACITY_LABEL: Final = "karpenter.sh/capacity-type"
SCALED_SECONDS: Final = 120.0
GRACE_SECONDS: Final = 10
SLOTS: Final = 2
THROUGHPUT: Final = 90.0  # audio seconds per second of a stub: what the operator assumes of an L4, so that nothing is to be learnt
KINDS: Final = (RESOURCE, "Pod", "Deployment", *CLUSTER_PATHS)


def spot_pool(**fields: Any) -> dict[str, Any]:
    """Return a pool that is filled first."""
    return {"name": "spot", "capacityType": "Spot", "gpus": ["l4"], "weight": 100, "maxNodes": 8, **fields}


def document(**changes: Any) -> dict[str, Any]:
    """Return a resource on spot nodes, with on-demand ones behind them; `changes` are by path, `scaling__minReplicas=1`."""
    sha256 = hashlib.sha256(b"weights").hexdigest()
    files = [{"path": name, "sha256": sha256} for name in ("model.safetensors", "config.json")]
    spec: dict[str, Any] = {
        "model": {"target": {"uri": "hf://openai/whisper-base", "revision": REVISION, "files": files}, "precision": "Float16"},
        "runtime": {
            "slots": SLOTS,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        },
        "repository": {"volume": {"ephemeral": {"sizeLimit": "1Gi"}}},
        "scaling": {"minReplicas": 1, "maxReplicas": 8, "targetWaitSeconds": 20, "idleTimeoutSeconds": 5},
        "capacity": {
            "nodeClassRef": {"group": karpenter.NODE_CLASS_GROUP, "kind": karpenter.NODE_CLASS_KIND, "name": NODE_CLASS},
            "pools": [spot_pool(), {"name": "on-demand", "gpus": ["l4"], "weight": 10, "maxNodes": 8}],
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = spec
        for key in parents:
            part = part.setdefault(key, {})
        part[last] = value
    return {"apiVersion": API_VERSION, "kind": RESOURCE, "metadata": {"name": NAME}, "spec": spec}


@dataclass
class Scaled:
    """A resource in a namespace of its own, as it is now."""

    parts: Parts
    namespace: str
    objects: Objects
    bridge: PodBridge
    feeder: Feeder
    spot: Spot
    _addresses: dict[str, str] = field(default_factory=dict)

    async def apply(self, document: Manifest) -> None:
        """Create or change the resource as a person does."""
        resource = await self.parts.client.resources.get(api_version=API_VERSION, kind=RESOURCE)
        placed = {**document, "metadata": {**document["metadata"], "namespace": self.namespace}}
        written = (await resource.server_side_apply(body=placed, field_manager=USER, force_conflicts=True)).to_dict()["metadata"]
        await self.objects.seen(RESOURCE, written["uid"], int(written["resourceVersion"]))

    async def delete(self) -> None:
        """Delete the resource, without waiting for its end."""
        resource = await self.parts.client.resources.get(api_version=API_VERSION, kind=RESOURCE)
        await resource.delete(name=NAME, namespace=self.namespace, body={"propagationPolicy": "Background"})

    async def kubectl(self, *arguments: str) -> str:
        """Run kubectl in its namespace."""
        return await self.parts.kubectl(f"--namespace={self.namespace}", *arguments)

    async def control(self, **order: object) -> None:
        """Tell all ready stubs to lie, or to be another speed."""
        async with aiohttp.ClientSession(trust_env=False) as session:
            for address in self.ready():
                async with session.post(f"http://{address}:{WORK_PORT}/control", json=order) as response:
                    response.raise_for_status()

    @property
    def resource(self) -> Manifest:
        """The resource as it is now."""
        return self.objects.get(RESOURCE, NAME)

    def pods(self) -> list[Manifest]:
        """The serving pods."""
        component = "app.kubernetes.io/component"
        return [pod for pod in self.objects.all("Pod") if pod["metadata"].get("labels", {}).get(component) == "serving"]

    def ready(self) -> list[str]:
        """The addresses of the pods that take work."""
        return [pod["status"]["podIP"] for pod in self.pods() if is_ready(pod)]

    def wanted(self, pool: str | None = None) -> int:
        """The replicas that its Deployments, or that of a pool, ask for."""
        names = None if pool is None else {f"{NAME}-{pool}"}
        found = [item for item in self.objects.all("Deployment") if names is None or item["metadata"]["name"] in names]
        return sum(item["spec"]["replicas"] for item in found)

    def decisions(self, since: float = 0.0) -> list[tuple[float, int]]:
        """The replicas that all Deployments together asked for, and when that changed."""
        replicas: dict[str, int] = {}
        totals: list[tuple[float, int]] = []
        for change in self._changes("Deployment"):
            replicas[change.uid] = 0 if change.is_gone else change.manifest["spec"]["replicas"]
            total = sum(replicas.values())
            if not totals or totals[-1][1] != total:
                totals.append((change.at, total))
        return [entry for entry in totals if entry[0] >= since]

    def owned(self, kind: str) -> list[Manifest]:
        """The NodePools, NodeClaims or Nodes that are its own."""
        return [item for item in self.objects.all(kind) if self._is_own(item)]

    def serving_since(self, replicas: int, since: float) -> float:
        """When so many pods took work for the first time from a time on; raises StopIteration if they never did."""
        ready: dict[str, bool] = {}
        counted = []
        for change in self._changes("Pod"):
            ready[change.uid] = not change.is_gone and is_ready(change.manifest)
            counted.append((change.at, sum(ready.values())))
        return next(at for at, count in counted if at >= since and count >= replicas)

    def claim_of(self, pod: Manifest) -> str:
        """Return the name of the NodeClaim behind the node of a pod."""
        node = pod["spec"]["nodeName"]
        return next(item["metadata"]["name"] for item in self.owned("NodeClaim") if item.get("status", {}).get("nodeName") == node)

    def first_seen(self, kind: str, since: float) -> float | None:
        """When the first object of a kind was seen that was not there at a time; None if there was none since."""
        first = self._first(kind, since)
        return first.at if first else None

    def first_created(self, kind: str, since: float) -> datetime | None:
        """When that object was made, by the API server's clock, in whole seconds: a busy machine sees it later."""
        first = self._first(kind, since)
        return datetime.fromisoformat(first.manifest["metadata"]["creationTimestamp"]) if first else None

    def _first(self, kind: str, since: float) -> Change | None:
        earlier = {change.uid for change in self._changes(kind) if change.at < since}
        new = (change for change in self._changes(kind) if change.uid not in earlier)
        return next((change for change in new if kind in PATHS or self._is_own(change.manifest)), None)

    def most_nodes(self, since: float = 0.0) -> int:
        """The most Nodes that it had at one time."""
        there: set[str] = set()
        most = 0
        for change in self._changes("Node"):
            if self._is_own(change.manifest):
                (there.discard if change.is_gone else there.add)(change.uid)
                most = max(most, len(there)) if change.at >= since else most
        return most

    async def serves(self, replicas: int, seconds: float = SCALED_SECONDS) -> None:
        """Wait until so many replicas are asked for and ready."""
        await self.objects.until(
            f"{replicas} replicas of {self.namespace}",
            lambda: self.wanted() == len(self.ready()) == len(self.pods()) == replicas or None,
            seconds,
        )

    async def told(self, type_: str, reason: str, seconds: float = SCALED_SECONDS) -> Manifest:
        """Wait until a condition has a reason; returns the condition."""
        return await self.objects.told(NAME, type_, reason, seconds)

    def condition(self, type_: str) -> Manifest:
        """Return a condition of the resource."""
        return condition(self.resource, type_)

    async def is_without_nodes(self, seconds: float = SCALED_SECONDS) -> None:
        """Wait until nothing of it is left on the nodes' side."""
        kinds = ("NodePool", "NodeClaim", "Node")
        await self.objects.until("no nodes", lambda: not any(self.owned(kind) for kind in kinds) or None, seconds)

    def _changes(self, kind: str) -> Iterator[Change]:
        return (change for change in self.objects.changes if change.kind == kind)

    def _is_own(self, item: Manifest) -> bool:
        labels: Mapping[str, str] = item["metadata"].get("labels") or {}
        return labels.get(NAMESPACE_LABEL) == self.namespace


async def prepare(parts: Parts) -> None:
    """Start Karpenter, and make the node class of all."""
    await asyncio.to_thread(parts.plane.start_karpenter)
    await asyncio.to_thread(parts.plane.apply, karpenter.node_class(NODE_CLASS, f"{REGISTRATION_SECONDS}s"))


async def make_namespace(parts: Parts, namespace: str) -> None:
    """Make a namespace whose pods the bridge runs."""
    await parts.kubectl("create", "namespace", namespace)
    await parts.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}", "--timeout=60s")
    await asyncio.to_thread(bridge_namespace, parts.plane, namespace)


@asynccontextmanager
async def scaled(parts: Parts, namespace: str, folder: Path, stubs: StubReplicas | None = None) -> AsyncIterator[Scaled]:
    """Look after one resource, which the caller applies, in a namespace that is there; in the end it is deleted."""
    replicas = stubs or StubReplicas(throughput=THROUGHPUT, slots=SLOTS)
    settings = Settings(replaced=replicas)
    async with (
        PodBridge(parts.plane.kubeconfig, folder / namespace, settings, namespace) as bridge,
        Objects(parts.api, namespace, KINDS) as objects,
        Feeder(lambda: entered.ready()) as feeder,
    ):
        entered = Scaled(parts, namespace, objects, bridge, feeder, Spot(parts.client, parts.api, bridge.lose_node))
        yield entered
        bridge.check()
        if objects.find(RESOURCE, NAME):
            await entered.delete()
            await entered.is_without_nodes()


@asynccontextmanager
async def own_operator(parts: Parts, namespace: str) -> AsyncIterator[Part]:
    """Run an operator of one namespace, to be killed and started again."""
    kubeconfig = await asyncio.to_thread(account, parts.plane, namespace, parts.plane.server)
    spawner = Spawner()
    part = Part(operator(namespace, kubeconfig), parts.plane.folder / f"operator-{namespace}.log", spawner, parts.plane.tls)
    try:
        await start(part)
        yield part
    finally:
        await asyncio.to_thread(part.stop)
        spawner.close()


async def start(part: Part) -> None:
    """Start an operator and wait until it is healthy."""
    await asyncio.to_thread(part.start)
    await asyncio.to_thread(part.await_ready, 60.0)
