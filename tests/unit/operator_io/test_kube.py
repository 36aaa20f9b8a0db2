"""The client's failures, by what is to be done about them: on a fake API server, since the real one does not fail on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.unit.operator_io.parts import FakeClock, Handler, config_map, listening, refusal, write_kubeconfig
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.pace import Pace
from transcriber_operator.cluster.resources import (
    CHILDREN,
    EVENT,
    NODE_POOL,
    OCCASIONAL_CHILDREN,
    POD,
    SCALED_OBJECT,
    Resource,
    occasional_kinds,
    resource_of,
)
from transcriber_operator.errors import (
    ConflictError,
    ForbiddenError,
    KindMissingError,
    LeaseLostError,
    NotFoundError,
    OperatorError,
    TerminalError,
    TransientError,
)
from transcriber_operator.metrics import Metrics

CONFIG_MAPS = resource_of("v1", "ConfigMap")
MANIFEST = config_map("one")


@asynccontextmanager
async def client(handler: Handler, tmp_path: Path, **options: Any) -> AsyncIterator[Kube]:
    metrics = options.pop("metrics", None) or Metrics()
    async with listening(handler) as address, Kube(write_kubeconfig(tmp_path / "config", address), metrics, **options) as kube:
        yield kube


def answering(*answers: web.Response) -> tuple[Handler, list[web.Request]]:
    """Return a server that gives one answer after the other, and what it was asked."""
    asked: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        await request.read()
        asked.append(request)
        return answers[len(asked) - 1]

    return handler, asked


async def test_an_apply_says_who_writes_and_that_it_takes_fields_over(tmp_path: Path) -> None:
    handler, asked = answering(web.json_response(MANIFEST))
    async with client(handler, tmp_path) as kube:
        assert await kube.apply(MANIFEST, "transcriber-controller") == MANIFEST
    request = asked[0]
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/speech/configmaps/one")
    assert dict(request.query) == {"fieldManager": "transcriber-controller", "force": "true"}
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert request.headers["Authorization"] == "Bearer first"
    assert await request.json() == MANIFEST


async def test_a_delete_names_the_uid_and_leaves_dependents_to_the_garbage_collector(tmp_path: Path) -> None:
    handler, asked = answering(web.json_response({}))
    async with client(handler, tmp_path) as kube:
        await kube.delete(CONFIG_MAPS, "speech", "one", "uid-1")
    assert asked[0].method == "DELETE"
    assert await asked[0].json() == {"preconditions": {"uid": "uid-1"}, "propagationPolicy": "Background"}


async def test_a_pod_is_deleted_with_the_time_that_is_left_to_it(tmp_path: Path) -> None:
    handler, asked = answering(web.json_response({}))
    async with client(handler, tmp_path) as kube:
        await kube.delete(POD, "speech", "whisper-1", "uid-1", 0)
    assert (await asked[0].json())["gracePeriodSeconds"] == 0


async def test_a_list_is_chosen_by_labels_or_by_fields(tmp_path: Path) -> None:
    handler, asked = answering(*(web.json_response({"metadata": {}, "items": []}) for _ in range(2)))
    async with client(handler, tmp_path) as kube:
        await kube.select(NODE_POOL, None, "app=ours")
        await kube.select(EVENT, "default", fields="type=Warning")
    assert [(request.path, dict(request.query)) for request in asked] == [
        ("/apis/karpenter.sh/v1/nodepools", {"labelSelector": "app=ours", "limit": "500"}),
        ("/apis/events.k8s.io/v1/namespaces/default/events", {"fieldSelector": "type=Warning", "limit": "500"}),
    ]


async def test_a_kind_that_the_cluster_does_not_know_is_told_from_an_object_that_is_not_there(tmp_path: Path) -> None:
    handler, _ = answering(web.Response(status=404, text="404 page not found"), refusal(404, "not found"))
    async with client(handler, tmp_path) as kube:
        with pytest.raises(KindMissingError, match=r"list of NodePool .*: the cluster has no such kind"):
            await kube.select(NODE_POOL, None, "app=ours")
        with pytest.raises(NotFoundError):
            await kube.get(NODE_POOL, None, "one")


async def test_a_kind_is_looked_up_in_the_version_that_the_server_prefers(tmp_path: Path) -> None:
    group = {"preferredVersion": {"groupVersion": "karpenter.k8s.aws/v1"}}
    kinds = {
        "resources": [
            {"name": "ec2nodeclasses/status", "kind": "EC2NodeClass", "namespaced": False},
            {"name": "ec2nodeclasses", "kind": "EC2NodeClass", "namespaced": False},
        ]
    }
    handler, asked = answering(*(web.json_response(page) for page in (group, kinds, group, kinds)))
    async with client(handler, tmp_path) as kube:
        found = await kube.look_up("karpenter.k8s.aws", "EC2NodeClass")
        assert found == Resource("karpenter.k8s.aws/v1", "EC2NodeClass", "ec2nodeclasses", is_namespaced=False)
        with pytest.raises(KindMissingError, match=r"karpenter\.k8s\.aws/v1 has no kind Other"):
            await kube.look_up("karpenter.k8s.aws", "Other")
    assert [request.path for request in asked[:2]] == ["/apis/karpenter.k8s.aws", "/apis/karpenter.k8s.aws/v1"]


async def test_a_long_list_is_read_page_by_page_and_each_item_says_what_it_is(tmp_path: Path) -> None:
    first = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "one"}}]}
    second = {"metadata": {}, "items": [{"metadata": {"name": "two"}}]}
    handler, asked = answering(web.json_response(first), web.json_response(second))
    async with client(handler, tmp_path) as kube:
        found = await kube.select(CONFIG_MAPS, "speech", "app=ours")
    assert [(item["kind"], item["apiVersion"], item["metadata"]["name"]) for item in found] == [
        ("ConfigMap", "v1", "one"), ("ConfigMap", "v1", "two")
    ]  # fmt: skip
    assert [request.query.get("continue") for request in asked] == [None, "more"]
    assert {request.query["labelSelector"] for request in asked} == {"app=ours"}
    assert "resourceVersion" not in asked[0].query  # which would allow an answer from a cache


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, TerminalError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (410, ConflictError),
        (413, TerminalError),
        (422, TerminalError),
        (429, TransientError),
        (500, TransientError),
        (503, TransientError),
        (504, TransientError),
    ],
)
async def test_a_failure_is_told_by_what_to_do_about_it_with_the_servers_words(
    code: int, kind: type[OperatorError], tmp_path: Path
) -> None:
    handler, _ = answering(refusal(code, "because of this"))
    async with client(handler, tmp_path) as kube:
        with pytest.raises(OperatorError) as failure:
            await kube.apply(MANIFEST, "transcriber-controller")
    assert type(failure.value) is kind
    assert str(failure.value) == f"apply of ConfigMap api/v1/namespaces/speech/configmaps/one: {code} because of this"


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null"])
async def test_an_error_from_something_that_is_no_api_server_is_an_error_all_the_same(body: str, tmp_path: Path) -> None:
    handler, _ = answering(web.Response(status=502, text=body))
    async with client(handler, tmp_path) as kube:
        with pytest.raises(TransientError, match="502 Bad Gateway"):
            await kube.get(CONFIG_MAPS, "speech", "one")


async def test_an_answer_that_is_no_json_is_transient(tmp_path: Path) -> None:
    handler, _ = answering(web.Response(text="<html>"), web.Response(text="{", content_type="application/json"))
    async with client(handler, tmp_path) as kube:
        for _ in range(2):
            with pytest.raises(TransientError):
                await kube.get(CONFIG_MAPS, "speech", "one")


async def test_a_server_that_hangs_up_is_transient(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    metrics = Metrics()
    async with client(handler, tmp_path, metrics=metrics) as kube:
        with pytest.raises(TransientError, match="failed"):
            await kube.get(CONFIG_MAPS, "speech", "one")
    assert metrics.api_calls.labels("get", "ConfigMap", "")._value.get() == 1


async def test_a_call_that_hangs_ends_by_itself(tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("never")

    async with client(handler, tmp_path, call_seconds=0.1) as kube:
        with pytest.raises(TransientError, match="no answer within"):
            await kube.get(CONFIG_MAPS, "speech", "one")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (lambda: refusal(429, "too many", {"Retry-After": "5"}), 5.0),
        (lambda: refusal(429, "too many", retryAfterSeconds=7), 7.0),
        (lambda: refusal(429, "too many"), 1.0),
        (lambda: refusal(503, "starting", {"Retry-After": "3"}), 3.0),
        (lambda: refusal(429, "too many", {"Retry-After": "86400"}), 60.0),
        (lambda: refusal(503, "starting", {"Retry-After": "nonsense"}), None),
        (lambda: refusal(503, "starting", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), None),
    ],
)
async def test_a_server_that_asks_to_be_left_alone_is_left_alone_by_all(
    answer: Callable[[], web.Response], seconds: float | None, tmp_path: Path
) -> None:
    clock = FakeClock()
    handler, _ = answering(answer(), web.json_response(MANIFEST))
    async with client(handler, tmp_path, pace=Pace(10, clock)) as kube:
        with pytest.raises(TransientError) as failure:
            await kube.get(CONFIG_MAPS, "speech", "one")
        assert failure.value.retry_after_seconds == seconds
        await kube.get(CONFIG_MAPS, "speech", "two")
    assert clock.seconds == (seconds or 0.0)


async def test_credentials_that_ran_out_are_read_anew_and_the_call_is_made_again(tmp_path: Path) -> None:
    config = tmp_path / "config"
    addresses: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers["Authorization"] == "Bearer first":
            write_kubeconfig(config, addresses[0], token="second")
            return refusal(401, "Unauthorized")
        return web.json_response(MANIFEST)

    async with listening(handler) as address:
        addresses.append(address)
        async with Kube(write_kubeconfig(config, address), Metrics()) as kube:
            answers = await asyncio.gather(*(kube.get(CONFIG_MAPS, "speech", "one") for _ in range(5)))
    assert answers == [MANIFEST] * 5


async def test_credentials_that_are_refused_for_good_are_transient(tmp_path: Path) -> None:
    handler, asked = answering(refusal(401, "Unauthorized"), refusal(401, "Unauthorized"))
    async with client(handler, tmp_path) as kube:
        with pytest.raises(TransientError, match="401 Unauthorized"):
            await kube.get(CONFIG_MAPS, "speech", "one")
    assert len(asked) == 2


async def test_missing_credentials_are_told_with_the_variable_to_set(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="TRANSCRIBER_KUBECONFIG"):
        async with Kube(None, Metrics()):
            pass
    with pytest.raises(OperatorError, match="absent"):
        async with Kube(tmp_path / "absent", Metrics()):
            pass


async def test_the_gate_is_asked_when_a_write_leaves_and_not_when_it_began_to_wait(tmp_path: Path) -> None:
    clock = FakeClock()
    pace = Pace(10, clock)
    handler, asked = answering(web.json_response(MANIFEST))

    def gate() -> None:
        if clock.seconds >= 5:
            raise LeaseLostError("too late")

    async with client(handler, tmp_path, pace=pace, gate=gate) as kube:
        pace.pause(5)
        with pytest.raises(LeaseLostError):
            await kube.apply(MANIFEST, "transcriber-controller")
        assert asked == []
        await kube.get(CONFIG_MAPS, "speech", "one")  # reading harms nobody


async def test_every_write_passes_the_gate(tmp_path: Path) -> None:
    def closed() -> None:
        raise LeaseLostError("closed")

    handler, asked = answering()
    async with client(handler, tmp_path, gate=closed) as kube:
        writes = (
            kube.apply(MANIFEST, "m"), kube.create(MANIFEST), kube.replace(MANIFEST), kube.delete(CONFIG_MAPS, "speech", "one", "u")
        )  # fmt: skip
        for write in writes:
            with pytest.raises(LeaseLostError):
                await write
    assert asked == []


def test_paths_are_those_of_the_api() -> None:
    assert CONFIG_MAPS.path("speech", "one") == "/api/v1/namespaces/speech/configmaps/one"
    td = resource_of("serving.transcriber.dev/v1alpha1", "TranscriberDeployment")
    wanted = "/apis/serving.transcriber.dev/v1alpha1/namespaces/speech/transcriberdeployments/whisper/status"
    assert td.path("speech", "whisper", "status") == wanted
    assert td.path() == "/apis/serving.transcriber.dev/v1alpha1/transcriberdeployments"
    assert NODE_POOL.path("speech", "one") == "/apis/karpenter.sh/v1/nodepools/one"  # it lives in no namespace
    assert CONFIG_MAPS.path("../kube-system", "a/b") == "/api/v1/namespaces/..%2Fkube-system/configmaps/a%2Fb"


def test_a_kind_that_is_not_written_is_refused_with_the_place_to_add_it() -> None:
    with pytest.raises(ValueError, match="add it to CHILDREN and to its role"):
        resource_of("v1", "Secret")
    assert len({entry.kind for entry in (*CHILDREN, *OCCASIONAL_CHILDREN)}) == 9


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ({"capacity": {"provisioner": "Karpenter"}, "scaling": {"mode": "Builtin"}}, {NODE_POOL}),
        ({"capacity": {"provisioner": "None"}, "scaling": {"mode": "Keda"}}, {SCALED_OBJECT}),
        ({"capacity": {"provisioner": "None"}, "scaling": {"mode": "External"}}, set()),
        ({}, set()),
    ],
)
def test_a_spec_asks_for_occasional_kinds_by_its_provisioner_and_its_mode(spec: dict[str, Any], kinds: set[Resource]) -> None:
    assert occasional_kinds(spec) == kinds
