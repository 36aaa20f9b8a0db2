"""The repository of the spec: how far its build is, and what has to be written for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from transcriber_api.conditions import Reason
from transcriber_operator.decide import pods
from transcriber_operator.decide.applied import needs_apply
from transcriber_operator.decide.decision import Apply, Prune
from transcriber_operator.decide.jobs import BuildState, job_result, job_state, revision_of, running_state
from transcriber_operator.decide.live import Live, annotation, has_condition, is_ending, key_of, timestamp
from transcriber_operator.decide.observed import BuildProgress, Manifest
from transcriber_operator.decide.problem import Problem
from transcriber_operator.decide.results import Built, failure, read_published, written
from transcriber_operator.render import build, names
from transcriber_operator.render.children import build_jobs
from transcriber_operator.render.context import Context

RESULTS: Final = "transcriber-results"


@dataclass(frozen=True)
class Repository:
    """The build of this spec, every repository that is known by its digest, and the writes that the build needs."""

    state: BuildState
    known: dict[str, Built]
    retained_keys: frozenset[str]  # revisions whose Jobs stay
    applies: tuple[Apply, ...] = ()
    prunes: tuple[Prune, ...] = ()
    details: tuple[str, ...] = ()

    @property
    def digest(self) -> str | None:
        """The repository of this spec, once it is built."""
        return self.state.built.published.digest if self.state.built else None


def decide_repository(context: Context, live: Live, progress: BuildProgress | None, now: datetime) -> Repository:
    """Read how far the repository of this spec is, and decide the next write: a Job, its result, or its removal."""
    known = _known(live)
    retained = _retained_keys(context, live)
    noted = _results_to_note(live, retained)
    rendered = build_jobs(context, keep=_digests_in_use(live, retained))
    if not rendered:
        return Repository(_ephemeral_state(context, live, progress, now), known, retained, noted)
    job = live.get(rendered[0])
    state = job_state(job, live, progress, now)
    name = rendered[0]["metadata"]["name"]
    if job is None:
        made = (Apply(manifest=rendered[0]),) if needs_apply(rendered[0], live) else ()
        return Repository(state, known, retained, (*noted, *made), details=tuple(f"Job {name} is created." for _ in made))
    stale = _why_again(state, job, rendered[0], now)
    if stale and not is_ending(job):
        prune = Prune(key=key_of(job), uid=job["metadata"]["uid"])
        return Repository(state, known, retained, noted, (prune,), (f"Job {name} is removed, to be made anew: {stale}.",))
    if key_of(job) in live.orphans and not is_ending(job):
        taken = Apply(manifest=_noted(job, state.built, rendered[0]["metadata"]["ownerReferences"]), manager=RESULTS)
        return Repository(state, known, retained, (*noted, taken), details=(f"Job {name} had lost its owner.",))
    return Repository(state, known, retained, noted)


def _why_again(state: BuildState, job: Manifest, rendered: Manifest, now: datetime) -> str | None:
    """Why a Job must be replaced. Jobs are immutable, so one that has not succeeded cannot follow a corrected spec otherwise."""
    if state.phase == "Lost":
        return "its result is lost"
    if state.phase == "Succeeded":
        return None
    if annotation(job, names.HASH_ANNOTATION) != annotation(rendered, names.HASH_ANNOTATION):
        return "the spec of the build changed"
    if state.retry_at and now >= state.retry_at:
        return "it may succeed now"
    return None


def _ephemeral_state(context: Context, live: Live, progress: BuildProgress | None, now: datetime) -> BuildState:
    """Where every pod builds for itself, one that has built shows that the spec can be built."""
    building = [
        pod for pod in live.serving_pods if annotation(pod, names.REVISION_ANNOTATION) == context.key and not is_ending(pod)
    ]
    statuses = [status for pod in building if (status := pods.container_status(pod, build.CONTAINER))]
    for status in statuses:
        built = _built_in_pod(status)
        if built:
            return BuildState("Succeeded", built=built)
    for status in statuses:
        ended = pods.termination(status)
        if ended.get("exitCode"):
            problem = failure(ended)
            return BuildState("Failed", Problem(problem.reason, f"{problem.message} The pod tries again.", problem.needs_action))
    if building:
        return running_state(building, progress, now)
    message = "Each replica builds the repository for itself; none has yet."
    return BuildState("Absent", Problem(Reason.NOT_OBSERVED_YET, message, needs_action=False))


def _built_in_pod(status: Mapping[str, Any]) -> Built | None:
    ended = (status.get("state") or {}).get("terminated") or {}
    published = read_published(ended.get("message")) if ended.get("exitCode") == 0 else None
    return Built(published, timestamp(ended.get("finishedAt"))) if published else None


def _known(live: Live) -> dict[str, Built]:
    """Every repository that a Job or a pod has told of, by digest."""
    statuses = (pods.container_status(pod, build.CONTAINER) for pod in live.serving_pods)
    in_pods = [built for status in statuses if status and (built := _built_in_pod(status))]
    by_jobs = [built for job in live.of_kind("Job") if (built := job_result(job, live))]
    return {built.published.digest: built for built in (*in_pods, *by_jobs)}


def _results_to_note(live: Live, retained: frozenset[str]) -> tuple[Apply, ...]:
    """Copy results from pods, which do not last, to the Jobs that stay."""
    return tuple(
        Apply(manifest=_noted(job, built, job["metadata"]["ownerReferences"]), manager=RESULTS)
        for job in live.of_kind("Job")
        if revision_of(job) in retained
        and not is_ending(job)
        and annotation(job, names.RESULT_ANNOTATION) is None
        and (built := job_result(job, live))
    )


def _noted(job: Manifest, built: Built | None, owners: list[Manifest]) -> Manifest:
    """The result and the owner, by a manager of its own; with the UID, so that a Job that is gone is not made anew."""
    metadata = {field: job["metadata"][field] for field in ("name", "namespace", "uid")}
    if built:
        metadata["annotations"] = {names.RESULT_ANNOTATION: written(built.published)}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": {**metadata, "ownerReferences": owners}}


def _retained_keys(context: Context, live: Live) -> frozenset[str]:
    """The revisions whose Jobs stay: this one, those that Deployments serve, and the last that succeeded, to go back to."""
    served = {key for child in live.of_kind("Deployment") if (key := annotation(child, names.REVISION_ANNOTATION))}
    history = sorted(
        (job for job in live.of_kind("Job") if has_condition(job, "Complete") and revision_of(job) != context.key),
        key=lambda job: (job["status"].get("completionTime") or "", job["metadata"]["name"]),
        reverse=True,
    )
    limit = context.spec.repository.revision_history_limit if context.claim else 0
    return frozenset({context.key, *served, *(key for job in history[:limit] if (key := revision_of(job)))})


def _digests_in_use(live: Live, retained: frozenset[str]) -> tuple[str, ...]:
    """The repositories that a new build must leave on the claim."""
    kept = {
        built.published.digest for job in live.of_kind("Job") if revision_of(job) in retained and (built := job_result(job, live))
    }
    serving = (*live.of_kind("Deployment"), *live.serving_pods)
    kept |= {digest for child in serving if (digest := annotation(child, names.DIGEST_ANNOTATION))}
    return tuple(sorted(kept))
