"""The sidecar as a process: its command line, its signals, and a Triton that is not there."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.rig.processes import free_ports
from tests.unit.exporter.pages import page
from tests.unit.exporter.process import COMMAND, END_SECONDS, NOBODY, running
from transcriber_exporter.__main__ import main
from transcriber_exporter.endpoint import Endpoint, metrics_url


@contextmanager
def serving(text: str, port: int = 0) -> Iterator[str]:
    """Serve a page of metrics; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


@pytest.fixture
def busy_page() -> Iterator[str]:
    """The URL of metrics that always tell of a request in progress."""
    with serving(page(requests=1)) as url:
        yield url


def test_without_a_triton_it_lives_waits_and_drains_at_once() -> None:
    with running() as exporter:
        assert exporter.get("/livez")[0] == 200
        assert exporter.get("/triton/live")[0] == 200
        assert exporter.get("/triton/startup")[0] == 503
        status, text = exporter.get("/triton/ready")
        assert status == 503
        assert "no canary has passed yet" in text
        status, text = exporter.get("/drain")
        assert (status, json.loads(text)["drained"]) == (200, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_promptly_though_a_canary_is_on_its_way(number: signal.Signals) -> None:
    with running() as exporter:
        exporter.process.send_signal(number)
        code, seconds = exporter.finish()
    assert code == 0
    assert seconds < 3


def test_a_signal_in_a_drain_lets_the_drain_end_and_answer(busy_page: str) -> None:
    answers: list[tuple[int, str]] = []
    with running("--drain-seconds", "4", metrics=busy_page) as exporter:
        asking = threading.Thread(target=lambda: answers.append(exporter.get("/drain")))
        asking.start()
        while "draining" not in exporter.get("/triton/ready")[1]:
            pass
        exporter.process.send_signal(signal.SIGTERM)
        code, _ = exporter.finish()
        asking.join()
    assert code == 0
    [(status, text)] = answers
    report = json.loads(text)
    assert (status, report["drained"], report["left"]["requests"]) == (200, False, 1)
    assert report["waited_seconds"] >= 4


def test_a_triton_that_is_restarted_after_a_drain_is_watched_again() -> None:
    [port] = free_ports(1)
    with running(metrics=f"http://127.0.0.1:{port}/metrics") as exporter:
        assert exporter.get("/drain")[0] == 200
        assert exporter.status()["draining"] is True
        with serving(page(), port):
            exporter.wait_until(lambda status: not status["draining"], END_SECONDS)
            assert "no canary has passed yet" in exporter.get("/triton/ready")[1]
            exporter.process.send_signal(signal.SIGTERM)
            assert exporter.finish()[0] == 0


def test_load_is_what_triton_says_while_that_can_be_true() -> None:
    [port] = free_ports(1)
    with running(metrics=f"http://127.0.0.1:{port}/metrics") as exporter:
        exporter.wait_until(lambda status: "does not listen" in status["reason"], END_SECONDS)
        assert json.loads(exporter.get("/load")[1])["load"] is None
        with serving(page(queued=90, admitted=120, started=1.8e9), port):
            exporter.wait_until(lambda status: status["load"] is not None, END_SECONDS)
            told = json.loads(exporter.get("/load")[1])
            figures = (told["load"]["queued_audio_seconds"], told["load"]["admitted_audio_seconds_total"])
            assert (figures, told["server_started_at"], told["reason"]) == ((90, 120), 1.8e9, None)
        with serving(page(queued="NaN", started=1.8e9), port):
            exporter.wait_until(lambda status: "transcriber_queued_audio_seconds is nan" in (status["reason"] or ""), END_SECONDS)
            assert json.loads(exporter.get("/load")[1])["load"] is None
        with serving("no metrics at all", port):
            exporter.wait_until(lambda status: "is nan" not in status["reason"], END_SECONDS)
            assert json.loads(exporter.get("/load")[1])["load"] is None


def test_it_listens_on_ipv6() -> None:
    if not Path("/proc/net/if_inet6").is_file():
        unavailable("this machine has no IPv6 loopback")
    with running(host="::1") as exporter:
        assert exporter.url.startswith("http://[::1]:")
        assert exporter.get("/livez")[0] == 200


def test_a_port_in_use_is_an_error_that_names_the_flag() -> None:
    with running() as exporter:
        taken = exporter.url.removeprefix("http://")
        done = subprocess.run(
            [
                *COMMAND,
                "--triton",
                NOBODY,
                "--triton-metrics",
                f"http://{NOBODY}/metrics",
                "--listen",
                taken,
            ],
            capture_output=True,
            text=True,
            timeout=END_SECONDS,
        )
    assert done.returncode == 1
    assert f"--listen {taken}: " in done.stderr
    assert "give an address of this machine and a free port" in done.stderr
    assert "Traceback" not in done.stderr


GOOD = {"--triton": NOBODY, "--triton-metrics": f"http://{NOBODY}/metrics", "--listen": NOBODY}


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--triton", "8001", "argument --triton: '8001' is not of the form HOST:PORT"),
        ("--triton", "host:99999", "argument --triton: 'host:99999' is not of the form HOST:PORT"),
        (
            "--triton-metrics",
            "10.0.0.7:8002",
            "argument --triton-metrics: '10.0.0.7:8002' is not of the form http://HOST:PORT/PATH",
        ),
        ("--listen", ":8003", "argument --listen: ':8003' is not of the form HOST:PORT"),
        ("--drain-seconds", "-1", "argument --drain-seconds: '-1' is not a number of seconds"),
        ("--drain-seconds", "inf", "argument --drain-seconds: 'inf' is not a number of seconds"),
        ("--canary-deadline-seconds", "soon", "argument --canary-deadline-seconds: 'soon' is not a number of seconds"),
        ("--stale-after-seconds", "20", "--stale-after-seconds: must be at least 42"),
        ("--restart-after-seconds", "20", "--restart-after-seconds: must not be below --stale-after-seconds"),
    ],
)
def test_a_wrong_flag_is_refused_by_name(flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([f"{name}={text}" for name, text in {**GOOD, flag: value}.items()])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_help_explains_every_endpoint_and_shows_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for part in (
        "/livez",
        "/triton/startup",
        "/triton/ready",
        "/triton/live",
        "/drain",
        "/load",
        "/metrics",
        "/status",
        "Example: python -m",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "endpoint", "written"),
    [
        ("10.0.0.7:8001", Endpoint("10.0.0.7", 8001), "10.0.0.7:8001"),
        ("fd00::7:8001", Endpoint("fd00::7", 8001), "[fd00::7]:8001"),
        ("[fd00::7]:8001", Endpoint("fd00::7", 8001), "[fd00::7]:8001"),
    ],
)
def test_an_address_of_a_pod_is_read_with_and_without_brackets(text: str, endpoint: Endpoint, written: str) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == written
    assert metrics_url(f"http://{text}/metrics") == f"http://{written}/metrics"
    assert metrics_url(f"http://{text}") == f"http://{written}/metrics"
