"""What the tests of the operator's I/O side share: a clock that they hold in their hands, objects, and a fake API server.

The fake answers what a test tells it to, for failures that the real one does not give on demand; what the real one does with
server-side apply, preconditions and leases is tested against it, in tests/api.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from transcriber_operator.decide.decision import Figures
from transcriber_operator.decide.observed import Installation, Observed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
START = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
INSTALLATION = Installation(serving_image="serving:1", namespace="transcriber-system")


class FakeClock:
    """Time passes only in `sleep`, or where a test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def resource(name: str = "whisper", uid: str = "uid-1", generation: int = 1, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "speech", "name": name, "uid": uid, "generation": generation, "resourceVersion": "1"}
    return {"apiVersion": "serving.transcriber.dev/v1alpha1", "kind": "TranscriberDeployment", "metadata": metadata, **fields}


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "speech", "name": name, **metadata}, "data": {}}


def serving_pod(name: str, address: str = "127.0.0.1", phase: str = "Running", uid: str = "uid-pod") -> dict[str, Any]:
    labels = {"app.kubernetes.io/component": "serving", "serving.transcriber.dev/deployment": "whisper"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "speech", "name": name, "uid": uid, "labels": labels},
        "spec": {"containers": [{"name": "triton"}]},
        "status": {"phase": phase, "podIP": address},
    }


def observed(**fields: Any) -> Observed:
    return Observed(installation=INSTALLATION, **{"resource": resource(), **fields})


def figures(**given: Any) -> Figures:
    known = {
        "desired": 2,
        "ready": 1,
        "queued_audio_seconds": 60.0,
        "in_flight_audio_seconds": 30.0,
        "arrival_rate": 1.5,
        "replica_throughput": 20.0,
        "metrics_age_seconds": 0.5,
        "cost_per_hour": 3.6,
        "allowed_per_hour": None,
        "processed_audio_seconds": 10.0,
        "pools": (),
    }
    return Figures(**{**known, **given})


def status_object(code: int, message: str, **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "details": details}


def refusal(code: int, message: str, headers: dict[str, str] | None = None, **details: Any) -> web.Response:
    return web.json_response(status_object(code, message, **details), status=code, headers=headers)


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """Serve everything with `handler` on loopback; gives HOST:PORT."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


def write_kubeconfig(file: Path, address: str, token: str = "first") -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://{address}"}}],
        "users": [{"name": "test", "user": {"token": token}}],
    }
    file.write_text(yaml.safe_dump(document))
    return file
