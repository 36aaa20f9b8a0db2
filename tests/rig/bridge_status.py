"""The status of a pod from that of its containers, as a kubelet writes it; pure."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.rig.bridge_environment import Manifest

HOST_ADDRESS: Final = "127.0.0.1"
CONTAINER_ID_SCHEME: Final = "process"
LOST_EXIT_CODE: Final = 137
MESSAGE_BYTES: Final = 4096
LOG_TAIL_BYTES: Final = 2048
LOG_TAIL_LINES: Final = 80
INITIALIZED: Final = "Initialized"
CONTAINERS_READY: Final = "ContainersReady"
READY: Final = "Ready"


@dataclass(frozen=True)
class Waiting:
    """It does not run and did not end just now."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """It runs."""

    started_at: datetime.datetime


@dataclass(frozen=True)
class Terminated:
    """It ended."""

    exit_code: int
    reason: str
    message: str
    started_at: datetime.datetime
    finished_at: datetime.datetime
    container_id: str


@dataclass(frozen=True)
class ContainerState:
    """What is known of a container; `is_sidecar`: an init container that runs beside the others."""

    name: str
    image: str
    is_sidecar: bool = False
    state: Waiting | Running | Terminated = Waiting("ContainerCreating")
    last: Terminated | None = None
    restarts: int = 0
    container_id: str = ""
    has_started: bool = False
    is_ready: bool = False

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return isinstance(self.state, Terminated) and self.state.exit_code == 0

    @property
    def has_run(self) -> bool:
        """Whether it was started at least once."""
        return not isinstance(self.state, Waiting) or self.last is not None


@dataclass(frozen=True)
class PodState:
    """What is known of a pod; `failure` is a reason and a message of its own, such as DeadlineExceeded."""

    address: str
    started_at: datetime.datetime
    init: tuple[ContainerState, ...]
    main: tuple[ContainerState, ...]
    is_over: bool = False
    failure: tuple[str, str] | None = None


def pod_status(pod: Manifest, state: PodState, written: Mapping[str, Manifest], now: datetime.datetime) -> dict[str, Any]:
    """Return the fields of status that are the kubelet's; `written` are the conditions by type that were written last."""
    phase = pod_phase(state)
    reason, message = state.failure or (None, None)
    return {
        "observedGeneration": pod["metadata"].get("generation"),
        "phase": phase,
        "reason": reason,
        "message": message,
        "hostIP": HOST_ADDRESS,
        "hostIPs": [{"ip": HOST_ADDRESS}],
        "podIP": state.address,
        "podIPs": [{"ip": state.address}],
        "startTime": timestamp(state.started_at),
        "conditions": [_with_transition(condition, written, now) for condition in _conditions(pod, state, phase)],
        "initContainerStatuses": [_container_status(container) for container in state.init],
        "containerStatuses": [_container_status(container) for container in state.main],
    }


def pod_phase(state: PodState) -> str:
    """Return the pod's phase: the last two only once nothing of it runs any more."""
    if state.is_over:
        has_succeeded = not state.failure and all(container.has_succeeded for container in state.main)
        return "Succeeded" if has_succeeded else "Failed"
    is_initialized = all(container.has_run if container.is_sidecar else container.has_succeeded for container in state.init)
    return "Running" if is_initialized and all(container.has_run for container in state.main) else "Pending"


def termination_message(policy: str, exit_code: int, message: bytes, log_end: bytes) -> str:
    """Return what a container left to say: its message file, or the end of its log if it failed without a word and may."""
    if not message and policy == "FallbackToLogsOnError" and exit_code != 0:
        message = b"".join(log_end[-LOG_TAIL_BYTES:].splitlines(keepends=True)[-LOG_TAIL_LINES:])
    return message[-MESSAGE_BYTES:].decode(errors="replace")


def restarts(policy: str, exit_code: int) -> bool:
    """Whether a container is started again after this exit code; raises nothing: the API server has checked the policy."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def after_bridge(state: ContainerState, reported: Manifest | None, now: datetime.datetime) -> ContainerState:
    """Return the state of a container that an earlier bridge ran: its processes are gone, as after a node's restart."""
    if not reported or not reported.get("containerID"):
        return state
    ended = reported["state"].get("terminated") or reported.get("lastState", {}).get("terminated") or {}
    if "running" in reported["state"]:
        started_at = reported["state"]["running"]["startedAt"]
        ended = {
            "exitCode": LOST_EXIT_CODE,
            "reason": "ContainerStatusUnknown",
            "startedAt": started_at,
            "finishedAt": timestamp(now),
        }
        ended["message"] = "the pod bridge ended before the container did"
    terminated = Terminated(
        ended.get("exitCode", LOST_EXIT_CODE),
        ended.get("reason", "Error"),
        ended.get("message", ""),
        parse_timestamp(ended.get("startedAt"), now),
        parse_timestamp(ended.get("finishedAt"), now),
        reported["containerID"],
    )
    return replace(state, state=terminated, restarts=reported.get("restartCount", 0), container_id=reported["containerID"])


def timestamp(moment: datetime.datetime) -> str:
    """Return a moment as the API writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None, default: datetime.datetime) -> datetime.datetime:
    """Return the moment that the API wrote."""
    return datetime.datetime.fromisoformat(text) if text else default


def _conditions(pod: Manifest, state: PodState, phase: str) -> list[dict[str, Any]]:
    ready = _containers_ready(state, phase)
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates", [])]
    present = {condition["type"]: condition["status"] for condition in pod.get("status", {}).get("conditions", [])}
    closed = [gate for gate in gates if present.get(gate) != "True"]
    pod_ready = ready
    if ready["status"] == "True" and closed:
        pod_ready = _condition(
            "False", "ReadinessGatesNotReady", f"readiness gates without a condition that is True: {' '.join(closed)}"
        )
    return [
        {"type": "PodScheduled", **_condition("True")},
        {"type": INITIALIZED, **_initialized(state, phase)},
        {"type": CONTAINERS_READY, **ready},
        {"type": READY, **pod_ready},
    ]


def _initialized(state: PodState, phase: str) -> dict[str, Any]:
    if phase == "Succeeded":
        return _condition("True", "PodCompleted")
    waiting = [
        container.name
        for container in state.init
        if not (container.has_started if container.is_sidecar else container.has_succeeded)
    ]
    if waiting and not any(container.has_run for container in state.main):
        return _condition("False", "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(waiting)}]")
    return _condition("True")


def _containers_ready(state: PodState, phase: str) -> dict[str, Any]:
    if phase in {"Succeeded", "Failed"}:
        return _condition("False", "PodCompleted" if phase == "Succeeded" else "PodFailed")
    beside = [container for container in state.init if container.is_sidecar]
    unready = [container.name for container in [*beside, *state.main] if not container.is_ready]
    if unready:
        return _condition("False", "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    return _condition("True")


def _condition(status: str, reason: str | None = None, message: str | None = None) -> dict[str, Any]:
    return {"status": status, "reason": reason, "message": message}


def _with_transition(condition: dict[str, Any], written: Mapping[str, Manifest], now: datetime.datetime) -> dict[str, Any]:
    before = written.get(condition["type"])
    has_changed = before is None or before["status"] != condition["status"]
    return condition | {"lastTransitionTime": timestamp(now) if has_changed or before is None else before["lastTransitionTime"]}


def _container_status(container: ContainerState) -> dict[str, Any]:
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "containerID": container.container_id,
        "restartCount": container.restarts,
        "started": container.has_started,
        "ready": container.is_ready,
        "state": _state(container.state),
        "lastState": _state(container.last) if container.last else {},
    }


def _state(state: Waiting | Running | Terminated) -> dict[str, Any]:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            said = {"message": state.message} if state.message else {}
            return {
                "terminated": {
                    "exitCode": state.exit_code,
                    "reason": state.reason,
                    **said,
                    "startedAt": timestamp(state.started_at),
                    "finishedAt": timestamp(state.finished_at),
                    "containerID": state.container_id,
                }
            }
