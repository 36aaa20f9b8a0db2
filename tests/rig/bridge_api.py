"""What the pod bridge asks of the API server: one object, a stream of changes, a status, a delete.

It goes on through an API server that is away for a while: each call is repeated until there is an answer.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from weakref import WeakSet

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config

from tests.rig.bridge_environment import Manifest

JSON: Final = "application/json"
STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
RETRY_SECONDS: Final = 0.2
ANSWER_SECONDS: Final = 30.0
WATCH_SECONDS: Final = 300
CLOSE_POLL_SECONDS: Final = 0.01
GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT})  # in a conflict there may be a new pod of that name
PATHS: Final = {
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps/{name}",
    "Secret": "/api/v1/namespaces/{namespace}/secrets/{name}",
    "PersistentVolumeClaim": "/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}",
    "PersistentVolume": "/api/v1/persistentvolumes/{name}",
    "Pod": "/api/v1/namespaces/{namespace}/pods/{name}",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
}
log = logging.getLogger("pod-bridge")


class ApiError(Exception):
    """The API server refused what the bridge asked, which is an error of the bridge; the message is the server's."""


class Api:
    """The API server behind a kubeconfig; use as an async context manager."""

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._sockets: WeakSet[socket.socket] = WeakSet()

    async def __aenter__(self) -> Self:
        configuration = Configuration()
        await load_kube_config(str(self._kubeconfig), self._context, client_configuration=configuration, persist_config=False)  # type: ignore[no-untyped-call]
        self._client = ApiClient(configuration)
        self._connector = aiohttp.TCPConnector(limit=0, ssl=self._client.rest_client.ssl_context, socket_factory=self._socket)
        # No proxy: everything is on loopback.
        configuration.client_session_kwargs = {"connector": self._connector, "trust_env": False}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]
        await self._connector.close()
        # Calls that were cancelled still say goodbye by TLS; a loop that ends before they have leaves their sockets open.
        for made in list(self._sockets):
            with suppress(OSError):
                made.shutdown(socket.SHUT_RDWR)
        while any(made.fileno() >= 0 for made in self._sockets):
            await asyncio.sleep(CLOSE_POLL_SECONDS)

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return an object, None if there is none."""
        found = await self._answer("GET", PATHS[kind].format(namespace=namespace, name=name))
        return None if found is None else {"kind": kind, **found}

    async def token(self, namespace: str, service_account: str, pod: Manifest, audience: str | None, seconds: int) -> str | None:
        """Return a new token that is bound to the pod, None if the ServiceAccount or the pod is gone."""
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        spec = {"audiences": [audience] if audience else None, "expirationSeconds": seconds, "boundObjectRef": bound}
        path = PATHS["ServiceAccount"].format(namespace=namespace, name=service_account)
        answer = await self._answer(
            "POST", f"{path}/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        )
        return str(answer["status"]["token"]) if answer else None

    async def write_status(self, pod: Manifest, status: Manifest) -> bool:
        """Write the fields of a pod's status that are given; returns whether the pod still exists."""
        uid = pod["metadata"]["uid"]
        body = {"metadata": {"uid": uid}, "status": status}
        while True:
            refusal = None
            try:
                if await self._answer("PATCH", f"{_path(pod)}/status", body, STRATEGIC_MERGE) is not None:
                    return True
            except ApiError as error:
                refusal = error  # a uid that is not the pod's is a field that may not change
            current = await self.get("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])
            if current is None or current["metadata"]["uid"] != uid:
                return False
            if refusal:
                raise refusal

    async def delete(self, pod: Manifest) -> None:
        """Take a pod, that none of its processes is left of, out of the API."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._answer("DELETE", _path(pod), options)

    async def changes(self, path: str, selector: str = "") -> AsyncIterator[tuple[str, Manifest]]:
        """Yield ("SET" or "GONE", object) for all objects of a collection, now and from now on, none missed; never ends."""
        known: dict[str, Manifest] = {}
        query = [("fieldSelector", selector)] if selector else []
        while True:
            listed = await self._answer("GET", path, query=query) or {"items": [], "metadata": {"resourceVersion": "0"}}
            present = {item["metadata"]["uid"]: item for item in listed["items"]}
            for uid in known.keys() - present.keys():
                yield "GONE", known[uid]
            for item in present.values():
                yield "SET", item
            known = present
            version = listed["metadata"]["resourceVersion"]
            async for kind, item in self._watch(path, [*query, ("resourceVersion", version)]):
                if kind == "DELETED":
                    known.pop(item["metadata"]["uid"], None)
                    yield "GONE", item
                else:
                    known[item["metadata"]["uid"]] = item
                    yield "SET", item

    async def _watch(self, path: str, query: list[tuple[str, str]]) -> AsyncIterator[tuple[str, Manifest]]:
        """Yield events until the stream breaks off, for whatever reason."""
        try:
            response = await self._request(
                "GET", path, None, JSON, [*query, ("watch", "true"), ("timeoutSeconds", str(WATCH_SECONDS))], watched=True
            )
            async with response:
                response.raise_for_status()
                async for line in response.content:
                    event = json.loads(line)
                    if event["type"] not in {"ADDED", "MODIFIED", "DELETED"}:
                        return
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.debug("watch of %s broke off: %r", path, error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _answer(
        self, method: str, path: str, body: Manifest | None = None, content: str = JSON, query: list[tuple[str, str]] | None = None
    ) -> dict[str, Any] | None:
        """Return what the server answers once it does, None if the object is gone; raises ApiError on a refusal."""
        while True:
            try:
                response = await self._request(method, path, body, content, query or [])
                async with response:
                    answer = await response.json(content_type=None)
                if response.status in GONE:
                    return None
                if response.status < HTTPStatus.BAD_REQUEST:
                    return dict(answer)
                if response.status < HTTPStatus.INTERNAL_SERVER_ERROR and response.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise ApiError(f"{method} {path}: {answer.get('message', answer)}")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                log.debug("%s %s: %r", method, path, error)
            await asyncio.sleep(RETRY_SECONDS)

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        content: str,
        query: list[tuple[str, str]],
        *,
        watched: bool = False,
    ) -> aiohttp.ClientResponse:
        call = await self._client.param_serialize(
            method,
            path,
            query_params=query,
            header_params={"Content-Type": content, "Accept": JSON},
            body=body,
            auth_settings=["BearerToken"],
        )
        limit = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_SECONDS) if watched else ANSWER_SECONDS
        return (await self._client.call_api(*call, _request_timeout=limit)).response  # type: ignore[no-any-return]


def _path(pod: Manifest) -> str:
    return PATHS["Pod"].format(namespace=pod["metadata"]["namespace"], name=pod["metadata"]["name"])
