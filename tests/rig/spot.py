"""What a cloud does to spot nodes, and Karpenter's AWS provider with its messages; the rest is done by the real Karpenter.

An interruption is an Event and the deletion of the NodeClaim, upon which Karpenter taints and drains the node; when the notice is
over, the machine is gone whatever runs on it. A rebalance recommendation is an Event and nothing else.
"""

import asyncio
import datetime
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import ConflictError, NotFoundError

from tests.rig.bridge_api import Api
from tests.rig.bridge_environment import Manifest

NOTICE_SECONDS: Final = 120.0  # EC2's
MERGE_PATCH: Final = "application/merge-patch+json"
NODES_PATH: Final = "/api/v1/nodes"
CORE: Final = "v1"
KARPENTER: Final = "karpenter.sh/v1"
TAINT: Final = {"key": "test.transcriber.dev/unwelcome", "value": "true", "effect": "NoExecute"}
MESSAGES: Final = {
    "SpotInterrupted": "Spot interruption warning was triggered",
    "SpotRebalanceRecommendation": "Spot rebalance recommendation was triggered",
}


class Spot:
    """Interrupts the nodes of a cluster whose pods a bridge runs."""

    def __init__(self, client: DynamicClient, api: Api, lose_node: Callable[[str], Awaitable[None]]) -> None:
        """`lose_node` kills what runs on a node: `PodBridge.lose_node`."""
        self._client = client
        self._api = api
        self._lose_node = lose_node

    async def interrupt(self, claim: str, notice_seconds: float = NOTICE_SECONDS) -> "asyncio.Task[bool]":
        """Give notice to a NodeClaim's node; the task ends with it, and returns whether something still ran then."""
        claims = await self._client.resources.get(api_version=KARPENTER, kind="NodeClaim")
        node = (await self._tell(claim, "SpotInterrupted")).get("status", {}).get("nodeName")
        await claims.delete(name=claim, body={"propagationPolicy": "Background"})
        return asyncio.create_task(self._take_back(claim, node, notice_seconds))

    async def rebalance(self, claim: str) -> None:
        """Say of a NodeClaim's node that it is at risk."""
        await self._tell(claim, "SpotRebalanceRecommendation")

    @asynccontextmanager
    async def taints_on_new_nodes(self, selector: str) -> AsyncIterator[list[str]]:
        """Give every new node with a label (`KEY=VALUE`) a NoExecute taint while this is entered; yields their names."""
        tainted: list[str] = []
        task = asyncio.create_task(self._taint(*selector.split("=", 1), tainted))
        try:
            yield tainted
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _tell(self, claim: str, reason: str) -> dict[str, Any]:
        """Write an Event about a NodeClaim; returns the claim."""
        claims = await self._client.resources.get(api_version=KARPENTER, kind="NodeClaim")
        found: dict[str, Any] = (await claims.get(name=claim)).to_dict()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        event = {
            "metadata": {"name": f"{claim}.{secrets.token_hex(8)}", "namespace": "default"},
            "involvedObject": {"apiVersion": KARPENTER, "kind": "NodeClaim", "name": claim, "uid": found["metadata"]["uid"]},
            "reason": reason,
            "message": MESSAGES[reason],
            "type": "Warning",
            "source": {"component": "karpenter"},
            "reportingComponent": "karpenter",
            "firstTimestamp": f"{now[:19]}Z",
            "lastTimestamp": f"{now[:19]}Z",
            "count": 1,
        }
        events = await self._client.resources.get(api_version=CORE, kind="Event")
        await events.create(body=event, namespace="default")
        return found

    async def _take_back(self, claim: str, node: str | None, notice_seconds: float) -> bool:
        """Take the machine when the notice is over, unless it was given back before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(notice_seconds):
                await self._gone(claim)
                return False
        if node is not None:
            await self._lose_node(node)
            await self._forget_pods(node)
            await self._remove(CORE, "Node", node)
        await self._remove(KARPENTER, "NodeClaim", claim)
        return True

    async def _gone(self, claim: str) -> None:
        async for kind, item in self._api.changes("/apis/karpenter.sh/v1/nodeclaims", f"metadata.name={claim}"):
            if kind == "GONE" and item["metadata"]["name"] == claim:
                return

    async def _forget_pods(self, node: str) -> None:
        pods = await self._client.resources.get(api_version=CORE, kind="Pod")
        for pod in (await pods.get(field_selector=f"spec.nodeName={node}")).to_dict()["items"]:
            with suppress(NotFoundError):
                metadata = pod["metadata"]
                await pods.delete(name=metadata["name"], namespace=metadata["namespace"], body={"gracePeriodSeconds": 0})

    async def _remove(self, api_version: str, kind: str, name: str) -> None:
        """Delete an object and what keeps it from going."""
        resource = await self._client.resources.get(api_version=api_version, kind=kind)
        with suppress(NotFoundError):
            await resource.delete(name=name)
            await resource.patch(name=name, body={"metadata": {"finalizers": None}}, content_type=MERGE_PATCH)

    async def _taint(self, key: str, value: str, tainted: list[str]) -> None:
        nodes = await self._client.resources.get(api_version=CORE, kind="Node")
        async for kind, node in self._api.changes(NODES_PATH):
            name = node["metadata"]["name"]
            if kind == "SET" and _label(node, key) == value and name not in tainted:
                taints = [*node["spec"].get("taints", []), TAINT]
                # Karpenter takes its own taints away meanwhile: a list that is older must not bring them back.
                version = {"resourceVersion": node["metadata"]["resourceVersion"]}
                with suppress(NotFoundError, ConflictError):  # after a conflict the next change of the node is tried
                    await nodes.patch(name=name, body={"metadata": version, "spec": {"taints": taints}}, content_type=MERGE_PATCH)
                    tainted.append(name)


def _label(node: Manifest, key: str) -> str | None:
    found: str | None = node["metadata"].get("labels", {}).get(key)
    return found
