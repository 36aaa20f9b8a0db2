"""One part of the rig as a plain process: started, asked until it is ready, paused, stopped; its end is never missed."""

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
BOUND: Final = Path(__file__).with_name("bound.py")
LAST_LINES: Final = 20
LINE_CHARACTERS: Final = 400
POLL_SECONDS: Final = 0.05  # a part announces nothing: it is asked
ASK_SECONDS: Final = 2.0
STOP_SECONDS: Final = 15.0
FIRST_PORT: Final = 20_000
LAST_PORT: Final = 32_000  # below the ports that the kernel gives to outgoing connections: a part that restarts finds its own free


class PartError(Exception):
    """A part of the rig did not start, or ended; the message names it and ends with its log's last lines."""


@dataclass(frozen=True)
class Program:
    """What a part runs, and the URL that answers 200 once it is ready."""

    name: str
    argv: tuple[str, ...]
    ready_url: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Spawner:
    """Starts processes from one thread of its own, since the kernel ties a process to the thread that started it.

    So any thread may ask, also one of a pool that ends before the process should.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def spawn(self, argv: Sequence[str], environment: Mapping[str, str], log_file: Path) -> "subprocess.Popen[bytes]":
        """Start a process that dies with this one; its output is added to a file."""
        return self._thread.submit(self._spawn, argv, environment, log_file).result()

    def close(self) -> None:
        """End the thread, and with it every process that it started and nobody stopped."""
        self._thread.shutdown()

    @staticmethod
    def _spawn(argv: Sequence[str], environment: Mapping[str, str], log_file: Path) -> "subprocess.Popen[bytes]":
        bound = [sys.executable, "-I", "-S", str(BOUND), str(os.getpid()), *argv]
        with log_file.open("ab") as output:
            # Its own session: Ctrl-C in a terminal is for pytest, which then stops the parts in order.
            return subprocess.Popen(
                bound, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )


class Part:
    """A part that can be started, paused, stopped and started again, on the same ports; methods may be called from any thread."""

    def __init__(self, program: Program, log_file: Path, spawner: Spawner, tls: ssl.SSLContext) -> None:
        self.program = program
        self.log_file = log_file
        self._spawner = spawner
        # No proxy of the environment: everything is on loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The part's name."""
        return self.program.name

    @property
    def pid(self) -> int | None:
        """Process id, None unless it was started."""
        process = self._process
        return process.pid if process else None

    def start(self) -> None:
        """Start it without waiting; nothing if it runs. Raises PartError if it has ended by itself."""
        with self._lock:
            self.check()
            if self._process is None:
                environment = {**_clean(os.environ), **self.program.environment}
                self._process = self._spawner.spawn(self.program.argv, environment, self.log_file)

    def await_ready(self, timeout_seconds: float) -> None:
        """Wait until it answers; raises PartError if it ends or the time does."""
        deadline = time.monotonic() + timeout_seconds
        while not self.answers():
            if time.monotonic() > deadline:
                raise PartError(f"{self.name} was not ready within {timeout_seconds:.0f} s{self.log_tail()}")
            process = self._process
            if process is None:
                raise PartError(f"{self.name} was stopped while it started")
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
            self.check()

    def answers(self) -> bool:
        """Whether it says now that it is ready."""
        try:
            with self._opener.open(self.program.ready_url, timeout=ASK_SECONDS) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def has_died(self) -> bool:
        """Whether it ended though nobody stopped it."""
        process = self._process
        return process is not None and process.poll() is not None

    def check(self) -> None:
        """Raise PartError if it ended though nobody stopped it."""
        process = self._process
        status = process.poll() if process else None
        if status is not None:
            cause = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
            raise PartError(f"{self.name} ended with {cause}{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of its log, with a heading, to end a message with."""
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines() if self.log_file.exists() else []
        shown = [f"  {line[:LINE_CHARACTERS]}" for line in lines[-LAST_LINES:]]
        return "\n".join([f"; the last lines of {self.log_file}:", *shown]) if shown else "; it wrote no log"

    def pause(self) -> None:
        """Stop its clock (SIGSTOP): it holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """Ask it to end, also when paused, without waiting."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """Ask it to end and wait until it has; what does not end in time is killed. Nothing if it does not run."""
        self.ask_to_stop()
        with self._lock:
            if self._process is None:
                return
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it as a crash would, and count that as stopped; nothing if it does not run."""
        self._signal(signal.SIGKILL)
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None:
            process.send_signal(number)  # does nothing to a process whose end is known


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nobody listens on; all are held until all are known, so they differ."""
    held: list[socket.socket] = []
    candidates = iter(random.sample(range(FIRST_PORT, LAST_PORT), LAST_PORT - FIRST_PORT))
    try:
        while len(held) < count:
            probe = socket.socket()
            held.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, next(candidates)))
                probe.listen(1)
            except OSError:
                held.pop().close()
        return [probe.getsockname()[1] for probe in held]
    finally:
        for probe in held:
            probe.close()


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Drop what would reach into the parts: proxies and the user's own cluster."""
    return {key: value for key, value in environment.items() if not key.lower().endswith("_proxy") and key != "KUBECONFIG"}
