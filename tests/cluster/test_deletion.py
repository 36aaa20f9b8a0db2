"""A resource goes when it is deleted, with all that belongs to it, also where the operator was not there to see it."""

import asyncio
from collections.abc import Callable, Iterable

import pytest

from tests.cluster.live import RESOURCE, Manifest
from tests.cluster.quick_pods import Operated, Parts, QuickNamespace, quick_namespace
from tests.cluster.test_children import children
from tests.cluster.transcriber_workload import NAME, document

pytestmark = pytest.mark.asyncio(loop_scope="module")
Record = Callable[[str, object], None]


def is_empty(quick: QuickNamespace) -> bool:
    """Whether nothing of ours is left."""
    return not quick.objects.all(RESOURCE) and not children(quick.objects) and not quick.objects.all("Pod")


def is_ending(quick: QuickNamespace) -> bool:
    return bool(quick.objects.get(RESOURCE, NAME)["metadata"].get("deletionTimestamp"))


def uids(objects: Iterable[Manifest]) -> set[str]:
    return {item["metadata"]["uid"] for item in objects}


async def served(quick: QuickNamespace) -> Manifest:
    await quick.apply(document())
    return await quick.objects.settled(NAME)


async def test_what_is_deleted_while_the_operator_is_down_goes_once_it_is_back(
    parts: Parts, operator: Operated, quick: QuickNamespace, record_property: Record
) -> None:
    clock = asyncio.get_running_loop().time
    async with quick_namespace(parts) as doomed:
        for place in (quick, doomed):
            await served(place)
        await asyncio.to_thread(operator.operator.part.stop)
        try:
            await quick.delete(RESOURCE, NAME)
            await parts.kubectl("delete", "namespace", doomed.name, "--wait=false")
            for place in (quick, doomed):
                await place.objects.until("on its way out", lambda place=place: is_ending(place))
        finally:
            started_at = clock()
            await asyncio.to_thread(operator.operator.start)
        await quick.objects.until("nothing left", lambda: is_empty(quick))
        record_property("resource_gone_after_the_operator_was_started_seconds", round(clock() - started_at, 1))
        await parts.kubectl("wait", "--for=delete", f"namespace/{doomed.name}", "--timeout=60s")
        record_property("namespace_gone_after_the_operator_was_started_seconds", round(clock() - started_at, 1))


async def test_a_resource_that_is_deleted_and_made_again_at_once_is_another_one(
    operator: Operated, quick: QuickNamespace, record_property: Record
) -> None:
    old = await served(quick)
    before = uids(children(quick.objects))
    started_at = asyncio.get_running_loop().time()
    await quick.kubectl("delete", f"td/{NAME}")
    await quick.apply(document())
    await quick.objects.until("the old one is gone", lambda: old["metadata"]["uid"] not in uids(quick.objects.all(RESOURCE)))
    new = await quick.objects.settled(NAME)
    record_property("deleted_and_made_again_ready_seconds", round(asyncio.get_running_loop().time() - started_at, 2))
    await quick.objects.until("no child of the old one is left", lambda: not before & uids(children(quick.objects)))
    owners = {owner["uid"] for item in children(quick.objects) for owner in item["metadata"]["ownerReferences"]}
    assert owners == {new["metadata"]["uid"]}


async def test_children_that_were_orphaned_belong_to_the_resource_that_is_made_again(
    operator: Operated, quick: QuickNamespace
) -> None:
    await served(quick)
    before = uids(children(quick.objects))
    pods = uids(quick.objects.all("Pod"))
    await quick.kubectl("delete", f"td/{NAME}", "--cascade=orphan")
    await quick.objects.until("the resource is gone", lambda: not quick.objects.all(RESOURCE))
    assert len(children(quick.objects)) > 0
    await quick.apply(document())
    new = await quick.objects.settled(NAME)
    owners = {owner["uid"] for item in children(quick.objects) for owner in item["metadata"].get("ownerReferences", ())}
    assert owners == {new["metadata"]["uid"]}
    assert uids(children(quick.objects)) == before
    assert len(uids(quick.objects.all("Pod")) & pods) >= 2, "what serves went on"
