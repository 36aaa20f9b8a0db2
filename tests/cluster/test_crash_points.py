"""The plan of a crash test and its verdicts, without a cluster; and the fake pods that it runs with."""

import datetime
import json

import pytest

from tests.cluster.crash_points import (
    Ending,
    KillPoint,
    Schedule,
    Verdict,
    ending,
    kill_points,
    problems,
    rule_at,
    sample,
    summary,
)
from tests.cluster.fake_pods import build_result, end_status
from tests.cluster.transcriber_workload import STEPS, unsettled
from tests.rig.api_calls import Call
from tests.rig.faults import Cut, is_match, is_picked
from tests.rig.oracle import Footprint
from tests.rig.write_log import Write
from transcriber_api.v1alpha1 import TranscriberDeployment


def write(verb: str, resource: str, name: str, status_code: int = 200) -> Write:
    return Write(0, 0.0, verb, resource, "ns", name, "", status_code, "uid")


WRITES = [
    write("update", "leases", "lock"),
    write("apply", "configmaps", "a", 201),
    write("apply", "deployments", "d", 201),
    write("update", "leases", "lock"),
    write("create", "events", "a.17", 201),
    write("apply", "deployments", "d"),
    write("create", "events", "a.18", 201),
]


def test_every_write_but_lease_renewals_is_a_kill_point_with_two_sides():
    points = kill_points("create", WRITES)
    assert [str(point) for point in points] == [
        "create: before apply configmaps a (1)",
        "create: after apply configmaps a (1)",
        "create: before apply deployments d (1)",
        "create: after apply deployments d (1)",
        "create: before create events (1)",
        "create: after create events (1)",
        "create: before apply deployments d (2)",
        "create: after apply deployments d (2)",
        "create: before create events (2)",
        "create: after create events (2)",
    ]


def test_the_rule_of_a_point_acts_at_that_write_alone():
    for point in kill_points("create", WRITES):
        rule = rule_at(point, Cut())
        matches = [w for w in WRITES if is_match(rule, Call(w.verb, w.resource, w.namespace, w.name))]
        picked = [w for number, w in enumerate(matches, 1) if is_picked(rule, number)]
        assert [(w.verb, w.resource) for w in picked] == [(point.verb, point.resource)]
        assert rule.when == point.side


def test_a_status_and_an_event_may_be_missed_and_nothing_else():
    certain = {str(point): point.is_certain for point in kill_points("s", [*WRITES, write("apply", "deployments/status", "d")])}
    assert not certain["s: before apply deployments/status d (1)"]
    assert not certain["s: before create events (1)"]
    assert certain["s: after apply deployments d (2)"]


def test_a_run_kills_once_in_every_step_that_has_points_left():
    schedule = Schedule([*kill_points("one", WRITES[:2]), *kill_points("two", WRITES[:3])])
    assert schedule.runs_left == 4
    plans = []
    while plan := schedule.deal():
        plans.append({step: str(point).removeprefix(f"{step}: ") for step, point in plan.items()})
    assert plans == [
        {"one": "before apply configmaps a (1)", "two": "before apply configmaps a (1)"},
        {"one": "after apply configmaps a (1)", "two": "after apply configmaps a (1)"},
        {"two": "before apply deployments d (1)"},
        {"two": "after apply deployments d (1)"},
    ]


def test_points_of_a_run_that_was_given_up_come_next():
    schedule = Schedule(kill_points("one", WRITES))
    first = schedule.deal()
    schedule.give_back(first.values())
    assert schedule.deal() == first


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9, 10, 99])
def test_a_sample_spreads_over_the_writes_and_takes_sides_in_turn(count: int):
    points = kill_points("create", WRITES)
    chosen = sample(points, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(points))
    assert chosen == sample(points, count)
    if 1 < count < len(points):
        assert {point.side for point in chosen} == {"before", "after"}
        assert len({(point.verb, point.resource, point.occurrence) for point in chosen}) >= min(count, len(points) // 2)


def test_other_objects_and_other_counts_are_both_problems():
    expected = ending({"ConfigMap/a": {"data": 1}}, WRITES)
    assert problems(expected, ending({"ConfigMap/a": {"data": 1}}, WRITES)) == ()
    # One more Event, or one less, is none.
    assert problems(expected, ending({"ConfigMap/a": {"data": 1}}, WRITES[:-1])) == ()
    assert problems(expected, ending({"ConfigMap/a": {"data": 2}}, WRITES)) == ("ConfigMap/a.data: 2, not 1",)
    again = [*WRITES, write("delete", "configmaps", "a"), write("apply", "configmaps", "a", 201)]
    assert problems(expected, ending({"ConfigMap/a": {"data": 1}}, again)) == (
        "configmaps/a: created 2 and deleted 1 times, not 1 and 0",
    )
    never = Ending({"ConfigMap/a": {"data": 1}}, {("deployments", "d"): Footprint(1, 0)})
    assert problems(expected, never) == ("configmaps/a: created 0 and deleted 0 times, not 1 and 0",)


def test_a_point_that_had_to_be_reached_and_was_not_is_a_failure():
    certain = KillPoint("create", "apply", "jobs", "j", 1, "after")
    status = KillPoint("create", "apply", "jobs/status", "j", 1, "after")
    assert Verdict(certain, is_reached=False).is_failure
    assert not Verdict(status, is_reached=False).is_failure
    assert Verdict(status, is_reached=True, problems=("x",)).is_failure
    assert not Verdict(certain, is_reached=True).is_failure


def test_the_summary_has_figures_and_names_every_failure():
    certain = KillPoint("create", "apply", "jobs", "j", 1, "after")
    verdicts = [
        Verdict(certain, is_reached=True, recovery_seconds=2.0),
        Verdict(certain, is_reached=True, problems=("Job/j: missing, was 1",), recovery_seconds=4.0),
        Verdict(certain, is_reached=False),
    ]
    assert summary(verdicts).splitlines() == [
        "1 of 2 kills survived; 1 points not reached",
        "recovery: median 4.0 s, longest 4.0 s",
        "FAILED (killed): create: after apply jobs j (1)",
        "    Job/j: missing, was 1",
        "not reached: create: after apply jobs j (1)",
    ]


NOW = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)


def test_a_fake_pod_of_a_job_has_built_and_any_other_is_ready():
    containers = [{"name": "main", "image": "i"}]
    job_pod = {"metadata": {"name": "j-x", "ownerReferences": [{"kind": "Job", "name": "j"}]}, "spec": {"containers": containers}}
    status = end_status(job_pod, NOW)
    assert status["phase"] == "Succeeded"
    ended = status["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["message"], ended["finishedAt"]) == (0, build_result("j"), "2026-01-31T12:00:00Z")
    assert json.loads(build_result("j"))["digest"] != json.loads(build_result("k"))["digest"]
    init = [{"name": "exporter", "image": "i", "restartPolicy": "Always"}, {"name": "build", "image": "i"}]
    serving_pod = {"metadata": {"name": "d-x"}, "spec": {"containers": containers, "initContainers": init}}
    status = end_status(serving_pod, NOW)
    assert status["phase"] == "Running"
    assert {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"} in status["conditions"]
    assert [set(container["state"]) for container in status["initContainerStatuses"]] == [{"running"}, {"terminated"}]


def test_every_step_of_the_workload_is_a_valid_resource():
    for step in STEPS:
        if step.applies is not None:
            TranscriberDeployment.model_validate(step.applies, by_alias=True, by_name=False)
    assert [step.name for step in STEPS if step.deletes] == ["remake", "delete"]


def settled_objects() -> list[dict]:
    metadata = {"name": "td", "uid": "u1", "generation": 2}
    owner = {"name": "td-spot", "uid": "u2", "generation": 1, "ownerReferences": [{"uid": "u1"}]}
    replicas = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    return [
        {"kind": "TranscriberDeployment", "metadata": metadata, "status": {"observedGeneration": 2, "conditions": []}},
        {"kind": "Deployment", "metadata": owner, "spec": {"replicas": 1}, "status": {"observedGeneration": 1, **replicas}},
        {"kind": "Job", "metadata": {"name": "j", "uid": "u3"}, "status": {"conditions": [{"type": "Complete"}]}},
    ]


@pytest.mark.parametrize(
    ("index", "part", "value", "reason"),
    [
        (0, "status", {"observedGeneration": 1}, "TranscriberDeployment td has a status of an earlier generation"),
        (
            0,
            "status",
            {"observedGeneration": 2, "conditions": [{"type": "Reconciling"}]},
            "TranscriberDeployment td is reconciling",
        ),
        (0, "metadata", {"name": "td", "uid": "u9", "generation": 2}, "Deployment td-spot has lost its owner"),
        (1, "spec", {"replicas": 2}, "Deployment td-spot is rolling out"),
        (2, "status", {}, "Job j runs"),
        (2, "metadata", {"name": "j", "uid": "u3", "deletionTimestamp": "t"}, "Job j is being deleted"),
    ],
)
def test_what_is_under_way_is_not_settled(index: int, part: str, value: dict, reason: str):
    objects = settled_objects()
    assert unsettled(objects) == ""
    objects[index][part] = value
    assert unsettled(objects).startswith(reason)
