"""`transcriber status`: what was seen as one document, and that as a tree."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import islice
from typing import Any

import pytest
from rich.console import Console

from tests.unit.doctor_parts import condition, named, resource
from transcriber_cli.cluster import CannotLookError
from transcriber_cli.status.command import follow
from transcriber_cli.status.drawing import drawing
from transcriber_cli.status.look import Seen
from transcriber_cli.status.view import status_view

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
OURS = {"serving.transcriber.dev/deployment": "whisper", "serving.transcriber.dev/namespace": "speech"}
SPOT = {**OURS, "serving.transcriber.dev/pool": "spot", "app.kubernetes.io/component": "serving"}
TYPE = {
    "node.kubernetes.io/instance-type": "g6.xlarge",
    "topology.kubernetes.io/zone": "us-east-1a",
    "karpenter.sh/capacity-type": "spot",
}


def at(seconds_ago: float) -> str:
    return (NOW - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")


def told(manifest: dict[str, Any], **status: Any) -> dict[str, Any]:
    manifest["status"] = {**manifest["status"], **status}
    manifest["metadata"] |= {"uid": "u1", "creationTimestamp": at(7200)}
    return manifest


def whisper(**status: Any) -> dict[str, Any]:
    pools = [{"name": "spot", "desired": 2, "ready": 1, "nodes": 2, "leadTimeSeconds": 240, "pricePerHour": "0.43"}]
    return told(
        resource(),
        replicaSummary="1/2",
        scaling={"queuedAudioSeconds": 1800, "arrivalRate": "12.5"},
        cost={"perHour": "0.86"},
        repository={"digest": f"sha256-{'ab' * 32}", "bytes": 3_100_000_000},
        speculation={"acceptancePercent": 78, "tokensPerCycle": "4.1"},
        pools=pools,
        **status,
    )


def deployment() -> dict[str, Any]:
    return named(
        "Deployment", "speech", "whisper-spot", SPOT, spec={"replicas": 2}, status={"readyReplicas": 1, "updatedReplicas": 2}
    )


def pod(name: str, node: str | None, *, ready: bool, created: float, **fields: Any) -> dict[str, Any]:
    containers = [{"name": "triton"}]
    sidecar = {"name": "exporter", "restartPolicy": "Always"}
    conditions = [{"type": "Ready", "status": str(ready), "lastTransitionTime": at(0)}]
    if node:
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": at(created - 10)})
    status = {
        "phase": "Running" if ready else "Pending",
        "conditions": conditions,
        "containerStatuses": [{"name": "triton", "ready": ready, "restartCount": 1 if ready else 0, "state": {}}],
        "initContainerStatuses": [{"name": "exporter", "ready": ready, "restartCount": 0, "state": {}}],
        **fields,
    }
    manifest = named(
        "Pod", "speech", name, SPOT, spec={"nodeName": node, "containers": containers, "initContainers": [sidecar]}, status=status
    )
    manifest["metadata"]["creationTimestamp"] = at(created)
    return manifest


def node(name: str, **labels: str) -> dict[str, Any]:
    return named("Node", None, name, {**TYPE, **labels}, spec={}, status={"conditions": [condition("Ready", "True")]})


def node_claim(name: str, node: str | None, *stages: str, deleted: float | None = None) -> dict[str, Any]:
    conditions = [{"type": stage, "status": "True", "lastTransitionTime": at(60)} for stage in stages]
    manifest = named("NodeClaim", None, name, {**SPOT, **TYPE}, status={"nodeName": node, "conditions": conditions})
    if deleted is not None:
        manifest["metadata"]["deletionTimestamp"] = at(deleted)
    return manifest


def event(reason: str, seconds_ago: float, uid: str = "u1", **fields: Any) -> dict[str, Any]:
    regarding = {"kind": "TranscriberDeployment", "name": "whisper", "uid": uid}
    return named(
        "Event",
        "speech",
        reason.lower(),
        reason=reason,
        note=f"{reason} happened",
        type="Normal",
        regarding=regarding,
        eventTime=at(seconds_ago),
        **fields,
    )


def seen(*resources: dict[str, Any], **parts: Any) -> Seen:
    return Seen(now=NOW, resources=resources or (whisper(),), **parts)


def drawn(what: Seen) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(drawing(status_view(what), what.now))
    return console.export_text()


FLEET = seen(
    deployments=(deployment(),),
    pods=(pod("spot-a", "n-1", ready=True, created=3600), pod("spot-b", "n-2", ready=False, created=100)),
    claims=(
        node_claim("c-1", "n-1", "Initialized"),
        node_claim("c-2", "n-2", "Launched", "Registered", "Initialized"),
        node_claim("c-3", None),
    ),
    nodes=(node("n-1", **{"karpenter.k8s.aws/instance-gpu-name": "l4"}),),
    events=(event("Scaled", 30), event("Starting", 90), event("Foreign", 10, uid="u2")),
)


def test_the_tree_goes_from_the_resource_over_pool_and_pods_to_gpu_nodes() -> None:
    lines = [line.rstrip() for line in drawn(FLEET).splitlines()]
    assert lines == [
        "speech/whisper  Ready  AsExpected  120m",
        "├── Replicas pass their canary.",
        "├── model hf://openai/whisper-large-v3: 78 % of its tokens kept, 4.1 tokens per cycle",
        "├── repository sha256-abababababab, 3.10 GB",
        "├── replicas 1/2, queue 1800 s of audio, arriving 12.5 s/s, $0.86 per hour",
        "├── pool spot (Spot)  1/2 ready, 2 nodes, lead time 240 s, $0.43 per node and hour",
        "│   ├── Deployment whisper-spot  1/2 ready",
        "│   │   ├── Pod spot-a  2/2 Running, 1 restart, 60m",
        "│   │   │   └── Node n-1  g6.xlarge l4 spot us-east-1a",
        "│   │   └── Pod spot-b  0/2 Pending, 0 restarts, 100s  ImagePull for 60s",
        "│   │       └── Node n-2  g6.xlarge spot us-east-1a",
        "│   └── NodeClaim c-3  g6.xlarge spot us-east-1a  Ordered",
        "└── events",
        "    ├──  90s Starting  Starting happened",
        "    └──  30s Scaled  Scaled happened",
    ]


def test_a_node_that_is_being_taken_back_says_so() -> None:
    what = seen(
        deployments=(deployment(),),
        pods=(pod("spot-a", "n-1", ready=True, created=3600),),
        claims=(node_claim("c-1", "n-1", "Initialized", deleted=20),),
        nodes=(node("n-1"),),
    )
    assert "Node n-1  g6.xlarge spot us-east-1a  going since 20s" in drawn(what)


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ({"taints": [{"key": "karpenter.sh/disrupted"}]}, {}, "being emptied"),
        ({}, {"conditions": [condition("Ready", "False")]}, "not Ready"),
    ],
)
def test_a_node_that_is_emptied_or_not_ready_says_so(spec: dict[str, Any], status: dict[str, Any], words: str) -> None:
    shown = {**node("n-1"), "spec": spec, "status": status}
    what = seen(deployments=(deployment(),), pods=(pod("spot-a", "n-1", ready=True, created=60),), nodes=(shown,))
    assert words in drawn(what)


def test_nodes_without_karpenter_have_no_claim() -> None:
    what = seen(deployments=(deployment(),), pods=(pod("spot-a", "n-1", ready=True, created=60),), nodes=(node("n-1"),))
    shown = status_view(what).resources[0].pools[0].deployment
    assert shown is not None
    assert shown.pods[0].node is not None
    assert (shown.pods[0].node.name, shown.pods[0].node.claim) == ("n-1", None)


def test_what_keeps_a_pod_from_starting_is_told_below_it() -> None:
    waiting = [{"name": "triton", "image": "x:1", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}}]
    what = seen(deployments=(deployment(),), pods=(pod("spot-a", "n-1", ready=False, created=60, containerStatuses=waiting),))
    assert "Image x:1 cannot be pulled: no such tag" in drawn(what)


def test_a_pod_that_nobody_has_placed_is_in_scheduling() -> None:
    what = seen(deployments=(deployment(),), pods=(pod("spot-a", None, ready=False, created=45),))
    assert "Pod spot-a  0/2 Pending, 0 restarts, 45s  Scheduling for 45s" in drawn(what)


def test_a_build_shows_how_far_it_is_and_goes_when_it_is_done() -> None:
    building = whisper(conditions=[condition("RepositoryBuilt", "False", "DownloadingWeights", "fetch target: 84 of 141 MiB.")])
    job = named("Job", "speech", "whisper-build-1", OURS, status={"active": 1})
    assert "Job whisper-build-1  running  fetch target: 84 of 141 MiB." in drawn(seen(building, jobs=(job,)))
    done = {**job, "status": {"conditions": [condition("Complete", "True")]}}
    assert "Job" not in drawn(seen(building, jobs=(done,)))
    failed = {**job, "status": {"conditions": [condition("Failed", "True", "BackoffLimitExceeded", "gave up")]}}
    assert "Job whisper-build-1  failed" in drawn(seen(building, jobs=(failed,)))


def test_a_resource_that_waits_for_someone_says_so() -> None:
    stalled = told(resource(conditions=(condition("Ready", "False", "SpecInvalid", "No."), condition("Stalled", "True"))))
    text = drawn(seen(stalled))
    assert "speech/whisper  not Ready  SpecInvalid" in text
    assert "stalled: nothing moves until someone acts" in text


def test_a_resource_that_no_operator_has_looked_at_says_so() -> None:
    fresh = told(resource(conditions=()))
    del fresh["status"]["observedGeneration"]
    text = drawn(seen(fresh))
    assert "speech/whisper  not looked at  NotObservedYet" in text
    assert "the operator has not looked at the present spec yet" in text


def test_a_resource_that_goes_says_so() -> None:
    going = whisper()
    going["metadata"]["deletionTimestamp"] = at(5)
    assert "is being deleted" in drawn(seen(going))


def test_only_the_last_events_are_shown_and_repeats_are_counted() -> None:
    events = [event(f"E{number}", 100 - number) for number in range(8)]
    text = drawn(seen(events=(*events, event("Again", 1, series={"count": 4}))))
    assert "E3" not in text
    assert "Again (x4)" in text


def test_markup_in_names_and_messages_is_plain_text() -> None:
    shown = told(resource(conditions=(condition("Ready", "False", "Starting", "see [bold]here[/bold]"),)))
    assert "see [bold]here[/bold]" in drawn(seen(shown))


def test_what_could_not_be_read_is_told_below_the_tree() -> None:
    assert "not read: pods: forbidden" in drawn(seen(unread=("pods: forbidden",)))


def test_resources_are_sorted_and_have_their_own_pods_only() -> None:
    other = told(resource("other"))
    view = status_view(seen(whisper(), other, deployments=(deployment(),), pods=FLEET.pods))
    assert [each.name for each in view.resources] == ["other", "whisper"]
    assert view.resources[0].pools[0].deployment is None


def test_the_document_has_the_names_of_the_api_and_times_that_do_not_move() -> None:
    view = status_view(FLEET)
    document = view.model_dump(mode="json")
    assert document["resources"][0]["queuedAudioSeconds"] == 1800
    assert document["resources"][0]["pools"][0]["deployment"]["pods"][0]["createdAt"] == "2026-01-31T11:00:00Z"
    later = Seen(**{**FLEET.__dict__, "now": NOW + timedelta(seconds=5)})
    assert status_view(later) == view


def answers(*given: Any) -> Callable[[], Seen]:
    left = list(given)

    def see() -> Seen:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Seen)
        return answer

    return see


def test_watching_tells_what_is_new_and_outlives_a_server_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    see = answers(FLEET, FLEET, CannotLookError("no answer"), seen())
    told = [is_new for _, _, is_new in islice(follow(see, lambda: None), 3)]
    assert told == [True, False, True]
    assert "no answer" in capsys.readouterr().err


def test_watching_a_server_that_was_never_there_ends_at_once() -> None:
    with pytest.raises(CannotLookError):
        next(follow(answers(CannotLookError("no answer")), lambda: None))
