"""What a pass reads, what of it is kept, and how a build's pod is asked for its progress."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from tests.unit.operator_io.parts import INSTALLATION, FakeClock, config_map, listening, resource, serving_pod
from transcriber_operator.decide.live import replicas_owners
from transcriber_operator.decide.observed import BuildProgress
from transcriber_operator.errors import NotFoundError
from transcriber_operator.observe.gatherer import Gatherer, reduced
from transcriber_operator.observe.load import LoadReader
from transcriber_operator.observe.progress import ProgressReader

PROGRESS = {"stage": "fetch", "bytes_done": 10, "bytes_total": 40, "bytes_per_second": 5.0, "eta_seconds": 6.0}
SELECTOR = "app.kubernetes.io/managed-by=transcriber-operator,serving.transcriber.dev/deployment=whisper"


RUNNING = [{"name": "build", "state": {"running": {}}}]


def build_pod(name: str = "build", created: str = "2026-01-31T12:00:00Z", port: int = 1, **status: Any) -> dict[str, Any]:
    """A build in a pod of its own; nobody listens at port 1."""
    container = {"name": "build", "ports": [{"name": "progress", "containerPort": port}]}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": {"containers": [container]},
        "status": {"podIP": "127.0.0.1", "containerStatuses": RUNNING} | status,
    }


def replica(port: int = 1, **status: Any) -> dict[str, Any]:
    """A replica that builds its repository before it serves."""
    pod = build_pod("replica", port=port, **({"containerStatuses": [], "initContainerStatuses": RUNNING} | status))
    serving = {"name": "triton", "ports": [{"name": "grpc", "containerPort": 8001}]}
    pod["spec"] = {"initContainers": pod["spec"]["containers"], "containers": [serving]}
    return pod


class Store:
    """Stands for the client: one resource with a child of each kind that every resource has."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.gone = False
        self.pods = [serving_pod("whisper-1")]

    async def get(self, kind: Any, namespace: str, name: str) -> dict[str, Any]:
        if self.gone:
            raise NotFoundError("gone")
        self.asked.append((kind.kind, namespace, name))
        return resource(name)

    async def select(self, kind: Any, namespace: str, selector: str) -> list[dict[str, Any]]:
        self.asked.append((kind.kind, namespace, selector))
        if kind.kind in ("NodePool", "HorizontalPodAutoscaler", "ScaledObject"):
            return []
        if kind.kind == "Pod":
            return self.pods
        return [{"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "child", "managedFields": [{}]}}]


@asynccontextmanager
async def gatherer(store: Store, port: int = 1) -> AsyncIterator[Gatherer]:
    """A gatherer whose pods listen at `port`."""
    clock = FakeClock()
    async with ProgressReader() as progress, LoadReader(clock, port=port) as load:
        yield Gatherer(store, progress, load, INSTALLATION, clock)  # type: ignore[arg-type]


async def test_every_kind_of_child_and_the_pods_are_listed_by_our_labels() -> None:
    store = Store()
    async with gatherer(store) as reader:
        await reader.observe("speech", "whisper")
        store.asked.clear()
        found = await reader.observe("speech", "whisper")
    assert found is not None
    kinds = ["ConfigMap", "Service", "Job", "Deployment", "PodDisruptionBudget", "NetworkPolicy"]
    assert [child["kind"] for child in found.children] == kinds
    assert [pod["kind"] for pod in found.pods] == ["Pod"]
    asked = [("TranscriberDeployment", "speech", "whisper"), *((kind, "speech", SELECTOR) for kind in [*kinds, "Pod"])]
    assert store.asked == asked  # kinds that it does not ask for are not asked about again
    assert [failure.source for failure in found.load_failures] == ["whisper-1"]
    assert "managedFields" not in found.children[0]["metadata"]


async def test_a_resource_that_is_gone_is_not_observed() -> None:
    store = Store()
    store.gone = True
    async with gatherer(store) as reader:
        assert await reader.observe("speech", "whisper") is None


async def test_a_look_asks_the_pods_and_nobody_else() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"load": {"age_seconds": 0, "queued_audio_seconds": 7, "in_flight_audio_seconds": 0}})

    store = Store()
    async with listening(handler) as address, gatherer(store, int(address.rpartition(":")[2])) as reader:
        before = await reader.observe("speech", "whisper")
        assert before is not None
        store.asked.clear()
        after = await reader.look(before.model_copy(update={"loads": ()}))
    assert store.asked == []
    assert [(sample.source, sample.queued_audio_seconds) for sample in after.loads] == [("whisper-1", 7.0)]
    assert after == before


def test_of_managed_fields_only_the_owners_of_the_replicas_are_kept() -> None:
    entries = [
        {
            "manager": "transcriber-controller",
            "operation": "Apply",
            "time": "2026-01-31T12:00:00Z",
            "fieldsV1": {"f:spec": {"f:template": {}}, "f:metadata": {}},
        },
        {"manager": "kube-scale", "operation": "Update", "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        {"manager": "hpa", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}, "f:paused": {}}}},
        {"manager": "kubelet", "operation": "Update"},
    ]
    manifest = config_map("child", managedFields=entries)
    kept = reduced(manifest)
    replicas = {"f:spec": {"f:replicas": {}}}
    assert kept["metadata"]["managedFields"] == [
        {"manager": "kube-scale", "operation": "Update", "subresource": "scale", "fieldsV1": replicas},
        {"manager": "hpa", "operation": "Update", "fieldsV1": replicas},
    ]
    assert replicas_owners(kept) == {"kube-scale", "hpa"}  # as a decision reads it
    assert manifest["metadata"]["managedFields"] == entries


async def progress_of(
    answer: web.Response, make_pod: Callable[..., dict[str, Any]], *others: dict[str, Any]
) -> BuildProgress | None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.path == "/progress"
        return answer

    async with listening(handler) as address, ProgressReader() as reader:
        return await reader.of_build([make_pod(port=int(address.rpartition(":")[2])), *others])


@pytest.mark.parametrize("make_pod", [build_pod, replica])
async def test_a_running_build_is_asked_how_far_it_is(make_pod: Callable[..., dict[str, Any]]) -> None:
    assert await progress_of(web.json_response(PROGRESS), make_pod) == BuildProgress(**PROGRESS)


async def test_of_two_tries_the_younger_one_is_asked() -> None:
    older = build_pod("older", "2026-01-31T11:00:00Z")
    assert await progress_of(web.json_response(PROGRESS), build_pod, older) == BuildProgress(**PROGRESS)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(text="not JSON"),
        lambda: web.json_response({"stage": "fetch"}),
        lambda: web.json_response({**PROGRESS, "bytes_done": "many"}),
        lambda: web.Response(body=b"[" * 100_000),
    ],
)
async def test_a_pod_that_answers_nonsense_has_no_progress(answer: Any) -> None:
    assert await progress_of(answer(), build_pod) is None


async def test_a_pod_cannot_send_us_elsewhere() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    async with listening(handler) as address, ProgressReader() as reader:
        assert await reader.of_build([build_pod(port=int(address.rpartition(":")[2]))]) is None
    assert asked == ["/progress"]


async def test_a_pod_that_answers_nothing_has_no_progress() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("never")

    async with listening(handler) as address, ProgressReader(answer_seconds=0.1) as reader:
        assert await reader.of_build([build_pod(port=int(address.rpartition(":")[2]))]) is None
        assert await reader.of_build([build_pod()]) is None


@pytest.mark.parametrize(
    "make_pod",
    [
        partial(build_pod, containerStatuses=[{"name": "build", "state": {"terminated": {"exitCode": 0}}}]),
        partial(build_pod, containerStatuses=[]),
        partial(build_pod, podIP=""),
        partial(replica, initContainerStatuses=[{"name": "build", "state": {"waiting": {}}}]),
        lambda port: {**build_pod(port=port), "status": {}},
        lambda port: {**replica(port), "spec": {"containers": [{"name": "triton"}]}},
    ],
)
async def test_only_a_build_that_runs_is_asked(make_pod: Callable[..., dict[str, Any]]) -> None:
    assert await progress_of(web.json_response(PROGRESS), make_pod) is None
