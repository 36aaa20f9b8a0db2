"""A proxy between one client, the operator, and kube-apiserver: it records every write and injects faults.

    async with FaultProxy(Upstream(plane.server, plane.authority.certificate)) as proxy:
        operator's kubeconfig: plane.kubeconfig_for(namespace, service_account, proxy.url)
        proxy.rules.add(Rule("apply", "deployments", nth=2, action=Status(409)))

HTTP/1.1 and JSON; no upgraded connections (exec, attach, port-forward) and no following of logs.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from tests.rig.api_calls import Call, json_object, metadata_of, parse_call, with_name_of
from tests.rig.certificates import KeyPair
from tests.rig.faults import Action, Cut, Delay, ErrorEvent, HalfLine, KillProcess, Rules, Silent, Status, error_line, status_object
from tests.rig.processes import LOOPBACK
from tests.rig.watch_relay import WatchRelay, half_of, never
from tests.rig.write_log import WriteLog

BODY_BYTES: Final = 1 << 24  # the API server refuses far smaller ones itself
JSON_TYPE: Final = "application/json"
JSON_HEADERS: Final = CIMultiDictProxy(CIMultiDict({"Content-Type": JSON_TYPE}))
CLOSE_SECONDS: Final = 0.1  # for calls that are open when the proxy ends; 0 would wait for ever
UNREACHABLE: Final = "Unreachable"  # the fault of a write that found no server
# Of one connection, not of the message; and what the HTTP library writes anew.
CONNECTION_HEADERS: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "host"}
)


@dataclass(frozen=True)
class Upstream:
    """The API server, and as whom the proxy speaks to it.

    With a `client` certificate or a `token` the proxy authenticates in the client's place; with neither, the client's own token
    is passed on.
    """

    server: str
    authority: Path | None = None  # the certificate of its authority; None for plain http
    client: KeyPair | None = None
    token: str = ""

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Return how the server is verified."""
        if self.authority is None:
            return True
        context = ssl.create_default_context(cafile=str(self.authority))
        if self.client:
            context.load_cert_chain(self.client.certificate, self.client.key)
        return context

    def headers(self, received: Mapping[str, str]) -> CIMultiDict[str]:
        """Return the headers of a request as they are sent on: uncompressed, so that the answer can be read."""
        headers = _end_to_end(received)
        headers["Accept-Encoding"] = "identity"
        if self.client or self.token:
            headers.pop("Authorization", None)
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers


@dataclass(frozen=True)
class Answer:
    """What the server said, or a rule in its place."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class FaultProxy:
    """Listens on a port of loopback; `rules` may change at any time, `log` is what has passed. Use as async context manager."""

    def __init__(self, upstream: Upstream, writes_file: Path | None = None, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: serve https with it, else plain http. `writes_file`: a file that every write is added to as JSON."""
        self.rules = Rules()
        self.log = WriteLog(writes_file)
        self.url = ""
        self._upstream = upstream
        self._tls = tls
        self._watches: list[tuple[web.Request, Call]] = []
        self._forwarding: set[asyncio.Task[tuple[Answer | None, Action | None]]] = set()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._upstream.ssl_context(), limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            auto_decompress=False,
            skip_auto_headers=["User-Agent"],
        )
        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A handler is cancelled when its client leaves, which ends the watch upstream; writes on their way are shielded.
        self._runner = web.AppRunner(application, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, 0, ssl_context=self._tls)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"{'https' if self._tls else 'http'}://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        if self._forwarding:
            await asyncio.wait(self._forwarding, timeout=CLOSE_SECONDS)
        await self._session.close()  # which ends what the server has still not answered
        await asyncio.gather(*self._forwarding, return_exceptions=True)

    def cut_watches(self, resource: str | None = None) -> int:
        """Close the connections of the open watches, of one resource or of all; returns how many."""
        cut = [request for request, call in self._watches if resource in {None, call.resource}]
        for request in cut:
            _abort(request)
        return len(cut)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = with_name_of(parse_call(request.method, request.raw_path, request.headers.get("Content-Type", "")), body)
        self.log.begin(call, len(body))
        armed = self.rules.firing(call, "before")
        if armed is not None:
            if not isinstance(armed.rule.action, Delay):
                return await self._fail_before(request, call, armed.rule.action)
            await asyncio.sleep(armed.rule.action.seconds)
        if call.verb == "watch":
            return await self._watch(request, call)
        forwarding = asyncio.create_task(self._forward(request, call, body))
        self._forwarding.add(forwarding)
        forwarding.add_done_callback(self._forwarding.discard)
        return await self._finish(request, *await asyncio.shield(forwarding))

    async def _fail_before(self, request: web.Request, call: Call, action: Action) -> web.StreamResponse:
        """Answer a call that the server never hears of."""
        if call.is_write:
            self.log.end(call, None, "", call.name, type(action).__name__)
        match action:
            case Status():
                return self._respond(request, _status_answer(action))
            case ErrorEvent():
                return self._respond(request, Answer(200, JSON_HEADERS, error_line(action.code)))
            case HalfLine():
                response = await _open(request, 200, JSON_HEADERS)
                return await self._send_and_close(request, response, half_of(error_line(500)))
            case Silent():
                if call.verb == "watch":
                    await _open(request, 200, JSON_HEADERS)
                return await never()
            case KillProcess():
                action.kill()
        return _abort(request)

    async def _forward(self, request: web.Request, call: Call, body: bytes) -> tuple[Answer | None, Action | None]:
        """Ask the server and record the write; returns its answer, None if it gave none, and what a rule does to it."""
        answer = await self._ask(request, body)
        armed = self.rules.firing(call, "after") if answer else None
        action = armed.rule.action if armed else None
        if call.is_write:
            metadata = metadata_of(json_object(answer.body)) if answer else {}
            self.log.end(
                call,
                answer.status if answer else None,
                metadata.get("uid", ""),
                call.name or metadata.get("name", ""),
                type(action).__name__ if action else "" if answer else UNREACHABLE,
            )
        if isinstance(action, KillProcess):
            action.kill()
        return answer, action

    async def _ask(self, request: web.Request, body: bytes) -> Answer | None:
        try:
            async with self._request(request, body) as response:
                return Answer(response.status, _end_to_end(response.headers), await response.read())
        except aiohttp.ClientError:
            return None

    async def _finish(self, request: web.Request, answer: Answer | None, action: Action | None) -> web.StreamResponse:
        """Give the client its answer, or what a rule makes of it."""
        if answer is None:
            return _abort(request)
        match action:
            case Status():
                return self._respond(request, _status_answer(action))
            case HalfLine():
                response = await _open(request, answer.status, answer.headers, len(answer.body))
                return await self._send_and_close(request, response, half_of(answer.body))
            case Silent():
                return await never()
            case Cut() | KillProcess():
                return _abort(request)
            case Delay():
                await asyncio.sleep(action.seconds)
        return self._respond(request, answer)

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        try:
            async with self._request(request, b"") as upstream:
                if upstream.status != 200:
                    return self._respond(request, Answer(upstream.status, _end_to_end(upstream.headers), await upstream.read()))
                if upstream.content_type != JSON_TYPE:
                    return web.Response(
                        status=501, text=f"the fault proxy reads watches in {JSON_TYPE}, not {upstream.content_type}\n"
                    )
                response = await _open(request, 200, _end_to_end(upstream.headers))
                self._watches.append((request, call))
                self.log.watch_opened(call)
                try:
                    ending = await WatchRelay(self.rules, call, response, self.log).run(upstream.content)
                finally:
                    self._watches.remove((request, call))
        except aiohttp.ClientError:
            return _abort(request)
        if ending == "close":
            _close(request)
        elif ending == "abort":
            _abort(request)
        return response

    def _request(self, request: web.Request, body: bytes) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.request(
            request.method,
            URL(self._upstream.server + request.raw_path, encoded=True),
            headers=self._upstream.headers(request.headers),
            data=body or None,
            allow_redirects=False,
        )

    def _respond(self, request: web.Request, answer: Answer) -> web.Response:
        self.log.bytes_to_client += len(answer.body)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _send_and_close(self, request: web.Request, response: web.StreamResponse, part: bytes) -> web.StreamResponse:
        self.log.bytes_to_client += len(part)
        await response.write(part)
        _close(request)
        return response


async def _open(request: web.Request, status: int, headers: Mapping[str, str], length: int | None = None) -> web.StreamResponse:
    """Begin an answer of this many bytes, or, with None, one whose end is not known."""
    response = web.StreamResponse(status=status, headers=headers)
    if length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = length
    await response.prepare(request)
    return response


def _close(request: web.Request) -> None:
    """Close the connection once what was written has left."""
    if request.transport is not None:
        request.transport.close()


def _abort(request: web.Request) -> web.StreamResponse:
    """Close the connection at once; the returned response goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in CONNECTION_HEADERS:
        kept.popall(name, None)
    return kept


def _status_answer(action: Status) -> Answer:
    headers = CIMultiDict(JSON_HEADERS)
    if action.retry_after_seconds is not None:
        headers["Retry-After"] = str(action.retry_after_seconds)
    return Answer(action.code, headers, json.dumps(status_object(action)).encode())
