"""The sidecar beside a real Triton: it sees what Triton's own readiness does not, and waits for what is in flight."""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.monitoring.queries import documented
from tests.thorough import THOROUGH
from tests.triton import recordings
from tests.triton.client import POLL_SECONDS, Whisper, answer, audio
from tests.triton.test_launcher import Serving, processes_of, publish_echo, start
from tests.unit.exporter.process import Exporter, running
from transcriber_exporter.canary import clip

Record = Callable[[str, object], None]
Beside = Callable[..., AbstractContextManager[Exporter]]
PATIENCE_SECONDS = 240
MAX_MEBIBYTES = 64
SOAK_CANARIES = 180 if THOROUGH else 5
SOAK_SECONDS = 900
LIMIT_SECONDS = 10  # in which a death must show
# Deadlines that a shared machine keeps, and no longer than needed.
QUICK = ("--canary-interval-seconds=1", "--canary-deadline-seconds=15", "--stale-after-seconds=21", "--restart-after-seconds=25")

pytestmark = pytest.mark.timeout(900)


def metrics_url(serving: Serving) -> str:
    [url] = re.findall(r"^metrics\s+(\S+)", serving.said, re.MULTILINE)
    return str(url)


def beside(serving: Serving, *options: str) -> AbstractContextManager[Exporter]:
    return running(*options, triton=serving.endpoint, metrics=metrics_url(serving))


def windows_encoded(serving: Serving) -> int:
    """Windows that the encoder has handed on."""
    with urllib.request.urlopen(metrics_url(serving), timeout=PATIENCE_SECONDS) as page:
        [count] = re.findall(
            r'^nv_inference_request_success\{model="whisper_encoder".*\} (\d+)', page.read().decode(), re.MULTILINE
        )
    return int(count)


def is_ready(status: dict[str, Any]) -> bool:
    return bool(status["ready"]["holds"])


def is_unready(status: dict[str, Any]) -> bool:
    return not is_ready(status)


def reading() -> bytes:
    return recordings.READING.read_bytes()


def canaries(exporter: Exporter, outcome: str) -> float:
    [count] = re.findall(rf'^transcriber_canaries_total{{outcome="{outcome}"}} (\S+)$', exporter.get("/metrics")[1], re.MULTILINE)
    return float(count)


class Draining:
    """A call of /drain in a thread of its own, as the kubelet makes it."""

    def __init__(self, exporter: Exporter) -> None:
        self.report: dict[str, Any] = {}
        self.ended_at = 0.0
        self._thread = threading.Thread(target=self._call, args=(exporter,))
        self._thread.start()
        exporter.wait_until(is_unready, PATIENCE_SECONDS)

    def _call(self, exporter: Exporter) -> None:
        status, text = exporter.get("/drain", PATIENCE_SECONDS)
        assert status == 200
        self.report, self.ended_at = json.loads(text), time.monotonic()

    def wait(self) -> dict[str, Any]:
        self._thread.join()
        return self.report


def test_it_is_ready_once_a_canary_has_passed_and_stays_small(whisper: Whisper, record_property: Record) -> None:
    whisper.wait_until_idle()
    with beside(whisper.serving, "--canary-interval-seconds=0") as exporter:
        assert exporter.get("/triton/startup")[0] == exporter.get("/triton/ready")[0] == 503
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        assert exporter.status()["last_canary"]["outcome"] == "passed"
        seconds = exporter.wait_until(lambda status: canaries(exporter, "passed") >= SOAK_CANARIES, SOAK_SECONDS)
        assert [exporter.get(path)[0] for path in ("/livez", "/triton/startup", "/triton/ready", "/triton/live")] == [200] * 4
        record_property("canaries, one after the other", f"{SOAK_CANARIES} in {seconds:.0f} s")
        record_property("exporter memory, MiB", round(exporter.memory_mebibytes("VmRSS"), 1))
        record_property("exporter memory at its peak, MiB", round(exporter.memory_mebibytes("VmHWM"), 1))
        assert exporter.memory_mebibytes("VmHWM") < MAX_MEBIBYTES
    whisper.wait_until_idle()


def test_the_series_of_the_models_are_those_that_are_documented(whisper: Whisper) -> None:
    told = {f"transcriber_{name}" for name in whisper.metrics() if not name.startswith("pending ")}
    assert told == set(documented("Triton"))


def load_of(exporter: Exporter) -> dict[str, Any]:
    told = json.loads(exporter.get("/load")[1])
    assert told["load"] is not None, told["reason"]
    return dict(told["load"])


def test_load_tells_of_a_request_from_its_admission_to_its_answer_and_of_no_canary(
    whisper: Whisper, record_property: Record
) -> None:
    content, seconds = recordings.files()["reading"]
    started_after = time.time() - 24 * 3600
    with beside(whisper.serving, "--canary-interval-seconds=0.5") as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        whisper.wait_until_idle()
        # Canaries go on all the time, and only they.
        exporter.wait_until(lambda _: canaries(exporter, "passed") >= 3, PATIENCE_SECONDS)
        before, began_at = load_of(exporter), time.monotonic()
        assert (before["requests"], before["queued_audio_seconds"], before["in_flight_audio_seconds"]) == (0, 0, 0)
        call = whisper.send(audio(content, language="en"))
        exporter.wait_until(lambda status: status["load"]["admitted_requests_total"] > before["admitted_requests_total"], 10)
        admitted_seconds, during = time.monotonic() - began_at, load_of(exporter)
        assert during["requests"] == 1
        assert during["queued_audio_seconds"] + during["in_flight_audio_seconds"] > 0
        assert grown(during, before, "admitted_audio_seconds_total") == pytest.approx(seconds, abs=0.1)
        assert answer(call).code == "OK"
        exporter.wait_until(lambda status: status["load"]["requests"] == 0, PATIENCE_SECONDS)
        after, told = load_of(exporter), exporter.status()
        assert grown(after, before, "admitted_requests_total") == 1
        assert grown(after, before, "admitted_audio_seconds_total") == pytest.approx(seconds, abs=0.1)
        assert grown(after, before, "processed_audio_seconds_total") == pytest.approx(seconds, abs=1e-3)
        assert grown(after, before, "cycles_total") > 0
        assert grown(after, before, "accepted_tokens_total") < grown(after, before, "output_tokens_total")
        assert after["age_seconds"] < 2
        assert started_after < told["server_started_at"] < time.time()
        # One that is cancelled was admitted and is not processed; one that is refused is neither.
        call = whisper.send(audio(content, language="en"))
        exporter.wait_until(lambda status: status["load"]["requests"] == 1, PATIENCE_SECONDS)
        call.cancel()
        assert whisper.ask(audio(b"no audio")).code == "INVALID_ARGUMENT"
        exporter.wait_until(lambda status: status["load"]["requests"] == status["load"]["in_flight_audio_seconds"] == 0, 60)
        last = load_of(exporter)
        assert grown(last, after, "admitted_requests_total") == 1
        assert last["queued_audio_seconds"] == 0
        assert grown(last, after, "processed_audio_seconds_total") < seconds
        record_property("seconds from the sending of a request to its admission in /load", round(admitted_seconds, 1))
    whisper.wait_until_idle()


def grown(now: dict[str, Any], before: dict[str, Any], name: str) -> float:
    return float(now[name] - before[name])


def test_a_dead_decoder_shows_within_ten_seconds_while_triton_calls_itself_ready(
    own_whisper: Whisper, record_property: Record
) -> None:
    with beside(own_whisper.serving) as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        # Right after a canary: the longest that it can take.
        exporter.wait_until(lambda status: status["last_canary"]["ended_seconds_ago"] < 1, PATIENCE_SECONDS)
        os.kill(own_whisper.pid("whisper_decoder"), signal.SIGKILL)
        seconds = exporter.wait_until(is_unready, PATIENCE_SECONDS)
        record_property("seconds from the death of the decoder to not ready", round(seconds, 1))
        assert seconds < LIMIT_SECONDS
        assert own_whisper.is_ready()
        status, message = exporter.get("/triton/ready")
        assert status == 503
        assert "the canary failed: " in message
        assert exporter.get("/triton/live")[0] == 200  # not at once: whoever is served still may finish


def test_a_decoder_that_dies_with_a_canary_in_its_hands_shows_as_soon(own_whisper: Whisper) -> None:
    with beside(own_whisper.serving) as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        own_whisper.wait_until(lambda figures: figures["canaries_in_progress"] == 0)
        os.kill(own_whisper.pid("whisper_decoder"), signal.SIGSTOP)
        encoded = windows_encoded(own_whisper.serving)
        while windows_encoded(own_whisper.serving) == encoded:
            time.sleep(POLL_SECONDS)
        os.kill(own_whisper.pid("whisper_decoder"), signal.SIGKILL)
        assert exporter.wait_until(is_unready, PATIENCE_SECONDS) < LIMIT_SECONDS


def test_a_decoder_that_is_stuck_makes_triton_unready_and_later_to_be_restarted(own_whisper: Whisper) -> None:
    with beside(own_whisper.serving, *QUICK) as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        os.kill(own_whisper.pid("whisper_decoder"), signal.SIGSTOP)
        exporter.wait_until(is_unready, PATIENCE_SECONDS)
        assert exporter.get("/triton/live")[0] == 200
        exporter.wait_until(lambda status: not status["live"]["holds"], PATIENCE_SECONDS)
        assert "no canary has passed and no token was decoded for" in exporter.get("/triton/live")[1]
        assert own_whisper.is_ready()
    # It cannot be asked to end: the kubelet kills it after the grace period, and so does a second Ctrl-C.
    process = own_whisper.serving.process
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "Ctrl-C again to kill" not in process.stderr.readline():
        assert process.poll() is None


def test_a_long_queue_is_no_failure(whisper: Whisper) -> None:
    whisper.wait_until_idle()
    with beside(whisper.serving) as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        alone_seconds = exporter.status()["last_canary"]["duration_seconds"]
    # Three times what a canary takes alone, and a queue of many such clips before it.
    times = {
        "canary-interval": 1,
        "canary-deadline": 3 * alone_seconds,
        "stale-after": 3 * alone_seconds + 30,
        "restart-after": 300,
    }
    with beside(whisper.serving, *(f"--{name}-seconds={seconds}" for name, seconds in times.items())) as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        calls = [whisper.send(audio(clip(), language="en")) for _ in range(16)]
        readiness, liveness = set(), set()
        while not all(call.done() for call in calls):
            readiness.add(exporter.get("/triton/ready"))
            liveness.add(exporter.get("/triton/live"))
            time.sleep(0.2)
        assert {answer(call).code for call in calls} == {"OK"}
        assert readiness == liveness == {(200, "ok\n")}
        assert canaries(exporter, "timed_out") > 0
    whisper.wait_until_idle()


def test_a_drain_makes_it_unready_at_once_and_waits_for_the_request_that_runs(whisper: Whisper) -> None:
    whisper.wait_until_idle()
    with beside(whisper.serving) as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        ended: list[float] = []
        call = whisper.send(audio(reading(), language="en"))
        call.add_done_callback(lambda _: ended.append(time.monotonic()))
        whisper.wait_until(lambda figures: figures["requests_in_progress"] > 0)
        draining = Draining(exporter)
        assert not call.done()
        assert draining.wait()["drained"] is True
        assert answer(call).code == "OK"
        assert draining.ended_at > ended[0]
        assert set(draining.report["left"].values()) == {0}
        assert exporter.get("/triton/ready")[0] == 503


def test_a_drain_that_runs_out_of_time_says_what_is_left(whisper: Whisper) -> None:
    whisper.wait_until_idle()
    with beside(whisper.serving, "--drain-seconds=1") as exporter:
        exporter.wait_until(is_ready, PATIENCE_SECONDS)
        whisper.wait_until_idle()
        call = whisper.send(audio(reading(), language="en"))
        whisper.wait_until(lambda figures: figures["queued_audio_seconds"] + figures["in_flight_audio_seconds"] > 0)
        report = Draining(exporter).wait()
        assert (report["drained"], report["left"]["requests"]) == (False, 1)
        assert report["left"]["queued_audio_seconds"] + report["left"]["in_flight_audio_seconds"] > 10
        assert answer(call).code == "OK"
    whisper.wait_until_idle()


@pytest.fixture
def nonsense(triton: object, tmp_path: Path) -> Iterator[Serving]:
    serving = start(publish_echo(tmp_path, "nonsense_model.py"))
    yield serving
    serving.process.send_signal(signal.SIGINT)
    serving.finish()
    assert processes_of(serving.repository) == {}


def test_a_server_that_hears_other_words_is_never_ready_and_says_so(nonsense: Serving) -> None:
    with beside(nonsense) as exporter:
        exporter.wait_until(lambda status: canaries(exporter, "wrong") >= 3, PATIENCE_SECONDS)
        for path in ("/triton/startup", "/triton/ready"):
            status, message = exporter.get(path)
            assert status == 503
            assert message.startswith("no canary has passed yet: the canary's transcript has 9 errors in 9 words")
        assert exporter.get("/triton/live")[0] == 200
