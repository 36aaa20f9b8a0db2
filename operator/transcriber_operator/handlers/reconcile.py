"""The reconcile loop of one resource: observe, decide, execute, rest with looks at the load; and what becomes of failures."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from transcriber_api.status import Status
from transcriber_operator.clock import Clock
from transcriber_operator.debug import Explanation, Journal
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.decide.scaling_memory import ScalingMemory
from transcriber_operator.decide.status import previous_status
from transcriber_operator.errors import (
    ConflictError,
    ForbiddenError,
    KindMissingError,
    LeaseLostError,
    OperatorError,
    TerminalError,
    TransientError,
)
from transcriber_operator.execute.refusal import refused_status
from transcriber_operator.handlers.racing import unless
from transcriber_operator.handlers.schedule import LOOK_SPREAD, Attempts, End, Outcome, Rest, Timing, plan
from transcriber_operator.handlers.wakes import Signal, Wakes
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

    async def look(self, observed: Observed) -> Observed:
        """Return the same with the load as it is now, without asking the API server."""
        ...

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a resource that is gone."""
        ...


class Writer(Protocol):
    """Writes to the cluster."""

    async def execute(self, observed: Observed, decision: Decision) -> None:
        """Carry out a decision."""
        ...

    async def write_status(self, resource: Manifest, status: Status) -> None:
        """Write a status."""
        ...


@dataclass
class Subject:
    """A resource in the care of one loop, and what its passes and looks hand on to the next."""

    namespace: str
    name: str
    uid: str
    memory: ScalingMemory | None = None
    watched: Observed | None = None  # over which the load is looked at; None: only a pass can tell what to do


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
        self._loops: dict[str, asyncio.Event] = {}  # by UID; set once a loop has ended

    def seconds_since_pass(self) -> float:
        """Return for how long no pass has ended, of whatever resource."""
        return self._clock.monotonic() - self._passed_at

    async def look_after(self, namespace: str, name: str, uid: str, generation: int, stopped: Awaitable[object]) -> None:
        """Make passes over one resource, seen at `generation`, until `stopped`; a pass under way is then given up."""
        stopping = asyncio.ensure_future(stopped)
        subject = Subject(namespace, name, uid)
        signal = self._wakes.open(namespace, name, generation)
        ended = self._loops[uid] = asyncio.Event()
        self._metrics.resources.inc()
        attempts = Attempts()
        try:
            while not stopping.done():
                signal.begin()
                end = await unless(stopping, self.run_pass(subject))
                if end is None:
                    return
                attempts, rest = plan(end, attempts, self._timing, _spread())
                await unless(stopping, self._rest(subject, signal, rest))
                if signal.is_respecified:
                    attempts = Attempts()
        finally:
            stopping.cancel()
            self._wakes.close(namespace, name, signal)
            self._forget(subject)
            self._metrics.resources.dec()
            self._loops.pop(uid, None)
            ended.set()

    async def ended(self, uid: str) -> None:
        """Wait until no loop looks after the resource of this uid."""
        if uid in self._loops:
            await self._loops[uid].wait()

    async def run_pass(self, subject: Subject) -> End:
        """Make one pass over the resource of this very uid; all failures are told in its end."""
        async with self._slots:
            started = self._clock.monotonic()
            try:
                async with asyncio.timeout(self._timing.pass_seconds):
                    end = End(Outcome.SETTLED, await self._pass(subject))
            except Exception as error:
                end = self._end_of(error, subject.namespace, subject.name)
            self._passed_at = self._clock.monotonic()
            self._metrics.passes.labels(end.outcome).inc()
            self._metrics.pass_seconds.observe(self._passed_at - started)
            return end

    async def _pass(self, subject: Subject) -> float | None:
        """Return in how many seconds the decision wants another pass."""
        started = self._clock.monotonic()
        subject.watched = None
        observed = await self._gatherer.observe(subject.namespace, subject.name)
        if observed is None or observed.resource["metadata"]["uid"] != subject.uid:
            return None  # gone: the watch will say so
        observed = observed.model_copy(update={"memory": subject.memory})
        now = self._clock.now()
        decision = Decision(details=("the decision failed; the operator's log has the traceback",))
        try:
            decision = self._decide(observed, now)
            self._take_in(subject, decision)
            self._show_conditions(subject, observed, decision.status)
            await self._carry_out(subject, observed, decision, now)
        finally:
            seconds = self._clock.monotonic() - started
            explanation = Explanation(observed=observed, now=now, decision=decision, pass_seconds=seconds)
            self._journal.record(subject.namespace, subject.name, explanation)
        if not decision.watches_load:
            return decision.requeue_after_seconds
        if writes(decision):  # what was observed is no longer so
            return min(self._timing.look_seconds, decision.requeue_after_seconds or self._timing.look_seconds)
        subject.watched = observed
        return decision.requeue_after_seconds

    async def _rest(self, subject: Subject, signal: Signal, rest: Rest) -> None:
        """Wait for the next pass, and meanwhile look at the load where it may call for one."""
        until = self._clock.monotonic() + rest.seconds
        while (left := until - self._clock.monotonic()) > 0:
            pause = self._timing.look_seconds * (1 + LOOK_SPREAD * _spread()) if subject.watched else left
            if await signal.rest(Rest(min(pause, left), rest.until), self._timing.debounce_seconds):
                return
            if subject.watched and await self._calls_for_pass(subject, subject.watched):
                return

    async def _calls_for_pass(self, subject: Subject, watched: Observed) -> bool:
        """Look at the load: whether the decision would now write something, over what the last pass observed."""
        try:
            observed = await self._gatherer.look(watched)
            decision = self._decide(observed.model_copy(update={"memory": subject.memory}), self._clock.now())
            self._take_in(subject, decision)
        except Exception:
            where = about(namespace=subject.namespace, name=subject.name, reason="Bug")
            logger.exception("Look failed in a way that nobody foresaw", extra=where)
            self._metrics.looks.labels("Failed").inc()
            return True
        is_due = writes(decision) or not decision.watches_load
        self._metrics.looks.labels("Pass" if is_due else "Nothing").inc()
        return is_due

    def _take_in(self, subject: Subject, decision: Decision) -> None:
        """Keep what a decision hands on: figures that are counted since the last look go with the memory that says so."""
        if decision.memory is not None:
            subject.memory = decision.memory
        if decision.figures is not None:
            self._metrics.figures.record(subject.namespace, subject.name, subject.uid, decision.figures)

    def _show_conditions(self, subject: Subject, observed: Observed, status: Status | None) -> None:
        """Show the conditions as metrics: as they are about to be written, else as they are."""
        conditions = (status or previous_status(observed.resource)).conditions
        shown = {condition.type: condition.status for condition in conditions}
        self._metrics.figures.record_conditions(subject.namespace, subject.name, subject.uid, shown)

    def _forget(self, subject: Subject) -> None:
        self._journal.forget(subject.namespace, subject.name)
        self._metrics.figures.forget(subject.namespace, subject.name, subject.uid)
        self._gatherer.forget(subject.uid)

    async def _carry_out(self, subject: Subject, observed: Observed, decision: Decision, now: datetime) -> None:
        try:
            await self._executor.execute(observed, decision)
        except (TerminalError, ForbiddenError, KindMissingError) as error:
            status = refused_status(observed.resource, decision.status, error, now)
            self._show_conditions(subject, observed, status)
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


def writes(decision: Decision) -> bool:
    """Whether a decision writes anything."""
    return any((decision.apply, decision.prune, decision.pod_deletes, decision.status, decision.announcements))


def _spread() -> float:
    return random.uniform(-1, 1)  # noqa: S311 - spreads load, hides nothing
