"""The level-based promise: whatever was written of a decision before it was cut off, the next passes lead to the same end."""

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.operator.cluster_model import Cluster, end_state, published, settle
from tests.unit.operator.generated import specs
from tests.unit.operator.specs import DRAFT, TARGET, Manifest, claim_spec, ephemeral_spec
from transcriber_operator.decide.decision import Key
from transcriber_operator.decide.pipeline import decide

Step = Callable[[Cluster], None]
MISMATCH = {"exitCode": 5, "message": '{"reason": "ChecksumMismatch", "message": "spec.model.target: model.safetensors differs"}'}
TWO_POOLS = {"provisioner": "None", "pools": [{"name": "spot", "capacityType": "Spot", "minReplicas": 1}, {"name": "steady"}]}


def change(**parts: Any) -> Step:
    return lambda cluster: cluster.change(**parts)


def fail_builds(cluster: Cluster) -> None:
    cluster.build = lambda document: MISMATCH


def mend_builds(cluster: Cluster) -> None:
    cluster.build = published


def delete_deployments(cluster: Cluster) -> None:
    for key in [key for key in cluster.children if key.kind == "Deployment"]:
        cluster.remove(key)


WITHOUT_DRAFT = change(model={"target": TARGET})
WITH_DRAFT = change(model={"target": TARGET, "draft": DRAFT})
WORKLOADS: dict[str, tuple[Manifest, tuple[Step, ...]]] = {
    "create": (claim_spec(), ()),
    "create, each pod builds": (ephemeral_spec(), ()),
    "change the model and go back": (claim_spec(), (WITHOUT_DRAFT, WITH_DRAFT)),
    "change the model twice": (claim_spec(), (WITHOUT_DRAFT, change(model={"target": TARGET}, decoding={"maxDraftTokens": 2}))),
    "a build that fails, then a corrected spec": (claim_spec(), (fail_builds, WITHOUT_DRAFT, mend_builds, WITH_DRAFT)),
    "scale": (claim_spec(scaling={"mode": "External", "replicas": 1}), (change(scaling={"mode": "External", "replicas": 4}),)),
    "scale to zero": (claim_spec(), (change(capacity={"provisioner": "None", "pools": [{"name": "main"}]}),)),
    "another pool": (claim_spec(scaling={"mode": "External", "replicas": 3}), (change(capacity=TWO_POOLS),)),
    "from a claim to pods that build": (claim_spec(), (change(repository={"volume": {"ephemeral": {}}}),)),
    "children deleted by hand": (claim_spec(), (delete_deployments,)),
}


def run(name: str) -> Cluster:
    """Run a workload to its end, each step once the one before has come to rest."""
    spec, steps = WORKLOADS[name]
    cluster = Cluster(copy.deepcopy(spec))
    for step in (lambda _: None, *steps):
        step(cluster)
        settle(cluster, decide)
    return cluster


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pass_cut_off_after_any_write_leads_to_the_same_end(name: str):
    spec, steps = WORKLOADS[name]
    cluster = Cluster(copy.deepcopy(spec))
    for index, step in enumerate((lambda _: None, *steps)):
        step(cluster)
        cluster.writes = 0
        start = copy.deepcopy(cluster)
        settle(cluster, decide)
        for crash_after in range(cluster.writes):
            cut = copy.deepcopy(start)
            settle(cut, decide, crash_after)
            assert _outcome(cut) == _outcome(cluster), f"cut off after write {crash_after} of step {index}"


def _outcome(cluster: Cluster) -> tuple[Manifest, Counter[Key], Counter[Key]]:
    """The end state, and how often each object was made and deleted on the way."""
    return end_state(cluster), Counter(cluster.created), Counter(cluster.deleted)


@pytest.mark.parametrize("name", WORKLOADS)
def test_nothing_is_made_or_deleted_twice_but_what_was_deleted_by_hand(name: str):
    cluster = run(name)
    by_hand = 1 if name == "children deleted by hand" else 0
    assert all(count <= 1 + (key.kind == "Deployment") * by_hand for key, count in Counter(cluster.created).items())
    assert all(count <= 1 for count in Counter(cluster.deleted).values())


@pytest.mark.parametrize("name", WORKLOADS)
def test_at_rest_nothing_is_written_any_more(name: str):
    cluster = run(name)
    decision = decide(cluster.observe(), cluster.now)
    assert (decision.apply, decision.prune, decision.status, decision.announcements) == ((), (), None, ())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_every_spec_comes_to_rest_with_every_replica_ready(spec: Manifest):
    cluster = Cluster(spec)
    settle(cluster, decide, at_most_ticks=150)
    ready = cluster.condition("Ready")
    assert ready is not None
    assert ready["status"] == "True", cluster.status["conditions"]
    assert cluster.status["readyReplicas"] == cluster.status["desiredReplicas"] == len(_serving(cluster))
    assert not {"Reconciling", "Stalled"} & {entry["type"] for entry in cluster.status["conditions"]}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), specs(), st.integers(0, 12))
def test_from_any_spec_to_any_other_what_is_left_is_what_the_other_alone_would_have(first: Manifest, second: Manifest, ticks: int):
    cluster = Cluster(first)
    for _ in range(ticks):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()
    cluster.change(**second)
    settle(cluster, decide, at_most_ticks=150)
    fresh = Cluster(second)
    settle(fresh, decide, at_most_ticks=150)
    kept = {"Job", "ConfigMap"}  # revisions to go back to
    assert {key for key in cluster.children if key.kind not in kept} == {key for key in fresh.children if key.kind not in kept}
    assert set(fresh.children) <= set(cluster.children)
    assert end_state(cluster)["status"] == end_state(fresh)["status"]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_a_decision_depends_on_nothing_but_what_was_observed(spec: Manifest):
    cluster = Cluster(spec)
    observed = cluster.observe()
    before = observed.model_dump_json()
    assert decide(observed, cluster.now) == decide(cluster.observe(), cluster.now)
    assert observed.model_dump_json() == before


def _serving(cluster: Cluster) -> list[Manifest]:
    return [pod for pod in cluster.pods.values() if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "serving"]
