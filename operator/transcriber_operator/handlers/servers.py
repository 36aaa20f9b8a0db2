"""The operator's own HTTP servers: metrics and what scalers read, health and, on loopback, the last pass of each resource."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiohttp import web

from transcriber_operator.debug import Journal
from transcriber_operator.errors import OperatorError
from transcriber_operator.handlers.health import Health
from transcriber_operator.metrics import CONTENT_TYPE, Metrics
from transcriber_operator.settings import Address

# No connection outlives its answer: Kopf takes every task that is left when it ends for its own and waits for it.
KEEPALIVE_SECONDS: Final = 0


def metrics_app(metrics: Metrics) -> web.Application:
    """Return the server of /metrics, and of /scaling/NAMESPACE/NAME: the replicas that the work calls for, which KEDA reads.

    Where no load is heard of, the last decision stands: it never went below what was there.
    """

    async def read(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def scaling(request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        desired = metrics.figures.desired(namespace, name)
        if desired is None:
            return web.json_response(
                {"error": f"no decision about {namespace}/{name}; does it exist, and is it served?"}, status=404
            )
        return web.json_response({"desiredReplicas": desired})

    app = web.Application()
    app.router.add_get("/metrics", read)
    app.router.add_get("/scaling/{namespace}/{name}", scaling)
    return app


def health_app(health: Health, seconds_since_pass: Callable[[], float]) -> web.Application:
    """Return the server of /healthz: 200, or 503 once the operator is deaf."""

    async def read(_: web.Request) -> web.Response:
        return web.json_response(health.report(seconds_since_pass()), status=200 if health.is_healthy else 503)

    app = web.Application()
    app.router.add_get("/healthz", read)
    return app


def debug_app(journal: Journal) -> web.Application:
    """Return the server of /debug, a list, and /debug/NAMESPACE/NAME, a pass."""

    async def names(_: web.Request) -> web.Response:
        return web.json_response(journal.names())

    async def read(request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        found = journal.read(namespace, name)
        if found is None:
            return web.json_response({"error": f"no pass of {namespace}/{name}; known are {journal.names()}"}, status=404)
        return web.Response(body=found, content_type="application/json")

    app = web.Application()
    app.router.add_get("/debug", names)
    app.router.add_get("/debug/{namespace}/{name}", read)
    return app


@asynccontextmanager
async def serving(*servers: tuple[Address, web.Application]) -> AsyncIterator[tuple[Address, ...]]:
    """Run servers; gives the addresses that they listen on. Raises OperatorError for an address that is taken."""
    async with AsyncExitStack() as stack:
        bound = []
        for address, app in servers:
            runner = web.AppRunner(app, access_log=None, keepalive_timeout=KEEPALIVE_SECONDS, handle_signals=False)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            try:
                await web.TCPSite(runner, address.host, address.port).start()
            except OSError as error:
                raise OperatorError(f"cannot listen on {address}: {error.strerror}; choose another address") from error
            bound.append(_bound(runner.addresses[0]))
        yield tuple(bound)


def _bound(name: Any) -> Address:
    host, port = name[:2]
    return Address(host, port)
