"""What the operator made stays as it made it, whoever deletes or edits it; and then it writes nothing any more."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from tests.cluster.live import PATHS, Manifest, Objects
from tests.cluster.quick_pods import Operated, QuickNamespace
from tests.cluster.transcriber_workload import NAME, document
from tests.thorough import THOROUGH
from transcriber_operator.decide import prune
from transcriber_operator.render.names import DEPLOYMENT_LABEL, RESULT_ANNOTATION

pytestmark = pytest.mark.asyncio(loop_scope="module")
Record = Callable[[str, object], None]
KINDS: Final = tuple(kind for kind in prune.KINDS if kind in PATHS)  # others are for a mode, or for Karpenter
OF_CONTROLLERS: Final = frozenset({"deployment.kubernetes.io/revision"})
# What a person might do to one object of each kind; a Job's template and an immutable ConfigMap's data nobody can edit.
EDITS: Final[Mapping[str, Any]] = {
    "ConfigMap": {"metadata": {"labels": {"app.kubernetes.io/part-of": "mine"}}},
    "Service": {"spec": {"ports": [{"name": "grpc", "port": 8001, "targetPort": 1, "protocol": "TCP"}]}},
    "NetworkPolicy": {"spec": {"ingress": None, "policyTypes": ["Ingress"]}},
    "PodDisruptionBudget": {"spec": {"maxUnavailable": 7}},
    "Job": {"metadata": {"annotations": {RESULT_ANNOTATION: None}}},
    "Deployment": {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}},
}
STEADY_SECONDS: Final = 60.0 if THOROUGH else 10.0
NOT_YET: Final = 3.0  # longer than the debounce: what the operator does about a change has begun by then


def children(objects: Objects) -> list[Manifest]:
    return [item for kind in KINDS for item in objects.all(kind) if DEPLOYMENT_LABEL in item["metadata"].get("labels", {})]


def rendered(item: Manifest) -> dict[str, Any]:
    """What the operator answers for of an object."""
    annotations = {key: value for key, value in item["metadata"].get("annotations", {}).items() if key not in OF_CONTROLLERS}
    return {"labels": item["metadata"]["labels"], "annotations": annotations, "spec": item.get("spec"), "data": item.get("data")}


async def test_every_child_that_is_deleted_comes_back(operator: Operated, quick: QuickNamespace, record_property: Record) -> None:
    await quick.apply(document())
    await quick.objects.settled(NAME)
    seconds: dict[str, float] = {}
    for item in children(quick.objects):
        kind, name, uid = item["kind"], item["metadata"]["name"], item["metadata"]["uid"]

        def is_back(kind: str = kind, name: str = name, uid: str = uid) -> bool:
            found = quick.objects.find(kind, name)
            return found is not None and found["metadata"]["uid"] != uid

        await quick.delete(kind, name)
        await quick.objects.until(f"{kind} {name} back", is_back)
        gone_at = quick.objects.seen_at(kind, name, lambda change, uid=uid: change.uid == uid and change.is_gone)
        back_at = quick.objects.seen_at(kind, name, lambda change, uid=uid: change.uid != uid)
        seconds[f"{kind} {name}"] = round(back_at - gone_at, 2)
        await quick.objects.settled(NAME)
    record_property("deleted_children_back_after_seconds", seconds)
    assert {key.split()[0] for key in seconds} == set(KINDS)
    assert max(seconds.values()) < 10


async def test_every_kind_of_child_that_is_edited_is_as_it_was(
    operator: Operated, quick: QuickNamespace, record_property: Record
) -> None:
    await quick.apply(document())
    await quick.objects.settled(NAME)
    await operator.proxy.log.quiet(NOT_YET)
    seconds: dict[str, float] = {}
    for kind in KINDS:
        item = next(item for item in children(quick.objects) if item["kind"] == kind)
        name, before = item["metadata"]["name"], rendered(item)
        edited = await quick.patch(kind, name, EDITS[kind])
        assert rendered(edited) != before, f"{kind}: the edit changed nothing"
        version, started_at = edited["metadata"]["resourceVersion"], asyncio.get_running_loop().time()

        def is_mended(kind: str = kind, name: str = name, version: str = version, before: Any = before) -> bool:
            found = quick.objects.get(kind, name)
            return int(found["metadata"]["resourceVersion"]) > int(version) and rendered(found) == before

        await quick.objects.until(f"{kind} {name} as it was", is_mended)
        seconds[kind] = round(asyncio.get_running_loop().time() - started_at, 2)
        await quick.objects.settled(NAME)
    record_property("edited_children_mended_after_seconds", seconds)
    assert set(seconds) == set(KINDS)
    assert max(seconds.values()) < 10


async def test_a_child_that_lost_its_label_is_found_and_labelled_again(operator: Operated, quick: QuickNamespace) -> None:
    await quick.apply(document())
    await quick.objects.settled(NAME)
    labelled = children(quick.objects)
    for item in labelled:
        await quick.patch(item["kind"], item["metadata"]["name"], {"metadata": {"labels": {DEPLOYMENT_LABEL: None}}})
    uids = {item["metadata"]["uid"] for item in labelled}
    await quick.objects.until("all labels back", lambda: {item["metadata"]["uid"] for item in children(quick.objects)} == uids)
    await quick.objects.settled(NAME)


async def test_after_the_last_change_nothing_is_written_but_the_lease(
    operator: Operated, quick: QuickNamespace, record_property: Record
) -> None:
    await quick.apply(document())
    await quick.objects.settled(NAME)
    async with asyncio.timeout(60):
        await operator.proxy.log.quiet(NOT_YET)
    before = len(operator.proxy.log.writes)
    await asyncio.sleep(STEADY_SECONDS)  # that nothing happens is an event of no kind
    written = operator.proxy.log.writes[before:]
    record_property(f"writes_in_{STEADY_SECONDS:.0f}_steady_seconds", sum(not write.is_lease for write in written))
    record_property(f"lease_renewals_in_{STEADY_SECONDS:.0f}_seconds", sum(write.is_lease for write in written))
    assert [write for write in written if not write.is_lease] == []
    assert any(write.is_lease for write in written), "the operator does not live"
