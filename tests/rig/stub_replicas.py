"""Which serving pods the bridge runs as stubs (`serving_stub.py`): many replicas without Triton, beside real ones where wanted."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.rig.bridge_environment import Manifest

STUB: Final = Path(__file__).with_name("serving_stub.py")
PYTHON: Final = (sys.executable, "-I", "-S")  # a stub needs no packages, and starts faster without
EXPORTER: Final = "transcriber_exporter"
LAUNCHER: Final = "transcriber_repository.launch"
BUILD: Final = "transcriber_repository"
# Reports a repository whose digest is that of its document, as a build does.
BUILT: Final = """
import hashlib, json, pathlib, sys
flags = dict(zip(sys.argv, sys.argv[1:]))
digest = hashlib.sha256(pathlib.Path(flags["--spec"]).read_bytes()).hexdigest()
pathlib.Path(flags["--result"]).write_text(json.dumps({"digest": f"sha256-{digest}", "bytes": 1_000_000, "files": []}))
"""


@dataclass
class StubReplicas:
    """Give it to the bridge as `Settings.replaced`. The first `real_pods` serving pods are real, and then so are builds."""

    load_seconds: float = 1.0
    throughput: float = 20.0  # audio seconds per second of a replica
    slots: int = 2
    window_seconds: float = 30.0
    real_pods: int = 0
    _real: set[str] = field(default_factory=set)

    def __call__(self, pod: Manifest, argv: tuple[str, ...]) -> tuple[str, ...]:
        """Return what runs in place of a container's command."""
        module = argv[2] if argv[1:2] == ("-m",) else ""
        if module == BUILD and not self.real_pods:
            return (*PYTHON, "-c", BUILT, *argv[3:])
        if module not in {EXPORTER, LAUNCHER} or self.is_real(pod):
            return argv
        return (*PYTHON, str(STUB), *self._flags(), *argv[3:]) if module == EXPORTER else ("sleep", "infinity")

    def is_real(self, pod: Manifest) -> bool:
        """Whether a serving pod is one of the first, which are real."""
        uid = pod["metadata"]["uid"]
        if len(self._real) < self.real_pods:
            self._real.add(uid)
        return uid in self._real

    def _flags(self) -> tuple[str, ...]:
        return (
            f"--load-seconds={self.load_seconds}",
            f"--throughput={self.throughput}",
            f"--slots={self.slots}",
            f"--window-seconds={self.window_seconds}",
        )
