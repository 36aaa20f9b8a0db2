"""`transcriber serve`: from a TranscriberDeployment to a Triton server on this machine, and back to nothing."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Final

import tritonclient.grpc as triton
import typer
from tritonclient.utils import InferenceServerException

from transcriber_cli.console import CommandError, expected_errors, parse_volumes, say, waiting
from transcriber_cli.repository import Root, Volumes, build_repository, repositories_root
from transcriber_repository.launch import LOOPBACK, Listen

MODELS: Final = ("transcribe", "whisper", "log_mel", "whisper_encoder", "whisper_decoder")
LAST_LINES: Final = 12
LINE_CHARACTERS: Final = 400
POLL_SECONDS: Final = 0.2  # Triton announces nothing: it is asked
ASK_SECONDS: Final = 2.0
LISTEN_SECONDS: Final = 1.0
REQUESTS: Final = re.compile(r"^transcriber_requests_in_progress\{.*\} (\S+)$", re.MULTILINE)


class Triton:
    """A Triton that the launcher starts in a process group of its own; use as a context manager, which leaves no process behind."""

    def __init__(self, repository_dir: Path, listen: Listen, log_file: Path | None) -> None:
        """Start it; its output goes to `log_file`, or to stderr if None. Raises CommandError if it cannot be written."""
        self.log_file = log_file
        self._metrics = f"http://{LOOPBACK}:{listen.metrics_port}/metrics"
        arguments = [sys.executable, "-P", "-m", "transcriber_repository.launch", f"--repository={repository_dir}"]
        arguments += [f"--grpc-port={listen.grpc_port}", f"--metrics-port={listen.metrics_port}"]
        arguments += [] if listen.http_port is None else [f"--http-port={listen.http_port}"]
        arguments += [f"--address={listen.address}", f"--stop-with={os.getpid()}"]
        output = _open_log(log_file) if log_file else None
        # Its own session: the terminal's Ctrl-C is ours to pass on, once, and the group holds the model processes too.
        self._child = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output or sys.stderr, stderr=subprocess.STDOUT, start_new_session=True
        )
        if output:
            output.close()

    def __enter__(self) -> "Triton":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._child.wait()

    def exit_status(self) -> int | None:
        """Return the status it ended with, None while it runs."""
        return self._child.poll()

    def wait(self) -> int:
        """Wait for its end and return the status.

        It looks up now and then: Python would hear a signal that comes just before an endless wait only when that has ended.
        """
        while True:
            with suppress(subprocess.TimeoutExpired):
                return self._child.wait(LISTEN_SECONDS)

    def stop(self) -> None:
        """Have it end as soon as no request is at hand; returns at once."""
        threading.Thread(target=self._stop_when_idle, name="stop", daemon=True).start()

    def _stop_when_idle(self) -> None:
        # Triton that is told to end refuses at once the calls by which a file's windows are decoded: the file would fail.
        while self._child.poll() is None and self._requests() > 0:
            time.sleep(POLL_SECONDS)
        if self._child.poll() is None:
            self._child.terminate()

    def _requests(self) -> float:
        """Return the requests at hand; 0 where it does not say."""
        with suppress(OSError), urllib.request.urlopen(self._metrics, timeout=ASK_SECONDS) as answer:  # noqa: S310  # loopback
            found = REQUESTS.search(answer.read().decode())
            return float(found[1]) if found else 0.0
        return 0.0

    def kill(self) -> None:
        """End it and its model processes at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def failure(self, status: int) -> CommandError:
        """Build the error of an end that nobody asked for, with the last lines of the log."""
        cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
        if self.log_file is None:
            return CommandError(f"Triton ended with {cause}; its last lines are above")
        return CommandError(
            "\n".join([f"Triton ended with {cause}; the last lines of {self.log_file}:", *_last_lines(self.log_file)])
        )


class StopSignals:
    """SIGINT and SIGTERM: before a server runs they end the command; then the first stops the server and the second kills it."""

    def __init__(self) -> None:
        self.received = 0
        self._server: Triton | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def pass_to(self, server: Triton) -> None:
        """Hand signals to a server from now on."""
        self._server = server
        if self.received:
            server.stop()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.received += 1
        if self._server is None:
            raise KeyboardInterrupt
        if self.received == 1:
            say("stopping when the requests at hand are answered; Ctrl-C again to kill")
            self._server.stop()
        else:
            self._server.kill()


def serve_command(
    file: Annotated[Path | None, typer.Option("-f", "--file", help="TranscriberDeployment in YAML.", metavar="FILE")] = None,
    repository: Annotated[
        Path | None, typer.Option(help="A repository built before, in place of -f.", metavar="DIR", exists=True, file_okay=False)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 picks a free one.")] = 8001,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve HTTP too, on this port; 0 picks a free one.", show_default="off")
    ] = None,
    metrics_port: Annotated[int, typer.Option(min=0, max=65535, help="Metrics port; 0 picks a free one.")] = 8002,
    root: Root = None,
    volume: Volumes = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Triton's log here instead of writing it to a file.")] = False,
) -> None:
    """Serve a TranscriberDeployment on this machine, on loopback, until Ctrl-C.

    Builds its model repository if it is not there yet, starts Triton and says when it is ready. The first Ctrl-C lets the
    requests at hand finish, the second kills. No process stays behind.

    Examples:

    `transcriber serve -f examples/whisper-base.yaml`

    `transcriber serve -f whisper.yaml --port 9001 --metrics-port 0 --volume weights=/srv/weights`
    """
    if (file is None) == (repository is None):
        raise typer.BadParameter("give either -f FILE or --repository DIR", param_hint="-f")
    volumes = parse_volumes(volume or [])
    with expected_errors():
        signals = StopSignals()
        listen = _listen(port, http_port, metrics_port)
        folder = repositories_root(root)
        built = build_repository(file, folder, volumes) if file else repository
        assert built is not None
        log_file = None if verbose else folder / f"serve-{listen.grpc_port}.log"
        with Triton(built.absolute(), listen, log_file) as server:
            signals.pass_to(server)
            endpoint = f"{LOOPBACK}:{listen.grpc_port}"
            with waiting("starting Triton"):
                ready = wait_until_ready(endpoint, server.exit_status)
            if ready and not signals.received:
                _announce(endpoint, listen, built, log_file)
            status = server.wait()
            if not signals.received:
                raise server.failure(status)
            say("stopped" if signals.received == 1 else "killed")


def wait_until_ready(endpoint: str, exit_status: Callable[[], int | None]) -> bool:
    """Wait until every model answers over gRPC; returns False when the server ends before."""
    with closing(triton.InferenceServerClient(endpoint)) as client:
        while exit_status() is None:
            with suppress(InferenceServerException):  # it does not listen yet
                if all(client.is_model_ready(model, client_timeout=ASK_SECONDS) for model in MODELS):
                    return True
            time.sleep(POLL_SECONDS)
    return False


def _announce(endpoint: str, listen: Listen, repository_dir: Path, log_file: Path | None) -> None:
    say(f"ready      grpc://{endpoint}")
    if listen.http_port is not None:
        say(f"http       http://{LOOPBACK}:{listen.http_port}")
    say(f"metrics    http://{LOOPBACK}:{listen.metrics_port}/metrics")
    say(f"repository {repository_dir}")
    if log_file:
        say(f"log        {log_file}")
    say(f"\nnow, in another terminal:\n  transcriber transcribe FILE --endpoint {endpoint}\nCtrl-C stops the server.")


def _listen(port: int, http_port: int | None, metrics_port: int) -> Listen:
    """Resolve the ports: 0 becomes a free one, one in use is an error that names its option; HTTP may have none."""
    wanted = {"--port": port, "--metrics-port": metrics_port} | ({} if http_port is None else {"--http-port": http_port})
    with ExitStack() as held:  # all are held until all are known: three zeros are three ports
        sockets = {option: held.enter_context(closing(_bind(option, number))) for option, number in wanted.items()}
        ports = {option: bound.getsockname()[1] for option, bound in sockets.items()}
    return Listen(ports["--port"], ports.get("--http-port"), ports["--metrics-port"], LOOPBACK)


def _bind(option: str, port: int) -> socket.socket:
    probe = socket.socket()
    # As servers do: a port in TIME_WAIT is free, one that is listened on is not.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((LOOPBACK, port))
        # Two probes may share an address before either listens; this one takes it.
        probe.listen(1)
    except OSError as error:
        probe.close()
        raise CommandError(f"{option} {port}: {error.strerror}; give another port, or 0 to pick a free one") from None
    return probe


def _last_lines(log_file: Path) -> list[str]:
    """Return the last warnings and errors of a log; Triton's tables and plain information would push out the reason."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = [line for line in lines if line.strip() and not re.match(r"[|+]|I\d{4} ", line)]
    return [f"  {line[:LINE_CHARACTERS]}" for line in telling[-LAST_LINES:]]


def _open_log(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}; give a folder that can be written with --root") from None
