"""Calls from within the cluster: a pod of the serving image that reaches the replicas by the name of their Service."""

import base64
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.site import Manifest, Site, until
from tests.rig.cluster import ROOT
from transcriber_exporter.canary import words

CALLER: Final = "caller"
PROGRAM: Final = Path(__file__).with_name("caller.py")
RECORDING: Final = ROOT / "tests" / "audio" / "en-quick-brown-fox.flac"
FOLDER: Final = "/files"  # in which a pod has the programs and the recording
WORDS: Final = words("The quick brown fox jumps over the lazy dog.")
PORT: Final = 8001
FIRST_SECONDS: Final = 300.0  # of the first call, on a machine that is busy with other things too


@dataclass(frozen=True)
class Call:
    """One call, its second try included; `text` is None where both failed, `codes` are those of failed tries."""

    text: str | None
    codes: tuple[str, ...]
    seconds: float
    details: str = ""


class Caller:
    """A pod that calls; what it has been told is in its log."""

    def __init__(self, site: Site, namespace: str, name: str) -> None:
        self._site = site
        self._namespace = namespace
        self._name = name

    def calls(self) -> list[Call]:
        """Return the calls that ended so far."""
        lines = self._site.kubectl("logs", self._name, f"--namespace={self._namespace}").splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [Call(each["text"], tuple(each["codes"]), each["seconds"], each.get("details") or "") for each in told]

    def answered(self, count: int, seconds: float = FIRST_SECONDS) -> list[Call]:
        """Wait for so many more calls to end and return all."""
        wanted = len(self.calls()) + count
        return until(f"{wanted} calls", lambda: calls if len(calls := self.calls()) >= wanted else None, seconds)


@contextmanager
def calling(site: Site, namespace: str, service: str, image: str, clients: int = 1, name: str = CALLER) -> Iterator[Caller]:
    """Call a Service until left; entered once a first call has ended."""
    target = f"dns:///{_host(namespace, service)}:{PORT}"
    with _pod(site, namespace, name, image, PROGRAM.name, target, f"{FOLDER}/{RECORDING.name}", str(clients), "0"):
        caller = Caller(site, namespace, name)
        caller.answered(1)
        yield caller


def transcript(site: Site, namespace: str, service: str, image: str) -> Call:
    """Return the first call of a fresh client."""
    with calling(site, namespace, service, image, name="listener") as caller:
        return caller.calls()[0]


def failed(calls: list[Call]) -> list[Call]:
    """Return the calls that nobody answered."""
    return [call for call in calls if call.text is None]


def figures(calls: list[Call]) -> dict[str, Any]:
    """Return counts and times for a report."""
    seconds = sorted(call.seconds for call in calls)
    return {
        "calls": len(calls),
        "failed": len(failed(calls)),
        "codes_of_failed_tries": sorted(code for call in calls for code in call.codes),
        "other_words": sum(call.text is not None and words(call.text) != WORDS for call in calls),
        "median_seconds": round(statistics.median(seconds), 2),
        "longest_seconds": round(seconds[-1], 2),
    }


def restricted(**more: Any) -> Manifest:
    """Return the security context of a container that may nothing."""
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, **more}


def user() -> Manifest:
    """Return the security context of a pod of ours."""
    return {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}


def _files(namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CALLER, "namespace": namespace},
        "data": {PROGRAM.name: PROGRAM.read_text(encoding="utf-8")},
        "binaryData": {RECORDING.name: base64.b64encode(RECORDING.read_bytes()).decode()},
    }


def _host(namespace: str, service: str) -> str:
    return f"{service}.{namespace}.svc.cluster.local"


@contextmanager
def _pod(site: Site, namespace: str, name: str, image: str, program: str, *arguments: str) -> Iterator[None]:
    """Run a program of this folder in a pod until left; entered once it runs."""
    container = {
        "name": name,
        "image": image,
        "command": ["python3", f"{FOLDER}/{program}", *arguments],
        "securityContext": restricted(),
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}},
        "volumeMounts": [{"name": "files", "mountPath": FOLDER}],
    }
    spec = {
        "containers": [container],
        "securityContext": user(),
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "volumes": [{"name": "files", "configMap": {"name": CALLER}}],
    }
    metadata = {"name": name, "namespace": namespace}
    site.apply(_files(namespace), {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    try:
        site.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--namespace={namespace}", "--timeout=5m")
        yield
    finally:
        site.kubectl("delete", "pod", name, f"--namespace={namespace}", "--grace-period=1")
