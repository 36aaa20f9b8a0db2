"""A pass: from what was observed to what is to be written, in steps that each look at the steps before.

Level-based: the result depends on what is there and not on how it came to be, so a pass that was cut off anywhere is simply
followed by another one.
"""

from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from transcriber_api.conditions import Observation, Reason, merge
from transcriber_api.document import field_path
from transcriber_api.status import Status
from transcriber_api.v1alpha1 import Spec, TranscriberDeployment
from transcriber_operator.decide import schedules
from transcriber_operator.decide.announcements import announcements
from transcriber_operator.decide.applied import needs_apply
from transcriber_operator.decide.conditions import Facts, observations, refused
from transcriber_operator.decide.decision import Apply, Decision
from transcriber_operator.decide.evictions import deletion_costs, pod_deletes_of
from transcriber_operator.decide.live import Live, count, is_ending, live_state
from transcriber_operator.decide.nodes import provisioning_problem
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.decide.problem import Problem, shortened
from transcriber_operator.decide.prune import decide_prunes
from transcriber_operator.decide.repository import Repository, decide_repository
from transcriber_operator.decide.rollout import Serving, serving_state
from transcriber_operator.decide.scaling import Scaling, decide_scaling
from transcriber_operator.decide.scaling_report import figures, wanted_of
from transcriber_operator.decide.serving import decide_serving
from transcriber_operator.decide.sources import Nodes
from transcriber_operator.decide.status import previous_status, refused_status, status_of
from transcriber_operator.render import fit, node_pool
from transcriber_operator.render.children import children, foundations
from transcriber_operator.render.context import Context

REBALANCE_SECONDS: Final = 120.0  # between looks at events that change no object
PROGRESS_SECONDS: Final = 15.0  # between looks at a running build
IDENTITY_FIELDS: Final = ("name", "namespace", "uid", "generation")


def decide(observed: Observed, now: datetime) -> Decision:
    """Decide what to write for one resource at `now` (aware). Pure: equal input gives an equal decision."""
    resource = observed.resource
    if is_ending(resource):
        return Decision(details=("The resource is being deleted: nothing is written, its children go with it.",))
    live = live_state(observed)
    try:
        context = _context(observed)
    except ValidationError as error:
        problems = (f"{field_path(tuple(problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False))
        message = f"{shortened('; '.join(problems), 2000)}; correct the spec."
        return _refuse(resource, live, Problem(Reason.SPEC_INVALID, message), now)
    objection = objection_to(context.spec)
    if objection:
        return _refuse(resource, live, objection, now)
    return _reconcile(context, observed, live, now)


def objection_to(spec: Spec) -> Problem | None:
    """Return why a spec whose every field is valid still cannot be acted on."""
    unfit = fit.unfit(spec)
    if unfit:
        return Problem(Reason.MODEL_DOES_NOT_FIT, unfit)
    unreadable = schedules.unreadable(spec.scaling.schedules)
    return Problem(Reason.SPEC_INVALID, f"spec.scaling.schedules: {unreadable}; correct the spec.") if unreadable else None


def _reconcile(context: Context, observed: Observed, live: Live, now: datetime) -> Decision:
    spec, previous = context.spec, previous_status(observed.resource)
    repository = decide_repository(context, live, observed.build_progress, now)
    scaling = decide_scaling(context, observed, live, previous, now)
    wanted = wanted_of(spec, scaling)
    digest = repository.digest if context.claim else None  # pods that build for themselves find out by themselves
    plan = decide_serving(context, live, digest, scaling.allotted)
    asked = children(context, digest, plan.kept)
    prunes = (*repository.prunes, *decide_prunes(live, asked, repository.retained_keys, plan.staying_pools))
    missing = tuple(Apply(manifest=manifest) for manifest in foundations(context) if needs_apply(manifest, live))
    marks = deletion_costs(context, scaling.seen.fleets, plan.kept, observed.loads)
    applies = _possible((*missing, *repository.applies, *marks, *plan.applies), observed.nodes)
    pod_deletes = pod_deletes_of(context, scaling.seen.fleets, now)
    details = (
        *repository.details,
        wanted.sentence,
        *scaling.allotment.sentences,
        *fit.left_out(spec),
        *plan.details,
        *(f"Pod {pod.name} is on a node that is being taken back; it has {pod.grace_seconds} s." for pod in pod_deletes),
        *(f"{prune.key.kind} {prune.key.name} goes." for prune in prunes),
    )
    if spec.suspend:
        applies, prunes, pod_deletes, details = (), (), (), ("spec.suspend is true: nothing but the status is written.",)
    serving = serving_state(context, live, scaling, plan.changed, provisioning_problem(context, observed.nodes), now)
    facts = Facts(repository, wanted, serving, plan.replica_writers, spec.suspend, scaling.allotment.is_full)
    generation = _generation(observed.resource)
    conditions = merge(previous.conditions, observations(facts), generation, now)
    status = status_of(context, live, facts, scaling, previous, generation, conditions)
    return Decision(
        apply=applies,
        prune=prunes,
        pod_deletes=pod_deletes,
        requeue_after_seconds=_requeue(repository, serving, scaling, now),
        memory=scaling.memory,
        figures=figures(scaling, serving),
        watches_load=not (spec.suspend or scaling.is_idle),
        details=details,
        **_news(previous, status),
    )


def _possible(applies: tuple[Apply, ...], nodes: Nodes) -> tuple[Apply, ...]:
    """Leave NodePools out where the cluster has no such kind: CapacityAvailable tells that, and all else can be written."""
    return tuple(each for each in applies if nodes.is_installed is not False or each.manifest["kind"] != node_pool.KIND)


def _refuse(resource: Manifest, live: Live, problem: Problem, now: datetime) -> Decision:
    """A spec that cannot be acted on changes nothing; what of it is wrong by itself, the API server refuses already."""
    ready = sum(count(child, "readyReplicas") for child in live.of_kind("Deployment"))
    previous = previous_status(resource)
    found: tuple[Observation, ...] = refused(problem.reason, problem.message, ready)
    conditions = merge(previous.conditions, found, _generation(resource), now)
    status = refused_status(previous, _generation(resource), conditions)
    return Decision(details=(problem.message,), **_news(previous, status))


def _news(previous: Status, status: Status) -> dict[str, Any]:
    """What a decision says of a status: nothing where it is as it was."""
    if status == previous:
        return {}
    return {"status": status, "announcements": announcements(previous, status)}


def _context(observed: Observed) -> Context:
    """Validate the spec; metadata beyond identity and the status are the API server's and our own."""
    resource, installation = observed.resource, observed.installation
    identity = {field: resource["metadata"][field] for field in IDENTITY_FIELDS if field in resource["metadata"]}
    document = {"apiVersion": resource["apiVersion"], "kind": resource["kind"], "metadata": identity, "spec": resource.get("spec")}
    deployment = TranscriberDeployment.model_validate(document, by_alias=True, by_name=False)
    return Context(
        name=identity["name"],
        namespace=identity["namespace"],
        uid=identity["uid"],
        spec=deployment.spec,
        default_image=installation.serving_image,
        operator_namespace=installation.namespace,
        https_hosts=installation.https_hosts,
        scaling_url=installation.scaling_url,
        metrics_namespaces=installation.metrics_namespaces,
    )


def _requeue(repository: Repository, serving: Serving, scaling: Scaling, now: datetime) -> float | None:
    """When to look again without an event: at a running build for its progress, and when time alone may change something."""
    state = repository.state
    times = (state.retry_at, state.look_again_at, serving.look_again_at, scaling.schedule.changes_at)
    seconds = [max((at - now).total_seconds(), 1.0) for at in times if at]
    if scaling.allotment.changes_at_seconds is not None:
        seconds.append(max(scaling.allotment.changes_at_seconds - now.timestamp(), 1.0))
    if state.phase == "Running":
        seconds.append(PROGRESS_SECONDS)
    if scaling.has_spot_nodes:
        seconds.append(REBALANCE_SECONDS)
    return min(seconds, default=None)


def _generation(resource: Manifest) -> int:
    return int(resource["metadata"].get("generation") or 0)
