"""`python -m transcriber_exporter`: the sidecar of a serving pod.

It answers the pod's probes for Triton, which calls itself ready when it is not: a short clip is transcribed now and then, and
Triton is ready while the words are right. Before the pod ends, GET /drain waits until nothing is in flight.

  GET /triton/startup  200 once a canary has passed since Triton came up
  GET /triton/ready    200 while the last canary passed and the pod is not draining; a long queue is no failure
  GET /triton/live     503 when Triton has shown no life for long: restart it
  GET /drain           stop being ready, wait until nothing is in flight or the time is up, then say what is left
  GET /load            what Triton holds and has done, for the operator: JSON, with "load": null and a reason where it does not say
  GET /livez           200 while this process turns
  GET /metrics         Prometheus
  GET /status          all of it as JSON, for people

Example: python -m transcriber_exporter --triton 127.0.0.1:8001 --triton-metrics http://127.0.0.1:8002/metrics \\
             --listen 127.0.0.1:8003 --drain-seconds 105
"""

import argparse
import asyncio
import logging
import math
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

import aiohttp
import prometheus_client
from aiohttp import web

from transcriber_exporter.app import Sidecar
from transcriber_exporter.canary import Timing
from transcriber_exporter.drain import Drain
from transcriber_exporter.endpoint import Endpoint, metrics_url
from transcriber_exporter.looks import Looks
from transcriber_exporter.metrics import Metrics
from transcriber_exporter.triton import CONNECT_SECONDS, Triton
from transcriber_exporter.watch import Watch

LAST_ANSWERS_SECONDS: Final = 2.0  # for responses on their way when this process is told to end
log = logging.getLogger("transcriber_exporter")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; returns an exit code, with one line on stderr where it is not 0."""
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        asyncio.run(_run(options))
    except OSError as error:
        log.error("--listen %s: %s; give an address of this machine and a free port", options.listen, error.strerror)
        return 1
    return 0


async def _run(options: argparse.Namespace) -> None:
    """Serve until a signal, and until a drain that runs has ended; raises OSError where it cannot listen."""
    clock, told_to_end = time.monotonic, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_end.set)
    async with aiohttp.ClientSession() as session:
        triton = Triton(options.triton, options.triton_metrics, session)
        metrics = Metrics()
        looks = Looks(triton, metrics, clock)
        watch = Watch(triton, looks, _timing(options), metrics, clock)
        drain = Drain(looks, options.drain_seconds, clock)
        sidecar = Sidecar(watch, looks, drain, metrics, clock)
        runner = web.AppRunner(sidecar.application(), access_log=None, shutdown_timeout=LAST_ANSWERS_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, options.listen.host, options.listen.port).start()
            log.info("listening on %s", Endpoint(*runner.addresses[0][:2]))
            await _watch_until(told_to_end, watch, drain)
        finally:
            await runner.cleanup()


async def _watch_until(told_to_end: asyncio.Event, watch: Watch, drain: Drain) -> None:
    ending = asyncio.create_task(told_to_end.wait())
    while True:
        watching = asyncio.create_task(watch.run(), name="watch")
        draining = asyncio.create_task(drain.begun.wait())
        await asyncio.wait({watching, ending, draining}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            watching.result()  # it never ends by itself: this raises, and the kubelet starts this process anew
        await _cancelled(watching)  # with a canary that may be on its way: no more are needed
        draining.cancel()
        if not drain.begun.is_set():
            return
        undone = asyncio.create_task(drain.undone())
        await asyncio.wait({ending, undone}, return_when=asyncio.FIRST_COMPLETED)
        if not undone.done():
            await _cancelled(undone)
            await drain.wait()
            return
        undone.result()
        watch.state = watch.state.with_triton_gone("Triton has restarted")


async def _cancelled(task: asyncio.Task[None]) -> None:
    """End a task and wait for that."""
    task.cancel()
    await asyncio.wait({task})


def _timing(options: argparse.Namespace) -> Timing:
    return Timing(
        interval=options.canary_interval_seconds,
        deadline=options.canary_deadline_seconds,
        stale_after=options.stale_after_seconds,
        restart_after=options.restart_after_seconds,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(arguments)
    longest = options.canary_interval_seconds + options.canary_deadline_seconds + CONNECT_SECONDS
    if options.stale_after_seconds < longest:
        parser.error(f"--stale-after-seconds: must be at least {longest:g}, or a slow canary would pass and be stale already")
    if options.restart_after_seconds < options.stale_after_seconds:
        parser.error("--restart-after-seconds: must not be below --stale-after-seconds: a pod is not ready before it is restarted")
    return options


def _parser() -> argparse.ArgumentParser:
    timing = Timing()
    parser = argparse.ArgumentParser(
        prog="python -m transcriber_exporter", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--triton", type=Endpoint.parse, required=True, metavar="HOST:PORT", help="Triton's gRPC")
    parser.add_argument("--triton-metrics", type=metrics_url, required=True, metavar="URL", help="Triton's metrics")
    parser.add_argument(
        "--listen", type=Endpoint.parse, required=True, metavar="HOST:PORT", help="where to answer; port 0 picks a free one"
    )
    for name, default, text in (
        ("drain", 105.0, "longest drain; keep it below the pod's grace period"),
        ("canary-interval", timing.interval, "pause after a canary while nothing else shows life"),
        ("canary-deadline", timing.deadline, "a canary gets no answer for so long: Triton is stuck, or its queue is long"),
        ("stale-after", timing.stale_after, "not ready so long after the last sign of life: a canary or decoded tokens"),
        ("restart-after", timing.restart_after, "not live so long after it"),
    ):
        parser.add_argument(f"--{name}-seconds", type=_seconds, default=default, metavar="S", help=f"{text}; default %(default)g")
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 30")
    return seconds


if __name__ == "__main__":
    raise SystemExit(main())
