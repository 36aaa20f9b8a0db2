"""A small operator with a bug on request, to show that the crash test finds such bugs and nothing where there is none.

`python toy_operator.py KUBECONFIG NAMESPACE BUG`: keeps one ConfigMap per TranscriberDeployment, named after the hash of its spec.
The bugs are the classes that crash tests of real operators have found.
"""

import asyncio
import hashlib
import json
import sys
from contextlib import suppress
from typing import Any

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import NotFoundError

API_VERSION = "serving.transcriber.dev/v1alpha1"
KIND = "TranscriberDeployment"
BUGS = ("none", "status-first", "new-name-each-time", "made-anew-at-start", "dies-when-restarted")


class Toy:
    """Level-based when it has no bug: whatever is there, a pass leads to the one ConfigMap and a status that says so."""

    def __init__(self, client: DynamicClient, namespace: str, bug: str) -> None:
        self.client = client
        self.namespace = namespace
        self.bug = bug
        self.has_started = False

    async def run(self) -> None:
        self.deployments: Any = await self.client.resources.get(api_version=API_VERSION, kind=KIND)
        if self.bug == "dies-when-restarted" and (await self.deployments.get(namespace=self.namespace)).items:
            raise SystemExit("this toy starts once")
        self.config_maps: Any = await self.client.resources.get(api_version="v1", kind="ConfigMap")
        while True:
            async for event in self.client.watch(self.deployments, namespace=self.namespace):
                if event["type"] != "DELETED":
                    await self.reconcile(event["raw_object"])
                    self.has_started = True

    async def reconcile(self, deployment: dict[str, Any]) -> None:
        is_told = deployment.get("status", {}).get("observedGeneration") == deployment["metadata"]["generation"]
        if self.bug == "status-first":  # a crash after the status leaves it as if the rest were done
            if not is_told:
                await self.tell(deployment)
                await self.keep_child(deployment)
            return
        if self.bug == "new-name-each-time":  # a crash after the create makes another one
            if not is_told:
                await self.make_child(deployment)
                await self.tell(deployment)
            return
        if self.bug == "made-anew-at-start" and not self.has_started:  # right in the end, but not on the way
            await self.delete_children(keep="")
        await self.keep_child(deployment)
        if not is_told:
            await self.tell(deployment)

    async def keep_child(self, deployment: dict[str, Any]) -> None:
        child = self.child(deployment)
        await self.config_maps.server_side_apply(body=child, field_manager="toy", force_conflicts=True)
        await self.delete_children(keep=child["metadata"]["name"])

    async def delete_children(self, keep: str) -> None:
        listed = await self.config_maps.get(namespace=self.namespace, label_selector="toy=yes")
        for item in listed.items:
            if item.metadata.name != keep:
                with suppress(NotFoundError):
                    await self.config_maps.delete(name=item.metadata.name, namespace=self.namespace)

    async def make_child(self, deployment: dict[str, Any]) -> None:
        child = self.child(deployment)
        child["metadata"]["generateName"] = f"{child['metadata'].pop('name')}-"
        await self.config_maps.create(body=child, namespace=self.namespace)

    async def tell(self, deployment: dict[str, Any]) -> None:
        metadata = deployment["metadata"]
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": metadata["name"], "namespace": self.namespace},
            "status": {"observedGeneration": metadata["generation"]},
        }
        await self.deployments.status.server_side_apply(body=body, field_manager="toy-status", force_conflicts=True)

    def child(self, deployment: dict[str, Any]) -> dict[str, Any]:
        metadata = deployment["metadata"]
        key = hashlib.sha256(json.dumps(deployment["spec"], sort_keys=True).encode()).hexdigest()[:8]
        owner = {"apiVersion": API_VERSION, "kind": KIND, "name": metadata["name"], "uid": metadata["uid"]}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"{metadata['name']}-{key}",
                "namespace": self.namespace,
                "labels": {"toy": "yes"},
                "ownerReferences": [owner],
            },
        }


async def main(kubeconfig: str, namespace: str, bug: str) -> None:
    assert bug in BUGS, bug
    configuration = Configuration()
    await load_kube_config(kubeconfig, client_configuration=configuration)
    async with ApiClient(configuration) as connection:
        await Toy(await DynamicClient(connection), namespace, bug).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
