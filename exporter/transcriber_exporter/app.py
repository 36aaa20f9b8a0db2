"""The HTTP side: probes for the kubelet, the drain for its preStop hook, the load for the operator, metrics, /status for people."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from transcriber_exporter.canary import Verdict
from transcriber_exporter.drain import Drain
from transcriber_exporter.looks import Looks
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.watch import Watch

PROMETHEUS_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
DRAINING: Final = Verdict(False, "draining: this pod takes no new work")
Handler = Callable[[web.Request], Awaitable[web.Response]]


class Sidecar:
    """Answers for one Triton."""

    def __init__(self, watch: Watch, looks: Looks, drain: Drain, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._watch = watch
        self._looks = looks
        self._drain = drain
        self._metrics = metrics
        self._clock = clock
        metrics.show("transcriber_ready", "1 where this pod takes work", lambda: self.readiness().holds)
        metrics.show("transcriber_live", "0 where Triton is to be restarted", lambda: self.liveness().holds)
        metrics.show("transcriber_draining", "1 where this pod takes no new work and finishes what it has", drain.begun.is_set)

    def started(self) -> Verdict:
        """Whether Triton has passed a canary since it came up."""
        return self._watch.state.started()

    def readiness(self) -> Verdict:
        """Whether this pod takes work."""
        return DRAINING if self._drain.begun.is_set() else self._watch.state.readiness(self._clock())

    def liveness(self) -> Verdict:
        """Whether Triton need not be restarted. In a drain no canaries run, and a restart would lose what is in flight."""
        return Verdict(True) if self._drain.begun.is_set() else self._watch.state.liveness(self._clock())

    def application(self) -> web.Application:
        """Return the routes."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/livez", _probe(lambda: Verdict(True))),
                web.get("/triton/startup", _probe(self.started)),
                web.get("/triton/ready", _probe(self.readiness)),
                web.get("/triton/live", _probe(self.liveness)),
                web.get("/drain", self._answer_drain),
                web.get("/load", self._answer_load),
                web.get("/metrics", self._answer_metrics),
                web.get("/status", self._answer_status),
            ]
        )
        return application

    async def _answer_drain(self, _request: web.Request) -> web.Response:
        # A Triton that is killed for its silence finishes nothing; its restart would only wait.
        return web.json_response(await self._drain.wait(is_stuck=not self.liveness().holds))

    async def _answer_load(self, _request: web.Request) -> web.Response:
        return web.json_response(self._load())

    def _load(self) -> dict[str, Any]:
        return self._looks.known.answer(self._clock(), is_draining=self._drain.begun.is_set())

    async def _answer_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": PROMETHEUS_TEXT})

    async def _answer_status(self, _request: web.Request) -> web.Response:
        watch, now = self._watch, self._clock()
        last = watch.state.last
        return web.json_response(
            {
                "started": asdict(self.started()),
                "ready": asdict(self.readiness()),
                "live": asdict(self.liveness()),
                "last_canary": None if last is None else asdict(last) | {"ended_seconds_ago": round(now - watch.state.ended_at, 1)},
                **self._load(),
            }
        )


def _probe(ask: Callable[[], Verdict]) -> Handler:
    async def answer(_request: web.Request) -> web.Response:
        verdict = ask()
        status = HTTPStatus.OK if verdict.holds else HTTPStatus.SERVICE_UNAVAILABLE
        return web.Response(text=f"{verdict.message or 'ok'}\n", status=status)

    return answer
