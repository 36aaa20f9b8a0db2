"""Rollouts, pools and replicas: what is written when, and what an SRE is told about pods that do not serve."""

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.cluster_model import Cluster, settle
from tests.unit.operator.generated import specs
from tests.unit.operator.specs import TARGET, Manifest, claim_spec
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.decide.pipeline import decide
from transcriber_operator.decide.pools import kept_while_moving
from transcriber_operator.decide.replicas import asked_replicas

EXTERNAL = {"mode": "External", "replicas": 3}
TRITON: Manifest = {"name": "triton", "image": "images.example.com/serving:1", "restartCount": 0, "ready": False, "started": False}


def run(cluster: Cluster, ticks: int) -> None:
    for _ in range(ticks):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()


def settled(**spec: Any) -> Cluster:
    cluster = Cluster(claim_spec(**spec))
    settle(cluster, decide)
    return cluster


def condition(cluster: Cluster, type_: str) -> Manifest:
    found = cluster.condition(type_)
    assert found is not None, cluster.status
    return found


def replicas(cluster: Cluster) -> dict[str, int]:
    return {name: each["spec"]["replicas"] for name, each in cluster.of_kind("Deployment").items()}


def with_pod(status: Manifest) -> Cluster:
    """A cluster whose one serving pod has this status, as the operator then tells of it."""
    cluster = settled()
    pod = next(pod for pod in cluster.pods.values() if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "serving")
    pod["status"] = {"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}], **status}
    cluster.of_kind("Deployment")["whisper-main"]["status"]["readyReplicas"] = 0
    cluster.execute(decide(cluster.observe(), cluster.now))
    return cluster


def triton(**status: Any) -> Manifest:
    return {"containerStatuses": [TRITON | status]}


CRASHED = {"terminated": {"exitCode": 9, "message": "spec: models/x is damaged"}}
KILLED = {"terminated": {"exitCode": 137, "reason": "Error"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (triton(state=BACK_OFF, lastState=CRASHED, restartCount=4), "CrashLooping", "exit code 9 (spec: models/x is damaged)"),
        (triton(state={"running": {}}, lastState=CRASHED, restartCount=4), "CrashLooping", "previous log"),
        (triton(state={"waiting": {"reason": "ErrImagePull", "message": "denied"}}), "ImagePullFailed", "runtime.image"),
        (triton(state=BACK_OFF, lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), "OutOfMemory", "slots"),
        (triton(state={"running": {}}, started=True), "CanaryFailed", "does not pass its canary"),
        (triton(state={"running": {}}, lastState=KILLED, restartCount=2), "CanaryFailed", "restarted 2 times"),
        (triton(state=BACK_OFF, lastState=KILLED, restartCount=2), "CanaryFailed", "restarted 2 times"),
        (triton(state={"running": {}}), "Starting", "load the model"),
    ],
)
def test_a_replica_that_does_not_serve_says_why(status: Manifest, reason: str, words: str):
    cluster = with_pod(status)
    serving, ready = condition(cluster, "ServingAvailable"), condition(cluster, "Ready")
    assert (serving["status"], serving["reason"]) == ("False", reason)
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert words in serving["message"]
    assert cluster.status["pools"][0]["reason"] == reason
    assert (cluster.condition("Stalled") is None) is (reason == "Starting")


@pytest.mark.parametrize(
    ("turned", "reason"), [("2026-01-01T12:00:00Z", "Starting"), ("2026-01-01T12:20:00Z", "CanaryFailed")], ids=["never", "was"]
)
def test_a_replica_between_its_start_and_its_first_readiness_probe_is_starting(turned: str, reason: str):
    status = triton(state={"running": {"startedAt": "2026-01-01T12:01:00Z"}}, started=True)
    cluster = with_pod({**status, "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": turned}]})
    assert condition(cluster, "ServingAvailable")["reason"] == reason


def test_an_exporter_that_fails_is_told_of_by_its_name():
    exporter = {
        "name": "exporter",
        "state": BACK_OFF,
        "lastState": {"terminated": {"exitCode": 1}},
        "restartCount": 3,
        "ready": False,
    }
    cluster = with_pod({"initContainerStatuses": [exporter]})
    serving = condition(cluster, "ServingAvailable")
    assert (serving["reason"], "Container exporter" in serving["message"]) == ("CrashLooping", True)


def test_an_on_demand_node_that_was_ordered_is_waited_for_before_it_is_said_not_to_come():
    node_class = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
    cluster = settled(capacity={"nodeClassRef": node_class, "pools": [{"name": "main", "minReplicas": 1}]})
    pod = next(pod for pod in cluster.pods.values() if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "serving")
    since = cluster.now.isoformat()
    no_node = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": since}
    pod["status"] = {"phase": "Pending", "conditions": [no_node]}
    early = decide(cluster.observe(), cluster.now + timedelta(seconds=60))
    late = decide(cluster.observe(), cluster.now + timedelta(seconds=300))
    assert early.requeue_after_seconds == 240
    assert late.requeue_after_seconds is None
    reasons = [
        next(each.reason for each in decision.status.conditions if each.type == "CapacityAvailable")
        for decision in (early, late)
        if decision.status
    ]
    assert reasons == ["Starting", "InsufficientCapacity"]


def test_a_missing_claim_is_no_lack_of_nodes():
    message = 'persistentvolumeclaim "repositories" not found'
    no_node = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    cluster = with_pod({"conditions": [no_node]})
    assert condition(cluster, "ServingAvailable")["reason"] == "VolumeMissing"
    assert condition(cluster, "CapacityAvailable")["status"] == "True"


@pytest.mark.parametrize(
    ("capacity", "reason"),
    [
        ({"provisioner": "None", "pools": [{"name": "a", "minReplicas": 1}]}, "Unschedulable"),
        ({"pools": [{"name": "a", "minReplicas": 1, "capacityType": "Spot"}]}, "WaitingForSpotCapacity"),
        ({"pools": [{"name": "a", "minReplicas": 1}]}, "InsufficientCapacity"),
    ],
)
def test_a_replica_without_a_node_is_told_of_as_capacity(capacity: Manifest, reason: str):
    node_class = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
    given = capacity if "provisioner" in capacity else {**capacity, "nodeClassRef": node_class}
    cluster = Cluster(claim_spec(capacity=given), has_nodes=lambda pod: "build" in pod["metadata"]["name"])
    run(cluster, 8)
    capacity_available = condition(cluster, "CapacityAvailable")
    assert (capacity_available["status"], capacity_available["reason"]) == ("False", reason)
    assert condition(cluster, "ServingAvailable")["reason"] == reason
    assert condition(cluster, "Reconciling")["reason"] == reason
    told = {field: cluster.status["pools"][0].get(field) for field in ("name", "desired", "ready", "nodes", "reason")}
    assert told == {"name": "a", "desired": 1, "ready": 0, "nodes": 0, "reason": reason}


def test_replicas_that_serve_while_others_wait_for_nodes_are_ready_with_the_reason():
    cluster = settled(scaling=EXTERNAL)
    cluster.has_nodes = lambda pod: False
    cluster.change(scaling={"mode": "External", "replicas": 5})
    run(cluster, 5)
    ready = condition(cluster, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Unschedulable")
    assert condition(cluster, "Reconciling")["status"] == "True"
    assert cluster.status["replicaSummary"] == "3/5"


def test_a_failing_canary_leaves_the_earlier_revision_serving():
    cluster = settled(scaling=EXTERNAL)
    cluster.is_healthy = lambda pod: False
    cluster.change(model={"target": TARGET})
    run(cluster, 12)
    assert cluster.status["readyReplicas"] == 3
    assert condition(cluster, "ServingAvailable")["status"] == "True"
    assert condition(cluster, "Ready")["status"] == "False"


def test_a_corrected_spec_is_written_at_once_whatever_the_pods_state():
    cluster = settled()
    cluster.is_healthy = lambda pod: False
    cluster.change(runtime={"terminationGracePeriodSeconds": 60})
    run(cluster, 5)
    cluster.change(runtime={"terminationGracePeriodSeconds": 90})
    applies = decide(cluster.observe(), cluster.now).apply
    grace = [apply.manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for apply in applies]
    assert grace == [90]


def test_a_rollout_past_its_deadline_is_stalled_and_a_corrected_spec_ends_that():
    cluster = settled()
    cluster.is_healthy = lambda pod: False
    cluster.change(runtime={"terminationGracePeriodSeconds": 60})
    run(cluster, 4)
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    cluster.of_kind("Deployment")["whisper-main"]["status"]["conditions"] = [stuck]
    for pod in cluster.pods.values():
        pod["status"].pop("containerStatuses", None)
    cluster.execute(decide(cluster.observe(), cluster.now))
    assert condition(cluster, "Stalled")["reason"] == "RolloutStuck"
    assert condition(cluster, "ServingAvailable")["status"] == "True"
    cluster.change(runtime={"terminationGracePeriodSeconds": 110})
    cluster.execute(decide(cluster.observe(), cluster.now))
    assert cluster.condition("Stalled") is None


def test_replicas_belong_to_the_autoscaler_from_the_first_write_on():
    cluster = settled(scaling=EXTERNAL)
    deployment = cluster.of_kind("Deployment")["whisper-main"]
    owners = {entry["manager"] for entry in deployment["metadata"]["managedFields"] if entry["fieldsV1"]}
    assert "transcriber-autoscaler" in owners
    cluster.change(runtime={"terminationGracePeriodSeconds": 60}, scaling={"mode": "External", "replicas": 4})
    by_manager = {apply.manager: apply.manifest for apply in decide(cluster.observe(), cluster.now).apply}
    assert "replicas" not in by_manager["transcriber-controller"]["spec"]
    assert by_manager["transcriber-autoscaler"]["spec"] == {"replicas": 4}
    cluster.execute(decide(cluster.observe(), cluster.now))
    assert replicas(cluster) == {"whisper-main": 4}


def test_a_deployment_is_made_with_the_replicas_it_is_to_have_and_not_with_one():
    cluster = settled(scaling=EXTERNAL)
    cluster.remove(next(key for key in cluster.children if key.kind == "Deployment"))
    made = [(apply.manager, apply.manifest["spec"]["replicas"]) for apply in decide(cluster.observe(), cluster.now).apply]
    assert made == [("transcriber-controller", 3), ("transcriber-autoscaler", 3)]


def test_who_writes_our_replicas_is_told_of_and_undone():
    cluster = settled()
    deployment = cluster.of_kind("Deployment")["whisper-main"]
    deployment["spec"]["replicas"] = 7
    deployment["metadata"]["managedFields"] = [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]
    decision = decide(cluster.observe(), cluster.now)
    assert [apply.manifest["spec"] for apply in decision.apply] == [{"replicas": 1}]
    cluster.execute(decision)
    scaling = condition(cluster, "ScalingActive")
    assert (scaling["status"], scaling["reason"]) == ("False", "ConflictingWriter")
    assert "kubectl" in scaling["message"]


counts = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 6), min_size=1)


@given(counts, counts)
def test_a_move_between_pools_never_lowers_what_serves_below_what_is_wanted(allotted: dict[str, int], ready: dict[str, int]):
    kept = kept_while_moving(allotted, ready)
    assert all(kept[name] >= wanted for name, wanted in allotted.items())
    still_ready = sum(min(ready.get(name, 0), count) for name, count in kept.items())
    assert still_ready >= min(sum(allotted.values()), sum(ready.values()))


@given(counts)
def test_once_every_pool_has_its_replicas_ready_nothing_more_is_kept(allotted: dict[str, int]):
    ready = {**allotted, "leaving": 5}
    assert kept_while_moving(allotted, ready) == {**allotted, "leaving": 0}


@settings(max_examples=50)
@given(specs())
def test_asked_replicas_lie_between_floor_and_most(spec: Manifest):
    given_spec = Spec.model_validate(spec)
    wanted = asked_replicas(given_spec)
    floor = max(given_spec.scaling.min_replicas, sum(pool.min_replicas for pool in given_spec.capacity.pools))
    assert floor <= wanted <= given_spec.scaling.max_replicas


def test_a_pool_that_leaves_the_spec_serves_until_the_others_do():
    cluster = settled(scaling=EXTERNAL)
    cluster.has_nodes = lambda pod: pod["metadata"]["labels"]["serving.transcriber.dev/pool"] == "main"
    cluster.change(capacity={"provisioner": "None", "pools": [{"name": "other"}]})
    run(cluster, 10)
    assert replicas(cluster) == {"whisper-main": 3, "whisper-other": 3}
    assert cluster.status["readyReplicas"] == 3
    cluster.has_nodes = lambda pod: True
    settle(cluster, decide)
    assert replicas(cluster) == {"whisper-other": 3}
    assert condition(cluster, "Ready")["status"] == "True"


def test_a_pool_that_leaves_goes_at_once_when_nothing_is_wanted():
    cluster = settled()
    cluster.change(capacity={"provisioner": "None", "pools": [{"name": "other"}]})
    settle(cluster, decide)
    assert replicas(cluster) == {"whisper-other": 0}


def test_more_replicas_than_all_pools_take_are_told_of():
    cluster = settled(
        scaling={"mode": "External", "replicas": 5}, capacity={"provisioner": "None", "pools": [{"name": "main", "maxNodes": 2}]}
    )
    capacity = condition(cluster, "CapacityAvailable")
    assert (capacity["status"], capacity["reason"]) == ("False", "NodeLimitReached")
    assert cluster.status["desiredReplicas"] == 2
    assert cluster.status["scaling"]["desired"] == 5


def test_at_zero_replicas_the_resource_is_ready_and_says_so():
    cluster = settled(capacity={"provisioner": "None", "pools": [{"name": "main"}]})
    ready = condition(cluster, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "ScaledToZero")


@pytest.mark.parametrize("field", ["serviceAccountName", "priorityClassName"])
def test_a_runtime_field_rolls_out_without_a_build(field: str):
    cluster = settled()
    cluster.change(runtime={field: "other"})
    settle(cluster, decide)
    assert len([key for key in cluster.created if key.kind == "Job"]) == 1
    spec = cluster.of_kind("Deployment")["whisper-main"]["spec"]["template"]["spec"]
    assert spec[field] == "other"


@pytest.mark.parametrize("status", ["Ready", "PodScheduled"])
def test_pods_of_an_earlier_resource_of_the_name_do_not_count(status: str):
    cluster = settled()
    older: Callable[[Manifest], Manifest] = lambda pod: {  # noqa: E731
        **pod,
        "metadata": {**pod["metadata"], "creationTimestamp": "2020-01-01T00:00:00Z", "name": "older"},
        "status": {"conditions": [{"type": status, "status": "False", "reason": "Unschedulable"}]},
    }
    observed = cluster.observe()
    with_older = observed.model_copy(update={"pods": (*observed.pods, older(copy.deepcopy(observed.pods[-1])))})
    assert decide(with_older, cluster.now) == decide(observed, cluster.now)
