"""The launcher, `transcriber serve` and `transcriber transcribe` around a real Triton whose models echo."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton_client
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conftest import unavailable
from transcriber_cli.serve import MODELS, wait_until_ready
from transcriber_repository.progress import silent
from transcriber_repository.publish import BUILDING_DIR, publish
from transcriber_repository.verify import verify

CONFIG = """
name: "{name}"
backend: "python"
input [{{ name: "AUDIO" data_type: TYPE_STRING dims: [1] }}, {{ name: "OPTIONS" data_type: TYPE_STRING dims: [1] }}]
output [{{ name: "RESULT" data_type: TYPE_STRING dims: [1] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
"""
END_SECONDS = 60
CLI = [sys.executable, "-m", "transcriber_cli"]

pytestmark = pytest.mark.usefixtures("triton")


@dataclass
class Serving:
    """A `transcriber serve` that is ready."""

    process: subprocess.Popen[str]
    repository: Path
    endpoint: str
    said: str

    def finish(self) -> tuple[int, str]:
        """Wait for the end: exit code and the rest of stderr."""
        _, rest = self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, rest


def publish_echo(root: Path, model: str = "echo_model.py") -> Path:
    """Publish a repository whose models echo, or are another file of this folder."""
    folder = root / BUILDING_DIR / "repository"
    for name in MODELS:
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(CONFIG.format(name=name))
        shutil.copy(Path(__file__).parent / model, version / "model.py")
    return publish(root, folder, "0" * 64, silent)


def start(repository: Path, *options: str) -> Serving:
    """Run `transcriber serve` on free ports and wait until it says that it is ready."""
    arguments = ["serve", "--repository", str(repository), "--port", "0", "--metrics-port", "0", "--root", str(repository.parent)]
    process = subprocess.Popen([*CLI, *arguments, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("ready"):
            endpoint = line.split("grpc://")[1].strip()
        if line.startswith("Ctrl-C"):
            return Serving(process, repository, endpoint, "".join(said))
    process.communicate()
    pytest.fail("transcriber serve did not become ready:\n" + "".join(said))


def processes_of(repository: Path) -> dict[int, str]:
    """Return the living processes that have this repository on their command line: Triton and its model processes."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue  # it ended meanwhile
            if str(repository) in words and state != "Z":
                found[int(entry.name)] = words
    return found


def triton_pid(repository: Path) -> int:
    [pid] = [pid for pid, words in processes_of(repository).items() if "--model-repository=" in words]
    return pid


def wait_until_no_process_of(repository: Path) -> None:
    """The kernel announces no end of processes that are not ours, so they are asked for."""
    deadline = time.monotonic() + END_SECONDS
    while left := processes_of(repository):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def transcribe(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*CLI, "transcribe", *arguments], input=stdin, capture_output=True, text=True, timeout=END_SECONDS)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = start(publish_echo(tmp_path_factory.mktemp("echo")))
    yield serving
    serving.process.send_signal(signal.SIGINT)
    serving.finish()
    assert processes_of(serving.repository) == {}


@pytest.fixture
def own_echo(tmp_path: Path) -> Iterator[Serving]:
    serving = start(publish_echo(tmp_path))
    yield serving
    serving.process.kill()
    serving.process.communicate()
    wait_until_no_process_of(serving.repository)


def test_transcripts_of_several_files_go_to_stdout_in_the_order_given(echo: Serving, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.wav" for number in range(12)]
    for file in files:
        file.write_text(f"text of {file.name}")
    done = transcribe(*map(str, files), "--endpoint", echo.endpoint, "--concurrency", "8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"text of {file.name}" for file in files]
    assert "12 files: 12.0 s of audio" in done.stderr
    assert "acceptance 75.0%, 4.00 tokens per cycle" in done.stderr


def test_a_file_that_fails_is_named_on_stderr_and_the_others_finish(echo: Serving, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("bad")
    (tmp_path / "good.wav").write_text("good")
    names = [str(tmp_path / name) for name in ("missing.wav", "bad.wav", "good.wav")]
    done = transcribe(*names, "--endpoint", echo.endpoint)
    assert done.returncode == 1
    assert done.stdout == "good\n"
    assert f"error: {names[0]}: No such file or directory\n" in done.stderr
    assert f"error: {names[1]}: AUDIO: is bad [INVALID_ARGUMENT]\n" in done.stderr


def test_verify_proves_equal_tokens_and_names_the_first_that_differs(echo: Serving) -> None:
    equal = transcribe("-", "--verify", "--endpoint", echo.endpoint, stdin="abc")
    assert equal.returncode == 0
    assert "-: exact: 4 tokens, the same as the target alone decodes; " in equal.stderr
    assert " times its speed" in equal.stderr
    differs = transcribe("-", "--verify", "--endpoint", echo.endpoint, stdin="inexact")
    assert differs.returncode == 1
    assert "error: -: not exact: token 0 is 1; the target alone decodes 0" in differs.stderr


def test_stdin_options_and_subtitles_reach_their_places(echo: Serving, tmp_path: Path) -> None:
    done = transcribe(
        "-",
        "--format",
        "json",
        "--language",
        "de",
        "--output-dir",
        str(tmp_path / "out"),
        "--endpoint",
        echo.endpoint,
        stdin="hallo",
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert '"language":"de"' in (tmp_path / "out" / "stdin.json").read_text()
    subtitles = transcribe("-", "--format", "srt", "--endpoint", echo.endpoint, stdin="hallo")
    assert subtitles.stdout == "1\n00:00:00,000 --> 00:00:01,000\nhallo\n"


def test_what_is_chosen_for_decoding_reaches_the_server_and_what_is_not_is_the_deployment_s(echo: Serving) -> None:
    chosen = {"hotwords": "Ada", "condition_on_previous_text": True, "temperature_fallback": False, "seed": 7}
    flags = ["--hotwords", "Ada", "--condition-on-previous-text", "--no-temperature-fallback", "--seed", "7"]
    done = transcribe("-", *flags, "--endpoint", echo.endpoint, stdin="options")
    assert json.loads(done.stdout) == chosen


def test_admin_protocols_are_refused_without_the_key(echo: Serving) -> None:
    client = triton_client.InferenceServerClient(echo.endpoint)
    try:
        assert client.is_server_ready()
        for call in (client.get_model_repository_index, client.get_system_shared_memory_status, client.get_inference_statistics):
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                call()
    finally:
        client.close()


def test_a_repository_that_is_served_stays_as_published(echo: Serving) -> None:
    assert transcribe("-", "--endpoint", echo.endpoint, stdin="imports every model").returncode == 0
    verify(echo.repository)


def test_http_is_off_where_nobody_asks_for_it(echo: Serving) -> None:
    assert "http  " not in echo.said
    triton = processes_of(echo.repository)[triton_pid(echo.repository)]
    assert "--allow-http=false" in triton
    assert "--http-port" not in triton


def test_http_answers_where_a_port_was_asked_for(tmp_path: Path) -> None:
    serving = start(publish_echo(tmp_path), "--http-port", "0")
    try:
        [address] = [line.split()[1] for line in serving.said.splitlines() if line.startswith("http  ")]
        with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=END_SECONDS) as answer:
            assert answer.status == 200
    finally:
        serving.process.send_signal(signal.SIGINT)
        serving.finish()


def test_triton_of_the_one_repository_in_a_folder_listens_on_ipv6(tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").is_file():
        unavailable("this machine has no IPv6 loopback")
    repository = publish_echo(tmp_path)
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as one,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as two,
    ):
        grpc_port, metrics_port = one.getsockname()[1], two.getsockname()[1]
    arguments = [f"--root={tmp_path}", "--address=::1", f"--grpc-port={grpc_port}", f"--metrics-port={metrics_port}"]
    server = subprocess.Popen([sys.executable, "-P", "-m", "transcriber_repository.launch", *arguments], stderr=subprocess.DEVNULL)
    try:
        assert wait_until_ready(f"[::1]:{grpc_port}", server.poll)
        with urllib.request.urlopen(f"http://[::1]:{metrics_port}/metrics", timeout=END_SECONDS) as answer:
            assert b"nv_inference_request_success" in answer.read()
    finally:
        server.terminate()
        server.wait(END_SECONDS)
    assert processes_of(repository) == {}


def test_a_port_in_use_is_an_error_that_names_its_option(echo: Serving) -> None:
    port = echo.endpoint.partition(":")[2]
    for option in ("--port", "--metrics-port", "--http-port"):
        others = [word for other in ("--port", "--metrics-port") if other != option for word in (other, "0")]
        arguments = ["serve", "--repository", str(echo.repository), option, port, *others]
        done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=END_SECONDS)
        assert done.returncode == 1
        assert done.stderr == f"error: {option} {port}: Address already in use; give another port, or 0 to pick a free one\n"


def test_no_server_at_the_endpoint_is_an_error_that_says_how_to_start_one() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{unused.getsockname()[1]}"
        done = transcribe("-", "--endpoint", endpoint, stdin="text")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --endpoint {endpoint}: no server answers there; start one with `transcriber serve")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_cleanly_at_a_signal_and_leaves_no_process(own_echo: Serving, number: signal.Signals) -> None:
    assert len(processes_of(own_echo.repository)) > len(MODELS)
    own_echo.process.send_signal(number)
    status, said = own_echo.finish()
    assert (status, said.splitlines()[-1]) == (0, "stopped")
    assert processes_of(own_echo.repository) == {}


def test_a_second_ctrl_c_kills_a_server_that_is_busy(own_echo: Serving) -> None:
    client = triton_client.InferenceServerClient(own_echo.endpoint)
    inputs = [triton_client.InferInput(name, [1], "BYTES") for name in ("AUDIO", "OPTIONS")]
    for tensor, value in zip(inputs, (b"slow", b"{}"), strict=True):
        tensor._raw_content = len(value).to_bytes(4, "little") + value
    call = client.async_infer("transcribe", inputs, lambda result, error: None)
    own_echo.process.send_signal(signal.SIGINT)
    assert own_echo.process.stderr is not None
    while "Ctrl-C again to kill" not in own_echo.process.stderr.readline():
        assert own_echo.process.poll() is None
    own_echo.process.send_signal(signal.SIGINT)
    status, said = own_echo.finish()
    call.cancel()
    client.close()
    assert (status, said) == (0, "killed\n")
    assert processes_of(own_echo.repository) == {}


def test_the_death_of_triton_ends_serve_with_the_last_lines_of_its_log(own_echo: Serving) -> None:
    os.kill(triton_pid(own_echo.repository), signal.SIGKILL)
    status, said = own_echo.finish()
    assert status == 1
    assert "error: Triton ended with signal SIGKILL; the last lines of " in said
    assert "launch: verify: " in said
    assert processes_of(own_echo.repository) == {}


def test_triton_ends_when_serve_is_killed(own_echo: Serving) -> None:
    own_echo.process.kill()
    wait_until_no_process_of(own_echo.repository)


def test_a_damaged_repository_is_not_served(tmp_path: Path) -> None:
    repository = publish_echo(tmp_path)
    damaged = repository / "models" / "log_mel" / "config.pbtxt"
    damaged.write_text(damaged.read_text().replace("count: 1", "count: 2"))
    arguments = ["serve", "--repository", str(repository), "--port", "0", "--metrics-port", "0", "--root", str(tmp_path)]
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=END_SECONDS)
    assert done.returncode == 1
    assert "models/log_mel/config.pbtxt: has sha256" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_client_is_soon_asked_to_connect_anew_and_is_served_as_before(echo: Serving):
    states: queue.Queue[grpc.ChannelConnectivity] = queue.Queue()
    with grpc.insecure_channel(echo.endpoint) as channel:
        channel.subscribe(states.put, try_to_connect=True)
        while states.get(timeout=END_SECONDS) is not grpc.ChannelConnectivity.READY:
            pass
        connected_at = time.monotonic()
        while states.get(timeout=END_SECONDS) is grpc.ChannelConnectivity.READY:
            pass
        assert 10 < time.monotonic() - connected_at < 30
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=END_SECONDS).live
