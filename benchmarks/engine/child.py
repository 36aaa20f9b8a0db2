"""Each peer in a process of its own: no peer shares threads, allocator or peak memory with another.

A peer that waits costs nothing: OpenMP threads spin for some milliseconds after their work and then sleep, so a run starts only
after a pause.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PAUSE_SECONDS: Final = 0.4  # idle threads of the run before have gone to sleep by then
THREADS: Final = len(os.sched_getaffinity(0))  # every peer gets all cores that the benchmark has
STOP_SECONDS: Final = 30
SAMPLE_SECONDS: Final = 0.5


class ChildError(Exception):
    """A peer failed or ended; the message says which and why."""


class Child:
    """A peer in a process, made there by a function or class `module:name` with keyword arguments; used in a `with` statement."""

    def __init__(self, name: str, factory: str, arguments: Mapping[str, Any]) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=serve, args=(other, factory, dict(arguments)), name=name)
        with _environment(OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS)):
            self._process.start()
        other.close()
        self._receive()  # loaded, or why not

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Have the peer do something and return what it returns; raises ChildError."""
        time.sleep(PAUSE_SECONDS)
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise ChildError(f"{self.name}: its process has ended ({error})") from None
        return self._receive()

    def close(self) -> None:
        """End it, politely at first."""
        if self._process.is_alive():
            try:
                self._connection.send(("close", ()))
                self._process.join(STOP_SECONDS)
            except OSError:
                pass
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        try:
            is_error, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ChildError(f"{self.name}: its process ended with exit code {self._process.exitcode}") from None
        if is_error:
            raise ChildError(f"{self.name}: {value}")
        return value


class _environment:  # noqa: N801  # reads as a statement
    """Variables that are set while a process starts."""

    def __init__(self, **variables: str) -> None:
        self._variables = variables
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def serve(connection: Connection, factory: str, arguments: Mapping[str, Any]) -> None:
    """Make the peer and do as told until told to close."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who closes us
    module, _, name = factory.partition(":")
    answered, peer = _attempt(lambda: getattr(import_module(module), name)(**arguments))
    connection.send((not answered, None if answered else peer))
    if not answered:
        return
    while True:
        try:
            method, given = connection.recv()
        except EOFError:
            method = "close"
        if method == "close":
            peer.close()
            return
        answered, value = _attempt(lambda m=method, g=given: peak_bytes(peer) if m == "peak_bytes" else getattr(peer, m)(*g))
        connection.send((not answered, value))


def _attempt(do: Callable[[], Any]) -> tuple[bool, Any]:
    try:
        return True, do()
    except Exception as error:  # the parent says it and goes on with the other peers
        return False, f"{type(error).__name__}: {error}"


def peak_bytes(peer: object) -> int:
    """Return the most memory that this process ever held, or, of a peer that is a server, what its processes held."""
    own = getattr(peer, "peak_bytes", None)
    if own is not None:
        return int(own())
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def resident_bytes(pid: int | str = "self") -> int:
    """Return the memory that a process holds now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class ResidentSamples:
    """Samples this process's memory while something runs; used in a `with` statement."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.bytes.append(resident_bytes())
