"""What is shown of a resource: its pools, their pods and the nodes of these, as one document. Times are absolute, so that nothing
changes by waiting.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from transcriber_cli.status.look import Seen
from transcriber_operator.decide import pods as pod_state
from transcriber_operator.decide.coldstart import Stage, Start
from transcriber_operator.decide.live import condition, count, has_condition, is_ending, label, timestamp
from transcriber_operator.decide.nodes import node_of
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.starts import claim_stage, starts
from transcriber_operator.render import build, names
from transcriber_operator.render.gpus import INSTANCE_TYPE_LABEL
from transcriber_operator.render.node_pool import CAPACITY_TYPE_LABEL, ZONE_LABEL
from transcriber_operator.render.serving import TRITON

EVENTS: Final = 5  # the last ones of a resource
GPU_LABELS: Final = ("karpenter.k8s.aws/instance-gpu-name", "eks.amazonaws.com/instance-gpu-name", "nvidia.com/gpu.product")
CAPACITY_TYPE_LABELS: Final = (CAPACITY_TYPE_LABEL, "eks.amazonaws.com/capacityType")
DISRUPTED_TAINT: Final = "karpenter.sh/disrupted"
STAGES_OF_POD: Final = (Stage.SCHEDULING, Stage.IMAGE_PULL, Stage.REPOSITORY_BUILD, Stage.MODEL_LOAD)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, serialize_by_alias=True, validate_by_name=True)


class NodeView(_View):
    """A node, or the NodeClaim that it is to come from."""

    name: str | None = None
    claim: str | None = None
    stage: str | None = None  # of a claim: Ordered, Launched, Registered, Initialized
    instance_type: str | None = None
    gpu: str | None = None
    zone: str | None = None
    capacity_type: str | None = None
    ready: bool | None = None
    interrupted_since: datetime | None = None
    is_disrupted: bool = False  # Karpenter is emptying it


class PodView(_View):
    """A pod; `stage` is where its cold start is, None once it is over."""

    name: str
    phase: str
    ready: bool
    containers_ready: str
    restarts: int
    created_at: datetime
    ending: bool
    stage: str | None = None
    stage_since: datetime | None = None
    problem: str | None = None
    node: NodeView | None = None


class DeploymentView(_View):
    """A pool's Deployment."""

    name: str
    replicas: int
    ready_replicas: int
    updated_replicas: int
    pods: tuple[PodView, ...] = ()


class PoolView(_View):
    """A pool, as the operator tells of it, with its Deployment and the nodes that have none of its pods."""

    name: str
    capacity_type: str
    desired: int = 0
    ready: int = 0
    nodes: int = 0
    reason: str | None = None
    lead_time_seconds: int | None = None
    price_per_hour: str | None = None
    fallen_back_replicas: int | None = None
    deployment: DeploymentView | None = None
    waiting_nodes: tuple[NodeView, ...] = ()


class BuildView(_View):
    """A build Job that is not done."""

    job: str
    state: str
    progress: str
    pods: tuple[PodView, ...] = ()


class EventView(_View):
    """An Event of the resource."""

    at: datetime
    type: str
    reason: str
    message: str
    count: int


class ResourceView(_View):
    """A TranscriberDeployment."""

    namespace: str
    name: str
    created_at: datetime
    ready: str
    reason: str
    message: str
    is_current: bool  # whether the operator has looked at the present spec
    stalled: bool
    suspended: bool
    ending: bool
    model: str
    draft: str | None = None
    replicas: str | None = None
    queued_audio_seconds: int | None = None
    arrival_rate: str | None = None
    cost_per_hour: str | None = None
    cost_per_audio_hour: str | None = None
    repository: str | None = None
    repository_bytes: int | None = None
    acceptance_percent: int | None = None
    tokens_per_cycle: str | None = None
    pools: tuple[PoolView, ...] = ()
    builds: tuple[BuildView, ...] = ()
    events: tuple[EventView, ...] = ()


class StatusView(_View):
    """All that is shown."""

    resources: tuple[ResourceView, ...]
    unread: tuple[str, ...] = ()


def status_view(seen: Seen) -> StatusView:
    """Return the view of what was seen."""
    resources = sorted(seen.resources, key=lambda each: (each["metadata"]["namespace"], each["metadata"]["name"]))
    return StatusView(resources=tuple(_resource(seen, each) for each in resources), unread=seen.unread)


def _resource(seen: Seen, manifest: Manifest) -> ResourceView:
    metadata, spec, status = manifest["metadata"], manifest.get("spec") or {}, manifest.get("status") or {}
    ready = condition(manifest, "Ready") or {}
    scaling, cost, repository = (status.get(part) or {} for part in ("scaling", "cost", "repository"))
    speculation, model = status.get("speculation") or {}, spec.get("model") or {}
    return ResourceView(
        namespace=metadata["namespace"],
        name=metadata["name"],
        created_at=metadata["creationTimestamp"],
        ready=ready.get("status", "Unknown"),
        reason=ready.get("reason", "NotObservedYet"),
        message=ready.get("message", ""),
        is_current=status.get("observedGeneration") == metadata.get("generation"),
        stalled=has_condition(manifest, "Stalled"),
        suspended=bool(spec.get("suspend")),
        ending=is_ending(manifest),
        model=(model.get("target") or {}).get("uri", ""),
        draft=(model.get("draft") or {}).get("uri"),
        replicas=status.get("replicaSummary"),
        queued_audio_seconds=scaling.get("queuedAudioSeconds"),
        arrival_rate=scaling.get("arrivalRate"),
        cost_per_hour=cost.get("perHour"),
        cost_per_audio_hour=cost.get("perAudioHour"),
        repository=repository.get("digest"),
        repository_bytes=repository.get("bytes"),
        acceptance_percent=speculation.get("acceptancePercent"),
        tokens_per_cycle=speculation.get("tokensPerCycle"),
        pools=tuple(_pools(seen, manifest)),
        builds=tuple(_builds(seen, manifest)),
        events=tuple(_events(seen, manifest)),
    )


def _pools(seen: Seen, resource: Manifest) -> Iterator[PoolView]:
    told = {pool["name"]: pool for pool in (resource.get("status") or {}).get("pools") or ()}
    pods, claims = tuple(_owned(seen.pods, resource)), tuple(_claims(seen.claims, resource))
    started = {start.pod: start for start in starts(pods, claims, seen.now.timestamp())}
    for pool in ((resource.get("spec") or {}).get("capacity") or {}).get("pools") or ():
        name, status = pool["name"], told.get(pool["name"], {})
        its_pods = tuple(pod for pod in pods if label(pod, names.POOL_LABEL) == name)
        occupied = {pod["spec"].get("nodeName") for pod in its_pods}
        waiting = (claim for claim in claims if label(claim, names.POOL_LABEL) == name and node_of(claim) not in occupied)
        deployments = (each for each in _owned(seen.deployments, resource) if label(each, names.POOL_LABEL) == name)
        views = tuple(_pod(seen, pod, claims, started.get(pod["metadata"]["name"])) for pod in its_pods)
        yield PoolView(
            name=name,
            capacity_type=pool.get("capacityType", "OnDemand"),
            desired=status.get("desired", 0),
            ready=status.get("ready", 0),
            nodes=status.get("nodes", 0),
            reason=status.get("reason"),
            lead_time_seconds=status.get("leadTimeSeconds"),
            price_per_hour=status.get("pricePerHour"),
            fallen_back_replicas=status.get("fallenBackReplicas"),
            deployment=next((_deployment(each, views) for each in deployments), None),
            waiting_nodes=tuple(_node(_named(seen.nodes, node_of(claim)), claim) for claim in waiting),
        )


def _deployment(manifest: Manifest, pods: tuple[PodView, ...]) -> DeploymentView:
    return DeploymentView(
        name=manifest["metadata"]["name"],
        replicas=int(manifest["spec"].get("replicas") or 0),
        ready_replicas=count(manifest, "readyReplicas"),
        updated_replicas=count(manifest, "updatedReplicas"),
        pods=tuple(sorted(pods, key=lambda pod: (pod.created_at, pod.name))),
    )


def _pod(seen: Seen, pod: Manifest, claims: Iterable[Manifest], start: Start | None) -> PodView:
    status, node = pod.get("status") or {}, pod["spec"].get("nodeName")
    containers = _lasting(pod)
    stage = _stage(pod, start)
    problems = (
        pod_state.scheduling_problem(pod),
        pod_state.starting_problem(pod, seen.now),
        pod_state.running_problem(pod, TRITON),
    )
    since = None
    if stage and start:
        since = timestamp(pod["metadata"]["creationTimestamp"])
        since = since + timedelta(seconds=sum(seconds for _, seconds in start.stages)) if since else None
    return PodView(
        name=pod["metadata"]["name"],
        phase=status.get("phase", "Pending"),
        ready=pod_state.is_ready(pod),
        containers_ready=f"{sum(bool(each.get('ready')) for each in containers)}/{len(containers)}",
        restarts=sum(int(each.get("restartCount") or 0) for each in containers),
        created_at=pod["metadata"]["creationTimestamp"],
        ending=is_ending(pod),
        stage=stage,
        stage_since=since,
        problem=next((problem.message for problem in problems if problem), None),
        node=_node(_named(seen.nodes, node), next((claim for claim in claims if node_of(claim) == node), None), node)
        if node
        else None,
    )


def _lasting(pod: Manifest) -> list[Mapping[str, Any]]:
    """The statuses of a pod's containers and sidecars; one that has none yet counts as not ready."""
    spec = pod["spec"]
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    return [pod_state.container_status(pod, each["name"]) or {} for each in (*sidecars, *(spec.get("containers") or ()))]


def _stage(pod: Manifest, start: Start | None) -> str | None:
    """Return which stage of its cold start a pod is in."""
    if start is None or start.is_over or pod_state.is_over(pod):
        return None
    ended = {stage for stage, _ in start.stages}
    builds = any(each["name"] == build.CONTAINER for each in pod["spec"].get("initContainers") or ())
    stages = (stage for stage in STAGES_OF_POD if builds or stage is not Stage.REPOSITORY_BUILD)
    return next((stage.value for stage in stages if stage not in ended), None)


def _node(node: Manifest | None, claim: Manifest | None, name: str | None = None) -> NodeView:
    """Return the view of a node; its claim says of one that is not there yet what it will be."""
    known = [manifest for manifest in (node, claim) if manifest]
    taints = ((node or {}).get("spec") or {}).get("taints") or ()
    return NodeView(
        name=name or (node["metadata"]["name"] if node else node_of(claim) if claim else None),
        claim=claim["metadata"]["name"] if claim else None,
        stage=claim_stage(claim) if claim else None,
        instance_type=_first_label(known, (INSTANCE_TYPE_LABEL,)),
        gpu=_first_label(known, GPU_LABELS),
        zone=_first_label(known, (ZONE_LABEL,)),
        capacity_type=_first_label(known, CAPACITY_TYPE_LABELS),
        ready=has_condition(node, "Ready") if node else None,
        interrupted_since=timestamp(claim["metadata"].get("deletionTimestamp")) if claim else None,
        is_disrupted=any(taint.get("key") == DISRUPTED_TAINT for taint in taints),
    )


def _first_label(manifests: Iterable[Manifest], wanted: Iterable[str]) -> str | None:
    keys = tuple(wanted)
    return next((value for manifest in manifests for key in keys if (value := label(manifest, key))), None)


def _builds(seen: Seen, resource: Manifest) -> Iterator[BuildView]:
    built = condition(resource, "RepositoryBuilt") or {}
    for job in _owned(seen.jobs, resource):
        if has_condition(job, "Complete"):
            continue
        failed = condition(job, "Failed") or {}
        pods = (pod for pod in _owned(seen.pods, resource) if label(pod, "batch.kubernetes.io/job-name") == job["metadata"]["name"])
        yield BuildView(
            job=job["metadata"]["name"],
            state="Failed" if has_condition(job, "Failed") else "Running" if count(job, "active") else "Waiting",
            progress=built.get("message") or failed.get("message", ""),
            pods=tuple(_pod(seen, pod, (), None) for pod in pods),
        )


def _events(seen: Seen, resource: Manifest) -> list[EventView]:
    uid = resource["metadata"].get("uid")
    views = [_event(event) for event in seen.events if (event.get("regarding") or {}).get("uid") == uid]
    return sorted(views, key=lambda view: view.at)[-EVENTS:]


def _event(event: Manifest) -> EventView:
    """Return an Event of either API; `at` is when it was last seen."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return EventView(
        at=next(filter(None, times), event["metadata"]["creationTimestamp"]),
        type=event.get("type") or "Normal",
        reason=event.get("reason") or "",
        message=event.get("note") or "",
        count=series.get("count") or event.get("deprecatedCount") or 1,
    )


def _owned(manifests: Iterable[Manifest], resource: Manifest) -> Iterator[Manifest]:
    metadata = resource["metadata"]
    for each in manifests:
        if each["metadata"]["namespace"] == metadata["namespace"] and label(each, names.DEPLOYMENT_LABEL) == metadata["name"]:
            yield each


def _claims(claims: Iterable[Manifest], resource: Manifest) -> Iterator[Manifest]:
    metadata = resource["metadata"]
    wanted = (metadata["namespace"], metadata["name"])
    return (each for each in claims if (label(each, names.NAMESPACE_LABEL), label(each, names.DEPLOYMENT_LABEL)) == wanted)


def _named(manifests: Iterable[Manifest], name: str | None) -> Manifest | None:
    return next((each for each in manifests if each["metadata"]["name"] == name), None)
