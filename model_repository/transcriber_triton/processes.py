"""Watches the other models' processes: Triton never answers a call that one of them held when it died."""

import os
import select
import threading
from contextlib import suppress
from pathlib import Path


class ModelProcessDiedError(Exception):
    """A model of this server is dead; only a restart of the server helps."""


class ModelProcesses:
    """The processes of the models beside this one, which share its parent and its executable; found at the first check."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, str] | None = None  # pidfd, which polls as readable once its process has ended -> model
        self._poll = select.poll()

    def check(self) -> None:
        """Raise ModelProcessDiedError where one has died. Call it once the server is ready, so that all of them are there."""
        with self._lock:  # a poll object serves one thread at a time
            if self._watched is None:
                self._watched = {os.pidfd_open(pid): model for pid, model in siblings().items()}
                for descriptor in self._watched:
                    self._poll.register(descriptor, select.POLLIN)
            died = [self._watched[descriptor] for descriptor, _ in self._poll.poll(0)]
        if died:
            raise ModelProcessDiedError(f"the process of model {died[0]} has died; restart the server")


def siblings() -> dict[int, str]:
    """Return the processes that run other models under the same server, and their models' names."""
    own, parent = os.getpid(), os.getppid()
    executable = Path("/proc/self/exe").readlink()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != own:
            with suppress(OSError):  # it ended meanwhile, or belongs to another user
                model = _model(entry)
                if model and _parent(entry) == parent and (entry / "exe").readlink() == executable:
                    found[int(entry.name)] = model
    return found


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _model(process: Path) -> str | None:
    """Return the model whose file, `…/NAME/1/model.py`, is the first argument."""
    words = (process / "cmdline").read_bytes().split(b"\0")
    file = Path(os.fsdecode(words[1])) if len(words) > 1 else Path()
    return file.parts[-3] if file.name == "model.py" and len(file.parts) > 2 else None
