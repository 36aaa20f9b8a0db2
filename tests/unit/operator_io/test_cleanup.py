"""What becomes of NodePools when their resource goes: nobody else deletes them."""

from typing import Any

import pytest

from tests.unit.operator_io.parts import FakeClock, resource
from transcriber_operator.cluster.resources import NODE_POOL, TRANSCRIBER_DEPLOYMENT, Resource
from transcriber_operator.errors import (
    ConflictError,
    ForbiddenError,
    KindMissingError,
    LeaseLostError,
    NotFoundError,
    TransientError,
)
from transcriber_operator.execute.cleanup import Cleaner, left_behind

BAN = ForbiddenError("403 nodepools is forbidden")
ON_KARPENTER = resource(spec={"capacity": {"provisioner": "Karpenter"}})


class Store:
    """Stands for the client: has NodePools, and fails as often as a test says."""

    def __init__(self, *pools: str) -> None:
        self.pools = {name: {"name": name, "uid": f"uid-{name}"} for name in pools}
        self.failures: list[Exception] = []  # of the next lists
        self.delete_failures: list[Exception] = []
        self.lists = 0
        self.deleted: list[tuple[str, str]] = []
        self.posted: list[dict[str, Any]] = []

    async def select(self, kind: Resource, namespace: str | None, selector: str) -> list[dict[str, Any]]:
        assert (kind, namespace, selector) == (NODE_POOL, None, "serving.transcriber.dev/owner-uid=uid-1")
        self.lists += 1
        if self.failures:
            raise self.failures.pop(0)
        return [{"metadata": metadata} for metadata in self.pools.values()]

    async def delete(self, _kind: Resource, _namespace: str | None, name: str, uid: str) -> None:
        if self.delete_failures:
            raise self.delete_failures.pop(0)
        self.deleted.append((name, uid))
        del self.pools[name]

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.posted.append(manifest)
        return manifest


async def clean_up(store: Store, of: dict[str, Any] = ON_KARPENTER) -> float:
    """Return how many seconds it took."""
    clock = FakeClock()
    await Cleaner(store, "operator-1", clock).clean_up(of)  # type: ignore[arg-type]
    return clock.seconds


async def test_all_node_pools_of_the_resource_go_under_their_uid_and_a_second_time_there_are_none() -> None:
    store = Store("spot", "on-demand")
    assert await clean_up(store) == 0
    assert store.deleted == [("spot", "uid-spot"), ("on-demand", "uid-on-demand")]
    await clean_up(store)
    assert len(store.deleted) == 2


async def test_what_a_write_that_was_under_way_makes_meanwhile_goes_too() -> None:
    store = Store("spot")
    real = store.delete

    async def late(kind: Resource, namespace: str | None, name: str, uid: str) -> None:
        await real(kind, namespace, name, uid)
        if name == "spot":
            store.pools["on-demand"] = {"name": "on-demand", "uid": "uid-late"}

    store.delete = late  # type: ignore[method-assign]
    await clean_up(store)
    assert store.deleted == [("spot", "uid-spot"), ("on-demand", "uid-late")]


async def test_one_that_is_on_its_way_out_is_not_waited_for() -> None:
    store = Store("spot")
    store.pools["spot"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    assert await clean_up(store) == 0
    assert store.deleted == []


async def test_where_there_is_no_karpenter_nothing_is_waited_for() -> None:
    store = Store()
    store.failures = [KindMissingError("no such kind")]
    assert await clean_up(store) == 0
    assert store.posted == []


async def test_an_api_server_that_is_away_is_waited_for() -> None:
    store = Store("spot")
    store.failures = [TransientError("503")] * 10
    store.delete_failures = [NotFoundError("gone"), ConflictError("409")]
    assert 60 < await clean_up(store) < 600
    assert store.deleted == [("spot", "uid-spot")]


async def test_without_the_right_the_resource_goes_after_some_tries_and_it_is_told_what_to_delete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store("spot")
    store.failures = [BAN] * 10
    assert await clean_up(store) == 1 + 2 + 4 + 8
    assert store.lists == 5
    command = "kubectl delete nodepools -l serving.transcriber.dev/owner-uid=uid-1"
    [event] = store.posted
    assert (event["type"], event["reason"], command in event["note"]) == ("Warning", "ApiRefused", True)
    assert command in caplog.text


async def test_a_right_that_is_given_meanwhile_is_used() -> None:
    store = Store("spot")
    store.failures = [BAN] * 4
    await clean_up(store)
    assert store.deleted == [("spot", "uid-spot")]
    assert store.posted == []


async def test_a_resource_that_asked_for_no_nodes_does_not_wait_for_a_right_to_them() -> None:
    store = Store()
    store.failures = [BAN]
    assert await clean_up(store, resource(spec={"capacity": {"provisioner": "None"}})) == 0
    assert store.posted == []


async def test_an_event_that_cannot_be_posted_keeps_nothing_from_going() -> None:
    store = Store()
    store.failures = [BAN] * 5

    async def fail(_: dict[str, Any]) -> dict[str, Any]:
        raise NotFoundError("the namespace is gone")

    store.create = fail  # type: ignore[method-assign]
    await clean_up(store)


async def test_one_that_may_not_write_any_more_stops() -> None:
    store = Store("spot")
    store.delete_failures = [LeaseLostError("lost")]
    with pytest.raises(LeaseLostError):
        await clean_up(store)


def pool_of(uid: str, namespace: str = "speech", **metadata: Any) -> dict[str, Any]:
    labels = {"serving.transcriber.dev/owner-uid": uid, "serving.transcriber.dev/namespace": namespace}
    return {"metadata": {"name": f"pool-of-{uid}", "uid": f"uid-of-{uid}", "labels": labels, **metadata}}


@pytest.mark.parametrize(
    ("pool", "served", "goes"),
    [
        pytest.param(pool_of("gone"), (), True, id="of a resource that is gone"),
        pytest.param(pool_of("here"), (), False, id="of one that is there"),
        pytest.param(pool_of("gone"), ("speech",), True, id="of a served namespace"),
        pytest.param(pool_of("gone"), ("other",), False, id="of a namespace that another operator serves"),
        pytest.param(pool_of("gone", deletionTimestamp="2026-01-01T00:00:00Z"), (), False, id="already on its way out"),
    ],
)
def test_node_pools_are_left_behind_where_their_resource_is_gone(pool: dict[str, Any], served: tuple[str, ...], goes: bool) -> None:
    assert left_behind([pool], [{"metadata": {"uid": "here"}}], served) == ([pool] if goes else [])


class Cluster(Store):
    """Has resources too, and takes the time to say which."""

    async def select(self, kind: Resource, namespace: str | None, selector: str | None = None) -> list[dict[str, Any]]:
        if kind == TRANSCRIBER_DEPLOYMENT:
            assert self.lists == 1, "an owner that is made after its pools were listed must be on the list"
            return [{"metadata": {"uid": "here"}}] if namespace in (None, "speech") else []
        self.lists += 1
        if self.failures:
            raise self.failures.pop(0)
        return [pool_of("gone"), pool_of("here")]

    async def delete(self, _kind: Resource, _namespace: str | None, name: str, uid: str) -> None:
        self.deleted.append((name, uid))


@pytest.mark.parametrize("served", [(), ("speech",), ("speech", "more")])
async def test_a_start_sweeps_up_what_went_unseen(served: tuple[str, ...]) -> None:
    cluster = Cluster()
    await Cleaner(cluster, "operator-1", FakeClock()).sweep(served)  # type: ignore[arg-type]
    assert cluster.deleted == [("pool-of-gone", "uid-of-gone")]


@pytest.mark.parametrize("failure", [BAN, KindMissingError("no kind"), TransientError("away"), ConflictError("changed")])
async def test_a_sweep_that_fails_does_not_keep_the_operator_from_its_work(failure: Exception) -> None:
    cluster = Cluster()
    cluster.failures = [failure]
    await Cleaner(cluster, "operator-1", FakeClock()).sweep(())  # type: ignore[arg-type]
    assert cluster.deleted == []
