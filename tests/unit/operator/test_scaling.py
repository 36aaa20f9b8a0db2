"""Scaling put together: from load, nodes and money to the writes of a pass, and what an SRE is told."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.unit.operator.cluster_model import Cluster, idle, settle
from tests.unit.operator.specs import Manifest, claim_spec
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import LoadSample, NodeEvent, Nodes
from transcriber_operator.decide.pipeline import decide
from transcriber_operator.render import names

KARPENTER = {"nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}}
SPOT = {"name": "spot", "capacityType": "Spot", "weight": 100, "gpus": ["l4"]}
ON_DEMAND = {"name": "steady", "gpus": ["l4"], "minReplicas": 1}
NODE_CLASS = {"kind": "EC2NodeClass", "metadata": {"name": "gpu"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
LOOK = timedelta(seconds=5)


def cluster_of(
    scaling: Manifest | None = None, pools: tuple[Manifest, ...] = ({"name": "main", "minReplicas": 1},), **spec: Any
) -> Cluster:
    capacity = {"provisioner": "None", "pools": list(pools)}
    return Cluster(claim_spec(scaling=scaling or {}, capacity=capacity, **spec))


def karpenter_cluster(*pools: Manifest, fallback: Manifest | None = None, **spec: Any) -> Cluster:
    capacity = {**KARPENTER, "pools": list(pools), **({"fallback": fallback} if fallback else {})}
    cluster = Cluster(claim_spec(capacity=capacity, **spec))
    cluster.nodes = Nodes(is_installed=True, node_class=NODE_CLASS)
    return cluster


def holding(queued: float, in_flight: float = 0.0, **counters: float) -> Callable[[Manifest, datetime], LoadSample]:
    """Every replica tells of so much work."""
    return lambda pod, now: idle(pod, now).model_copy(
        update={"queued_audio_seconds": queued, "in_flight_audio_seconds": in_flight, **counters}
    )


def pass_over(cluster: Cluster) -> Decision:
    decision = decide(cluster.observe(), cluster.now)
    cluster.execute(decision)
    return decision


def look(cluster: Cluster, seconds: float = 5.0) -> Decision:
    """A pass some seconds later, with no controller at work meanwhile."""
    cluster.now += timedelta(seconds=seconds)
    return pass_over(cluster)


def replicas(cluster: Cluster) -> dict[str, int]:
    return {name: each["spec"]["replicas"] for name, each in cluster.of_kind("Deployment").items()}


def condition(cluster: Cluster, type_: str) -> tuple[str, str]:
    found = cluster.condition(type_)
    assert found is not None, cluster.status
    return found["status"], found["reason"]


def serving_pods(cluster: Cluster, pool: str) -> list[Manifest]:
    return [pod for pod in cluster.pods.values() if pod["metadata"]["labels"].get(names.POOL_LABEL) == pool]


def claim_of(cluster: Cluster, pod: Manifest, **metadata: Any) -> Manifest:
    pool = pod["metadata"]["labels"][names.POOL_LABEL]
    labels = {names.POOL_LABEL: pool, "node.kubernetes.io/instance-type": "g6.xlarge", "karpenter.sh/capacity-type": "spot"}
    return {
        "kind": "NodeClaim",
        "metadata": {"name": f"speech-whisper-{pool}-x1", "labels": labels, **metadata},
        "status": {"nodeName": pod["spec"]["nodeName"], "conditions": [{"type": "Launched", "status": "True"}]},
    }


def test_a_burst_is_answered_in_one_decision_and_replicas_go_once_it_is_over():
    cluster = cluster_of({"maxReplicas": 50, "targetWaitSeconds": 60})
    settle(cluster, decide)
    cluster.load = holding(30_000.0)
    decision = look(cluster)
    wanted = replicas(cluster)["whisper-main"]
    assert wanted > 1
    assert condition(cluster, "ScalingActive")[0] == "True"
    assert cluster.status["scaling"]["cause"] == "Backlog"
    assert decision.figures is not None
    assert decision.figures.desired == wanted
    cluster.load = holding(30_000.0, 100.0)
    look(cluster)
    assert replicas(cluster)["whisper-main"] == wanted, "what is ordered counts"
    cluster.load = idle
    settle(cluster, decide)
    assert replicas(cluster)["whisper-main"] == 1


def test_an_idle_resource_is_not_written_however_often_it_is_looked_at():
    cluster = cluster_of()
    settle(cluster, decide)
    writes = cluster.writes
    for _ in range(200):
        assert look(cluster).watches_load
    assert cluster.writes == writes


def test_without_a_floor_the_last_replica_goes_after_the_idle_time_and_nothing_is_looked_at_any_more():
    cluster = cluster_of({"minReplicas": 0, "idleTimeoutSeconds": 120}, pools=({"name": "main"},))
    cluster.spec["scaling"]["schedules"] = []
    cluster.change(scaling={**cluster.spec["scaling"], "minReplicas": 1})
    settle(cluster, decide)
    cluster.load = holding(0.0, 10.0)
    cluster.change(scaling={**cluster.spec["scaling"], "minReplicas": 0})
    look(cluster)
    assert replicas(cluster)["whisper-main"] == 1, "it works"
    cluster.load = idle
    look(cluster, 60)
    assert replicas(cluster)["whisper-main"] == 1, "it may be needed again"
    settle(cluster, decide)
    assert replicas(cluster)["whisper-main"] == 0
    decision = look(cluster)
    assert not decision.watches_load
    assert condition(cluster, "Ready") == ("True", "ScaledToZero")


def test_replicas_that_do_not_tell_are_held_and_told_of():
    cluster = cluster_of({"maxReplicas": 10})
    settle(cluster, decide)
    cluster.load = holding(45_000.0)
    look(cluster)
    wanted = replicas(cluster)["whisper-main"]
    cluster.load = lambda pod, now: None
    for _ in range(100):
        look(cluster, 30)
    assert replicas(cluster)["whisper-main"] == wanted
    assert condition(cluster, "ScalingActive") == ("False", "MetricsStale")


@pytest.mark.parametrize("queued", [-1.0, 1e12, 1e300])
def test_figures_that_cannot_be_true_change_no_replica(queued: float):
    cluster = cluster_of({"maxReplicas": 10})
    settle(cluster, decide)
    cluster.load = holding(queued)
    for _ in range(20):
        look(cluster)
    assert replicas(cluster)["whisper-main"] == 1
    assert condition(cluster, "ScalingActive") == ("False", "MetricsStale")
    assert "not believed" in cluster.condition("ScalingActive")["message"]


def test_a_restart_of_the_operator_takes_no_replica_away_and_forgets_nothing_that_was_learnt():
    cluster = cluster_of({"maxReplicas": 10})
    settle(cluster, decide)
    cluster.load = holding(45_000.0)
    look(cluster)
    cluster.tick()
    wanted, before = replicas(cluster), cluster.status["pools"][0]
    cluster.load, cluster.memory = idle, None
    look(cluster)
    assert replicas(cluster) == wanted
    after = cluster.status["pools"][0]
    assert (after["leadTimeSeconds"], after["replicaThroughput"]) == (before["leadTimeSeconds"], before["replicaThroughput"])


def test_the_idlest_replicas_are_marked_before_a_pool_shrinks():
    cluster = cluster_of({"mode": "External", "replicas": 3})
    settle(cluster, decide)
    busiest = serving_pods(cluster, "main")[0]["metadata"]["name"]
    cluster.load = lambda pod, now: holding(500.0 if pod["metadata"]["name"] == busiest else 0.0)(pod, now)
    cluster.change(scaling={"mode": "External", "replicas": 1})
    decision = decide(cluster.observe(), cluster.now)
    marked = [apply.manifest["metadata"]["name"] for apply in decision.apply if apply.manifest["kind"] == "Pod"]
    assert len(marked) == 2
    assert busiest not in marked
    kinds = [apply.manifest["kind"] for apply in decision.apply]
    assert kinds.index("Pod") < kinds.index("Deployment")
    settle(cluster, decide)
    assert [pod["metadata"]["name"] for pod in serving_pods(cluster, "main")] == [busiest]


def test_a_replica_on_an_interrupted_spot_node_is_replaced_at_once_with_what_is_left_of_the_notice():
    cluster = karpenter_cluster(SPOT | {"minReplicas": 2})
    settle(cluster, decide)
    taken, kept = serving_pods(cluster, "spot")
    since = cluster.now - timedelta(seconds=30)
    cluster.nodes = cluster.nodes.model_copy(
        update={"claims": (claim_of(cluster, taken, deletionTimestamp=since.isoformat()), claim_of(cluster, kept))}
    )
    decision = pass_over(cluster)
    assert [(each.name, each.grace_seconds) for each in decision.pod_deletes] == [(taken["metadata"]["name"], 80)]
    assert condition(cluster, "CapacityAvailable") == ("False", "Interrupted")
    assert decision.figures is not None
    assert decision.figures.pools[0].interruptions == 1
    again = decide(cluster.observe(), cluster.now)
    assert again.pod_deletes == ()
    assert again.figures is not None
    assert again.figures.pools[0].interruptions == 0


def test_a_node_that_is_likely_to_be_taken_back_gets_a_successor_while_it_still_serves():
    cluster = karpenter_cluster(SPOT | {"minReplicas": 2})
    settle(cluster, decide)
    at_risk, kept = serving_pods(cluster, "spot")
    told = {"reason": "SpotRebalanceRecommendation", "kind": "NodeClaim", "name": "risky", "message": "", "at": cluster.now}
    claims = (claim_of(cluster, at_risk, name="risky"), claim_of(cluster, kept))
    cluster.nodes = cluster.nodes.model_copy(update={"claims": claims, "events": (NodeEvent.model_validate(told),)})
    decision = pass_over(cluster)
    assert decision.pod_deletes == ()
    assert decision.requeue_after_seconds is not None
    for _ in range(6):
        assert replicas(cluster) == {"whisper-spot": 3}, "one more, and not one more with every look"
        cluster.tick()
        pass_over(cluster)
    cluster.now += timedelta(minutes=11)
    for _ in range(60):
        pass_over(cluster)
        cluster.tick()
    assert replicas(cluster) == {"whisper-spot": 2}


def test_an_interrupted_on_demand_node_is_left_to_karpenter_and_its_disruption_budget():
    cluster = karpenter_cluster(ON_DEMAND)
    settle(cluster, decide)
    (pod,) = serving_pods(cluster, "steady")
    cluster.nodes = cluster.nodes.model_copy(
        update={"claims": (claim_of(cluster, pod, deletionTimestamp=cluster.now.isoformat()),)}
    )
    assert pass_over(cluster).pod_deletes == ()


def test_on_demand_stands_in_for_spot_that_does_not_come_and_is_given_back_once_it_has():
    fallback = {"afterSeconds": 60, "returnAfterSeconds": 300}
    cluster = karpenter_cluster(SPOT | {"minReplicas": 2}, ON_DEMAND, fallback=fallback)
    cluster.has_nodes = lambda pod: pod["metadata"]["labels"].get(names.POOL_LABEL) != "spot"
    for _ in range(20):
        pass_over(cluster)
        cluster.tick()
    assert replicas(cluster) == {"whisper-spot": 2, "whisper-steady": 3}
    assert condition(cluster, "CapacityAvailable") == ("False", "FallenBack")
    assert cluster.status["pools"][1]["fallenBackReplicas"] == 2
    cluster.memory = None  # the operator is started anew meanwhile
    pass_over(cluster)
    assert replicas(cluster) == {"whisper-spot": 2, "whisper-steady": 3}
    cluster.has_nodes = lambda pod: True
    for _ in range(100):
        pass_over(cluster)
        cluster.tick()
    assert replicas(cluster) == {"whisper-spot": 2, "whisper-steady": 1}
    assert condition(cluster, "CapacityAvailable") == ("True", "AsExpected")


def test_capacity_that_was_refused_is_told_of_in_the_words_of_the_cloud():
    cluster = karpenter_cluster(ON_DEMAND)
    cluster.has_nodes = lambda pod: "build" in pod["metadata"]["name"]
    for _ in range(8):
        pass_over(cluster)
        cluster.tick()
    event = NodeEvent(
        reason="InsufficientCapacityError",
        kind="NodeClaim",
        name="speech-whisper-steady-abcde",
        message="no g6.xlarge in us-east-1a",
        at=cluster.now,
    )
    cluster.nodes = cluster.nodes.model_copy(update={"events": (event,)})
    pass_over(cluster)
    assert condition(cluster, "CapacityAvailable") == ("False", "InsufficientCapacity")
    assert "no g6.xlarge in us-east-1a" in cluster.condition("CapacityAvailable")["message"]


@pytest.mark.parametrize(
    ("nodes", "reason", "words"),
    [
        (Nodes(is_installed=False), "KarpenterMissing", "install it"),
        (Nodes(is_installed=True), "NodeClassNotReady", "EC2NodeClass gpu (karpenter.k8s.aws) does not exist"),
        (
            Nodes(
                is_installed=True,
                node_class={"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no AMI"}]}},
            ),
            "NodeClassNotReady",
            "no AMI",
        ),
    ],
)
def test_what_keeps_all_nodes_from_coming_is_named(nodes: Nodes, reason: str, words: str):
    cluster = karpenter_cluster(ON_DEMAND)
    cluster.nodes = nodes
    cluster.has_nodes = lambda pod: "build" in pod["metadata"]["name"]
    for _ in range(8):
        pass_over(cluster)
        cluster.tick()
    assert condition(cluster, "CapacityAvailable") == ("False", reason)
    assert words in cluster.condition("CapacityAvailable")["message"]


def test_without_karpenter_everything_but_its_node_pools_is_written():
    cluster = karpenter_cluster(ON_DEMAND)
    cluster.nodes = Nodes(is_installed=False)
    written = {apply.manifest["kind"] for _ in range(3) for apply in pass_over(cluster).apply}
    assert "Job" in written
    assert "NodePool" not in written


def test_a_model_that_fits_no_gpu_of_a_pool_is_refused_with_the_arithmetic():
    cluster = karpenter_cluster(ON_DEMAND | {"gpus": ["t4"]}, runtime={"slots": 512})
    cluster.spec["model"]["target"] = {**cluster.spec["model"]["target"], "uri": "hf://openai/whisper-large-v3"}
    decision = pass_over(cluster)
    assert decision.apply == ()
    assert condition(cluster, "SpecValid") == ("False", "ModelDoesNotFit")
    assert "512 slots x" in cluster.condition("SpecValid")["message"]


def test_a_schedule_that_cannot_be_read_is_refused_by_its_name():
    cluster = cluster_of({"schedules": [{"name": "office", "cron": "99 8 * * *", "durationSeconds": 3600, "minReplicas": 2}]})
    pass_over(cluster)
    assert condition(cluster, "SpecValid") == ("False", "SpecInvalid")
    assert "office" in cluster.condition("SpecValid")["message"]


def test_a_schedule_brings_replicas_a_boot_before_it_begins_and_wakes_the_operator_for_it():
    schedule = {"name": "office", "cron": "0 14 * * *", "durationSeconds": 3600, "minReplicas": 2}
    cluster = cluster_of({"schedules": [schedule]}, pools=({"name": "main"},))
    pass_over(cluster)
    for _ in range(6):
        cluster.tick()
        decision = pass_over(cluster)
    assert replicas(cluster)["whisper-main"] == 0
    lead = timedelta(seconds=90)
    assert decision.requeue_after_seconds is not None
    wakes_at = cluster.now + timedelta(seconds=decision.requeue_after_seconds)
    assert wakes_at == datetime(2026, 1, 1, 14, 0, tzinfo=cluster.now.tzinfo) - lead
    cluster.now = wakes_at
    pass_over(cluster)
    assert replicas(cluster)["whisper-main"] == 2


def test_the_budget_is_told_of_where_it_keeps_replicas_away():
    cluster = cluster_of(
        {"maxReplicas": 10}, pools=({"name": "main", "minReplicas": 1, "pricePerHour": "1"},), budget={"perHour": "3"}
    )
    settle(cluster, decide)
    cluster.load = holding(45_000.0)
    look(cluster)
    assert 1 < replicas(cluster)["whisper-main"] <= 3
    assert condition(cluster, "ScalingActive") == ("True", "BudgetLimited")
    assert cluster.status["cost"]["allowedPerHour"] == "3"


def test_the_extra_replica_of_a_rollout_is_not_taken_for_one_that_is_wanted():
    cluster = cluster_of({"maxReplicas": 10})
    settle(cluster, decide)
    cluster.change(runtime={"priorityClassName": "other"})
    for _ in range(6):
        pass_over(cluster)
        assert replicas(cluster)["whisper-main"] == 1
        cluster.tick()


def test_a_suspended_resource_keeps_its_replicas_and_interrupted_ones_too():
    cluster = karpenter_cluster(SPOT | {"minReplicas": 1})
    settle(cluster, decide)
    (pod,) = serving_pods(cluster, "spot")
    cluster.nodes = cluster.nodes.model_copy(
        update={"claims": (claim_of(cluster, pod, deletionTimestamp=cluster.now.isoformat()),)}
    )
    cluster.change(suspend=True)
    decision = decide(cluster.observe(), cluster.now)
    assert (decision.apply, decision.prune, decision.pod_deletes, decision.watches_load) == ((), (), (), False)


def test_a_dump_of_a_pass_reproduces_its_decision():
    cluster = cluster_of({"maxReplicas": 10})
    settle(cluster, decide)
    cluster.load = holding(1234.5, 67.0, admitted_audio_seconds_total=5000.0, admitted_requests_total=7.0)
    for _ in range(5):
        look(cluster)
    observed = cluster.observe()
    again = type(observed).model_validate_json(observed.model_dump_json())
    assert decide(again, cluster.now) == decide(observed, cluster.now)
