"""A pass: from what was observed to what is to be written, in steps that each look at the steps before.

Level-based: the result depends on what is there and not on how it came to be, so a pass that was cut off anywhere is simply
followed by another one.
"""

from datetime import datetime
from typing import Final

from pydantic import ValidationError

from transcriber_api.conditions import Observation, merge
from transcriber_api.document import field_path
from transcriber_api.status import Status
from transcriber_api.v1alpha1 import TranscriberDeployment
from transcriber_operator.decide.announcements import announcements
from transcriber_operator.decide.applied import needs_apply
from transcriber_operator.decide.conditions import Facts, observations, refused
from transcriber_operator.decide.decision import Apply, Decision, Prune
from transcriber_operator.decide.live import Live, count, is_ending, live_state
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.decide.pools import allot
from transcriber_operator.decide.problem import shortened
from transcriber_operator.decide.prune import decide_prunes
from transcriber_operator.decide.replicas import wanted_replicas
from transcriber_operator.decide.repository import Repository, decide_repository
from transcriber_operator.decide.rollout import Serving, serving_state
from transcriber_operator.decide.serving import decide_serving
from transcriber_operator.decide.status import previous_status, refused_status, status_of
from transcriber_operator.render.children import children, foundations
from transcriber_operator.render.context import Context

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
        return _refuse(resource, live, error, now)
    return _reconcile(context, observed, live, now)


def _reconcile(context: Context, observed: Observed, live: Live, now: datetime) -> Decision:
    spec, previous = context.spec, previous_status(observed.resource)
    repository = decide_repository(context, live, observed.build_progress, now)
    wanted = wanted_replicas(spec)
    allotted = allot(spec.capacity.pools, wanted.replicas)
    digest = repository.digest if context.claim else None  # pods that build for themselves find out by themselves
    plan = decide_serving(context, live, digest, allotted)
    asked = children(context, digest, plan.kept)
    prunes = (*repository.prunes, *decide_prunes(live, asked, repository.retained_keys, plan.staying_pools))
    missing = tuple(Apply(manifest=manifest) for manifest in foundations(context) if needs_apply(manifest, live))
    applies = (*missing, *repository.applies, *plan.applies)
    details = (
        *repository.details,
        wanted.sentence,
        *plan.details,
        *(f"{prune.key.kind} {prune.key.name} goes." for prune in prunes),
    )
    if spec.suspend:
        applies, prunes, details = (), (), ("spec.suspend is true: nothing but the status is written.",)
    serving = serving_state(context, live, allotted, plan.changed, now)
    facts = Facts(repository, wanted, serving, plan.replica_writers, spec.suspend)
    generation = _generation(observed.resource)
    conditions = merge(previous.conditions, observations(facts), generation, now)
    status = status_of(context, live, facts, previous, generation, conditions)
    return _decision(applies, prunes, previous, status, _requeue(repository, serving, now), details)


def _refuse(resource: Manifest, live: Live, error: ValidationError, now: datetime) -> Decision:
    """A spec that cannot be read changes nothing; the API server refuses such a spec unless its rules are older than ours."""
    problems = (f"{field_path(tuple(problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False))
    message = f"{shortened('; '.join(problems), 2000)}; correct the spec."
    ready = sum(count(child, "readyReplicas") for child in live.of_kind("Deployment"))
    previous = previous_status(resource)
    found: tuple[Observation, ...] = refused(message, ready)
    conditions = merge(previous.conditions, found, _generation(resource), now)
    status = refused_status(previous, _generation(resource), conditions)
    return _decision((), (), previous, status, None, (message,))


def _decision(
    applies: tuple[Apply, ...],
    prunes: tuple[Prune, ...],
    previous: Status,
    status: Status,
    requeue_after_seconds: float | None,
    details: tuple[str, ...],
) -> Decision:
    if status == previous:
        return Decision(apply=applies, prune=prunes, requeue_after_seconds=requeue_after_seconds, details=details)
    return Decision(
        apply=applies,
        prune=prunes,
        status=status,
        announcements=announcements(previous.conditions, status.conditions),
        requeue_after_seconds=requeue_after_seconds,
        details=details,
    )


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
    )


def _requeue(repository: Repository, serving: Serving, now: datetime) -> float | None:
    """When to look again without an event: at a running build for its progress, and when time alone may change something."""
    state = repository.state
    seconds = [max((at - now).total_seconds(), 1.0) for at in (state.retry_at, state.look_again_at, serving.look_again_at) if at]
    if state.phase == "Running":
        seconds.append(PROGRESS_SECONDS)
    return min(seconds, default=None)


def _generation(resource: Manifest) -> int:
    return int(resource["metadata"].get("generation") or 0)
