"""A namespace for tests of the operator alone: a real control plane and the real controllers, and pods that need no time.

A build that is done at once and replicas that are ready at once are enough where the question is what the operator writes, when
and in which order; what pods do is proved by the tests with real ones. The pods are those of `fake_pods`: nothing schedules them,
so the scheduler is paused meanwhile.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import NotFoundError

from tests.cluster.fake_pods import MERGE_PATCH, FakePods
from tests.cluster.live import PATHS, Manifest, Objects
from tests.rig.bridge_api import Api
from tests.rig.cluster import OperatorProcess
from tests.rig.control_plane import ControlPlane
from tests.rig.fault_proxy import FaultProxy, Upstream
from tests.rig.write_log import Write

USER: Final = "person"  # field manager of what a test writes


@dataclass(frozen=True)
class Parts:
    """What tests of the operator alone share."""

    plane: ControlPlane
    client: DynamicClient
    api: Api

    def proxy(self) -> FaultProxy:
        """Return a proxy for one operator, not entered yet."""
        return FaultProxy(Upstream(self.plane.server, self.plane.authority.certificate))

    async def kubectl(self, *arguments: str, document: str | None = None) -> str:
        """Run kubectl without holding up the loop, which the proxies need."""
        return await asyncio.to_thread(self.plane.kubectl, *arguments, document=document)


@dataclass(frozen=True)
class Operated:
    """An operator of all namespaces, and the proxy that it reaches the API server through."""

    proxy: FaultProxy
    operator: OperatorProcess

    def writes(self, namespace: str, since: int = 0) -> list[Write]:
        """Return what the operator wrote in a namespace, from the `since`-th of all its writes on."""
        return [write for write in self.proxy.log.writes[since:] if write.namespace == namespace]


@dataclass(frozen=True)
class QuickNamespace:
    """A namespace with quick pods, and its objects as they are now."""

    name: str
    objects: Objects
    parts: Parts
    _found: dict[str, Any] = field(default_factory=dict)

    async def kubectl(self, *arguments: str, document: str | None = None) -> str:
        """Run kubectl in this namespace."""
        return await self.parts.kubectl(f"--namespace={self.name}", *arguments, document=document)

    async def apply(self, document: Manifest) -> Manifest:
        """Create or change an object as a person does."""
        placed = {**document, "metadata": {**document["metadata"], "namespace": self.name}}
        resource = await self._resource(document["kind"])
        return await self._seen(await resource.server_side_apply(body=placed, field_manager=USER, force_conflicts=True))

    async def patch(self, kind: str, name: str, change: Mapping[str, Any]) -> Manifest:
        """Change fields of an object (JSON merge patch); returns it as it is then."""
        resource = await self._resource(kind)
        return await self._seen(await resource.patch(name=name, namespace=self.name, body=change, content_type=MERGE_PATCH))

    async def delete(self, kind: str, name: str) -> None:
        """Delete an object as kubectl does, without waiting for its end."""
        resource = await self._resource(kind)
        await resource.delete(name=name, namespace=self.name, body={"propagationPolicy": "Background"})

    async def _seen(self, written: Any) -> Manifest:
        """Wait until `objects` has an object as it was written, or newer, so that nothing older is taken for its outcome."""
        manifest: Manifest = written.to_dict()
        await self.objects.seen(manifest["kind"], manifest["metadata"]["uid"], int(manifest["metadata"]["resourceVersion"]))
        return manifest

    async def _resource(self, kind: str) -> Any:
        if kind not in self._found:
            _, group, *rest = PATHS[kind].split("/")[0:4]
            api_version = rest[0] if group == "api" else "/".join(rest[:2])
            self._found[kind] = await self.parts.client.resources.get(api_version=api_version, kind=kind)
        return self._found[kind]


@asynccontextmanager
async def operated(parts: Parts, **settings: str) -> AsyncIterator[Operated]:
    """Run an operator behind a proxy."""
    async with parts.proxy() as proxy:
        operator = await asyncio.to_thread(OperatorProcess, parts.plane, settings, proxy.url)
        try:
            await asyncio.to_thread(operator.start)
            yield Operated(proxy, operator)
        finally:
            await asyncio.to_thread(operator.stop)


@asynccontextmanager
async def quick_namespace(
    parts: Parts, labels: Mapping[str, str] | None = None, kinds: Sequence[str] = tuple(PATHS)
) -> AsyncIterator[QuickNamespace]:
    """Make a namespace with quick pods, whose objects of some kinds are kept; in the end it is deleted, and nobody waits for it."""
    name = f"quick-{secrets.token_hex(4)}"
    namespaces = await parts.client.resources.get(api_version="v1", kind="Namespace")
    await namespaces.create(body={"metadata": {"name": name, "labels": dict(labels or {})}})
    async with Objects(parts.api, name, kinds) as objects:
        pods = asyncio.create_task(FakePods(parts.client, name, _at_once).run())
        try:
            yield QuickNamespace(name, objects, parts)
            if pods.done():
                pods.result()  # raises what ended it
        finally:
            pods.cancel()
            await asyncio.gather(pods, return_exceptions=True)
            with suppress(NotFoundError):  # a test may have deleted it
                await namespaces.delete(name=name)


async def _at_once() -> None:
    """Bring a pod to its end without waiting for anything."""
