"""Looks at the load between passes: they hand on a memory, end in a pass where something is to be written, and delay nobody."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.unit.operator_io.parts import START, figures, observed, resource
from transcriber_api.status import Status
from transcriber_operator.clock import SystemClock
from transcriber_operator.debug import Explanation, Journal
from transcriber_operator.decide.coldstart import Memory as ColdStartMemory
from transcriber_operator.decide.decision import Announcement, Apply, Decision, Key, PodDelete, Prune
from transcriber_operator.decide.observed import LoadSample, Observed
from transcriber_operator.decide.scaling_memory import ScalingMemory
from transcriber_operator.errors import TransientError
from transcriber_operator.handlers.reconcile import Reconciler, writes
from transcriber_operator.handlers.schedule import Timing
from transcriber_operator.handlers.wakes import Wakes
from transcriber_operator.metrics import Metrics

QUICK = Timing(resync_seconds=60, debounce_seconds=0.01, first_backoff_seconds=60, look_seconds=0.02)
PATIENCE = 5.0
WATCHING = Decision(watches_load=True)
WRITING = Decision(watches_load=True, status=Status(replicas=1))


def remembering(count: int) -> ScalingMemory:
    """A memory that is told from others."""
    return ScalingMemory(coldstart=ColdStartMemory(counted=(str(count),)))


class Cluster:
    """Stands for the gatherer and the executor: counts, and lets a test wait for the next pass or look."""

    def __init__(self) -> None:
        self.observed: list[str] = []
        self.executed: list[Decision] = []
        self.looks: list[Observed] = []
        self.hangs: set[str] = set()  # whose pods do not answer
        self.queued = 0.0
        self.failures: list[Exception] = []  # of the next passes
        self.moved = asyncio.Event()

    async def observe(self, _namespace: str, name: str) -> Observed | None:
        self.observed.append(name)
        self.moved.set()
        if self.failures:
            raise self.failures.pop()
        return observed(resource=resource(name, uid=f"uid-{name}"))

    async def look(self, seen: Observed) -> Observed:
        self.looks.append(seen)
        self.moved.set()
        if seen.resource["metadata"]["name"] in self.hangs:
            await asyncio.Event().wait()
        sample = LoadSample(source="pod", at=START, queued_audio_seconds=self.queued, in_flight_audio_seconds=0.0)
        return seen.model_copy(update={"loads": (sample,)})

    def forget(self, uid: str) -> None:
        pass

    async def execute(self, _observed: Observed, decision: Decision) -> None:
        self.executed.append(decision)

    async def write_status(self, _resource: dict[str, Any], _status: Status) -> None:
        pass

    async def until(self, holds: Callable[["Cluster"], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds(self):
                self.moved.clear()
                await self.moved.wait()


class Rig:
    """A reconciler that decides as a test says."""

    def __init__(self, decide: Callable[[Observed], Decision], timing: Timing = QUICK) -> None:
        self.cluster, self.wakes, self.metrics, self.journal = Cluster(), Wakes(), Metrics(), Journal()
        self.stop = asyncio.Event()
        self.decided: list[Observed] = []

        def noted(seen: Observed, _now: datetime) -> Decision:
            self.decided.append(seen)
            return decide(seen)

        self.reconciler = Reconciler(
            self.cluster, self.cluster, noted, SystemClock(), self.metrics, self.journal, self.wakes, timing
        )

    def start(self, name: str = "whisper") -> "asyncio.Task[None]":
        return asyncio.create_task(self.reconciler.look_after("speech", name, f"uid-{name}", 1, self.stop.wait()))

    async def end(self, *loops: "asyncio.Task[None]") -> None:
        self.stop.set()
        await asyncio.wait_for(asyncio.gather(*loops), PATIENCE)

    def looked(self, outcome: str) -> float:
        return float(self.metrics.looks.labels(outcome)._value.get())


async def test_after_a_pass_that_wrote_nothing_the_load_is_looked_at_over_what_it_observed() -> None:
    rig = Rig(lambda _: WATCHING)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 3)
    await rig.end(loop)
    assert rig.cluster.observed == ["whisper"]  # one pass, and no other call to the API server
    assert [[sample.source for sample in seen.loads] for seen in rig.decided[:2]] == [[], ["pod"]]
    assert rig.looked("Nothing") >= 2
    assert rig.looked("Pass") == 0


async def test_a_resource_that_does_not_watch_its_load_is_left_alone() -> None:
    rig = Rig(lambda _: Decision())
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 1)
    await asyncio.sleep(0.1)
    await rig.end(loop)
    assert (rig.cluster.observed, rig.cluster.looks) == (["whisper"], [])


async def test_a_look_that_decides_a_write_is_followed_by_a_pass_at_once_and_writes_nothing_itself() -> None:
    rig = Rig(lambda seen: WRITING if rig.cluster.queued and len(rig.cluster.observed) < 2 else WATCHING)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 2)
    rig.cluster.queued = 60.0
    await rig.cluster.until(lambda cluster: len(cluster.observed) >= 2)
    await rig.end(loop)
    assert rig.cluster.executed == [WATCHING, WATCHING]  # by what the pass observed there was nothing to write any more
    assert rig.looked("Pass") == 1


async def test_a_look_that_finds_nothing_to_watch_any_more_is_followed_by_a_pass() -> None:
    rig = Rig(lambda seen: Decision() if seen.loads else WATCHING)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) >= 2)
    await rig.end(loop)


async def test_after_a_pass_that_wrote_something_there_is_another_pass_and_no_look() -> None:
    rig = Rig(lambda _: WRITING)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) >= 3)
    await rig.end(loop)
    assert rig.cluster.looks == []


async def test_after_a_pass_that_failed_there_is_no_look_at_what_an_earlier_one_saw() -> None:
    rig = Rig(lambda _: WATCHING)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 1)
    rig.cluster.failures = [TransientError("503")]
    rig.wakes.tell("speech", "whisper")
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 2)
    looks = len(rig.cluster.looks)
    await asyncio.sleep(0.1)
    await rig.end(loop)
    assert len(rig.cluster.looks) == looks


async def test_the_memory_goes_from_each_pass_and_look_to_the_next_and_one_that_is_silent_keeps_it() -> None:
    answers = [remembering(1), None, remembering(2), remembering(3)]

    def decide(_: Observed) -> Decision:
        return Decision(watches_load=True, memory=answers.pop(0) if answers else None)

    rig = Rig(decide)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 5)
    rig.wakes.tell("speech", "whisper")
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 2)
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 6)
    await rig.end(loop)
    given = [seen.memory for seen in rig.decided]
    assert given[:5] == [None, remembering(1), remembering(1), remembering(2), remembering(3)]
    assert set(given[5:]) == {remembering(3)}  # over a pass too
    assert answers == []


async def test_a_resource_made_anew_begins_without_memory() -> None:
    rig = Rig(lambda _: Decision(memory=remembering(1)))
    first = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 1)
    await rig.end(first)
    rig.stop.clear()
    second = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 2)
    await rig.end(second)
    assert [seen.memory for seen in rig.decided] == [None, None]


async def test_figures_of_every_pass_and_look_count_once() -> None:
    rig = Rig(lambda _: Decision(watches_load=True, figures=figures(processed_audio_seconds=1.0)))
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 4)
    told = len(rig.decided)
    text = rig.metrics.render().decode()
    await rig.end(loop)
    assert f'transcriber_processed_audio_seconds_total{{name="whisper",namespace="speech"}} {told}.0' in text
    assert "transcriber_processed_audio_seconds_total{" not in rig.metrics.render().decode()  # it is looked after no more


async def test_a_change_ends_the_looks_with_a_pass() -> None:
    rig = Rig(lambda _: WATCHING, Timing(resync_seconds=60, debounce_seconds=0.01, look_seconds=30))
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 1)
    await asyncio.sleep(0)
    rig.wakes.tell("speech", "whisper")
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 2)
    await rig.end(loop)
    assert rig.cluster.looks == []


@pytest.mark.parametrize("timing", [Timing(resync_seconds=0.1, look_seconds=0.02), Timing(resync_seconds=0.1, look_seconds=30)])
async def test_looks_do_not_put_off_the_resync(timing: Timing) -> None:
    rig = Rig(lambda _: WATCHING, timing)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 3)
    await rig.end(loop)


async def test_looks_do_not_put_off_the_pass_that_a_decision_asks_for() -> None:
    rig = Rig(lambda _: Decision(watches_load=True, requeue_after_seconds=0.1))
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 3)
    await rig.end(loop)
    assert rig.cluster.looks


async def test_a_look_that_hangs_delays_no_other_resource_and_does_not_pile_up() -> None:
    rig = Rig(lambda _: WATCHING)
    rig.cluster.hangs = {f"hanging-{number}" for number in range(100)}
    loops = [rig.start(name) for name in sorted(rig.cluster.hangs)]
    await rig.cluster.until(lambda cluster: len(cluster.looks) == 100)
    loops.append(rig.start("whisper"))
    await rig.cluster.until(lambda cluster: len(cluster.looks) >= 105)
    await rig.end(*loops)
    names = [seen.resource["metadata"]["name"] for seen in rig.cluster.looks]
    assert all(names.count(name) == 1 for name in rig.cluster.hangs)
    assert names.count("whisper") >= 5


async def test_told_to_stop_it_gives_up_a_look_that_hangs() -> None:
    rig = Rig(lambda _: WATCHING)
    rig.cluster.hangs = {"whisper"}
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.looks) == 1)
    await rig.end(loop)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_look_that_fails_is_logged_and_followed_by_a_pass(caplog: pytest.LogCaptureFixture) -> None:
    def decide(seen: Observed) -> Decision:
        if seen.loads:
            raise KeyError("nobody foresaw this")
        return WATCHING

    rig = Rig(decide)
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) >= 2)
    await rig.end(loop)
    assert "KeyError: 'nobody foresaw this'" in caplog.text
    assert rig.looked("Failed") >= 1


async def test_the_journal_shows_the_memory_that_a_pass_was_given() -> None:
    rig = Rig(lambda _: Decision(memory=remembering(7)))
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 1)
    rig.wakes.tell("speech", "whisper")
    await rig.cluster.until(lambda cluster: len(cluster.executed) == 2)
    await asyncio.sleep(0.01)
    kept = rig.journal.read("speech", "whisper")
    await rig.end(loop)
    assert kept is not None
    assert Explanation.model_validate_json(kept).observed.memory == remembering(7)


async def test_one_can_wait_for_the_end_of_a_loop() -> None:
    rig = Rig(lambda _: WATCHING)
    await asyncio.wait_for(rig.reconciler.ended("uid-whisper"), PATIENCE)  # there is none
    loop = rig.start()
    await rig.cluster.until(lambda cluster: len(cluster.observed) == 1)
    waiting = asyncio.create_task(rig.reconciler.ended("uid-whisper"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await rig.end(loop)
    await asyncio.wait_for(waiting, PATIENCE)


@pytest.mark.parametrize(
    ("decision", "does"),
    [
        (Decision(), False),
        (Decision(requeue_after_seconds=1.0, memory=remembering(1), figures=figures(), details=("told",)), False),
        (Decision(apply=(Apply(manifest={}),)), True),
        (Decision(prune=(Prune(key=Key("v1", "ConfigMap", "old"), uid="u"),)), True),
        (Decision(pod_deletes=(PodDelete(name="p", uid="u", grace_seconds=1),)), True),
        (Decision(status=Status()), True),
        (Decision(announcements=(Announcement(type="Normal", reason="AsExpected", message=""),)), True),
    ],
)
def test_a_decision_writes_where_anything_in_it_goes_to_the_cluster(decision: Decision, does: bool) -> None:
    assert writes(decision) is does
