"""The reconcile loop of one resource: observe, decide, execute, rest; and what becomes of failures."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Protocol

from transcriber_api.status import Status
from transcriber_operator.clock import Clock
from transcriber_operator.debug import Explanation, Journal
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.errors import ConflictError, ForbiddenError, LeaseLostError, OperatorError, TerminalError, TransientError
from transcriber_operator.execute.refusal import refused_status
from transcriber_operator.handlers.racing import unless
from transcriber_operator.handlers.schedule import Attempts, End, Outcome, Timing, plan
from transcriber_operator.handlers.wakes import Wakes
from transcriber_operator.log import about
from transcriber_operator.metrics import Metrics

PASSES_AT_ONCE: Final = 32

Decide = Callable[[Observed, datetime], Decision]

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Reads the cluster."""

    async def observe(self, namespace: str, name: str) -> Observed | None:
        """Return what there is of a resource, None if it is gone."""
        ...


class Writer(Protocol):
    """Writes to the cluster."""

    async def execute(self, observed: Observed, decision: Decision) -> None:
        """Carry out a decision."""
        ...

    async def write_status(self, resource: Manifest, status: Status) -> None:
        """Write a status."""
        ...


class Reconciler:
    """Runs the loops of all resources; a pass of one holds one of a few slots, for no longer than its deadline."""

    def __init__(
        self,
        gatherer: Observer,
        executor: Writer,
        decide: Decide,
        clock: Clock,
        metrics: Metrics,
        journal: Journal,
        wakes: Wakes,
        timing: Timing | None = None,
    ) -> None:
        self._gatherer = gatherer
        self._executor = executor
        self._decide = decide
        self._clock = clock
        self._metrics = metrics
        self._journal = journal
        self._wakes = wakes
        self._timing = timing or Timing()
        self._slots = asyncio.Semaphore(PASSES_AT_ONCE)
        self._passed_at = clock.monotonic()

    def seconds_since_pass(self) -> float:
        """Return for how long no pass has ended, of whatever resource."""
        return self._clock.monotonic() - self._passed_at

    async def look_after(self, namespace: str, name: str, uid: str, generation: int, stopped: Awaitable[object]) -> None:
        """Make passes over one resource, seen at `generation`, until `stopped`; a pass under way is then given up."""
        stopping = asyncio.ensure_future(stopped)
        signal = self._wakes.open(namespace, name, generation)
        self._metrics.resources.inc()
        attempts = Attempts()
        try:
            while not stopping.done():
                signal.begin()
                end = await unless(stopping, self.run_pass(namespace, name, uid))
                if end is None:
                    return
                attempts, rest = plan(end, attempts, self._timing, random.uniform(-1, 1))  # noqa: S311 - spreads load, hides nothing
                await unless(stopping, signal.rest(rest, self._timing.debounce_seconds))
                if signal.is_respecified:
                    attempts = Attempts()
        finally:
            stopping.cancel()
            self._wakes.close(namespace, name, signal)
            self._journal.forget(namespace, name)
            self._metrics.resources.dec()

    async def run_pass(self, namespace: str, name: str, uid: str) -> End:
        """Make one pass over the resource of this very uid; all failures are told in its end."""
        async with self._slots:
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._timing.pass_seconds):
                    end = End(Outcome.SETTLED, await self._pass(namespace, name, uid))
            except Exception as error:
                end = self._end_of(error, namespace, name)
            self._passed_at = self._clock.monotonic()
            self._metrics.passes.labels(end.outcome).inc()
            self._metrics.pass_seconds.observe(self._passed_at - started)
            return end

    async def _pass(self, namespace: str, name: str, uid: str) -> float | None:
        started = self._clock.monotonic()
        observed = await self._gatherer.observe(namespace, name)
        if observed is None or observed.resource["metadata"]["uid"] != uid:
            return None  # gone: the watch will say so
        now = self._clock.now()
        decision = Decision(details=("the decision failed; the operator's log has the traceback",))
        try:
            decision = self._decide(observed, now)
            await self._carry_out(observed, decision, now)
        finally:
            seconds = self._clock.monotonic() - started
            self._journal.record(namespace, name, Explanation(observed=observed, now=now, decision=decision, pass_seconds=seconds))
        return decision.requeue_after_seconds

    async def _carry_out(self, observed: Observed, decision: Decision, now: datetime) -> None:
        try:
            await self._executor.execute(observed, decision)
        except (TerminalError, ForbiddenError) as error:
            status = refused_status(observed.resource, decision.status, error, now)
            if status is not None:
                await self._executor.write_status(observed.resource, status)
            raise

    def _end_of(self, error: Exception, namespace: str, name: str) -> End:
        match error:
            case ConflictError():
                outcome, level = Outcome.CONFLICT, logging.INFO
            case TerminalError():
                outcome, level = Outcome.TERMINAL, logging.ERROR
            case LeaseLostError():
                outcome, level = Outcome.LEASE_LOST, logging.ERROR
            case OperatorError():
                outcome, level = Outcome.TRANSIENT, logging.WARNING
            case TimeoutError():
                outcome, level = Outcome.TRANSIENT, logging.WARNING
                error = TransientError(f"no end within {self._timing.pass_seconds:.0f} s; given up")
            case _:
                subject = about(namespace=namespace, name=name, reason="Bug")
                logger.error("Pass failed in a way that nobody foresaw", exc_info=error, extra=subject)
                return End(Outcome.TRANSIENT)
        logger.log(level, "Pass ended: %s", error, extra=about(namespace=namespace, name=name, reason=outcome.value))
        return End(outcome, error.retry_after_seconds if isinstance(error, TransientError) else None)
