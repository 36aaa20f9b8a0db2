"""What serving pods say of their load, and what is made of pods that say nothing or nonsense."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.unit.operator_io.parts import START, FakeClock, Handler, listening, serving_pod
from transcriber_operator.decide.observed import LoadFailure, LoadSample
from transcriber_operator.observe.load import LoadReader

LOAD = {
    "age_seconds": 0.5,
    "queued_audio_seconds": 1800.0,
    "in_flight_audio_seconds": 240,
    "requests": 3,
    "active_slots": 8,
    "admitted_requests_total": 10,
    "admitted_audio_seconds_total": 4000.0,
    "processed_audio_seconds_total": 2000.0,
    "output_tokens_total": 900,
    "draft_tokens_total": 800,
    "accepted_tokens_total": 600,
    "cycles_total": 300,
}
ANSWER = {"load": LOAD, "server_started_at": (START - timedelta(hours=1)).timestamp(), "draining": False, "reason": None}


async def ask(handler: Handler, *pods: dict[str, Any], answer_seconds: float = 2.0) -> list[LoadSample | LoadFailure]:
    async with listening(handler) as address:
        port = int(address.rpartition(":")[2])
        async with LoadReader(FakeClock(), answer_seconds, port) as reader:
            samples, failures = await reader.of(pods or (serving_pod("whisper-1"),))
    return [*samples, *failures]


def answering(answer: Callable[[], web.StreamResponse]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.path == "/load"
        return answer()

    return handler


async def test_a_replica_tells_its_load_and_since_when_it_is_true_by_our_clock() -> None:
    [found] = await ask(answering(lambda: web.json_response(ANSWER)))
    figures = {name: value for name, value in LOAD.items() if name != "age_seconds"}
    assert found == LoadSample(
        source="whisper-1", at=START - timedelta(seconds=0.5), started_at=START - timedelta(hours=1), is_draining=False, **figures
    )


async def test_a_newer_exporter_may_say_more() -> None:
    more = {**ANSWER, "load": {**LOAD, "temperature": "warm"}, "zone": "a", "draining": True}
    [found] = await ask(answering(lambda: web.json_response(more)))
    assert isinstance(found, LoadSample)
    assert found.is_draining


async def test_a_replica_that_does_not_know_says_why() -> None:
    unknown = {"load": None, "server_started_at": None, "draining": False, "reason": "Triton does not answer"}
    [found] = await ask(answering(lambda: web.json_response(unknown)))
    assert found == LoadFailure(source="whisper-1", message="Triton does not answer")


def queued(figure: str) -> web.Response:
    """An answer whose queue is this text."""
    return web.Response(text=f'{{"load": {{"age_seconds": 0, "in_flight_audio_seconds": 0, "queued_audio_seconds": {figure}}}}}')


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: web.Response(status=500), "answered 500"),
        (lambda: web.Response(text="<html>"), "answered nonsense: the body: Invalid JSON"),
        (lambda: web.json_response({"load": {}}), "answered nonsense: load.age_seconds: Field required"),
        (lambda: queued("-1"), "load.queued_audio_seconds: Input should be"),
        (lambda: queued('"many"'), "load.queued_audio_seconds: Input should be"),
        (lambda: queued("true"), "load.queued_audio_seconds: Input should be"),
        (lambda: queued("NaN"), "finite"),
        (lambda: queued("1e999"), "finite"),
        (lambda: web.json_response({**ANSWER, "server_started_at": 1e18}), "a time that no calendar has"),
        (lambda: web.json_response({"load": {**LOAD, "age_seconds": 1e18}}), "a time that no calendar has"),
        (lambda: web.json_response({**ANSWER, "padding": "x" * 100_000}), "longer than 16384 bytes"),
        (lambda: web.Response(body=b"[" * 10_000), "answered nonsense"),
    ],
)  # fmt: skip
async def test_nonsense_is_no_figure_and_is_told(answer: Callable[[], web.Response], words: str) -> None:
    [found] = await ask(answering(answer))
    assert isinstance(found, LoadFailure)
    assert words in found.message
    assert len(found.message) < 300


async def test_a_pod_cannot_send_us_elsewhere() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        raise web.HTTPFound("/elsewhere")

    [found] = await ask(handler)
    assert isinstance(found, LoadFailure)
    assert asked == ["/load"]


async def test_a_proxy_of_the_environment_is_not_asked_for_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    [found] = await ask(answering(lambda: web.json_response(ANSWER)))
    assert isinstance(found, LoadSample)


async def test_pods_that_hang_keep_no_other_resource_waiting() -> None:
    arrived, is_hanging = asyncio.Semaphore(0), True

    async def handler(_: web.Request) -> web.StreamResponse:
        arrived.release()
        if is_hanging:
            await asyncio.Event().wait()
        return web.json_response(ANSWER)

    async with listening(handler) as address, LoadReader(FakeClock(), 2.0, int(address.rpartition(":")[2])) as reader:
        hanging = asyncio.create_task(reader.of([serving_pod(f"hanging-{number}") for number in range(110)]))
        for _ in range(100):  # connections are what a client allows itself as a rule
            await asyncio.wait_for(arrived.acquire(), 2)
        is_hanging = False
        samples, _ = await reader.of([serving_pod("whisper-1")])
        assert [sample.source for sample in samples] == ["whisper-1"]
        assert not hanging.done()
        hanging.cancel()


async def test_pods_that_hang_cost_their_time_once() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("never")

    started = asyncio.get_running_loop().time()
    found = await ask(handler, *(serving_pod(f"whisper-{number}") for number in range(20)), answer_seconds=0.2)
    assert asyncio.get_running_loop().time() - started < 2
    assert {entry.message.partition(" did ")[2] for entry in found if isinstance(entry, LoadFailure)} == {"not answer within 0.2 s"}


async def test_only_pods_that_run_and_serve_are_asked() -> None:
    other = serving_pod("build")
    other["metadata"]["labels"]["app.kubernetes.io/component"] = "build"
    pods = (
        serving_pod("pending", phase="Pending"),
        serving_pod("done", phase="Succeeded"),
        serving_pod("homeless", address=""),
        {"metadata": {"name": "bare"}},
        other,
    )
    assert await ask(answering(lambda: web.json_response(ANSWER)), *pods) == []


async def test_a_pod_that_is_not_there_is_told() -> None:
    async with LoadReader(FakeClock(), port=1) as reader:
        samples, failures = await reader.of([serving_pod("whisper-1"), serving_pod("whisper-2", address="127.0.0.2")])
    assert samples == ()
    assert [(failure.source, "did not answer" in failure.message) for failure in failures] == [
        ("whisper-1", True),
        ("whisper-2", True),
    ]


async def test_a_pod_with_an_ipv6_address_is_asked_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(_: aiohttp.ClientSession, url: str, **_options: Any) -> Any:
        asked.append(url)
        raise aiohttp.ClientConnectionError("none")

    monkeypatch.setattr(aiohttp.ClientSession, "get", get)
    async with LoadReader(FakeClock()) as reader:
        await reader.of([serving_pod("whisper-1", address="fd00::7")])
    assert asked == ["http://[fd00::7]:8003/load"]
