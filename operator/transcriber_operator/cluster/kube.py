"""The Kubernetes API as the operator uses it: plain dicts in and out, server-side apply, and failures by what to do about them.

On `kubernetes.aio`'s dynamic client, without its discovery: the kinds are known (`resources`), and one that is not is looked up.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import aiohttp
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.dynamic import DynamicClient

from transcriber_operator.cluster.credentials import load_configuration
from transcriber_operator.cluster.pace import Pace
from transcriber_operator.cluster.resources import Resource, resource_of
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import (
    ConflictError,
    ForbiddenError,
    KindMissingError,
    NotFoundError,
    OperatorError,
    TerminalError,
    TransientError,
)
from transcriber_operator.metrics import Metrics

CALL_SECONDS: Final = 10.0
PAGE_ITEMS: Final = 500
DEFAULT_PAUSE_SECONDS: Final = 1.0  # after a 429 that names no time
LONGEST_PAUSE_SECONDS: Final = 60.0  # whatever the server says
APPLY_TYPE: Final = "application/apply-patch+yaml"  # JSON is YAML
MERGE_TYPE: Final = "application/merge-patch+json"
USER_AGENT: Final = "transcriber-operator"
FIELD_MANAGER: Final = "transcriber-operator"  # of plain creates and updates: the Lease and Events
_METHODS: Final = {
    "get": "get",
    "list": "get",
    "apply": "patch",
    "patch": "patch",
    "create": "post",
    "update": "put",
    "delete": "delete",
}
_READS: Final = frozenset({"get", "list"})
_GROUPS: Final = Resource("", "APIGroup", "")  # what discovery counts as

logger = logging.getLogger(__name__)


class Kube:
    """A client with time limits, throttling and counters; use as an async context manager.

    Every method raises TransientError (ForbiddenError and KindMissingError among them), ConflictError (NotFoundError among them) or
    TerminalError. `pace` is waited for before a
    call; `gate` is called right before a write leaves, and raises what forbids it. The Lease has neither: throttling must not
    lose it.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        metrics: Metrics,
        pace: Pace | None = None,
        gate: Callable[[], None] | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._metrics = metrics
        self._pace = pace
        self._gate = gate
        self._call_seconds = call_seconds
        self._client: ApiClient | None = None
        self._stale: list[ApiClient] = []  # of earlier credentials; other calls may be under way on them
        self._connecting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._connect(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in [*self._stale, *([self._client] if self._client else [])]:
            await client.close()  # type: ignore[no-untyped-call]

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Manifest:
        """Return an object."""
        return await self._call("get", resource, resource.path(namespace, name))

    async def select(
        self, resource: Resource, namespace: str | None, selector: str | None = None, fields: str | None = None
    ) -> list[Manifest]:
        """Return all objects with these labels and fields, as the server has them now and not as some cache remembers them."""
        selectors = {"label_selector": selector, "field_selector": fields}
        given = {name: value for name, value in selectors.items() if value is not None}
        return await self._pages(resource, resource.path(namespace), **given, limit=PAGE_ITEMS)

    async def probe(self, resource: Resource, namespace: str | None) -> None:
        """List at most one object, of all namespaces if none is given: it shows whether the kind exists and may be read."""
        await self._call("list", resource, resource.path(namespace), limit=1)

    async def look_up(self, group: str, kind: str) -> Resource:
        """Return a kind in the version that the server prefers; KindMissingError where it has none."""
        found = await self._call("get", _GROUPS, f"/apis/{quote(group, safe='')}")
        version = str(found["preferredVersion"]["groupVersion"])
        entries = (await self._call("get", _GROUPS, f"/apis/{version}"))["resources"]
        entry = next((entry for entry in entries if entry["kind"] == kind and "/" not in entry["name"]), None)
        if entry is None:
            raise KindMissingError(f"{version} has no kind {kind}")
        return Resource(version, kind, entry["name"], entry["namespaced"])

    async def apply(self, manifest: Manifest, manager: str, subresource: str | None = None) -> Manifest:
        """Apply an object or its subresource server-side, taking the fields over from whoever has them; returns it as it is then.

        A uid in the manifest is a precondition: a ConflictError where the object has another one, or is gone.
        """
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        metadata = manifest["metadata"]
        return await self._call(
            "apply",
            resource,
            resource.path(metadata.get("namespace"), metadata["name"], subresource),
            body=manifest,
            content_type=APPLY_TYPE,
            field_manager=manager,
            force_conflicts=True,
        )

    async def create(self, manifest: Manifest) -> Manifest:
        """Create an object; one that exists is a ConflictError."""
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        path = resource.path(manifest["metadata"].get("namespace"))
        return await self._call("create", resource, path, body=manifest, field_manager=FIELD_MANAGER)

    async def replace(self, manifest: Manifest) -> Manifest:
        """Replace an object that is still at the manifest's resourceVersion."""
        resource = resource_of(manifest["apiVersion"], manifest["kind"])
        path = resource.path(manifest["metadata"].get("namespace"), manifest["metadata"]["name"])
        return await self._call("update", resource, path, body=manifest, field_manager=FIELD_MANAGER)

    async def merge(self, resource: Resource, namespace: str | None, name: str, change: Manifest) -> Manifest:
        """Merge a change into an object; a resourceVersion in it is a precondition."""
        path = resource.path(namespace, name)
        return await self._call("patch", resource, path, body=change, content_type=MERGE_TYPE, field_manager=FIELD_MANAGER)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, uid: str, grace_seconds: int | None = None
    ) -> None:
        """Delete an object of this very uid, and its dependents in the background; one that is gone is a NotFoundError.

        A pod ends within `grace_seconds`, where given, instead of its own time.
        """
        options: Manifest = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        await self._call("delete", resource, resource.path(namespace, name), body=options)

    async def _pages(self, resource: Resource, path: str, **query: Any) -> list[Manifest]:
        items: list[Manifest] = []
        following: str | None = None
        while True:
            page = await self._call("list", resource, path, **query, _continue=following)
            # Items of a list do not say what they are.
            items += ({"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"])
            following = page["metadata"].get("continue")
            if not following:
                return items

    async def _call(self, verb: str, resource: Resource, path: str, **query: Any) -> Manifest:
        client = self._client
        try:
            return await self._send(client, verb, resource, path, query)
        except _UnauthorizedError:
            await self._connect(client)  # the token was replaced on disk; once more with what is there now
        try:
            return await self._send(self._client, verb, resource, path, query)
        except _UnauthorizedError as error:
            raise TransientError(str(error)) from error

    async def _send(self, client: ApiClient | None, verb: str, resource: Resource, path: str, query: Mapping[str, Any]) -> Manifest:
        if self._pace:
            await self._pace.wait()
        if self._gate and verb not in _READS:
            self._gate()
        code = ""
        try:
            response = await DynamicClient(client).request(  # type: ignore[no-untyped-call]
                _METHODS[verb],
                path,
                serialize=False,
                _request_timeout=aiohttp.ClientTimeout(total=self._call_seconds),
                **query,
            )
            code = str(response.status)
            answer: Manifest = await response.json()
            return answer
        except ApiException as error:
            code = str(error.status)
            raise self._failure(error, f"{verb} of {resource.kind} {path.removeprefix('/')}") from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            what = f"no answer within {self._call_seconds:.0f} s" if isinstance(error, TimeoutError) else repr(error)
            raise TransientError(f"{verb} of {resource.kind} {path.removeprefix('/')} failed: {what}") from error
        finally:
            self._metrics.api_calls.labels(verb, resource.kind, code).inc()

    def _failure(self, error: ApiException, what: str) -> OperatorError:
        status = _status_object(error)
        message = f"{what}: {error.status} {status.get('message') or error.reason}"
        match error.status:
            case 401:
                return _UnauthorizedError(message)
            case 403:
                return ForbiddenError(message)
            case 404 if not status:  # the server explains what is missing, unless it has nothing at such a path
                return KindMissingError(f"{what}: the cluster has no such kind")
            case 404:
                return NotFoundError(message)
            case 409 | 410 | 412:
                return ConflictError(message)
            case 422 if _is_of_another_uid(status):
                return ConflictError(message)
            case 400 | 405 | 413 | 415 | 422:
                return TerminalError(message)
            case 429:
                seconds = _retry_after(error, status) or DEFAULT_PAUSE_SECONDS
            case _:
                seconds = _retry_after(error, status)
        if seconds and self._pace:
            self._pace.pause(seconds)
        return TransientError(message, seconds or None)

    async def _connect(self, failed: ApiClient | None) -> None:
        """Read the credentials anew, unless another call has done so since `failed` was in use."""
        async with self._connecting:
            if self._client is not failed:
                return
            client = ApiClient(await load_configuration(self._kubeconfig))
            client.user_agent = USER_AGENT
            if failed is not None:
                logger.info("The API server refused the credentials; they were read anew")
                self._stale.append(failed)
                for old in self._stale[:-1]:  # no call of an earlier round can still be on its way
                    await old.close()  # type: ignore[no-untyped-call]
                del self._stale[:-1]
            self._client = client


class _UnauthorizedError(OperatorError):
    """401: the credentials have run out."""


def _status_object(error: ApiException) -> dict[str, Any]:
    """Return the `Status` that the server explains an error with; empty if it sent none."""
    with suppress(ValueError, TypeError):
        body = json.loads(error.body or "")
        if isinstance(body, dict):
            return body
    return {}


def _is_of_another_uid(status: Mapping[str, Any]) -> bool:
    """Whether an apply with a uid met an object that was made anew: the API server calls the uid an immutable field."""
    causes = (status.get("details") or {}).get("causes") or ()
    return any(cause.get("field") == "metadata.uid" for cause in causes)


def _retry_after(error: ApiException, status: Mapping[str, Any]) -> float:
    """Return for how long the server wants to be left alone, in seconds; 0 if it does not say."""
    header = (error.headers or {}).get("Retry-After", "")
    details = status.get("details") or {}
    seconds = float(details.get("retryAfterSeconds") or 0) if isinstance(details, dict) else 0.0
    if header:
        try:
            seconds = float(header)
        except ValueError:
            with suppress(ValueError):
                seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS)
