"""`python bridge_shim.py`: one container of the pod bridge. Runs a command, and leaves nothing of what it started.

First line of stdin: {"argv", "environment", "folder", "log_file"}. Each further line is a signal to send: "NUMBER main" or
"NUMBER all". Lines of stdout: {"pid"} or {"error"}, then {"exit_code"} (negative: the signal) once nothing runs any more.
As in a container, the end of the main process ends the others; so does the end of stdin, which is the end of the bridge, however
it came. Processes that lost their parent, in sessions of their own too, come up to this one and are found. Linux only.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
STDIN, STDOUT = 0, 1
READ_BYTES = 65536


def descendants(root: int) -> list[int]:
    """Return the ids of all processes below one, at this moment."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  this file imports little: it is started once per container
        if name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):
                # After the last ")", which ends the program's name: state, parent.
                parent = int(_contents(f"/proc/{name}/stat").rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _contents(file: str) -> bytes:
    with open(file, "rb") as opened:  # noqa: PTH123
        return opened.read()


def main() -> None:
    """Run the container that stdin names."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines = _Lines()
    while (first := lines.next()) is None:
        if not lines.read():
            return
    process = _start(libc, **json.loads(first))
    if process is None:
        return
    pid = process.pid  # the object stays: dropped, it would take the exit status of a process that has ended already
    exit_code = None
    while exit_code is None:
        readable, _, _ = select.select([STDIN, woken], [], [])
        if STDIN in readable and not lines.read():
            _end_all(pid)
            return
        while (line := lines.next()) is not None:
            _send(line, pid)
        if woken in readable:
            os.read(woken, READ_BYTES)
            exit_code = _reap(pid, os.WNOHANG)
    _end_all(pid)
    _report(exit_code=exit_code)


class _Lines:
    """Lines of stdin, without a buffer that `select` could not see."""

    def __init__(self) -> None:
        self._data = b""

    def read(self) -> bool:
        data = os.read(STDIN, READ_BYTES)
        self._data += data
        return bool(data)

    def next(self) -> str | None:
        line, newline, rest = self._data.partition(b"\n")
        if not newline:
            return None
        self._data = rest
        return line.decode()


def _start(
    libc: ctypes.CDLL, argv: list[str], environment: dict[str, str], folder: str, log_file: str
) -> "subprocess.Popen[bytes] | None":
    shim = os.getpid()

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim:
            os.kill(os.getpid(), signal.SIGKILL)

    with open(log_file, "ab") as log:  # noqa: PTH123
        try:
            process = subprocess.Popen(
                argv,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=bind,
            )
        except OSError as error:
            _report(error=f"{error.filename or argv[0]}: {error.strerror}")
            return None
    _report(pid=process.pid)
    return process


def _send(line: str, main_pid: int) -> None:
    number, _, whom = line.partition(" ")
    for pid in descendants(os.getpid()) if whom == "all" else [main_pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, int(number))


def _reap(main_pid: int, options: int) -> "int | None":
    """Take note of all processes that ended; return the exit code of the main one if it is among them."""
    exit_code = None
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, options)
            if pid == 0:
                break
            if pid == main_pid:
                exit_code = os.waitstatus_to_exitcode(status)
    return exit_code


def _end_all(main_pid: int) -> None:
    """Kill what is below this process until nothing is: a killed one's children come up to us, and then it is their turn."""
    while found := descendants(os.getpid()):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
        _reap(main_pid, os.WNOHANG)


def _report(**what: object) -> None:
    with suppress(BrokenPipeError):
        os.write(STDOUT, f"{json.dumps(what)}\n".encode())


if __name__ == "__main__":
    main()
    os._exit(0)  # the interpreter would look after a process that is reaped already
