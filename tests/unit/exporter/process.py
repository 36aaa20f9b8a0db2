"""The sidecar as a process."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

END_SECONDS = 30
POLL_SECONDS = 0.1  # it announces no change of its answers
NOBODY = "127.0.0.1:9"  # the discard port: nothing listens there
COMMAND = (sys.executable, "-P", "-m", "transcriber_exporter")


class Exporter:
    """A sidecar of the Triton at two addresses; by default there is none."""

    def __init__(
        self, *options: str, triton: str = NOBODY, metrics: str = f"http://{NOBODY}/metrics", host: str = "127.0.0.1"
    ) -> None:
        places = ("--triton", triton, "--triton-metrics", metrics, "--listen", f"{host}:0")
        self.process = subprocess.Popen([*COMMAND, *places, *options], stderr=subprocess.PIPE, text=True)

    @cached_property
    def url(self) -> str:
        """Where it listens, once it does."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"listening on (\S+:[1-9]\d*)$", line)
        assert found, line
        return f"http://{found[1]}"

    def get(self, path: str, timeout_seconds: float = END_SECONDS) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout_seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.request.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/status")[1]))

    def wait_until(self, is_so: Callable[[dict[str, Any]], bool], patience_seconds: float) -> float:
        """Wait for a status that fulfils a condition; returns the seconds that took."""
        began = time.monotonic()
        while not is_so(status := self.status()):
            assert time.monotonic() - began < patience_seconds, status
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began

    def memory_mebibytes(self, name: str) -> float:
        """Its memory as the kernel counts it: VmRSS now, VmHWM at its peak."""
        found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{self.process.pid}/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    def finish(self) -> tuple[int, float]:
        """Wait for its end: exit code and seconds that took."""
        began = time.monotonic()
        self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, time.monotonic() - began


@contextmanager
def running(*options: str, **places: str) -> Iterator[Exporter]:
    """A sidecar that listens."""
    exporter = Exporter(*options, **places)
    try:
        assert exporter.url
        yield exporter
    finally:
        exporter.process.kill()
        exporter.process.communicate()
