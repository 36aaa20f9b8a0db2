"""How far a build is, why it failed, and what that does and does not change."""

import copy
import json
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator.cluster_model import Cluster, digest_of, published, settle
from tests.unit.operator.specs import DRAFT, TARGET, Manifest, claim_spec, ephemeral_spec
from transcriber_api.conditions import Reason as ConditionReason
from transcriber_operator.decide.observed import BuildProgress
from transcriber_operator.decide.pipeline import decide
from transcriber_operator.decide.results import read_published
from transcriber_operator.render import names
from transcriber_repository.errors import EXIT_CODES, Reason, RepositoryError
from transcriber_repository.outcome import failure

NEW_MODEL = {"target": TARGET}


def failing(reason: Reason, subject: str = "spec.model.target", message: str = "is wrong") -> dict[str, Any]:
    """What a build container leaves that fails, written by the builder's own code."""
    error = RepositoryError(reason, subject, message)
    return {"exitCode": EXIT_CODES[reason], "message": failure(error).decode()}


def run(cluster: Cluster, ticks: int) -> None:
    for _ in range(ticks):
        cluster.execute(decide(cluster.observe(), cluster.now))
        cluster.tick()


def serving_cluster(**spec: Any) -> Cluster:
    cluster = Cluster(claim_spec(**spec))
    settle(cluster, decide)
    return cluster


def settled_failure(cluster: Cluster, ended: dict[str, Any]) -> Manifest:
    cluster.build = lambda document: ended
    run(cluster, 8)
    built = cluster.condition("RepositoryBuilt")
    assert built is not None
    return built


def jobs(cluster: Cluster) -> list[str]:
    return sorted(cluster.of_kind("Job"))


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (failing(Reason.INVALID_SPEC), "SpecInvalid"),
        (failing(Reason.SOURCE_REFUSED), "SourceUnreachable"),
        (failing(Reason.SOURCE_REFUSED, "spec.model.target.revision", "no such commit"), "RevisionNotFound"),
        (failing(Reason.SOURCE_UNAVAILABLE), "SourceUnreachable"),
        (failing(Reason.CHECKSUM_MISMATCH), "ChecksumMismatch"),
        (failing(Reason.UNSUPPORTED_FORMAT), "FormatUnsupported"),
        (failing(Reason.DRAFT_INCOMPATIBLE), "DraftIncompatible"),
        (failing(Reason.STORAGE_FAILED, "/repositories", "No space left on device: nothing was published"), "VolumeFull"),
        (failing(Reason.STORAGE_FAILED, "/repositories", "Input/output error"), "BuildFailed"),
        ({"exitCode": 137, "reason": "OOMKilled"}, "OutOfMemory"),
        ({"exitCode": 1, "message": "Traceback: ModuleNotFoundError"}, "BuildFailed"),
        ({"exitCode": 4, "message": '{"reason": "Novel", "message": "m"}'}, "BuildFailed"),
    ],
)
def test_a_failed_build_names_its_reason_and_the_next_action(ended: dict[str, Any], reason: str):
    built = settled_failure(Cluster(claim_spec()), ended)
    assert (built["status"], built["reason"]) == ("False", reason)
    assert any(action in built["message"] for action in ("Correct the spec", "next try"))


def test_the_message_of_the_builder_reaches_the_condition():
    built = settled_failure(Cluster(claim_spec()), failing(Reason.CHECKSUM_MISMATCH, "spec.model.target.files", "sha256 differs"))
    assert "spec.model.target.files: sha256 differs" in built["message"]


def test_a_failure_that_no_retry_can_cure_is_stalled_and_quiet():
    cluster = Cluster(claim_spec())
    settled_failure(cluster, failing(Reason.CHECKSUM_MISMATCH))
    stalled = cluster.condition("Stalled")
    assert stalled is not None
    assert stalled["reason"] == "ChecksumMismatch"
    decision = decide(cluster.observe(), cluster.now + timedelta(days=1))
    assert (decision.apply, decision.prune, decision.status, decision.requeue_after_seconds) == ((), (), None, None)


@pytest.mark.parametrize(
    ("ended", "within_seconds"),
    [(failing(Reason.SOURCE_UNAVAILABLE), 600), (failing(Reason.STORAGE_FAILED, "/repositories", "No space left on device"), 3600)],
)
def test_a_failure_that_may_pass_is_tried_again_without_anyone_acting(ended: dict[str, Any], within_seconds: int):
    cluster = Cluster(claim_spec())
    settled_failure(cluster, ended)
    assert cluster.condition("Stalled") is None
    decision = decide(cluster.observe(), cluster.now)
    assert decision.requeue_after_seconds is not None
    assert within_seconds - 100 < decision.requeue_after_seconds <= within_seconds
    cluster.now += timedelta(seconds=decision.requeue_after_seconds)
    cluster.build = published
    settle(cluster, decide)
    ready = cluster.condition("Ready")
    assert ready is not None
    assert ready["status"] == "True"
    assert len(cluster.deleted) == 1


def test_a_build_past_its_deadline_names_the_field_and_is_tried_again_since_downloads_resume():
    cluster = Cluster(claim_spec())
    run(cluster, 3)
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "lastTransitionTime": cluster.now.isoformat()}
    next(iter(cluster.of_kind("Job").values()))["status"] = {"conditions": [failed]}
    cluster.pods.clear()
    decision = decide(cluster.observe(), cluster.now)
    assert decision.requeue_after_seconds == 600
    assert decision.status is not None
    built = next(each for each in decision.status.conditions if each.type == "RepositoryBuilt")
    assert "repository.build.timeoutSeconds" in built.message


def test_a_failing_build_changes_no_template_and_serves_on():
    cluster = serving_cluster()
    before = copy.deepcopy(cluster.of_kind("Deployment"))
    cluster.change(model=NEW_MODEL)
    settled_failure(cluster, failing(Reason.CHECKSUM_MISMATCH))
    after = cluster.of_kind("Deployment")
    assert {name: each["spec"] for name, each in after.items()} == {name: each["spec"] for name, each in before.items()}
    conditions = {type_: cluster.condition(type_) for type_ in ("Ready", "ServingAvailable")}
    assert {type_: each and each["status"] for type_, each in conditions.items()} == {"Ready": "False", "ServingAvailable": "True"}


def test_a_failing_build_keeps_deployments_that_are_scaled_to_zero():
    cluster = serving_cluster(capacity={"provisioner": "None", "pools": [{"name": "main"}]})
    cluster.change(model=NEW_MODEL)
    settled_failure(cluster, failing(Reason.CHECKSUM_MISMATCH))
    assert list(cluster.of_kind("Deployment")) == ["whisper-main"]
    assert [key for key in cluster.deleted if key.kind == "Deployment"] == []


def test_while_a_build_fails_replicas_are_still_decided():
    cluster = serving_cluster(scaling={"mode": "External", "replicas": 1})
    cluster.change(model=NEW_MODEL, scaling={"mode": "External", "replicas": 3})
    settled_failure(cluster, failing(Reason.CHECKSUM_MISMATCH))
    assert [each["spec"]["replicas"] for each in cluster.of_kind("Deployment").values()] == [3]


def test_a_corrected_spec_builds_at_once_and_repairs():
    cluster = Cluster(claim_spec(model=NEW_MODEL))
    settled_failure(cluster, failing(Reason.DRAFT_INCOMPATIBLE))
    cluster.build = published
    cluster.change(model={"target": TARGET, "draft": DRAFT})
    settle(cluster, decide)
    ready = cluster.condition("Ready")
    assert ready is not None
    assert ready["status"] == "True"
    assert len(jobs(cluster)) == 1


@pytest.mark.parametrize("build", [{"timeoutSeconds": 7200}, {"backoffLimit": 1}, {"resources": {"limits": {"memory": "8Gi"}}}])
def test_a_job_that_has_not_succeeded_follows_a_corrected_build_section(build: Manifest):
    cluster = Cluster(claim_spec())
    settled_failure(cluster, {"exitCode": 137, "reason": "OOMKilled"})
    volume = cluster.spec["repository"]["volume"]
    cluster.change(repository={"volume": volume, "build": build})
    cluster.build = published
    settle(cluster, decide)
    ready = cluster.condition("Ready")
    assert ready is not None
    assert ready["status"] == "True"


def test_a_job_that_has_succeeded_stays_whatever_the_build_section_says():
    cluster = serving_cluster()
    cluster.change(repository={**cluster.spec["repository"], "build": {"timeoutSeconds": 7200}})
    settle(cluster, decide)
    assert cluster.deleted == []


def test_going_back_needs_no_build():
    cluster = serving_cluster()
    first = jobs(cluster)
    original = cluster.spec["model"]
    cluster.change(model=NEW_MODEL)
    settle(cluster, decide)
    assert len(jobs(cluster)) == 2
    cluster.change(model=original)
    cluster.execute(decide(cluster.observe(), cluster.now))
    digests = {names_of[names.DIGEST_ANNOTATION] for names_of in _annotations(cluster, "Deployment")}
    results = {read_published(names_of[names.RESULT_ANNOTATION]) for names_of in _annotations(cluster, "Job", first[0])}
    assert digests == {result.digest for result in results if result}
    assert len([key for key in cluster.created if key.kind == "Job"]) == 2


def test_what_serves_can_be_gone_back_to_from_a_failing_build_even_without_a_history():
    cluster = serving_cluster(repository={"volume": {"claimName": "repositories"}, "revisionHistoryLimit": 0})
    original = cluster.spec["model"]
    cluster.change(model=NEW_MODEL)
    settled_failure(cluster, failing(Reason.CHECKSUM_MISMATCH))
    cluster.change(model=original)
    run(cluster, 1)
    ready = cluster.condition("Ready")
    assert ready is not None
    assert ready["status"] == "True"
    assert len([key for key in cluster.created if key.kind == "Job"]) == 2


@pytest.mark.parametrize(("limit", "left"), [(0, 1), (1, 2), (2, 3)])
def test_as_many_revisions_stay_as_the_history_limit_says(limit: int, left: int):
    cluster = serving_cluster()
    repository = {**cluster.spec["repository"], "revisionHistoryLimit": limit}
    for slots in (8, 9, 10, 11):
        cluster.change(runtime={"slots": slots}, repository=repository)
        settle(cluster, decide)
    assert len(jobs(cluster)) == left
    assert len(cluster.of_kind("ConfigMap")) == left


@pytest.mark.parametrize(("limit", "kept"), [(0, 1), (1, 1), (2, 2)])
def test_a_new_build_keeps_what_serves_and_what_may_be_gone_back_to(limit: int, kept: int):
    cluster = serving_cluster()
    repository = {**cluster.spec["repository"], "revisionHistoryLimit": 2}
    cluster.change(runtime={"slots": 8}, repository=repository)
    settle(cluster, decide)
    cluster.change(runtime={"slots": 9}, repository={**repository, "revisionHistoryLimit": limit})
    applies = {apply.manifest["kind"]: apply.manifest for apply in decide(cluster.observe(), cluster.now).apply}
    command = applies["Job"]["spec"]["template"]["spec"]["containers"][0]["command"]
    digests = {command[index + 1] for index, word in enumerate(command) if word == "--keep"}
    assert len(digests) == kept
    assert cluster.status["repository"]["digest"] in digests


def test_a_new_build_keeps_what_pods_still_serve_after_a_rollout_that_failed():
    cluster = serving_cluster(repository={"volume": {"claimName": "repositories"}, "revisionHistoryLimit": 0})
    first = cluster.status["repository"]["digest"]
    cluster.is_healthy = lambda pod: False
    cluster.change(runtime={"slots": 8})
    run(cluster, 10)
    assert len(jobs(cluster)) == 1
    cluster.change(runtime={"slots": 9})
    applies = {apply.manifest["kind"]: apply.manifest for apply in decide(cluster.observe(), cluster.now).apply}
    assert first in applies["Job"]["spec"]["template"]["spec"]["containers"][0]["command"]


def test_a_result_outlives_the_pod_that_wrote_it():
    cluster = serving_cluster()
    cluster.pods = {name: pod for name, pod in cluster.pods.items() if "build" not in name}
    decision = decide(cluster.observe(), cluster.now)
    assert (decision.apply, decision.prune, decision.status) == ((), (), None)
    assert cluster.status["repository"]["digest"].startswith("sha256-")


def test_a_result_that_went_with_its_pod_is_built_again():
    cluster = Cluster(claim_spec())
    while not any(job["status"].get("conditions") for job in cluster.of_kind("Job").values()):
        run(cluster, 1)
    cluster.pods.clear()
    settle(cluster, decide)
    assert [key.kind for key in cluster.deleted] == ["Job"]
    ready = cluster.condition("Ready")
    assert ready is not None
    assert ready["status"] == "True"


def test_a_job_that_says_nothing_when_it_is_done_is_told_of_and_not_repeated_for_ever():
    cluster = Cluster(claim_spec())
    built = settled_failure(cluster, {"exitCode": 0, "message": ""})
    assert built["reason"] == "BuildFailed"
    assert "wrote no result" in built["message"]
    assert cluster.deleted == []


def test_a_build_that_runs_tells_how_far_it_is():
    cluster = Cluster(claim_spec())
    run(cluster, 2)
    cluster.progress = BuildProgress(
        stage="fetch target", bytes_done=1 << 30, bytes_total=3 << 30, bytes_per_second=2.0**26, eta_seconds=32.4
    )
    decision = decide(cluster.observe(), cluster.now)
    assert decision.requeue_after_seconds == 15
    assert decision.status is not None
    built = next(each for each in decision.status.conditions if each.type == "RepositoryBuilt")
    assert built.reason == "DownloadingWeights"
    assert built.message == "fetch target: 1024 of 3072 MiB, 64.0 MiB/s, 32 s left."
    assert [each.reason for each in decision.announcements] == [ConditionReason.DOWNLOADING_WEIGHTS]


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (
            {"conditions": [_unscheduled := {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]},
            "Unschedulable",
            "no message",
        ),
        (
            {"conditions": [{**_unscheduled, "message": '0/1 nodes: persistentvolumeclaim "models" not found. preemption: none'}]},
            "VolumeMissing",
            "PersistentVolumeClaim models",
        ),
        (
            {"containerStatuses": [{"name": "build", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "denied"}}}]},
            "ImagePullFailed",
            "runtime.image",
        ),
        (
            {
                "containerStatuses": [
                    {
                        "name": "build",
                        "state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}},
                    }
                ]
            },
            "SecretMissing",
            "Secret hub",
        ),
    ],
)
def test_a_build_that_cannot_start_says_what_is_missing(status: Manifest, reason: str, words: str):
    cluster = Cluster(claim_spec(), has_nodes=lambda pod: False)
    run(cluster, 3)
    next(iter(cluster.pods.values()))["status"] = {"phase": "Pending", **status}
    run(cluster, 1)
    built = cluster.condition("RepositoryBuilt")
    assert built is not None
    assert built["reason"] == reason
    assert words in built["message"]


def test_a_pod_that_waits_long_for_its_volumes_is_suspected_to_miss_its_secret():
    cluster = Cluster(claim_spec(model={"target": TARGET | {"credentialsSecret": "hub-token"}}), has_nodes=lambda pod: False)
    run(cluster, 3)
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": cluster.now.isoformat()}
    waiting = {"name": "build", "state": {"waiting": {"reason": "ContainerCreating"}}}
    pod = next(iter(cluster.pods.values()))
    pod["status"] = {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [waiting]}
    early = decide(cluster.observe(), cluster.now + timedelta(seconds=50))
    assert early.requeue_after_seconds == 10
    late = decide(cluster.observe(), cluster.now + timedelta(seconds=60)).status
    assert late is not None
    built = next(each for each in late.conditions if each.type == "RepositoryBuilt")
    assert (built.reason, "hub-token" in built.message) == ("SecretMissing", True)


def test_a_pod_without_a_node_waits_for_no_volumes():
    cluster = Cluster(claim_spec(model={"target": TARGET | {"credentialsSecret": "hub-token"}}), has_nodes=lambda pod: False)
    run(cluster, 3)
    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastTransitionTime": cluster.now.isoformat()}
    next(iter(cluster.pods.values()))["status"] = {"phase": "Pending", "conditions": [gated]}
    decision = decide(cluster.observe(), cluster.now + timedelta(seconds=90))
    assert decision.status is not None
    built = next(each for each in decision.status.conditions if each.type == "RepositoryBuilt")
    assert built.reason == "BuildingRepository"
    assert decision.requeue_after_seconds == 15


def test_pods_that_build_for_themselves_tell_what_they_built():
    cluster = Cluster(ephemeral_spec())
    settle(cluster, decide)
    document = next(iter(cluster.of_kind("ConfigMap").values()))["data"]["deployment.yaml"]
    assert cluster.status["repository"]["digest"] == digest_of(document)
    assert cluster.of_kind("Job") == {}


def test_pods_that_cannot_build_keep_the_earlier_ones_serving():
    cluster = Cluster(ephemeral_spec())
    settle(cluster, decide)
    cluster.change(model=NEW_MODEL)
    built = settled_failure(cluster, failing(Reason.CHECKSUM_MISMATCH))
    assert built["reason"] == "ChecksumMismatch"
    assert cluster.status["readyReplicas"] == 1
    serving = cluster.condition("ServingAvailable")
    assert serving is not None
    assert serving["status"] == "True"


def test_what_earlier_pods_mount_stays_until_the_last_of_them_is_gone():
    cluster = Cluster(ephemeral_spec())
    settle(cluster, decide)
    first = set(cluster.of_kind("ConfigMap"))
    cluster.is_healthy = lambda pod: False
    cluster.change(model=NEW_MODEL)
    run(cluster, 10)
    assert first < set(cluster.of_kind("ConfigMap"))
    cluster.is_healthy = lambda pod: True
    settle(cluster, decide)
    assert not first & set(cluster.of_kind("ConfigMap"))


def test_the_status_names_the_repository_that_serves_and_not_the_one_that_is_to_come():
    cluster = serving_cluster()
    first = cluster.status["repository"]
    cluster.is_healthy = lambda pod: False
    cluster.change(model=NEW_MODEL)
    run(cluster, 10)
    assert cluster.status["repository"] == first
    cluster.is_healthy = lambda pod: True
    settle(cluster, decide)
    assert cluster.status["repository"]["digest"] != first["digest"]


def test_files_are_pinned_in_the_status():
    files = [{"source": "Target", "path": "model.safetensors", "sha256": "0" * 64}]
    message = json.dumps({"digest": f"sha256-{'1' * 64}", "bytes": 7, "files": files, "novel": True})
    cluster = Cluster(claim_spec(), build=lambda document: {"exitCode": 0, "message": message})
    settle(cluster, decide)
    assert cluster.status["repository"]["files"] == files
    assert cluster.status["repository"]["bytes"] == 7
    assert cluster.status["repository"]["builtAt"]


def test_a_job_of_an_earlier_resource_of_the_name_is_waited_for():
    cluster = Cluster(claim_spec())
    job = next(apply.manifest for apply in decide(cluster.observe(), cluster.now).apply if apply.manifest["kind"] == "Job")
    foreign = copy.deepcopy(job)
    foreign["metadata"] |= {"uid": "older", "ownerReferences": [{"uid": "gone"}]}
    observed = cluster.observe().model_copy(update={"children": (foreign,)})
    decision = decide(observed, cluster.now)
    assert "Job" not in {apply.manifest["kind"] for apply in decision.apply}
    assert decision.prune == ()


def _annotations(cluster: Cluster, kind: str, name: str | None = None) -> list[dict[str, str]]:
    found = cluster.of_kind(kind)
    return [each["metadata"]["annotations"] for key, each in found.items() if name in (None, key)]
