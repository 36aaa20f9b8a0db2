"""The operator's own servers: health that hears itself, metrics, and the last pass on loopback."""

from datetime import UTC, datetime

import aiohttp
import pytest

from tests.unit.operator_io.parts import FakeClock, figures, observed
from transcriber_operator.debug import Explanation, Journal
from transcriber_operator.decide.decision import Decision
from transcriber_operator.errors import OperatorError
from transcriber_operator.handlers.health import Health
from transcriber_operator.handlers.servers import debug_app, health_app, metrics_app, serving
from transcriber_operator.metrics import Metrics
from transcriber_operator.settings import Address

LOOPBACK = Address("127.0.0.1", 0)
EXPLANATION = Explanation(
    observed=observed(), now=datetime(2026, 1, 31, tzinfo=UTC), decision=Decision(details=("decided",)), pass_seconds=0.5
)


async def read(address: Address, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        return response.status, await response.text()


def test_one_that_stands_by_is_healthy_for_ever() -> None:
    clock = FakeClock()
    health = Health(clock)
    clock.seconds = 1e6
    assert health.is_healthy
    assert health.report(3.0) == {
        "healthy": True, "role": "Standby", "secondsSinceHeartbeat": 0.0, "secondsSincePass": 3.0
    }  # fmt: skip


def test_a_leader_that_hears_nothing_of_itself_for_a_minute_is_not() -> None:
    clock = FakeClock()
    health = Health(clock)
    health.lead()
    clock.seconds = 59
    assert health.is_healthy  # the watches may have needed that long
    health.hear()
    clock.seconds = 118
    assert health.is_healthy
    clock.seconds = 119
    assert not health.is_healthy


async def test_healthz_turns_from_200_to_503() -> None:
    clock = FakeClock()
    health = Health(clock)
    async with serving((LOOPBACK, health_app(health, lambda: 4.0))) as (address,):
        health.lead()
        assert (await read(address, "/healthz"))[0] == 200
        clock.seconds = 61
        status, body = await read(address, "/healthz")
    assert status == 503
    assert '"role": "Leading"' in body
    assert '"secondsSincePass": 4.0' in body


async def test_metrics_are_read_with_the_ages_of_this_moment() -> None:
    clock = FakeClock()
    metrics, health = Metrics(), Health(clock)
    metrics.show_age("heartbeat_age_seconds", "Age.", health.seconds_since_heartbeat)
    metrics.passes.labels("Settled").inc()
    health.lead()
    clock.seconds = 12
    async with serving((LOOPBACK, metrics_app(metrics))) as (address,):
        status, body = await read(address, "/metrics")
    assert status == 200
    assert "transcriber_operator_heartbeat_age_seconds 12.0" in body
    assert 'transcriber_operator_passes_total{outcome="Settled"} 1.0' in body


async def test_a_scaler_reads_the_replicas_that_the_work_calls_for() -> None:
    metrics = Metrics()
    metrics.figures.record("speech", "whisper", "uid-1", figures(desired=3))
    async with serving((LOOPBACK, metrics_app(metrics))) as (address,):
        assert await read(address, "/scaling/speech/whisper") == (200, '{"desiredReplicas": 3}')
        status, body = await read(address, "/scaling/speech/other")
        assert (status, "no decision about speech/other" in body) == (404, True)
        metrics.figures.forget("speech", "whisper", "uid-1")
        assert (await read(address, "/scaling/speech/whisper"))[0] == 404


async def test_the_last_pass_of_a_resource_is_shown_as_json() -> None:
    journal = Journal()
    journal.record("speech", "whisper", EXPLANATION)
    async with serving((LOOPBACK, debug_app(journal))) as (address,):
        status, body = await read(address, "/debug/speech/whisper")
        assert status == 200
        assert Explanation.model_validate_json(body) == EXPLANATION
        assert await read(address, "/debug") == (200, '["speech/whisper"]')
        status, body = await read(address, "/debug/speech/other")
        assert status == 404
        assert "no pass of speech/other; known are ['speech/whisper']" in body


async def test_an_address_that_is_taken_is_named() -> None:
    async with serving((LOOPBACK, debug_app(Journal()))) as (address,):
        with pytest.raises(OperatorError, match=f"cannot listen on 127.0.0.1:{address.port}"):
            async with serving((address, debug_app(Journal()))):
                pass
