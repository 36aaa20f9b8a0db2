"""Run by test_crash.py: builds once per point of death, each in a forked child that kills itself before its n-th operation.

Prints one JSON line per point. A process of its own, so that forking is safe and no test's threads are copied.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.repository import tiny
from transcriber_repository.build import build
from transcriber_repository.errors import RepositoryError
from transcriber_repository.manifest import is_ready
from transcriber_repository.verify import verify

OPERATIONS = ("write", "fsync", "replace", "mkdir", "unlink", "rmdir", "open")


def die_before(number: int) -> None:
    """Let this process kill itself before its `number`-th operation on the file system (reads by `open` do not count)."""
    count = 0

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if name != "open" or (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(name, getattr(os, name)))


def build_in_child(root: Path, spec: tiny.Spec, adapters: Path, number: int) -> bool:
    """Return whether the child died (True) or came to its end before its `number`-th operation."""
    child = os.fork()
    if child == 0:
        die_before(number)
        build(spec, root, adapters=adapters)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"the build failed by itself at point {number}")
    return os.WIFSIGNALED(status)


def state(root: Path) -> str:
    """Return `absent`, `whole` or what is wrong, of the repositories that count as ready."""
    ready = [path for path in root.glob("sha256-*") if is_ready(path)] if root.exists() else []
    try:
        return "whole" if [verify(path) for path in ready] else "absent"
    except RepositoryError as error:
        return str(error)


def main(folder: Path) -> None:
    adapters = tiny.write_adapters(folder / "adapters")
    target, draft = tiny.write_hf(folder / "target"), tiny.write_draft(folder / "draft")
    spec = tiny.spec(tiny.source(target), tiny.source(draft))
    number, died = 0, True
    while died:
        number += 1
        root = folder / f"root-{number}"
        died = build_in_child(root, spec, adapters, number)
        after = state(root)
        path = build(spec, root, adapters=adapters)
        left = sorted(entry.name for entry in root.iterdir() if entry.name not in (".lock", path.name))
        verify(path)
        sys.stdout.write(json.dumps({"point": number, "died": died, "after": after, "left": left}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
