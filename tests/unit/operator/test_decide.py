"""What holds of every decision: what is left alone, what goes, what is said, and when to look again."""

import copy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.operator.cluster_model import START, Cluster, settle
from tests.unit.operator.generated import specs
from tests.unit.operator.specs import TARGET, Manifest, claim_spec, context
from transcriber_api.conditions import ConditionType
from transcriber_api.status import Status
from transcriber_operator.decide.applied import is_applied
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import Observed
from transcriber_operator.decide.pipeline import decide
from transcriber_operator.render.children import foundations

NOTHING = ((), (), None, ())


def writes(decision: Decision) -> tuple[Any, ...]:
    return decision.apply, decision.prune, decision.status, decision.announcements


def settled(**spec: Any) -> Cluster:
    cluster = Cluster(claim_spec(**spec))
    settle(cluster, decide)
    return cluster


def condition(cluster: Cluster, type_: str) -> Manifest:
    found = cluster.condition(type_)
    assert found is not None, cluster.status
    return found


def with_metadata(observed: Observed, **metadata: Any) -> Observed:
    resource = {**observed.resource, "metadata": {**observed.resource["metadata"], **metadata}}
    return observed.model_copy(update={"resource": resource})


def test_a_resource_that_is_being_deleted_is_left_alone():
    observed = with_metadata(Cluster(claim_spec()).observe(), deletionTimestamp="2026-01-01T12:00:00Z")
    decision = decide(observed, START)
    assert writes(decision) == NOTHING
    assert decision.requeue_after_seconds is None


def test_a_suspended_resource_gets_a_status_and_nothing_else():
    cluster = settled()
    cluster.change(suspend=True, model={"target": TARGET}, capacity={"provisioner": "None", "pools": [{"name": "other"}]})
    decision = decide(cluster.observe(), cluster.now)
    assert (decision.apply, decision.prune) == ((), ())
    cluster.execute(decision)
    assert (condition(cluster, "Ready")["status"], condition(cluster, "Ready")["reason"]) == ("Unknown", "Suspended")
    assert condition(cluster, "ServingAvailable")["status"] == "True"
    assert not {"Reconciling", "Stalled"} & {entry["type"] for entry in cluster.status["conditions"]}
    assert writes(decide(cluster.observe(), cluster.now)) == NOTHING


def test_a_resource_that_is_suspended_no_more_goes_on_where_it_was():
    cluster = settled(suspend=True)
    assert cluster.children == {}
    cluster.change(suspend=False)
    settle(cluster, decide)
    assert condition(cluster, "Ready")["status"] == "True"


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"runtime": {"slots": 0}}, "spec.runtime.slots"),
        ({"novel": 1}, "spec.novel"),
        ({"capacity": {"provisioner": "Karpenter", "pools": [{"name": "a"}]}}, "nodeClassRef"),
        ({"model": None}, "spec.model"),
    ],
)
def test_a_spec_that_cannot_be_read_names_the_field_and_changes_nothing(part: Manifest, words: str):
    cluster = settled()
    cluster.change(**part)
    decision = decide(cluster.observe(), cluster.now)
    assert (decision.apply, decision.prune) == ((), ())
    cluster.execute(decision)
    for type_ in ("Ready", "SpecValid"):
        assert (condition(cluster, type_)["status"], condition(cluster, type_)["reason"]) == ("False", "SpecInvalid")
    assert words in condition(cluster, "SpecValid")["message"]
    assert condition(cluster, "Stalled")["status"] == "True"
    assert condition(cluster, "ServingAvailable")["status"] == "True"
    assert cluster.status["repository"]["digest"]
    assert writes(decide(cluster.observe(), cluster.now)) == NOTHING


def test_a_status_that_this_version_cannot_read_is_written_anew():
    cluster = settled()
    cluster.status = {"novel": True, "conditions": "none"}
    decision = decide(cluster.observe(), cluster.now)
    assert decision.status is not None
    cluster.execute(decision)
    assert condition(cluster, "Ready")["status"] == "True"


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.integers(0, 8))
def test_conditions_are_those_of_the_api_in_its_order_and_speak_of_this_generation(spec: Manifest, ticks: int):
    cluster = Cluster(spec)
    for _ in range(ticks + 1):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()
    conditions = Status.model_validate(cluster.status).conditions
    types = [condition.type for condition in conditions]
    assert types == [type_ for type_ in ConditionType if type_ in types]
    assert set(ConditionType) - set(types) <= {ConditionType.RECONCILING, ConditionType.STALLED}
    assert {condition.observed_generation for condition in conditions} == {1}
    assert all(condition.message.endswith((".", "none")) and "\n" not in condition.message for condition in conditions)
    assert not {ConditionType.RECONCILING, ConditionType.STALLED} <= set(types)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), st.integers(0, 8))
def test_the_status_that_was_written_is_not_written_again(spec: Manifest, ticks: int):
    cluster = Cluster(spec)
    for _ in range(ticks):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()
    decision = decide(cluster.observe(), cluster.now)
    if decision.status is not None:
        cluster.write_status(decision.status)
    again = decide(cluster.observe(), cluster.now + timedelta(seconds=30))
    assert (again.status, again.announcements) == (None, ())


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), specs(), st.integers(0, 6))
def test_nothing_is_pruned_that_is_applied_or_belongs_to_another(first: Manifest, second: Manifest, ticks: int):
    cluster = Cluster(first)
    for _ in range(ticks):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()
    cluster.change(**second)
    observed = cluster.observe()
    others = [copy.deepcopy(child) for child in observed.children]
    for child in others:
        child["metadata"] |= {"uid": "other", "name": f"other-{child['metadata']['name']}", "ownerReferences": [{"uid": "other"}]}
    decision = decide(observed.model_copy(update={"children": (*observed.children, *others)}), cluster.now)
    assert not {(prune.key.kind, prune.key.name) for prune in decision.prune} & {
        (apply.manifest["kind"], apply.manifest["metadata"]["name"]) for apply in decision.apply
    }
    mine = {child["metadata"]["uid"] for child in observed.children}
    assert {prune.uid for prune in decision.prune} <= mine


def test_a_child_of_a_kind_that_is_not_ours_to_make_is_not_pruned():
    cluster = settled()
    observed = cluster.observe()
    service = copy.deepcopy(next(child for child in observed.children if child["kind"] == "Service"))
    service["kind"] = "ServiceMonitor"
    decision = decide(observed.model_copy(update={"children": (*observed.children, service)}), cluster.now)
    assert decision.prune == ()


def test_a_child_that_is_ending_is_neither_written_nor_pruned_again():
    cluster = settled()
    for key, child in cluster.children.items():
        child["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
        if key.kind == "Service":
            child["spec"]["ports"] = []
    cluster.change(capacity={"provisioner": "None", "pools": [{"name": "other"}]})
    decision = decide(cluster.observe(), cluster.now)
    touched = {apply.manifest["metadata"]["name"] for apply in decision.apply}
    assert touched <= {"whisper-other"}
    assert decision.prune == ()


@pytest.mark.parametrize("kind", ["Service", "NetworkPolicy", "ConfigMap", "PodDisruptionBudget", "Deployment"])
def test_a_child_that_was_deleted_or_changed_by_hand_is_repaired(kind: str):
    cluster = settled()
    key = next(key for key in cluster.children if key.kind == kind)
    broken = copy.deepcopy(cluster.children[key])
    broken["metadata"]["labels"] = {}
    observed = cluster.observe()
    others = tuple(child for child in observed.children if child["metadata"]["name"] != key.name or child["kind"] != kind)
    for children in (others, (*others, broken)):
        decision = decide(observed.model_copy(update={"children": children}), cluster.now)
        assert (kind, key.name) in [(apply.manifest["kind"], apply.manifest["metadata"]["name"]) for apply in decision.apply]


def test_turning_points_are_announced_once_and_in_order():
    cluster = settled()
    assert cluster.events[:2] == ["BuildingRepository", "Scaled"]
    assert cluster.events.count("Starting") == 1
    events = len(cluster.events)
    cluster.is_healthy = lambda pod: False
    cluster.change(model={"target": TARGET})
    for _ in range(12):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()
    assert cluster.events[events:] == ["BuildingRepository", "AsExpected", "RollingOut"]


def test_a_failure_is_a_warning_and_progress_is_not():
    cluster = Cluster(claim_spec())
    first = decide(cluster.observe(), cluster.now).announcements
    assert {each.reason.value: each.type for each in first} == {"BuildingRepository": "Normal", "Scaled": "Normal"}
    cluster.build = lambda document: {"exitCode": 1, "message": "crash"}
    seen = []
    for _ in range(8):
        decision = decide(cluster.observe(), cluster.now)
        seen += [(each.reason.value, each.type) for each in decision.announcements]
        cluster.execute(decision)
        cluster.tick()
    assert ("BuildFailed", "Warning") in seen
    assert len([each for each in seen if each[0] == "BuildFailed"]) == 1


def test_a_dumped_observation_reproduces_the_decision():
    cluster = settled()
    cluster.change(model={"target": TARGET})
    observed = cluster.observe()
    replayed = Observed.model_validate_json(observed.model_dump_json())
    assert decide(replayed, cluster.now).model_dump_json() == decide(observed, cluster.now).model_dump_json()


def test_every_step_explains_itself_in_a_sentence():
    details = decide(Cluster(claim_spec()).observe(), START).details
    assert details
    assert all(each.endswith(".") for each in details)


def policy() -> Manifest:
    return foundations(context(claim_spec()))[2]


@pytest.mark.parametrize(
    ("wanted", "live", "same"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": {"b": 1}}, {"a": {}}, False),
        ({"a": {}}, {}, True),
        ({"a": []}, {}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": [{"name": "x", "v": 1}]}, {"a": [{"name": "y"}, {"name": "x", "v": 1, "w": 2}]}, True),
        ({"a": [{"name": "x", "v": 1}]}, {"a": [{"name": "x", "v": 2}]}, False),
        ({"a": [{"name": "x"}]}, {"a": [{"name": "y"}]}, False),
        ({"a": [{"v": 1}]}, {"a": [{"v": 1}, {"v": 2}]}, False),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, True),
        ({"cpu": "0.5"}, {"cpu": "500m"}, True),
        ({"cpu": "1"}, {"cpu": "1500m"}, False),
        ({"name": "1"}, {"name": "1000m"}, False),
        ({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "1"}, True),
        ({"a": 1}, None, False),
    ],
)
def test_a_manifest_is_applied_if_every_field_of_it_is_there(wanted: Manifest, live: Manifest | None, same: bool):
    assert is_applied(wanted, live) is same


def test_a_policy_that_lost_a_rule_is_not_applied():
    live = copy.deepcopy(policy())
    assert is_applied(policy(), live)
    live["spec"]["egress"].pop()
    assert not is_applied(policy(), live)
