"""Parts as processes, with small servers in place of Kubernetes' own."""

import os
import select
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.processes import LOOPBACK, Part, PartError, Program, Spawner, free_ports

START_SECONDS = 20.0
STOP_SECONDS = 20.0
# Answers 200 everywhere; what $MODE says it does otherwise.
SERVER = """\
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(os.environ.get("STATUS", "200")))
        self.end_headers()
if os.environ.get("MODE") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("MODE") == "broken":
    print("flag provided but not defined: -colour", flush=True)
    sys.exit(2)
print("KUBECONFIG", os.environ.get("KUBECONFIG"), "proxy", os.environ.get("HTTPS_PROXY"), flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
MakePart = Callable[..., Part]


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    yield spawner
    spawner.close()


@pytest.fixture
def make_part(tmp_path: Path, spawner: Spawner) -> Iterator[MakePart]:
    made: list[Part] = []

    def make(**environment: str) -> Part:
        [port] = free_ports(1)
        program = Program("server", (sys.executable, "-c", SERVER, str(port)), f"http://{LOOPBACK}:{port}/readyz", environment)
        made.append(Part(program, tmp_path / "server.log", spawner, ssl.create_default_context()))
        return made[-1]

    yield make
    for part in made:
        part.kill()


def started(part: Part) -> Part:
    part.start()
    part.await_ready(START_SECONDS)
    return part


def await_end(pid: int) -> None:
    """Wait until a child of ours has ended; its status stays to be read."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_part_is_ready_when_it_answers_and_gone_when_stop_returns(make_part: MakePart):
    part = started(make_part())
    pid = part.pid
    assert pid is not None
    assert part.answers()
    part.stop()
    assert part.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    part.stop()


def test_a_part_starts_again_on_its_port(make_part: MakePart):
    part = started(make_part())
    first = part.pid
    part.start()
    assert part.pid == first
    part.stop()
    assert started(part).pid != first


def test_a_part_that_ends_while_it_starts_is_named_with_its_log(make_part: MakePart):
    part = make_part(MODE="broken")
    part.start()
    with pytest.raises(PartError, match=r"(?s)^server ended with exit code 2; the last lines of .*:\n  flag provided .* -colour$"):
        part.await_ready(START_SECONDS)


def test_a_part_that_never_becomes_ready_is_named(make_part: MakePart):
    part = make_part(STATUS="503")
    part.start()
    with pytest.raises(PartError, match=r"^server was not ready within 1 s"):
        part.await_ready(1.0)


def test_a_part_that_is_killed_is_noticed_and_does_not_start_again_by_itself(make_part: MakePart):
    part = started(make_part())
    assert not part.has_died
    assert part.pid is not None
    os.kill(part.pid, signal.SIGKILL)
    await_end(part.pid)
    assert part.has_died
    with pytest.raises(PartError, match="server ended with signal SIGKILL"):
        part.check()
    with pytest.raises(PartError, match="server ended with signal SIGKILL"):
        part.start()
    part.stop()
    part.check()
    started(part)


def test_a_part_that_ignores_the_request_to_end_is_killed(make_part: MakePart):
    part = started(make_part(MODE="stubborn"))
    part.stop(timeout_seconds=0.5)
    assert part.pid is None
    part.check()


def test_a_paused_part_holds_its_port_and_answers_nothing_until_it_resumes(make_part: MakePart, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.rig.processes.ASK_SECONDS", 0.5)
    part = started(make_part())
    part.pause()
    assert not part.answers()
    part.check()
    part.resume()
    assert part.answers()


def test_a_paused_part_can_be_stopped(make_part: MakePart):
    part = started(make_part())
    part.pause()
    part.stop()
    assert part.pid is None


def test_a_part_started_from_a_thread_outlives_that_thread(make_part: MakePart):
    part = make_part()
    thread = threading.Thread(target=started, args=(part,))
    thread.start()
    thread.join()
    assert part.answers()
    part.check()


def test_proxies_and_the_user_s_cluster_do_not_reach_into_a_part(make_part: MakePart, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", "/home/me/.kube/config")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com")
    monkeypatch.setenv("http_proxy", "http://proxy.example.com")
    part = started(make_part())
    assert part.log_file.read_text().startswith("KUBECONFIG None proxy None")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_when_the_parent_is_killed_its_parts_end_even_paused(tmp_path: Path):
    parent = """
import signal, ssl, sys
from pathlib import Path
from tests.rig.processes import Part, Program, Spawner
program = Program("server", (sys.executable, "-m", "http.server", sys.argv[1]), f"http://127.0.0.1:{sys.argv[1]}/")
part = Part(program, Path(sys.argv[2]), Spawner(), ssl.create_default_context())
part.start()
part.await_ready(20)
part.pause()
print(part.pid, flush=True)
signal.pause()
"""
    argv = [sys.executable, "-c", parent, str(free_ports(1)[0]), str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
    assert select.select([pid], [], [], STOP_SECONDS)[0] == [pid]
    os.close(pid)


def test_free_ports_differ_and_lie_below_those_of_outgoing_connections():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(20_000 <= port < 32_000 for port in ports)
