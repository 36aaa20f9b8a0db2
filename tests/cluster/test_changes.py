"""What people do with a resource day by day: scale it, suspend it, add and remove pools, look at it."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.cluster.live import RESOURCE, Manifest, condition
from tests.cluster.quick_pods import Operated, QuickNamespace
from tests.cluster.transcriber_workload import NAME, document
from tests.rig.faults import Rule, Status
from transcriber_api.conditions import Reason

pytestmark = pytest.mark.asyncio(loop_scope="module")
Record = Callable[[str, object], None]
QUIET_SECONDS: Final = 2.0  # longer than the debounce and the passes that one write brings about
COLUMNS: Final = 100
LONG_NAME: Final = "whisper-large-v3"
LONG_URI: Final = "hf://openai/whisper-large-v3"
FLOOR: Final = {"name": "floor", "capacityType": "OnDemand", "weight": 10, "minReplicas": 1}
SPOT: Final = {"name": "spot", "capacityType": "Spot", "weight": 100, "maxNodes": 2}


def replicas(quick: QuickNamespace) -> dict[str, tuple[int, int]]:
    """Wanted and ready replicas by Deployment."""
    return {
        item["metadata"]["name"]: (item["spec"]["replicas"], item.get("status", {}).get("readyReplicas", 0))
        for item in quick.objects.all("Deployment")
    }


async def quiet(operator: Operated) -> int:
    """Wait until nothing is written any more; returns how many writes there were until then."""
    async with asyncio.timeout(60):
        await operator.proxy.log.quiet(QUIET_SECONDS)
    return len(operator.proxy.log.writes)


async def test_kubectl_scale_and_wait_work_and_a_count_beyond_the_limits_is_kept_within(
    operator: Operated, quick: QuickNamespace, record_property: Record
) -> None:
    await quick.apply(document(scaling__replicas=1))
    await quick.kubectl("wait", "--for=condition=Ready", f"td/{NAME}", "--timeout=60s")
    started_at = asyncio.get_running_loop().time()
    await quick.kubectl("scale", f"td/{NAME}", "--replicas=2")
    scaled = {"td-spot": (1, 1), "td-floor": (1, 1)}
    await quick.objects.until("2 replicas ready", lambda: replicas(quick) == scaled)
    record_property("kubectl_scale_to_ready_seconds", round(asyncio.get_running_loop().time() - started_at, 2))
    await quick.kubectl("wait", "--for=jsonpath={.status.replicaSummary}=2/2", f"td/{NAME}", "--timeout=60s")
    await quick.kubectl("scale", f"td/{NAME}", "--replicas=9")
    live = await quick.objects.settled(NAME, generation=3)
    assert live["status"]["desiredReplicas"] == 4
    assert replicas(quick) == {"td-spot": (2, 2), "td-floor": (2, 2)}
    await quick.kubectl("scale", f"td/{NAME}", "--replicas=0")
    live = await quick.objects.settled(NAME, generation=4)
    assert live["status"]["desiredReplicas"] == 1
    assert replicas(quick) == {"td-spot": (0, 0), "td-floor": (1, 1)}


async def test_a_line_of_kubectl_get_fits_the_terminal(operator: Operated, quick: QuickNamespace, record_property: Record) -> None:
    td = document(model__target__uri=LONG_URI, model__target__revision="a" * 40)
    await quick.apply({**td, "metadata": {"name": LONG_NAME}})
    await quick.objects.settled(LONG_NAME)
    shown = (await quick.kubectl("get", "td")).splitlines()
    record_property("kubectl_get_td", shown)
    assert shown[0].split() == ["NAME", "READY", "REASON", "REPLICAS", "QUEUE", "MODEL", "AGE"]
    assert shown[1].split()[:4] == [LONG_NAME, "True", "AsExpected", "2/2"]
    assert max(map(len, shown)) <= COLUMNS


async def test_a_suspended_resource_is_left_alone_until_it_goes_on(operator: Operated, quick: QuickNamespace) -> None:
    await quick.apply(document())
    await quick.objects.settled(NAME)
    pods = {pod["metadata"]["uid"] for pod in quick.objects.all("Pod")}
    await quick.patch(RESOURCE, NAME, {"spec": {"suspend": True}})
    ready = await quick.objects.told(NAME, "Ready", Reason.SUSPENDED)
    assert ready["status"] == "Unknown"
    before = await quiet(operator)
    await quick.delete("Service", NAME)
    await quick.apply(document(suspend=True, decoding__language="de", scaling__replicas=4))
    await quiet(operator)
    written = {(write.verb, write.resource) for write in operator.writes(quick.name, before)}
    assert written <= {("apply", "transcriberdeployments/status"), ("create", "events")}
    assert quick.objects.find("Service", NAME) is None
    assert {pod["metadata"]["uid"] for pod in quick.objects.all("Pod")} == pods
    await quick.apply(document(suspend=False, decoding__language="de", scaling__replicas=4))
    await quick.objects.settled(NAME)
    assert quick.objects.find("Service", NAME) is not None
    assert len(quick.objects.all("Job")) == 2
    assert replicas(quick) == {"td-spot": (2, 2), "td-floor": (2, 2)}


async def test_a_pool_comes_and_goes_and_never_are_fewer_replicas_ready_than_wanted(
    operator: Operated, quick: QuickNamespace
) -> None:
    await quick.apply(document(capacity__pools=[FLOOR], scaling__replicas=2))
    await quick.objects.settled(NAME)
    fewest = [2]

    async def watch_readiness() -> None:
        while True:
            await quick.objects.until("fewer ready", lambda: sum(ready for _, ready in replicas(quick).values()) < fewest[0], 600)
            fewest[0] = sum(ready for _, ready in replicas(quick).values())

    watching = asyncio.create_task(watch_readiness())
    await quick.apply(document(capacity__pools=[FLOOR, SPOT], scaling__replicas=2))
    await quick.objects.until("a replica has moved to spot", lambda: replicas(quick) == {"td-spot": (1, 1), "td-floor": (1, 1)})
    await quick.apply(document(capacity__pools=[SPOT], scaling__replicas=2))
    await quick.objects.until("all replicas are on spot", lambda: replicas(quick) == {"td-spot": (2, 2)})
    live = await quick.objects.settled(NAME)
    assert [pool["name"] for pool in live["status"]["pools"]] == ["spot"]
    assert quick.objects.all("PodDisruptionBudget") == []
    watching.cancel()
    assert fewest == [2]


async def test_a_new_model_is_served_before_the_old_one_ends_and_its_repository_is_kept(
    operator: Operated, quick: QuickNamespace
) -> None:
    await quick.apply(document(scaling__replicas=1))
    first = await quick.objects.settled(NAME)
    jobs: list[Any] = []
    for language in ("de", "fr"):
        await quick.apply(document(scaling__replicas=1, decoding__language=language))
        last = await quick.objects.settled(NAME)
        jobs = quick.objects.all("Job")
    assert last["status"]["repository"]["digest"] != first["status"]["repository"]["digest"]
    await quick.objects.until("one earlier build is kept", lambda: len(quick.objects.all("Job")) == 2)
    assert len(jobs) <= 3
    await quick.objects.until("two documents are kept", lambda: len(own_documents(quick)) == 2)


async def test_going_back_to_an_earlier_model_needs_no_build(
    operator: Operated, quick: QuickNamespace, record_property: Record
) -> None:
    await quick.apply(document())
    first = await quick.objects.settled(NAME)
    await quick.apply(document(decoding__language="de"))
    await quick.objects.settled(NAME)
    jobs = {job["metadata"]["uid"] for job in quick.objects.all("Job")}
    started_at = asyncio.get_running_loop().time()
    await quick.apply(document())
    back = await quick.objects.settled(NAME)
    record_property("gone_back_after_seconds", round(asyncio.get_running_loop().time() - started_at, 2))
    assert back["status"]["repository"]["digest"] == first["status"]["repository"]["digest"]
    assert {job["metadata"]["uid"] for job in quick.objects.all("Job")} == jobs
    assert {change.uid for change in quick.objects.changes if change.kind == "Job"} == jobs


def own_documents(quick: QuickNamespace) -> list[Manifest]:
    return [item for item in quick.objects.all("ConfigMap") if item["metadata"]["name"].startswith(f"{NAME}-")]


async def test_a_write_that_is_forbidden_is_told_and_done_once_it_is_allowed(operator: Operated, quick: QuickNamespace) -> None:
    ban = operator.proxy.rules.add(Rule("apply", "deployments", namespace=quick.name, action=Status(403)))
    await quick.apply(document())
    ready = await quick.objects.told(NAME, "Ready", Reason.API_REFUSED)
    assert ready["message"].startswith("apply of Deployment ")
    assert "403" in ready["message"]
    live = quick.objects.get(RESOURCE, NAME)
    assert condition(live, "Stalled")["reason"] == Reason.API_REFUSED
    assert condition(live, "SpecValid")["status"] == "True"
    operator.proxy.rules.remove(ban)
    live = await quick.objects.settled(NAME)
    assert condition(live, "Stalled") == {}
