"""The objects of a namespace as they are now, kept by watches, with the times at which they came, changed and went."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tests.rig.bridge_api import Api

Manifest = Mapping[str, Any]
T = TypeVar("T")
RESOURCE: Final = "TranscriberDeployment"
PATHS: Final[Mapping[str, str]] = {
    RESOURCE: "/apis/serving.transcriber.dev/v1alpha1/namespaces/{namespace}/transcriberdeployments",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies",
}
# Without a namespace: those of all resources.
CLUSTER_PATHS: Final[Mapping[str, str]] = {
    "Node": "/api/v1/nodes",
    "NodePool": "/apis/karpenter.sh/v1/nodepools",
    "NodeClaim": "/apis/karpenter.sh/v1/nodeclaims",
}
PATIENCE_SECONDS: Final = 90.0


@dataclass(frozen=True)
class Change:
    """What was seen at a time of the event loop's clock; `is_gone`: that the object is no more."""

    at: float
    kind: str
    name: str
    uid: str
    is_gone: bool
    manifest: Manifest


class Objects:
    """Use as an async context manager; what is not there yet when it is entered comes as it is seen."""

    def __init__(self, api: Api, namespace: str, kinds: Sequence[str] = tuple(PATHS)) -> None:
        self.changes: list[Change] = []
        self._api = api
        self._namespace = namespace
        self._kinds = kinds
        self._by_uid: dict[str, dict[str, Manifest]] = {kind: {} for kind in kinds}
        self._versions: dict[str, int] = {}  # by uid; they only grow, also through the end of an object
        self._changed = asyncio.Event()  # replaced each time that it is set

    async def __aenter__(self) -> Self:
        self._watching = [asyncio.create_task(self._watch(kind)) for kind in self._kinds]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._watching:
            task.cancel()
        for result in await asyncio.gather(*self._watching, return_exceptions=True):
            if isinstance(result, Exception) and error is None:
                raise result

    def all(self, kind: str) -> list[Manifest]:
        """Return the objects of a kind."""
        return list(self._by_uid[kind].values())

    def find(self, kind: str, name: str) -> Manifest | None:
        """Return an object, None if there is none."""
        return next((item for item in self.all(kind) if item["metadata"]["name"] == name), None)

    def get(self, kind: str, name: str) -> Manifest:
        """Return an object; raises AssertionError if there is none."""
        found = self.find(kind, name)
        assert found is not None, f"{kind} {name}: not there"
        return found

    async def until(self, what: str, found: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
        """Wait until `found` returns something true and return that; raises AssertionError that says `what` was waited for."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    changed = self._changed
                    if result := found():
                        return result
                    await changed.wait()
        except TimeoutError:
            raise AssertionError(f"{what}: not within {seconds:g} s; {self._summary()}") from None

    async def seen(self, kind: str, uid: str, version: int) -> None:
        """Wait until an object is at a resourceVersion, or past it."""
        await self.until(f"{kind} at version {version}", lambda: self._versions.get(uid, 0) >= version)

    async def settled(self, name: str, generation: int = 0, seconds: float = PATIENCE_SECONDS) -> Manifest:
        """Wait until a resource is ready at a generation, at least the newest that was seen, and nothing is under way."""
        return await self.until(f"{name} ready", lambda: self._settled(name, generation), seconds)

    async def told(self, name: str, type_: str, reason: str, seconds: float = PATIENCE_SECONDS) -> Manifest:
        """Wait until a condition of a resource has a reason, and return the condition."""

        def found() -> Manifest | None:
            entry = condition(self.get(RESOURCE, name), type_)
            return entry if entry.get("reason") == reason else None

        return await self.until(f"{type_} of {name} with reason {reason}", found, seconds)

    def seen_at(self, kind: str, name: str, holds: Callable[[Change], bool]) -> float:
        """Return when a change was seen first that is as wanted; raises StopIteration if none was."""
        return next(change.at for change in self.changes if (change.kind, change.name) == (kind, name) and holds(change))

    def _settled(self, name: str, generation: int) -> Manifest | None:
        resource = self.find(RESOURCE, name)
        if resource is None or resource["metadata"].get("deletionTimestamp"):
            return None
        wanted = max(generation, resource["metadata"]["generation"])
        status = resource.get("status", {})
        is_seen = status.get("observedGeneration") == wanted
        is_ready = condition(resource, "Ready").get("status") == "True" and not condition(resource, "Reconciling")
        return resource if is_seen and is_ready else None

    async def _watch(self, kind: str) -> None:
        path = {**PATHS, **CLUSTER_PATHS}[kind].format(namespace=self._namespace)
        async for change, item in self._api.changes(path):
            metadata = item["metadata"]
            if change == "GONE":
                self._by_uid[kind].pop(metadata["uid"], None)
            else:
                self._by_uid[kind][metadata["uid"]] = {"kind": kind, **item}  # items of a list do not say what they are
            self._versions[metadata["uid"]] = int(metadata["resourceVersion"])
            at = asyncio.get_running_loop().time()
            self.changes.append(Change(at, kind, metadata["name"], metadata["uid"], change == "GONE", item))
            self._changed.set()
            self._changed = asyncio.Event()

    def _summary(self) -> str:
        told = {item["metadata"]["name"]: _told(item) for item in self.all(RESOURCE)[:10]}
        pods = {item["metadata"]["name"]: item.get("status", {}).get("phase") for item in self._by_uid.get("Pod", {}).values()}
        return f"conditions {json.dumps(told)}; pods {pods}"


def _told(resource: Manifest) -> dict[str, str]:
    conditions = resource.get("status", {}).get("conditions", ())
    return {entry["type"]: f"{entry['status']} {entry['reason']}: {entry['message'][:200]}" for entry in conditions}


def condition(manifest: Manifest, type_: str) -> Manifest:
    """Return a condition of an object, an empty one if it has none of the type."""
    return next((entry for entry in manifest.get("status", {}).get("conditions", ()) if entry["type"] == type_), {})


def is_ready(pod: Manifest) -> bool:
    """Whether a headless Service names a pod's address: it is ready and not on its way out."""
    return condition(pod, "Ready").get("status") == "True" and not pod["metadata"].get("deletionTimestamp")
