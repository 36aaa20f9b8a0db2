"""The loop of a resource: single-flight, woken by changes, patient with failures, gone at once when told to stop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest

from tests.unit.operator_io.parts import observed, resource
from transcriber_api.status import Status
from transcriber_operator.clock import SystemClock
from transcriber_operator.debug import Explanation, Journal
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import Observed
from transcriber_operator.errors import (
    ConflictError,
    ForbiddenError,
    KindMissingError,
    LeaseLostError,
    NotFoundError,
    TerminalError,
    TransientError,
)
from transcriber_operator.handlers.racing import unless
from transcriber_operator.handlers.reconcile import PASSES_AT_ONCE, Reconciler, Subject
from transcriber_operator.handlers.schedule import End, Outcome, Timing
from transcriber_operator.handlers.wakes import Wakes
from transcriber_operator.metrics import Metrics

QUICK = Timing(resync_seconds=60, debounce_seconds=0.01, first_backoff_seconds=0.02, pass_seconds=5)
PATIENCE = 5.0


class Cluster:
    """Stands for the gatherer and the executor: does what a test says, and counts passes."""

    def __init__(self) -> None:
        self.passes = 0
        self.ended = asyncio.Event()
        self.hangs: set[str] = set()
        self.failures: list[Exception] = []  # of the next passes
        self.found: Callable[[str], Observed | None] = lambda name: observed(resource=resource(name))
        self.statuses: list[Status] = []
        self.forgotten: list[str] = []

    async def observe(self, namespace: str, name: str) -> Observed | None:
        if name in self.hangs:
            await asyncio.Event().wait()
        return self.found(name)

    async def look(self, seen: Observed) -> Observed:
        return seen

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)

    async def execute(self, _observed: Observed, _decision: Decision) -> None:
        self.passes += 1
        self.ended.set()
        if self.failures:
            raise self.failures.pop(0)

    async def write_status(self, _resource: dict[str, Any], status: Status) -> None:
        self.statuses.append(status)

    async def passed(self, times: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.passes < times:
                self.ended.clear()
                await self.ended.wait()


class Rig:
    """A reconciler with its parts, and the loops that a test starts."""

    def __init__(self, timing: Timing = QUICK, decide: Callable[[Observed, datetime], Decision] | None = None) -> None:
        self.cluster, self.wakes, self.journal, self.metrics = Cluster(), Wakes(), Journal(), Metrics()
        self.stop = asyncio.Event()
        self.reconciler = Reconciler(
            self.cluster,
            self.cluster,
            decide or (lambda _observed, _now: Decision(details=("decided",))),
            SystemClock(),
            self.metrics,
            self.journal,
            self.wakes,
            timing,
        )

    def start(self, name: str = "whisper", uid: str = "uid-1") -> "asyncio.Task[None]":
        return asyncio.create_task(self.reconciler.look_after("speech", name, uid, 1, self.stop.wait()))

    async def one_pass(self, uid: str = "uid-1") -> End:
        return await self.reconciler.run_pass(Subject("speech", "whisper", uid))


async def test_it_begins_with_a_pass_and_then_waits_for_a_change() -> None:
    rig = Rig()
    loop = rig.start()
    await rig.cluster.passed(1)
    await asyncio.sleep(0.1)
    assert rig.cluster.passes == 1
    rig.wakes.tell("speech", "whisper")
    await rig.cluster.passed(2)
    rig.stop.set()
    await asyncio.wait_for(loop, PATIENCE)


async def test_a_flock_of_changes_is_one_pass() -> None:
    rig = Rig(Timing(resync_seconds=60, debounce_seconds=0.1))
    loop = rig.start()
    await rig.cluster.passed(1)
    for generation in range(20):
        rig.wakes.tell("speech", "whisper", generation)
        await asyncio.sleep(0.001)
    await rig.cluster.passed(2)
    await asyncio.sleep(0.3)
    assert rig.cluster.passes == 2
    rig.stop.set()
    await loop


async def test_a_change_during_a_pass_is_seen_by_another_pass() -> None:
    rig = Rig()

    def change(name: str) -> Observed:
        if rig.cluster.passes == 0:
            rig.wakes.tell("speech", "whisper")
        return observed(resource=resource(name))

    rig.cluster.found = change
    loop = rig.start()
    await rig.cluster.passed(2)
    rig.stop.set()
    await loop


async def test_another_resources_change_wakes_nobody_else() -> None:
    rig = Rig()
    loop = rig.start()
    await rig.cluster.passed(1)
    rig.wakes.tell("speech", "other")
    rig.wakes.tell("calls", "whisper")
    await asyncio.sleep(0.1)
    assert rig.cluster.passes == 1
    rig.stop.set()
    await loop


async def test_the_resync_makes_a_pass_without_any_change() -> None:
    rig = Rig(Timing(resync_seconds=0.02))
    loop = rig.start()
    await rig.cluster.passed(3)
    rig.stop.set()
    await loop


async def test_a_decision_that_asks_for_another_look_gets_it() -> None:
    rig = Rig(decide=lambda _observed, _now: Decision(requeue_after_seconds=0.02))
    loop = rig.start()
    await rig.cluster.passed(3)
    rig.stop.set()
    await loop


async def test_a_failing_resource_is_left_alone_by_events_until_its_generation_changes() -> None:
    rig = Rig(Timing(resync_seconds=60, debounce_seconds=0.01, first_backoff_seconds=60))
    rig.cluster.failures = [TransientError("503")]
    loop = rig.start()
    await rig.cluster.passed(1)
    rig.wakes.tell("speech", "whisper", 1)
    rig.wakes.tell("speech", "whisper")
    await asyncio.sleep(0.1)
    assert rig.cluster.passes == 1
    rig.wakes.tell("speech", "whisper", 2)
    await rig.cluster.passed(2)
    rig.stop.set()
    await loop


async def test_a_conflict_is_tried_again_at_once() -> None:
    rig = Rig()
    rig.cluster.failures = [ConflictError("changed meanwhile"), NotFoundError("gone meanwhile")]
    loop = rig.start()
    await rig.cluster.passed(3)
    rig.stop.set()
    await loop


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (ConflictError("c"), End(Outcome.CONFLICT)),
        (NotFoundError("n"), End(Outcome.CONFLICT)),
        (TransientError("t", 7.0), End(Outcome.TRANSIENT, 7.0)),
        (ForbiddenError("f"), End(Outcome.TRANSIENT)),
        (KindMissingError("k"), End(Outcome.TRANSIENT)),
        (TerminalError("x"), End(Outcome.TERMINAL)),
        (LeaseLostError("l"), End(Outcome.LEASE_LOST)),
        (KeyError("bug"), End(Outcome.TRANSIENT)),
    ],
)
async def test_every_failure_has_its_end_and_is_counted(failure: Exception, end: End) -> None:
    rig = Rig()
    rig.cluster.failures = [failure]
    assert await rig.one_pass() == end
    assert f'transcriber_operator_passes_total{{outcome="{end.outcome}"}} 1.0' in rig.metrics.render().decode()


async def test_a_pass_has_a_deadline() -> None:
    rig = Rig(Timing(pass_seconds=0.05))
    rig.cluster.hangs = {"whisper"}
    assert await rig.one_pass() == End(Outcome.TRANSIENT)


async def test_a_resource_whose_calls_hang_does_not_delay_the_others() -> None:
    rig = Rig()
    rig.cluster.hangs = {"hanging"}
    loops = [rig.start("hanging"), *(rig.start(f"whisper-{number}") for number in range(50))]
    await rig.cluster.passed(50)
    rig.stop.set()
    await asyncio.wait_for(asyncio.gather(*loops), PATIENCE)


async def test_more_hanging_resources_than_slots_delay_the_others_by_no_more_than_a_deadline() -> None:
    rig = Rig(Timing(resync_seconds=60, pass_seconds=0.2, first_backoff_seconds=60))
    rig.cluster.hangs = {f"hanging-{number}" for number in range(PASSES_AT_ONCE + 8)}
    loops = [rig.start(name) for name in sorted(rig.cluster.hangs)]
    await asyncio.sleep(0.01)
    loops += [rig.start(f"whisper-{number}") for number in range(20)]
    await rig.cluster.passed(20)
    rig.stop.set()
    await asyncio.wait_for(asyncio.gather(*loops), PATIENCE)


async def test_told_to_stop_it_gives_up_a_pass_that_hangs() -> None:
    rig = Rig(Timing(pass_seconds=60))
    rig.cluster.hangs = {"whisper"}
    loop = rig.start()
    await asyncio.sleep(0.01)
    rig.stop.set()
    await asyncio.wait_for(loop, PATIENCE)
    assert rig.metrics.resources._value.get() == 0


async def test_cancelled_it_leaves_nothing_behind() -> None:
    rig = Rig(Timing(pass_seconds=60))
    rig.cluster.hangs = {"whisper"}
    loop = rig.start()
    await asyncio.sleep(0.01)
    loop.cancel()
    with suppress(asyncio.CancelledError):
        await loop
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_resource_that_is_gone_is_not_decided_about() -> None:
    rig = Rig()
    rig.cluster.found = lambda _name: None
    assert await rig.one_pass() == End(Outcome.SETTLED)
    assert rig.cluster.passes == 0


async def test_one_that_was_deleted_and_made_anew_belongs_to_another_loop() -> None:
    rig = Rig()
    assert await rig.one_pass(uid="uid-0") == End(Outcome.SETTLED)
    assert rig.cluster.passes == 0


async def test_a_refusal_is_told_in_the_status_once() -> None:
    rig = Rig()
    rig.cluster.failures = [TerminalError("422 spec.replicas: invalid")]
    await rig.one_pass()
    told = rig.cluster.statuses[0]
    assert [(condition.type, condition.status) for condition in told.conditions][:2] == [("Ready", "False"), ("SpecValid", "False")]
    assert "422 spec.replicas: invalid" in told.conditions[0].message

    stored = told.model_dump(mode="json", by_alias=True, exclude_none=True)
    rig.cluster.found = lambda name: observed(resource=resource(name, status=stored))
    rig.cluster.failures = [TerminalError("422 spec.replicas: invalid")]
    await rig.one_pass()
    assert len(rig.cluster.statuses) == 1


@pytest.mark.parametrize("failure", [ForbiddenError("403 exceeded quota"), KindMissingError("the cluster has no such kind")])
async def test_a_ban_and_a_missing_kind_are_told_in_the_status_too(failure: TransientError) -> None:
    rig = Rig()
    rig.cluster.failures = [failure]
    assert await rig.one_pass() == End(Outcome.TRANSIENT)
    [told] = rig.cluster.statuses
    assert (told.conditions[0].reason, str(failure) in told.conditions[0].message) == ("ApiRefused", True)
    series = 'transcriber_status_condition{condition="Ready",name="whisper",namespace="speech",status="False"} 1.0'
    assert series in rig.metrics.render().decode()


async def test_the_journal_keeps_the_last_pass_and_forgets_what_is_no_longer_looked_after() -> None:
    rig = Rig()
    loop = rig.start()
    await rig.cluster.passed(1)
    await asyncio.sleep(0.01)
    kept = rig.journal.read("speech", "whisper")
    assert kept is not None
    explanation = Explanation.model_validate_json(kept)
    assert explanation.observed == observed()
    assert explanation.decision.details == ("decided",)
    rig.stop.set()
    await loop
    assert rig.journal.read("speech", "whisper") is None
    assert rig.cluster.forgotten == ["uid-1"]


async def test_a_decision_that_fails_is_in_the_journal_with_what_it_failed_on(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_observed: Observed, _now: datetime) -> Decision:
        raise KeyError("nobody foresaw this")

    rig = Rig(decide=fail)
    assert await rig.one_pass() == End(Outcome.TRANSIENT)
    kept = rig.journal.read("speech", "whisper")
    assert kept is not None
    assert Explanation.model_validate_json(kept).observed == observed()
    assert "KeyError: 'nobody foresaw this'" in caplog.text


async def test_work_that_is_done_before_the_stop_keeps_its_result() -> None:
    async def work() -> int:
        return 7

    stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert await unless(stopping, work()) == 7
    stopping.set_result(None)
    assert await unless(stopping, asyncio.sleep(60, 7)) is None
