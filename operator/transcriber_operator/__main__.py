"""`python -m transcriber_operator`: stand by for the Lease, then reconcile until stopped.

Exit codes: 0 stopped when asked to, 1 could not go on (the pod is started anew), 2 the settings are wrong.
"""

import argparse
import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Collection
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from typing import Final, NoReturn

import kopf
from prometheus_client import disable_created_metrics

from transcriber_operator import log
from transcriber_operator.clock import SystemClock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.pace import Pace
from transcriber_operator.cluster.resources import TRANSCRIBER_DEPLOYMENT
from transcriber_operator.debug import Journal
from transcriber_operator.decide.observed import Installation
from transcriber_operator.decide.pipeline import decide
from transcriber_operator.errors import ForbiddenError, KindMissingError, NotFoundError, OperatorError, TransientError
from transcriber_operator.execute.cleanup import Cleaner
from transcriber_operator.execute.executor import Executor
from transcriber_operator.execute.lease import Lease, LeaseTimes
from transcriber_operator.handlers.health import Health
from transcriber_operator.handlers.lifecycle import KARPENTER, handlers, operator_settings, watched_namespaces
from transcriber_operator.handlers.racing import unless
from transcriber_operator.handlers.reconcile import Reconciler
from transcriber_operator.handlers.schedule import Timing
from transcriber_operator.handlers.servers import debug_app, health_app, metrics_app, serving
from transcriber_operator.handlers.wakes import Wakes
from transcriber_operator.metrics import Metrics
from transcriber_operator.observe.gatherer import Gatherer
from transcriber_operator.observe.load import LoadReader
from transcriber_operator.observe.progress import ProgressReader
from transcriber_operator.settings import Settings, SettingsError, describe

FAILED: Final = 1
MISCONFIGURED: Final = 2
EXIT_SECONDS: Final = 10.0
AWAY_SECONDS: Final = 2.0  # between questions to an API server that does not answer
KARPENTER_SECONDS: Final = 60.0  # between questions whether there is Karpenter by now

logger = logging.getLogger("transcriber_operator")


class Operator:
    """The parts of one process, put together."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.metrics = Metrics()
        self.journal = Journal()
        self.wakes = Wakes()
        self.health = Health(self.clock)
        times = LeaseTimes()
        identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.lease_kube = Kube(settings.kubeconfig, self.metrics, call_seconds=times.answer)
        self.lease = Lease(self.lease_kube, self.clock, settings.operator_namespace, settings.lease_name, identity, times)
        self.kube = Kube(settings.kubeconfig, self.metrics, Pace(settings.api_calls_per_second, self.clock), self.lease.require)
        self.progress = ProgressReader()
        self.load = LoadReader(self.clock)
        self.cleaner = Cleaner(self.kube, identity, self.clock)
        installation = Installation(
            serving_image=settings.serving_image,
            namespace=settings.operator_namespace,
            https_hosts=settings.https_hosts,
            scaling_url=settings.metrics_url,
            metrics_namespaces=settings.metrics_namespaces,
        )
        self.reconciler = Reconciler(
            Gatherer(self.kube, self.progress, self.load, installation, self.clock),
            Executor(self.kube, identity, self.metrics, self.clock),
            decide,
            self.clock,
            self.metrics,
            self.journal,
            self.wakes,
            Timing(resync_seconds=settings.resync_seconds),
        )
        self.metrics.show_age("heartbeat_age_seconds", "Age of the last heartbeat in seconds.", self.health.seconds_since_heartbeat)
        self.metrics.show_age("pass_age_seconds", "Seconds since a pass has ended.", self.reconciler.seconds_since_pass)

    async def run(self) -> int:
        """Run until stopped; returns the exit code."""
        stop = asyncio.Event()
        _stop_on_signals(stop)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                serving(
                    (self.settings.metrics_address, metrics_app(self.metrics)),
                    (self.settings.health_address, health_app(self.health, self.reconciler.seconds_since_pass)),
                    (self.settings.debug_address, debug_app(self.journal)),
                )
            )
            for part in (self.progress, self.load, self.kube, self.lease_kube):
                await stack.enter_async_context(part)
            stopping = asyncio.ensure_future(stop.wait())
            await unless(stopping, self._require_kind())
            await unless(stopping, self.lease.acquire())
            code = await self._lead(stop) if self.lease.is_held else 0
            stopping.cancel()
            return code

    async def _require_kind(self) -> None:
        """Raise OperatorError unless our kind exists and may be read: Kopf would wait for it in silence.

        An API server that is away is waited for: a container that keeps ending is started ever more rarely.
        """
        for namespace in self.settings.namespaces or (None,):
            while not await self._has_kind(namespace):
                await self.clock.sleep(AWAY_SECONDS)

    async def _has_kind(self, namespace: str | None) -> bool:
        """Return False if the API server does not say."""
        try:
            await self.kube.probe(TRANSCRIBER_DEPLOYMENT, namespace)
        except (NotFoundError, KindMissingError) as error:
            raise OperatorError(f"the CustomResourceDefinition of TranscriberDeployment is missing; install it: {error}") from None
        except ForbiddenError:
            raise
        except TransientError as error:
            logger.warning("The API server does not answer as it should; trying again: %s", error)
            return False
        return True

    async def _lead(self, stop: asyncio.Event) -> int:
        self.health.lead()
        self.metrics.is_leading.set(1)
        self.lease.guard(_end_for_want_of_lease)
        keeping = asyncio.create_task(self.lease.keep(), name="lease")
        sees_karpenter = await self._sees_karpenter()
        if sees_karpenter:
            await self.cleaner.sweep(self.settings.namespaces)
        appearing = asyncio.create_task(_never() if sees_karpenter else self._karpenter_appears(), name="karpenter")
        before = asyncio.all_tasks()
        roots = await self._start_watching(stop, sees_karpenter)
        ended, _ = await asyncio.wait({keeping, appearing, *roots}, return_when=asyncio.FIRST_COMPLETED)
        if ended == {keeping}:
            _end_for_want_of_lease()
        if ended == {appearing}:
            logger.warning("Karpenter is there now; the operator ends to be started anew, and then watches its nodes")
            stop.set()
        # One part of Kopf has ended, so all must; that it manages to is not taken for granted (seen: a watch that waits for ever
        # for a login that nobody makes any more). Alive but deaf is the one thing that this process must never be.
        ending = asyncio.ensure_future(kopf.run_tasks(roots, ignored=before))
        await asyncio.wait({ending}, timeout=EXIT_SECONDS)
        keeping.cancel()
        appearing.cancel()
        await self.lease.release()
        if not ending.done():
            _end_at_once(f"Kopf did not end within {EXIT_SECONDS:.0f} s")
        if error := ending.exception():
            logger.critical("The watches ended, and so does the operator", exc_info=error)
            return FAILED
        return 0 if stop.is_set() and ended != {appearing} else FAILED

    async def _sees_karpenter(self) -> bool:
        """Return whether NodePools and NodeClaims exist and may be watched."""
        try:
            await self._probe_karpenter()
        except KindMissingError:
            return False
        except TransientError as error:
            logger.info("NodePools and NodeClaims are not watched, so that what becomes of nodes is noticed late: %s", error)
            return False
        return True

    async def _karpenter_appears(self) -> None:
        """Wait until Karpenter's kinds can be watched: Kopf takes on no other kind once it runs."""
        while True:
            await self.clock.sleep(KARPENTER_SECONDS)
            with suppress(OperatorError):
                await self._probe_karpenter()
                return

    async def _probe_karpenter(self) -> None:
        for kind in KARPENTER:
            await self.kube.probe(kind, None)

    async def _start_watching(self, stop: asyncio.Event, watches_karpenter: bool) -> Collection["asyncio.Task[None]"]:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Kopf takes the signals for itself when it starts; taken back, they also tell us that the end is wanted.
        ready.add_done_callback(lambda _: _stop_on_signals(stop))
        namespaces = watched_namespaces(self.settings)
        return await kopf.spawn_tasks(
            registry=handlers(
                self.settings,
                self.reconciler,
                self.cleaner,
                self.wakes,
                self.health,
                self.lease,
                watches_karpenter=watches_karpenter,
            ),
            settings=operator_settings(self.lease),
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
            ready_flag=ready,
        )


async def _never() -> None:
    await asyncio.Event().wait()


def _stop_on_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


def _end_for_want_of_lease() -> NoReturn:
    """End at once: nothing that is under way, Kopf's included, may write any more."""
    _end_at_once("The Lease is lost: another operator may be at work")


def _end_at_once(why: str) -> NoReturn:
    """End without another await."""
    logger.critical(why)
    log.flush()
    os._exit(FAILED)


def main() -> int:
    """Read the settings and run."""
    parser = argparse.ArgumentParser(
        prog="python -m transcriber_operator",
        description="The operator of TranscriberDeployments. It takes its settings from the environment:",
        epilog=f"{describe()}\n\nExit codes: 0 stopped when asked to; 1 could not go on, start it anew; 2 wrong settings.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("transcriber-operator"))
    parser.parse_args()
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\nSee python -m transcriber_operator --help.\n")
        return MISCONFIGURED
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more per counter, of the time that it was made
    log.configure(settings.log_format, settings.log_level, sys.stderr)
    try:
        return asyncio.run(Operator(settings).run())
    except OperatorError as error:
        logger.critical("Cannot start: %s", error)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
