"""In which order a decision is carried out, and what stops it; what the writes do is tested against the real API in tests/api."""

from typing import Any

import pytest

from tests.unit.operator_io.parts import START, FakeClock, config_map, observed, resource
from transcriber_api.conditions import Reason
from transcriber_api.status import Status
from transcriber_operator.decide.decision import Announcement, Apply, Decision, Key, Prune
from transcriber_operator.errors import ConflictError, NotFoundError, OperatorError, TransientError
from transcriber_operator.execute.executor import Executor, event
from transcriber_operator.metrics import Metrics

OLD = config_map("old", uid="uid-old", resourceVersion="5")
DECISION = Decision(
    apply=(Apply(manifest=config_map("new")), Apply(manifest=config_map("old"), manager="transcriber-autoscaler")),
    prune=(Prune(key=Key("v1", "ConfigMap", "gone"), uid="uid-gone"),),
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

    async def delete(self, _resource: object, _namespace: str, name: str, uid: str) -> None:
        self._note("delete", name, uid)

    async def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.manifests.append(manifest)
        self._note("create", manifest["kind"])
        return manifest

    def _note(self, verb: str, name: str, more: str = "") -> None:
        self.calls.append((verb, name, more))
        if verb in self._failures:
            raise self._failures[verb]


async def carry_out(recorder: Recorder, metrics: Metrics | None = None) -> None:
    executor = Executor(recorder, "operator-1", metrics or Metrics(), FakeClock())  # type: ignore[arg-type]
    await executor.execute(observed(children=(OLD,)), DECISION)


async def test_applies_come_in_order_then_prunes_then_status_then_events() -> None:
    recorder, metrics = Recorder(), Metrics()
    await carry_out(recorder, metrics)
    assert recorder.calls == [
        ("get", "new", ""),  # is the name free?
        ("apply", "new", "transcriber-controller"),
        ("apply", "old", "transcriber-autoscaler"),
        ("delete", "gone", "uid-gone"),
        ("apply/status", "whisper", "transcriber-status"),
        ("create", "Event", ""),
    ]
    text = metrics.render().decode()
    assert 'transcriber_operator_applied_total{kind="ConfigMap",result="created"} 1.0' in text
    assert 'transcriber_operator_applied_total{kind="ConfigMap",result="unchanged"} 1.0' in text
    assert 'transcriber_operator_pruned_total{kind="ConfigMap"} 1.0' in text


async def test_what_was_observed_is_written_under_its_uid_and_what_was_not_without() -> None:
    recorder = Recorder()
    await carry_out(recorder)
    assert [manifest["metadata"].get("uid") for manifest in recorder.manifests[:2]] == [None, "uid-old"]
    assert "uid" not in DECISION.apply[1].manifest["metadata"]  # the decision itself stays as it was


@pytest.mark.parametrize(
    ("verb", "made"),
    [("apply", 2), ("delete", 4), ("apply/status", 5)],
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
