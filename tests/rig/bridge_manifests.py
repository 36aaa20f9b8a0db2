"""Pods of small Python programs for tests with the bridge, and what to wait for in them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

WORK: Final = {"name": "work", "mountPath": "/work"}  # the volume that each pod has
POD_IP: Final = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
SLEEP: Final = "import signal; print('up', flush=True); signal.pause()"
STUBBORN: Final = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"
)
# Has a child in a session of its own, which ignores SIGTERM.
LEAVE_A_CHILD: Final = """
import os, signal
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: signal.pause()
print('up', flush=True)
signal.pause()
"""
# Answers 200 where a file of that name lies in /work, else 503, and notes in /work/asked what was asked.
SERVE: Final = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open("/work/asked", "a") as asked:
            print(self.path, file=asked)
        self.send_response(200 if pathlib.Path("/work" + self.path).exists() else 503)
        self.end_headers()
    log_message = lambda *_: None
http.server.HTTPServer((os.environ["POD_IP"], 8080), Handler).serve_forever()
"""


def python(name: str, code: str, *arguments: str, **fields: Any) -> dict[str, Any]:
    """Return a container that runs code."""
    return {"name": name, "image": "none", "command": ["python3", "-c", code, *arguments], "volumeMounts": [WORK], **fields}


def server(name: str = "main", **fields: Any) -> dict[str, Any]:
    """Return a container that serves on port 8080 of the pod's address."""
    return python(name, SERVE, env=[POD_IP], ports=[{"name": "http", "containerPort": 8080}], **fields)


def noted(name: str, then: str = "") -> str:
    """Return code that notes its start, and what else it calls `note` for, in /work/events."""
    note = f"def note(what):\n    with open('/work/events', 'a') as events: print('{name}', what, file=events)"
    return f"import os, signal, sys, time\n{note}\nnote('starts')\n{then}"


def noted_until_terminated(name: str, at_the_end: str = "") -> str:
    """Return code that notes its start and its end, which is SIGTERM."""
    end = (
        f"def end(*_):\n    {at_the_end}\n    note('ends'); sys.exit(0)" if at_the_end else "def end(*_): note('ends'); sys.exit(0)"
    )
    return noted(name, f"{end}\nsignal.signal(signal.SIGTERM, end)\nwhile True: signal.pause()")


def pod(name: str, *containers: dict[str, Any], claim: str | None = None, **spec: Any) -> dict[str, Any]:
    """Return a pod with a volume for /work, on a claim if there should be one."""
    volume = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    volumes = [{"name": "work", **volume}, *spec.pop("volumes", [])]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": list(containers), "volumes": volumes, "automountServiceAccountToken": False, **spec},
    }


def condition(manifest: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return a condition of a pod."""
    return next((entry for entry in manifest["status"].get("conditions", []) if entry["type"] == kind), {"status": "Unknown"})


def is_ready(manifest: Mapping[str, Any]) -> bool:
    """Whether a pod is ready."""
    return bool(condition(manifest, "Ready")["status"] == "True")


def container(manifest: Mapping[str, Any], name: str = "main") -> Mapping[str, Any]:
    """Return the status of a container, an empty one as long as there is none."""
    status = manifest["status"]
    entries = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    nothing = {"state": {}, "lastState": {}, "restartCount": 0, "ready": False, "started": False}
    return next((entry for entry in entries if entry["name"] == name), nothing)


def waiting(manifest: Mapping[str, Any], name: str = "main") -> Mapping[str, Any]:
    """Return why a container waits: reason and message, both empty if it does not."""
    return {"reason": "", "message": "", **container(manifest, name)["state"].get("waiting", {})}


def has_phase(*phases: str) -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a pod has one of these phases, as a function."""
    return lambda manifest: manifest["status"].get("phase") in phases


def has_restarted(times: int, name: str = "main") -> Callable[[Mapping[str, Any]], bool]:
    """Return whether a container runs again after so many restarts, as a function."""
    return lambda manifest: container(manifest, name)["restartCount"] >= times and "running" in container(manifest, name)["state"]
