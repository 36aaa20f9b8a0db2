"""What is read of Karpenter: claims, the node class, and Events that one reading gives to all resources."""

from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator_io.parts import START, FakeClock, resource
from transcriber_operator.cluster.resources import NODE_POOL, Resource
from transcriber_operator.decide.observed import NodeEvent, Nodes
from transcriber_operator.errors import ForbiddenError, KindMissingError, NotFoundError, OperatorError, TransientError
from transcriber_operator.observe.nodes import NodeReader, node_event

REFERENCE = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
SPEC = {"capacity": {"provisioner": "Karpenter", "nodeClassRef": REFERENCE}}
POOL = {"kind": "NodePool", "metadata": {"name": "speech-whisper-spot"}}
CLAIM = {"kind": "NodeClaim", "metadata": {"name": "speech-whisper-spot-x1z9q"}}
READY = {"type": "Ready", "status": "True"}


def posted(reason: str, name: str = "speech-whisper-spot-x1z9q", ago_seconds: float = 5.0, **more: Any) -> dict[str, Any]:
    at = (START - timedelta(seconds=ago_seconds)).isoformat().replace("+00:00", "Z")
    about = {"kind": "NodeClaim", "name": name}
    return {"metadata": {"creationTimestamp": at}, "reason": reason, "regarding": about, "note": f"{reason} of {name}", **more}


class Store:
    """Stands for the client: has what a test puts into it, or fails."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.failures: dict[str, OperatorError] = {}

    async def select(self, kind: Resource, namespace: str | None, selector: str | None = None, fields: str | None = None) -> Any:
        self.asked.append(f"{kind.kind} {namespace} {selector or fields}")
        self._fail(kind.kind)
        if kind.kind == "NodeClaim":
            return [CLAIM]
        return self.events if "NodeClaim,type=Warning" in str(fields) else []

    async def look_up(self, group: str, kind: str) -> Resource:
        self.asked.append(f"look up {group} {kind}")
        self._fail("look up")
        return Resource(f"{group}/v1", kind, "ec2nodeclasses", is_namespaced=False)

    async def get(self, kind: Resource, namespace: str | None, name: str) -> dict[str, Any]:
        self.asked.append(f"{kind.kind} {namespace} {name}")
        self._fail(kind.kind)
        return {"kind": kind.kind, "metadata": {"name": name, "managedFields": []}, "spec": {}, "status": {"conditions": [READY]}}

    def _fail(self, what: str) -> None:
        if what in self.failures:
            raise self.failures[what]


class Kinds:
    """Stands for what is known of the cluster's kinds."""

    def __init__(self, has_karpenter: bool | None = True) -> None:
        self._has_karpenter = has_karpenter

    def has_kind(self, kind: Resource) -> bool | None:
        assert kind is NODE_POOL
        return self._has_karpenter


class Rig:
    def __init__(self) -> None:
        self.store, self.clock = Store(), FakeClock()
        self.reader = NodeReader(self.store, self.clock)  # type: ignore[arg-type]

    async def read(
        self, spec: dict[str, Any] = SPEC, pools: tuple[dict[str, Any], ...] = (POOL,), has_karpenter: bool | None = True
    ) -> Nodes:
        return await self.reader.of(resource(spec=spec), pools, Kinds(has_karpenter))  # type: ignore[arg-type]


async def test_claims_come_by_label_and_the_node_class_by_its_reference_with_its_conditions_alone() -> None:
    rig = Rig()
    found = await rig.read()
    assert found.is_installed is True
    assert found.claims == (CLAIM,)
    assert found.node_class == {
        "apiVersion": "karpenter.k8s.aws/v1",
        "kind": "EC2NodeClass",
        "metadata": {"name": "gpu"},
        "status": {"conditions": [READY]},
    }
    labels = "serving.transcriber.dev/deployment=whisper,serving.transcriber.dev/namespace=speech"
    assert rig.store.asked[0] == f"NodeClaim None {labels}"


async def test_a_resource_without_karpenter_asks_nothing() -> None:
    rig = Rig()
    assert await rig.read({"capacity": {"provisioner": "None"}}, pools=()) == Nodes()
    assert rig.store.asked == []


async def test_pools_that_are_left_over_are_still_looked_after() -> None:
    assert (await Rig().read({"capacity": {"provisioner": "None"}})).claims == (CLAIM,)


@pytest.mark.parametrize("has_karpenter", [False, None])
async def test_where_karpenter_is_not_seen_nothing_more_is_asked(has_karpenter: bool | None) -> None:
    rig = Rig()
    assert await rig.read(has_karpenter=has_karpenter) == Nodes(is_installed=has_karpenter)
    assert rig.store.asked == []


async def test_of_the_events_those_about_our_nodes_that_matter_and_are_recent_are_kept_in_order() -> None:
    rig = Rig()
    rig.store.events = [
        posted("SpotInterrupted", ago_seconds=1),
        posted("InsufficientCapacityError", ago_seconds=30),
        posted("InsufficientCapacityError", ago_seconds=601),
        posted("Unconsolidatable"),
        posted("SpotInterrupted", name="speech-whisper-spot-2-x1z9q"),  # of another pool whose name begins like ours
        posted("NoCompatibleInstanceTypes", name="speech-whisper-spot", ago_seconds=20),  # about the pool itself
    ]
    found = await rig.read()
    assert [event.reason for event in found.events] == ["InsufficientCapacityError", "NoCompatibleInstanceTypes", "SpotInterrupted"]


async def test_one_reading_of_the_events_serves_all_resources_for_a_moment() -> None:
    rig = Rig()
    for _ in range(3):
        await rig.read()
    lists = [question for question in rig.store.asked if question.startswith("Event")]
    assert lists == [
        "Event default regarding.kind=NodeClaim,type=Warning",
        "Event default regarding.kind=NodePool,type=Warning",
        "Event default regarding.kind=NodeClaim,reason=SpotRebalanceRecommendation",
    ]
    assert len([question for question in rig.store.asked if question.startswith("look up")]) == 1
    rig.clock.seconds += 2.0
    rig.store.events = [posted("SpotInterrupted")]
    assert [event.reason for event in (await rig.read()).events] == ["SpotInterrupted"]


@pytest.mark.parametrize(
    ("more", "seconds_ago", "count"),
    [
        ({}, 5.0, 1),
        ({"deprecatedLastTimestamp": "2026-01-31T11:59:59Z", "deprecatedCount": 4}, 1.0, 4),
        ({"series": {"lastObservedTime": "2026-01-31T11:59:58.5Z", "count": 3}, "eventTime": "2026-01-31T11:00:00Z"}, 1.5, 3),
    ],
)
def test_an_event_is_as_old_as_it_was_last_seen(more: dict[str, Any], seconds_ago: float, count: int) -> None:
    assert node_event(posted("SpotInterrupted", **more)) == NodeEvent(
        reason="SpotInterrupted",
        kind="NodeClaim",
        name="speech-whisper-spot-x1z9q",
        message="SpotInterrupted of speech-whisper-spot-x1z9q",
        at=START - timedelta(seconds=seconds_ago),
        count=count,
    )


@pytest.mark.parametrize(
    ("what", "failure"),
    [
        ("EC2NodeClass", NotFoundError("no such node class")),
        ("EC2NodeClass", KindMissingError("the version is not served any more")),
        ("look up", KindMissingError("no such kind")),
    ],
)
async def test_a_node_class_that_is_not_there_is_absent(what: str, failure: OperatorError) -> None:
    rig = Rig()
    rig.store.failures[what] = failure
    assert (await rig.read()).node_class is None


async def test_a_node_class_that_may_not_be_read_is_not_called_absent() -> None:
    rig = Rig()
    rig.store.failures["EC2NodeClass"] = ForbiddenError("403")
    assert (await rig.read()).node_class == {"kind": "EC2NodeClass", "metadata": {"name": "gpu"}}


@pytest.mark.parametrize("kind", ["NodeClaim", "Event"])
async def test_a_missing_right_is_told_now_and_then_and_the_rest_is_read(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.store.failures[kind] = ForbiddenError("403 forbidden")
    for _ in range(3):
        assert (await rig.read()).node_class is not None
        rig.clock.seconds += 10
    assert caplog.text.count("403 forbidden; give the operator the right") == 1


async def test_an_api_server_that_is_away_fails_the_pass() -> None:
    rig = Rig()
    rig.store.failures["NodeClaim"] = TransientError("503")
    with pytest.raises(TransientError):
        await rig.read()
