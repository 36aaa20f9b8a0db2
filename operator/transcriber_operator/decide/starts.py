"""Reads the starts of replicas: from their pods' conditions and container statuses, and from the NodeClaims of their nodes."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from transcriber_operator.decide.coldstart import Stage, Start
from transcriber_operator.decide.live import condition, has_condition, is_ending, label, timestamp
from transcriber_operator.decide.nodes import node_of
from transcriber_operator.decide.pods import container_status, container_statuses, is_over, is_ready
from transcriber_operator.decide.sources import Manifest
from transcriber_operator.render import build, names
from transcriber_operator.render.serving import TRITON

NODE_STAGES: Final = {
    Stage.NODE_LAUNCH: "Launched",
    Stage.NODE_REGISTRATION: "Registered",
    Stage.NODE_INITIALIZATION: "Initialized",
}
CLOCKS_APART: Final = timedelta(seconds=2)  # times of the API server and of Karpenter, both in whole seconds


def claim_stage(claim: Manifest) -> str:
    """Return how far a NodeClaim is: Ordered, Launched, Registered or Initialized."""
    return next((type_ for type_ in reversed(NODE_STAGES.values()) if has_condition(claim, type_)), "Ordered")


def starts(pods: Sequence[Manifest], claims: Sequence[Manifest], now_seconds: float) -> tuple[Start, ...]:
    """Read the starts of serving pods from their conditions and container statuses, and from the NodeClaims of their nodes.

    The stages follow one another without gaps and add up to the start: each takes from the end of the one before to its own end.
    Those of the node are there only for pods that waited for it.
    """
    by_node = {node: claim for claim in claims if (node := node_of(claim))}
    now = datetime.fromtimestamp(now_seconds, UTC)
    found = []
    for pod in pods:
        pool, created = label(pod, names.POOL_LABEL), timestamp(pod["metadata"].get("creationTimestamp"))
        if pool and created and not is_ending(pod) and not is_over(pod):
            claim = by_node.get(pod["spec"].get("nodeName") or "")
            found.append(_start(pod, pool, created, claim, now))
    return tuple(found)


def _start(pod: Manifest, pool: str, created: datetime, claim: Manifest | None, now: datetime) -> Start:
    ready = _since(pod, "Ready") if is_ready(pod) else None
    ordered = (timestamp(claim["metadata"].get("creationTimestamp")) if claim else None) or created
    is_node_new = _was_awaited(created, ordered, claim) if claim else None
    # A node that was on its way already, for a pod that this one replaces: its own order tells how long one takes.
    began = ordered if is_node_new else created
    return Start(
        pod=pod["metadata"]["name"],
        uid=pod["metadata"].get("uid") or pod["metadata"]["name"],
        pool=pool,
        stages=tuple(_durations(created, (*_node_ends(created, claim), *_pod_ends(pod)))),
        is_over=ready is not None,
        seconds=max(((ready or now) - created).total_seconds(), 0.0),
        lead_seconds=(ready - began).total_seconds() if ready is not None and not _has_restarted(pod) else None,
        is_node_new=is_node_new,
    )


def _was_awaited(created: datetime, ordered: datetime, claim: Manifest) -> bool:
    """Whether a node was ordered no earlier than its pod was made, or was not ready for it then."""
    initialized = _since(claim, "Initialized")
    return ordered >= created - CLOCKS_APART or initialized is None or initialized > created


def _durations(created: datetime, ends: Sequence[tuple[Stage, datetime | None]]) -> Iterator[tuple[Stage, float]]:
    """Each stage from the end of the one before; those up to the first that goes on."""
    since = created
    for stage, end in ends:
        if end is None:
            return
        yield stage, max((end - since).total_seconds(), 0.0)
        since = max(since, end)


def _node_ends(created: datetime, claim: Manifest | None) -> tuple[tuple[Stage, datetime | None], ...]:
    """When the stages of a node ended that a pod waited for; of one that was there already, none."""
    if claim is None:
        return ()
    ends = [(stage, _since(claim, type_)) for stage, type_ in NODE_STAGES.items()]
    return tuple((stage, end) for stage, end in ends if end is None or end >= created)


def _pod_ends(pod: Manifest) -> tuple[tuple[Stage, datetime | None], ...]:
    statuses = tuple(container_statuses(pod))
    builder = container_status(pod, build.CONTAINER)
    ends = [
        (Stage.SCHEDULING, _since(pod, "PodScheduled")),
        (Stage.IMAGE_PULL, min((at for status in statuses for at in _state_times(status, "startedAt")), default=None)),
        (Stage.REPOSITORY_BUILD, max(_state_times(builder or {}, "finishedAt"), default=None)),
        (Stage.MODEL_LOAD, _since(pod, "Ready")),
    ]
    return tuple((stage, end) for stage, end in ends if stage is not Stage.REPOSITORY_BUILD or builder is not None)


def _since(manifest: Manifest, type_: str) -> datetime | None:
    """Since when a condition holds; None where it does not."""
    found = condition(manifest, type_)
    return timestamp(found.get("lastTransitionTime")) if found and has_condition(manifest, type_) else None


def _state_times(status: Mapping[str, Any], field: str) -> list[datetime]:
    """The times of a container's state and of the one before: when it started or ended."""
    states = [state for which in ("state", "lastState") for state in (status.get(which) or {}).values() if state]
    return [at for state in states if (at := timestamp(state.get(field)))]


def _has_restarted(pod: Manifest) -> bool:
    return any(status.get("restartCount") for status in container_statuses(pod) if status["name"] in (TRITON, build.CONTAINER))
