"""In which order a decision is carried out, and what stops it; what the writes do is tested against the real API in tests/api."""

from typing import Any

import pytest

from tests.unit.operator_io.parts import START, FakeClock, config_map, observed, resource, serving_pod
from transcriber_api.conditions import Reason
from transcriber_api.status import Status
from transcriber_operator.decide.decision import Announcement, Apply, Decision, Key, PodDelete, Prune
from transcriber_operator.errors import ConflictError, NotFoundError, OperatorError, TransientError
from transcriber_operator.execute.executor import Executor, event
from transcriber_operator.metrics import Metrics

OLD = config_map("old", uid="uid-old", resourceVersion="5")
POD = serving_pod("whisper-1")
COST = {"controller.kubernetes.io/pod-deletion-cost": "-1"}
DECISION = Decision(
    apply=(Apply(manifest=config_map("new")), Apply(manifest=config_map("old"), manager="transcriber-autoscaler")),
    prune=(Prune(key=Key("v1", "ConfigMap", "gone"), uid="uid-gone"),),
    pod_deletes=(PodDelete(name="whisper-1", uid="uid-pod", grace_seconds=100),),
    status=Status(replicas=1),
    announcements=(Announcement(type="Warning", reason=Reason.BUILD_FAILED, message="x" * 2000),),
)


class Recorder:
    """Stands for the client: notes what is asked, and fails where a test says so."""

    def __init__(self, **failures: OperatorError) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.manifests: list[dict[str, Any]] = []
        self._failures = failures
        self.version = "5"

    async def get(self, _resource: object, _namespace: str, name: str) -> dict[str, Any]:
        self._note("get", name)
        raise NotFoundError("free")

    async def apply(self, manifest: dict[str, Any], manager: str, subresource: str | None = None) -> dict[str, Any]:
        self.manifests.append(manifest)
        self._note(f"apply{'/' + subresource if subresource else ''}", manifest["metadata"]["name"], manager)
        return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": self.version}}

    async def delete(self, resource: Any, _namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        if resource.kind == "Pod":
            self._note("delete/pod", name, f"{uid} {grace_seconds}")
        else:
            self._note("delete", name, uid)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.manifests.append(manifest)
        self._note("create", manifest["kind"])
        return manifest

    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.calls]

    def _note(self, verb: str, name: str, more: str = "") -> None:
        self.calls.append((verb, name, more))
        if verb in self._failures:
            raise self._failures[verb]


async def carry_out(recorder: Recorder, metrics: Metrics | None = None, decision: Decision = DECISION) -> None:
    executor = Executor(recorder, "operator-1", metrics or Metrics(), FakeClock())  # type: ignore[arg-type]
    await executor.execute(observed(children=(OLD,), pods=(POD,)), decision)


async def test_applies_come_in_order_then_prunes_then_deletes_of_pods_then_status_then_events() -> None:
    recorder, metrics = Recorder(), Metrics()
    await carry_out(recorder, metrics)
    assert recorder.calls == [
        ("get", "new", ""),  # is the name free?
        ("apply", "new", "transcriber-controller"),
        ("apply", "old", "transcriber-autoscaler"),
        ("delete", "gone", "uid-gone"),
        ("delete/pod", "whisper-1", "uid-pod 100"),
        ("apply/status", "whisper", "transcriber-status"),
        ("create", "Event", ""),
    ]
    text = metrics.render().decode()
    assert 'transcriber_operator_applied_total{kind="ConfigMap",result="created"} 1.0' in text
    assert 'transcriber_operator_applied_total{kind="ConfigMap",result="unchanged"} 1.0' in text
    assert 'transcriber_operator_pruned_total{kind="ConfigMap"} 1.0' in text
    assert "transcriber_operator_pods_deleted_total 1.0" in text


async def test_what_was_observed_is_written_under_its_uid_and_what_was_not_without() -> None:
    recorder = Recorder()
    await carry_out(recorder)
    assert [manifest["metadata"].get("uid") for manifest in recorder.manifests[:2]] == [None, "uid-old"]
    assert "uid" not in DECISION.apply[1].manifest["metadata"]  # the decision itself stays as it was


@pytest.mark.parametrize(
    ("verb", "made"),
    [("apply", 2), ("delete", 4), ("delete/pod", 5), ("apply/status", 6)],
)
async def test_a_failure_stops_what_comes_after_it(verb: str, made: int) -> None:
    recorder = Recorder(**{verb: TransientError("503")})
    with pytest.raises(TransientError):
        await carry_out(recorder)
    assert len(recorder.calls) == made


async def test_what_is_to_go_and_is_gone_already_is_as_wanted() -> None:
    recorder, metrics = Recorder(delete=NotFoundError("gone")), Metrics()
    await carry_out(recorder, metrics)
    assert recorder.calls[-1] == ("create", "Event", "")
    assert "pruned_total{" not in metrics.render().decode()


async def test_what_is_to_go_and_was_made_anew_meanwhile_is_a_conflict() -> None:
    with pytest.raises(ConflictError):
        await carry_out(Recorder(delete=ConflictError("another uid")))


@pytest.mark.parametrize("failure", [NotFoundError("gone"), ConflictError("another uid")])
async def test_a_pod_that_is_gone_by_itself_is_as_wanted(failure: OperatorError) -> None:
    recorder, metrics = Recorder(**{"delete/pod": failure}), Metrics()
    await carry_out(recorder, metrics)
    assert recorder.verbs()[-3:] == ["delete/pod", "apply/status", "create"]
    assert "pods_deleted_total 0.0" in metrics.render().decode()


def cost_of(name: str) -> Decision:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "speech", "name": name, "annotations": COST}}
    return Decision(apply=(Apply(manifest=pod, manager="transcriber-autoscaler"),), status=Status(replicas=1))


async def test_a_pod_is_marked_under_its_uid_and_never_made() -> None:
    recorder = Recorder()
    await carry_out(recorder, decision=cost_of("whisper-1"))
    assert recorder.calls[0] == ("apply", "whisper-1", "transcriber-autoscaler")
    assert recorder.manifests[0]["metadata"] == {
        "namespace": "speech", "name": "whisper-1", "annotations": COST, "uid": "uid-pod"
    }  # fmt: skip


async def test_a_pod_that_is_gone_needs_no_mark() -> None:
    recorder = Recorder(apply=ConflictError("uid mismatch: no existing object was found"))
    await carry_out(recorder, decision=cost_of("whisper-1"))
    assert recorder.verbs() == ["apply", "apply/status"]


async def test_what_lives_in_no_namespace_is_written_and_pruned_like_any_child() -> None:
    pool = {"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": "speech-whisper-spot"}, "spec": {}}
    recorder = Recorder()
    decision = Decision(
        apply=(Apply(manifest=pool),), prune=(Prune(key=Key("karpenter.sh/v1", "NodePool", "old"), uid="uid-old-pool"),)
    )
    await carry_out(recorder, decision=decision)
    assert recorder.calls == [
        ("get", "speech-whisper-spot", ""),
        ("apply", "speech-whisper-spot", "transcriber-controller"),
        ("delete", "old", "uid-old-pool"),
    ]


@pytest.mark.parametrize("failure", [TransientError("403"), ConflictError("posted already")])
async def test_an_event_that_cannot_be_posted_fails_nothing(failure: OperatorError) -> None:
    await carry_out(Recorder(create=failure))


def test_an_event_says_what_when_and_about_what() -> None:
    posted = event(resource(), DECISION.announcements[0], "operator-1", START)
    assert posted["regarding"] == {
        "apiVersion": "serving.transcriber.dev/v1alpha1",
        "kind": "TranscriberDeployment",
        "namespace": "speech",
        "name": "whisper",
        "uid": "uid-1",
        "resourceVersion": "1",
    }
    assert (posted["type"], posted["reason"], len(posted["note"])) == ("Warning", "BuildFailed", 1024)
    assert posted["eventTime"] == "2026-01-31T12:00:00.000000Z"
    assert posted["metadata"]["name"].startswith("whisper.")
    assert posted == event(resource(), DECISION.announcements[0], "operator-1", START)
