"""Faults of the watch that brings changes of resources: the operator hears the next change, or ends and is restarted.

By default faults that are over soon; `make thorough` adds those that take minutes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from tests.cluster.quick_pods import Operated, Parts, QuickNamespace, operated
from tests.cluster.transcriber_workload import NAME, document
from tests.rig.fault_proxy import FaultProxy
from tests.rig.faults import Action, ErrorEvent, HalfLine, Rule, Silent, Status
from tests.thorough import THOROUGH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
Record = Callable[[str, object], None]
RESOURCES: Final = "transcriberdeployments"
DEAF_SECONDS: Final = 90.0  # a stream of which nothing comes is given up after 70 s: bookmarks come every minute
HEARING_SECONDS: Final = 15.0  # of a change that no fault is in the way of
QUIET_SECONDS: Final = 3.0
POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Fault:
    """`begin` puts it in force; from its end on, `lasts_seconds` later, the operator may take `recovers_within_seconds`."""

    name: str
    begin: Callable[[FaultProxy], object]
    lasts_seconds: float = 0.0
    recovers_within_seconds: float = 15.0


def in_stream(action: Action) -> Callable[[FaultProxy], object]:
    """Something else comes in place of the next change."""
    return lambda proxy: proxy.rules.add(Rule("watch", RESOURCES, nth=1, when="after", action=action))


def at_reconnect(action: Action) -> Callable[[FaultProxy], object]:
    """The watch is cut, and the next one is refused."""

    def begin(proxy: FaultProxy) -> None:
        proxy.rules.add(Rule("watch", RESOURCES, nth=1, action=action))
        proxy.cut_watches(RESOURCES)

    return begin


def unavailable(seconds: float) -> Fault:
    """Lists and watches are refused for a time."""

    def begin(proxy: FaultProxy) -> None:
        for verb in ("list", "watch"):
            proxy.rules.add(Rule(verb, RESOURCES, action=Status(503)), for_seconds=seconds)
        proxy.cut_watches(RESOURCES)

    return Fault(f"503 for {seconds:.0f} s", begin, seconds, recovers_within_seconds=60.0)


FAULTS: Final = (
    Fault("410 in the stream", in_stream(ErrorEvent(410))),
    Fault("410 as the answer", at_reconnect(Status(410))),
    Fault("ERROR 500 in the stream", in_stream(ErrorEvent(500))),
    Fault("half a line", in_stream(HalfLine())),
    Fault("429 with Retry-After 3", at_reconnect(Status(429, retry_after_seconds=3))),
    unavailable(5.0),
)
LONG_FAULTS: Final = (unavailable(120.0), Fault("a silent stream", in_stream(Silent()), recovers_within_seconds=DEAF_SECONDS))
TRIED: Final = FAULTS + (LONG_FAULTS if THOROUGH else ())


@asynccontextmanager
async def restarted_when_it_ends(running: Operated) -> AsyncIterator[list[float]]:
    """Do what the kubelet does for a container; yields the times of restarts."""
    restarts: list[float] = []
    part = running.operator.part

    async def restart() -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if part.has_died:
                restarts.append(asyncio.get_running_loop().time())
                await asyncio.to_thread(part.stop)
                await asyncio.to_thread(part.start)

    task = asyncio.create_task(restart())
    try:
        yield restarts
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("fault", TRIED, ids=[fault.name for fault in TRIED])
async def test_the_operator_hears_again(
    fault: Fault, parts: Parts, unscheduled: None, quick: QuickNamespace, record_property: Record
) -> None:
    clock = asyncio.get_running_loop().time
    async with operated(parts) as running, restarted_when_it_ends(running) as restarts:
        await quick.apply(document())
        await quick.objects.settled(NAME)
        async with asyncio.timeout(60):
            await running.proxy.log.quiet(QUIET_SECONDS)  # a pass under way would see the change without a watch
        fault.begin(running.proxy)
        began_at = clock()
        await quick.apply(document(scaling__replicas=3))
        await quick.objects.settled(NAME, generation=2, seconds=fault.lasts_seconds + fault.recovers_within_seconds)
        record_property("change_done_after_seconds", round(clock() - began_at, 1))
        record_property("restarts", len(restarts))
        changed_at = clock()
        await quick.apply(document(scaling__replicas=4))
        await quick.objects.settled(NAME, generation=3, seconds=HEARING_SECONDS)
        record_property("next_change_done_after_seconds", round(clock() - changed_at, 1))
