"""A cluster to tell the story in: kubectl and helm in one context, and a folder that this machine and the cluster's node share."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

Manifest = dict[str, Any]
T = TypeVar("T")
SAFE_PREFIXES: Final = ("kind-", "transcriber-test-")
COMMAND_SECONDS: Final = 600.0
POLL_SECONDS: Final = 0.5


class SiteError(Exception):
    """A command failed, or the cluster may not be used; the message is what it said, or what to do."""


@dataclass(frozen=True)
class Site:
    """A context of a throw-away cluster. `here` is a folder of this machine, `there` the same one as its node sees it."""

    context: str
    kubeconfig: str
    kubectl_executable: str
    helm_executable: str
    here: Path
    there: str
    image_prefix: str
    start_seconds: float = 0.0  # that it took to have this cluster; 0: it was there

    def __post_init__(self) -> None:
        """Refuse a cluster that may be somebody's: the story installs, breaks and removes."""
        if not self.context.startswith(SAFE_PREFIXES):
            allowed = " or ".join(f"{prefix}…" for prefix in SAFE_PREFIXES)
            raise SiteError(f"--kube-context {self.context}: is not of a throw-away cluster; contexts must be called {allowed}")

    def kubectl(self, *arguments: str, document: str | None = None, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run kubectl and return its stdout; raises SiteError."""
        flags = (f"--kubeconfig={self.kubeconfig}", f"--context={self.context}")
        return _run([self.kubectl_executable, *flags, *arguments], document, timeout_seconds)

    def helm(self, *arguments: str, timeout_seconds: float = COMMAND_SECONDS) -> str:
        """Run helm and return its stdout; raises SiteError."""
        flags = (f"--kubeconfig={self.kubeconfig}", f"--kube-context={self.context}")
        return _run([self.helm_executable, *flags, *arguments], None, timeout_seconds)

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or change objects (server-side apply)."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", document="\n".join(map(json.dumps, documents)))

    def get(self, kind: str, name: str, namespace: str) -> Manifest:
        """Return an object; raises SiteError."""
        return dict(json.loads(self.kubectl("get", kind, name, f"--namespace={namespace}", "--output=json")))

    def names(self, kinds: str, namespace: str, selector: str) -> Sequence[str]:
        """Return `kind/name` of objects of some kinds."""
        return self.kubectl("get", kinds, f"--namespace={namespace}", f"--selector={selector}", "--output=name").split()

    def list(self, kind: str, namespace: str = "", selector: str = "") -> Sequence[Manifest]:
        """Return the objects of a kind."""
        chosen = [f"--{name}={value}" for name, value in (("namespace", namespace), ("selector", selector)) if value]
        items: Sequence[Manifest] = json.loads(self.kubectl("get", kind, *chosen, "--output=json"))["items"]
        return items

    @contextmanager
    def forwarded(self, namespace: str, target: str, port: int) -> Iterator[str]:
        """Yield an address of this machine that leads to a port of a Service or pod; raises SiteError."""
        argv = [self.kubectl_executable, f"--kubeconfig={self.kubeconfig}", f"--context={self.context}", "port-forward"]
        argv += [f"--namespace={namespace}", target, f":{port}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                line = process.stdout.readline()  # Forwarding from 127.0.0.1:40123 -> 8001
                if not line:
                    raise SiteError(f"kubectl port-forward {target}: {process.stderr.read().strip()}")
                yield line.split()[2]
            finally:
                process.terminate()


def until(what: str, found: Callable[[], T | None], seconds: float) -> T:
    """Ask until the answer is true and return it; raises AssertionError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        if result := found():
            return result
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(POLL_SECONDS)


def condition(manifest: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """Return a condition of an object, an empty one if it has none of the type."""
    return next((entry for entry in manifest.get("status", {}).get("conditions", ()) if entry["type"] == type_), {})


def _run(argv: Sequence[str], document: str | None, timeout_seconds: float) -> str:
    done = subprocess.run(argv, input=document, capture_output=True, text=True, timeout=timeout_seconds, env=_environment())
    if done.returncode:
        shown = " ".join(word for word in argv[1:] if not word.startswith("--kube"))
        raise SiteError(f"{Path(argv[0]).name} {shown}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    """No proxy of the environment stands between this machine and the cluster on it."""
    return {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
