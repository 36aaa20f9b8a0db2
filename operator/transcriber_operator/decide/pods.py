"""What keeps a pod from starting, running or answering, read from its status alone."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from transcriber_api.conditions import Reason
from transcriber_operator.decide.live import condition, has_condition, is_ending, timestamp
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.problem import Problem, shortened
from transcriber_operator.render.serving import TRITON

MISSING_CLAIM: Final = re.compile(r'persistentvolumeclaim "([^"]+)" (?:not found|is being deleted)')
MISSING_SECRET: Final = re.compile(r'secrets? "([^"]+)" not found|find key .* in Secret [^/]*/?(\S+)')
PULL_REASONS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
CONFIG_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# Exit codes of a container that was told to end: by itself at SIGTERM, by SIGKILL or by SIGTERM. A failed probe looks like it.
STOPPED_EXIT_CODES: Final = frozenset({0, 137, 143})
_OOM_REMEDIES: Final = {TRITON: "raise runtime.resources.limits.memory or lower runtime.slots"}
MOUNT_PATIENCE: Final = timedelta(seconds=60)  # how long volumes may take to be mounted before a missing Secret is suspected


def is_ready(pod: Manifest) -> bool:
    """Whether a pod passes its readiness probe and is not on its way out."""
    return not is_ending(pod) and has_condition(pod, "Ready")


def is_over(pod: Manifest) -> bool:
    """Whether a pod will not run again."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def scheduling_problem(pod: Manifest) -> Problem | None:
    """Why a pod has no node."""
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False" or scheduled.get("reason") != "Unschedulable":
        return None
    message = scheduled.get("message") or "the scheduler gave no message"
    claim = MISSING_CLAIM.search(message)
    if claim:
        return Problem(
            Reason.VOLUME_MISSING,
            f"PersistentVolumeClaim {claim[1]} does not exist; create it in namespace {pod['metadata'].get('namespace')}.",
        )
    return Problem(
        Reason.UNSCHEDULABLE,
        f"No node fits pod {_name(pod)}: {shortened(message)}; check resources, nodeSelector and tolerations.",
        needs_action=False,
    )


def starting_problem(pod: Manifest, now: datetime) -> Problem | None:
    """Why the containers of a pod with a node cannot be started."""
    for status in container_statuses(pod):
        waiting = (status.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), shortened(waiting.get("message") or "no message")
        if reason in PULL_REASONS:
            return Problem(
                Reason.IMAGE_PULL_FAILED,
                f"Image {status.get('image') or 'of ' + status['name']} cannot be pulled: {message}; check runtime.image.",
            )
        if reason in CONFIG_REASONS:
            secret = MISSING_SECRET.search(waiting.get("message") or "")
            if secret:
                name = secret[1] or secret[2]
                return Problem(Reason.SECRET_MISSING, f"Secret {name} or its key does not exist; create it in this namespace.")
            return Problem(
                Reason.CRASH_LOOPING,
                f"Container {status['name']} of pod {_name(pod)} cannot be created: {message}; see its events.",
            )
    return _mount_problem(pod, now)


def mounts_wait_until(pod: Manifest) -> datetime | None:
    """When a pod that waits for its volumes, a Secret among them, will be suspected to miss it; None where it does not wait."""
    since = timestamp((condition(pod, "PodScheduled") or {}).get("lastTransitionTime"))
    if since is None or not has_condition(pod, "PodScheduled") or not _secrets(pod) or _is_sandboxed(pod):
        return None
    return since + MOUNT_PATIENCE


def running_problem(pod: Manifest, container: str) -> Problem | None:
    """Why a container that was started does not do its work."""
    status = container_status(pod, container)
    if status is None:
        return None
    last, where = termination(status), f"Container {container} of pod {_name(pod)}"
    restarts = int(status.get("restartCount") or 0)
    if last.get("reason") == "OOMKilled" and not status.get("ready"):
        return Problem(Reason.OUT_OF_MEMORY, f"{where} ran out of memory; {_OOM_REMEDIES.get(container, 'read its log')}.")
    if _turned_unready(pod, status):
        return Problem(Reason.CANARY_FAILED, f"{where} runs but does not pass its canary; read the logs of triton and exporter.")
    if not restarts or status.get("ready") or not last:
        return None
    code = int(last.get("exitCode") or 0)
    if code in STOPPED_EXIT_CODES:
        return Problem(
            Reason.CANARY_FAILED,
            f"{where} was restarted {restarts} times for want of a good canary; read the logs of triton and exporter.",
        )
    said = shortened(last.get("message") or "", 300)
    return Problem(
        Reason.CRASH_LOOPING,
        f"{where} failed {restarts} times, last with exit code {code}{f' ({said})' if said else ''}; read its previous log.",
    )


def container_statuses(pod: Manifest) -> Iterator[Mapping[str, Any]]:
    """The statuses of all containers, init containers first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def container_status(pod: Manifest, name: str) -> Mapping[str, Any] | None:
    """The status of one container, once it has any."""
    return next((status for status in container_statuses(pod) if status["name"] == name), None)


def termination(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """How a container ended: now if it is ended, else the time before; empty where it never ended."""
    for state in ("state", "lastState"):
        ended: Mapping[str, Any] | None = (status.get(state) or {}).get("terminated")
        if ended:
            return ended
    return {}


def _turned_unready(pod: Manifest, status: Mapping[str, Any]) -> bool:
    """Whether a container that served does not any more. One that was never ready is still starting, or will be restarted."""
    running = (status.get("state") or {}).get("running")
    if running is None or not status.get("started") or status.get("ready") or is_ending(pod):
        return False
    started, turned = timestamp(running.get("startedAt")), timestamp((condition(pod, "Ready") or {}).get("lastTransitionTime"))
    return started is None or turned is None or turned > started


def _mount_problem(pod: Manifest, now: datetime) -> Problem | None:
    """The kubelet tells only by events that a Secret to mount is missing; the pod's status just stays where it is."""
    until = mounts_wait_until(pod)
    if until is None or now < until:
        return None
    secrets = " and ".join(_secrets(pod))
    return Problem(
        Reason.SECRET_MISSING,
        f"Pod {_name(pod)} still waits for its volumes; create Secret {secrets} in this namespace if it does not exist.",
    )


def _secrets(pod: Manifest) -> tuple[str, ...]:
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    return tuple(sorted({volume["secret"]["secretName"] for volume in volumes if "secret" in volume}))


def _is_sandboxed(pod: Manifest) -> bool:
    """Whether a pod's volumes are mounted: only then has it a network of its own, and containers."""
    return has_condition(pod, "PodReadyToStartContainers") or any(
        (status.get("state") or {}).get("waiting", {}).get("reason") not in ("ContainerCreating", "PodInitializing")
        for status in container_statuses(pod)
    )


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])
