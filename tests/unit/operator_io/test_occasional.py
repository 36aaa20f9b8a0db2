"""Children of kinds that few resources have: asked for where there may be some, and no more."""

from typing import Any

import pytest

from tests.unit.operator_io.parts import FakeClock, resource
from transcriber_operator.cluster.resources import NODE_POOL, Resource
from transcriber_operator.errors import ForbiddenError, KindMissingError, OperatorError, TransientError
from transcriber_operator.observe.occasional import AWAY_SECONDS, OccasionalChildren

OURS = "app.kubernetes.io/managed-by=transcriber-operator,serving.transcriber.dev/deployment=whisper"
KARPENTER = {"capacity": {"provisioner": "Karpenter"}}
PLAIN = {"capacity": {"provisioner": "None"}, "scaling": {"mode": "Builtin"}}
EVERY_KIND = ["NodePool", "HorizontalPodAutoscaler", "ScaledObject"]


class Store:
    """Stands for the client: has what a test puts into it, or fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.selectors: dict[str, str] = {}
        self.items: dict[str, list[dict[str, Any]]] = {}
        self.failures: dict[str, OperatorError] = {}

    async def select(self, kind: Resource, _namespace: str, selector: str) -> list[dict[str, Any]]:
        self.asked.append(kind.kind)
        self.selectors[kind.kind] = selector
        if kind.kind in self.failures:
            raise self.failures[kind.kind]
        return self.items.get(kind.kind, [])


class Rig:
    def __init__(self) -> None:
        self.store, self.clock = Store(), FakeClock()
        self.children = OccasionalChildren(self.store, self.clock)  # type: ignore[arg-type]

    async def asked(self, spec: dict[str, Any] = PLAIN, uid: str = "uid-1") -> list[str]:
        """Return the kinds that another pass asks for."""
        self.store.asked.clear()
        await self.children.of(resource(uid=uid, spec=spec))
        return list(self.store.asked)


async def test_a_resource_that_wants_none_of_them_is_asked_about_once() -> None:
    rig = Rig()
    assert await rig.asked() == EVERY_KIND  # an earlier operator may have left some
    assert await rig.asked() == []
    assert await rig.asked(uid="uid-2") == EVERY_KIND  # made anew


async def test_what_the_spec_asks_for_is_asked_for_in_every_pass() -> None:
    rig = Rig()
    await rig.asked(KARPENTER)
    assert await rig.asked(KARPENTER) == ["NodePool"]
    assert await rig.asked({**PLAIN, "scaling": {"mode": "Hpa"}}) == ["NodePool", "HorizontalPodAutoscaler"]
    assert await rig.asked({**PLAIN, "scaling": {"mode": "Keda"}}) == ["HorizontalPodAutoscaler", "ScaledObject"]
    assert await rig.asked() == ["ScaledObject"]
    assert await rig.asked() == []


async def test_what_is_not_wanted_any_more_is_asked_for_until_it_is_gone() -> None:
    rig = Rig()
    rig.store.items["NodePool"] = [{"kind": "NodePool", "metadata": {"name": "old"}}]
    await rig.asked(KARPENTER)
    assert await rig.children.of(resource(spec=PLAIN)) == rig.store.items["NodePool"]
    assert await rig.asked() == ["NodePool"]
    rig.store.items.clear()
    assert await rig.asked() == ["NodePool"]
    assert await rig.asked() == []


async def test_of_two_namespaces_each_sees_its_own_node_pools() -> None:
    rig = Rig()
    await rig.asked(KARPENTER)
    assert rig.store.selectors["NodePool"] == f"{OURS},serving.transcriber.dev/namespace=speech"
    assert rig.store.selectors["ScaledObject"] == OURS


@pytest.mark.parametrize(
    ("failure", "has_kind"), [(KindMissingError("no such kind"), False), (ForbiddenError("403 nodepools is forbidden"), None)]
)
async def test_a_kind_that_is_not_there_is_left_alone_for_a_minute_by_all(failure: OperatorError, has_kind: bool | None) -> None:
    rig = Rig()
    rig.store.failures["NodePool"] = failure
    assert "NodePool" in await rig.asked(KARPENTER)
    assert rig.children.has_kind(NODE_POOL) is has_kind
    assert "NodePool" not in await rig.asked(KARPENTER)
    assert "NodePool" not in await rig.asked(uid="uid-2")
    rig.clock.seconds += AWAY_SECONDS
    rig.store.failures.clear()
    assert "NodePool" in await rig.asked(KARPENTER)
    assert "NodePool" in await rig.asked(uid="uid-2")  # for which it is still not known that there are none
    assert rig.children.has_kind(NODE_POOL) is True


async def test_a_missing_right_is_told_now_and_then_to_who_needs_it(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.store.failures["NodePool"] = ForbiddenError("403 nodepools is forbidden")
    await rig.asked()  # wants no nodes
    assert caplog.text == ""
    for _ in range(5):
        rig.clock.seconds += AWAY_SECONDS
        await rig.asked(KARPENTER)
    told = "NodePools are not seen, and none is removed: 403 nodepools is forbidden; give the operator the right"
    assert caplog.text.count(told) == 1


async def test_an_api_server_that_is_away_fails_the_pass() -> None:
    rig = Rig()
    rig.store.failures["NodePool"] = TransientError("503")
    with pytest.raises(TransientError):
        await rig.asked(KARPENTER)
    rig.store.failures.clear()
    assert await rig.asked(KARPENTER) == EVERY_KIND


async def test_a_resource_that_is_gone_is_not_remembered() -> None:
    rig = Rig()
    await rig.asked()
    rig.children.forget("uid-1")
    assert rig.children._without == set()
