"""Processes of containers, each below a shim of its own (`bridge_shim.py`), for asyncio."""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.rig.bridge_shim import descendants

SHIM: Final = Path(__file__).with_name("bridge_shim.py")
SIGNAL_EXIT_BASE: Final = 128  # a process that a signal ended counts as exit code 128 + signal
SHIM_LOST_EXIT_CODE: Final = SIGNAL_EXIT_BASE + signal.SIGKILL


class StartError(Exception):
    """A command could not be started; the message names the file at fault."""


@dataclass(frozen=True)
class Command:
    """What a process runs, all its environment, and its working folder."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class RunningProcess:
    """A process of a container at some moment."""

    pid: int
    argv: tuple[str, ...]


class Process:
    """A container's main process and what it started; signals to one that has ended do nothing."""

    def __init__(self, shim: asyncio.subprocess.Process) -> None:
        self._shim = shim
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._ended: asyncio.Future[int] = loop.create_future()
        self._reports = loop.create_task(self._read_reports())

    async def start(self, command: Command, log_file: Path) -> None:
        """Start it; raises StartError."""
        order = {
            "argv": command.argv,
            "environment": dict(command.environment),
            "folder": str(command.folder),
            "log_file": str(log_file),
        }
        self._tell(json.dumps(order))
        report = await asyncio.shield(self._started)
        if "error" in report:
            await self.wait()
            raise StartError(report["error"])

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Wait until nothing of it runs; returns the exit code of its main process, 128 + N after signal N."""
        return await asyncio.shield(self._ended)

    def signal(self, number: int) -> None:
        """Send a signal to the main process alone, as a container runtime does."""
        self._tell(f"{number:d} main")

    def signal_all(self, number: int) -> None:
        """Send a signal to all processes."""
        self._tell(f"{number:d} all")

    def kill(self) -> None:
        """End all processes at once, also one that is still starting."""
        assert self._shim.stdin is not None
        self._shim.stdin.close()

    def processes(self) -> list[RunningProcess]:
        """Return its processes, the main one first."""
        found = []
        for pid in descendants(self._shim.pid) if self.is_running else []:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            found.append(RunningProcess(pid, tuple(word.decode(errors="replace") for word in words)))
        return found

    def _tell(self, line: str) -> None:
        assert self._shim.stdin is not None
        if not self._shim.stdin.is_closing():
            self._shim.stdin.write(f"{line}\n".encode())

    async def _read_reports(self) -> None:
        assert self._shim.stdout is not None
        exit_code = SHIM_LOST_EXIT_CODE
        async for line in self._shim.stdout:
            report = json.loads(line)
            if "exit_code" in report:
                exit_code = report["exit_code"]
            else:
                self._started.set_result(report)
        await self._shim.wait()
        self.kill()  # closes our end of a pipe that nobody reads any more
        if not self._started.done():
            self._started.set_result({"error": "ended by the bridge before it had started"})
        self._ended.set_result(exit_code if exit_code >= 0 else SIGNAL_EXIT_BASE - exit_code)


class Runtime:
    """Starts processes, and ends those that still run when it is closed."""

    def __init__(self) -> None:
        self._alive: set[Process] = set()
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def is_idle(self) -> bool:
        """Whether no process runs."""
        return not self._alive

    async def start(self, command: Command, log_file: Path) -> Process:
        """Start a command, its output added to a file; raises StartError. Cancelled, it leaves nothing."""
        shim = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(SHIM),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        process = Process(shim)
        self._alive.add(process)
        watching = asyncio.create_task(self._forget_ended(process))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        try:
            await process.start(command, log_file)
        except asyncio.CancelledError:
            process.kill()
            raise
        return process

    async def close(self) -> None:
        """End all processes at once and wait until they have ended."""
        for process in self._alive:
            process.kill()
        await asyncio.gather(*self._watching)

    async def _forget_ended(self, process: Process) -> None:
        await process.wait()
        self._alive.discard(process)
