"""Of two operators one works and the other waits, also through the death of the first."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from tests.cluster.quick_pods import Parts, QuickNamespace, operated
from tests.cluster.transcriber_workload import NAME, document

pytestmark = pytest.mark.asyncio(loop_scope="module")
Record = Callable[[str, object], None]
QUIET_SECONDS: Final = 1.0
LEASE_SECONDS: Final = 15.0  # that a dead holder is waited for


async def test_the_second_operator_writes_nothing_until_the_first_is_dead(
    parts: Parts, quick: QuickNamespace, record_property: Record
) -> None:
    async with operated(parts) as first, operated(parts) as second:
        await quick.apply(document())
        await quick.objects.settled(NAME)
        assert first.writes(quick.name)
        assert second.proxy.log.writes == []
        async with asyncio.timeout(60):
            await first.proxy.log.quiet(QUIET_SECONDS)  # a write on its way would be recorded after its writer's death
        await asyncio.to_thread(first.operator.part.kill)
        killed_at = asyncio.get_running_loop().time()
        written = len(first.proxy.log.writes)
        await quick.apply(document(scaling__replicas=4))
        await quick.objects.settled(NAME)
        seconds = asyncio.get_running_loop().time() - killed_at
        record_property("leader_killed_to_change_done_seconds", round(seconds, 1))
        assert len(first.proxy.log.writes) == written
        leases = [write for write in second.proxy.log.writes if write.is_lease]
        assert leases[0].index == 0, "the Lease is taken before anything is written"
        assert second.writes(quick.name)
        assert seconds > LEASE_SECONDS / 2, "the Lease of a holder that may still live was not waited for"


async def test_an_operator_that_is_stopped_hands_over_at_once(parts: Parts, quick: QuickNamespace, record_property: Record) -> None:
    async with operated(parts) as first, operated(parts) as second:
        await quick.apply(document())
        await quick.objects.settled(NAME)
        stopped_at = asyncio.get_running_loop().time()
        await asyncio.to_thread(first.operator.part.stop)
        await quick.apply(document(scaling__replicas=4))
        await quick.objects.settled(NAME)
        record_property("leader_stopped_to_change_done_seconds", round(asyncio.get_running_loop().time() - stopped_at, 1))
        assert second.writes(quick.name)
