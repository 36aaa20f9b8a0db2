"""The state of build Jobs: absent → running → succeeded with a repository, or failed with a reason."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from transcriber_api.conditions import Reason
from transcriber_operator.decide import pods
from transcriber_operator.decide.live import Live, annotation, condition, has_condition, is_ending, timestamp
from transcriber_operator.decide.observed import BuildProgress, Manifest
from transcriber_operator.decide.problem import Problem
from transcriber_operator.decide.results import Built, failure, read_published
from transcriber_operator.render import build, names

# Between builds that gave up on what may pass by itself. A source that was down costs little to ask again, and a build that was
# slow resumes; any other failure fetches all over again.
RETRY_SOON: Final = timedelta(minutes=10)
RETRY_LATER: Final = timedelta(hours=1)
MEBIBYTE: Final = 1 << 20
Phase = Literal["Absent", "Running", "Succeeded", "Failed", "Lost"]


@dataclass(frozen=True)
class BuildState:
    """How far a build is. Lost: it succeeded, but what it published is not known any more. `problem` is why it is not built."""

    phase: Phase
    problem: Problem | None = None
    built: Built | None = None
    retry_at: datetime | None = None  # of a failed build
    look_again_at: datetime | None = None  # when time alone may change this state


def job_state(job: Manifest | None, live: Live, progress: BuildProgress | None, now: datetime) -> BuildState:
    """Read the state of a Job and its pods."""
    if job is None or is_ending(job):
        message = "The build is about to start."
        return BuildState("Absent", Problem(Reason.BUILDING_REPOSITORY, message, needs_action=False))
    if has_condition(job, "Complete"):
        return _succeeded(job, live)
    if has_condition(job, "Failed"):
        return _failed(job, live)
    return running_state(live.pods_of(job), progress, now)


def running_state(building: Iterable[Manifest], progress: BuildProgress | None, now: datetime) -> BuildState:
    """Read the state of a build under way: what keeps its pods from starting, else how far it is."""
    waiting = [pod for pod in building if not pods.is_over(pod) and not is_ending(pod)]
    look_again = [until for pod in waiting if (until := pods.mounts_wait_until(pod)) and until > now]
    for pod in waiting:
        problem = pods.scheduling_problem(pod) or pods.starting_problem(pod, now)
        if problem:
            return BuildState("Running", problem)
    return BuildState("Running", _under_way(progress), look_again_at=min(look_again, default=None))


def job_result(job: Manifest, live: Live) -> Built | None:
    """What a Job that succeeded has published: by its annotation, else by its pod as long as there is one."""
    if not has_condition(job, "Complete"):
        return None
    noted = read_published(annotation(job, names.RESULT_ANNOTATION))
    published = noted or next(
        (found for pod in live.pods_of(job) if (found := read_published(_ending(pod).get("message")))),
        None,
    )
    return Built(published, timestamp(job["status"].get("completionTime"))) if published else None


def revision_of(job: Manifest) -> str | None:
    """The key of the revision that a Job builds."""
    return annotation(job, names.REVISION_ANNOTATION)


def _succeeded(job: Manifest, live: Live) -> BuildState:
    built = job_result(job, live)
    if built:
        return BuildState("Succeeded", built=built)
    if live.pods_of(job):
        message = f"Job {job['metadata']['name']} succeeded but wrote no result; check that runtime.image is a serving image."
        return BuildState("Failed", Problem(Reason.BUILD_FAILED, message))
    message = f"The result of Job {job['metadata']['name']} went with its pod; it is built again."
    return BuildState("Lost", Problem(Reason.BUILDING_REPOSITORY, message, needs_action=False))


def _failed(job: Manifest, live: Live) -> BuildState:
    reported = condition(job, "Failed") or {}
    ended = [found for pod in live.pods_of(job) if (found := _ending(pod)) and found.get("exitCode")]
    if reported.get("reason") == "DeadlineExceeded":
        seconds = job["spec"].get("activeDeadlineSeconds")
        message = f"The build did not end within {seconds} s; raise repository.build.timeoutSeconds."
        problem = Problem(Reason.BUILD_FAILED, message, needs_action=False)  # downloads resume, so the next try gets further
    elif ended:
        problem = failure(ended[-1])
    else:
        said = reported.get("message") or "no message"
        problem = Problem(Reason.BUILD_FAILED, f"The build failed: {said}; read the events of its Job.", needs_action=False)
    name, at = job["metadata"]["name"], timestamp(reported.get("lastTransitionTime"))
    if problem.needs_action or at is None:
        message = f"{problem.message} Correct the spec, or delete Job {name} to try again."
        return BuildState("Failed", Problem(problem.reason, message))
    resumes = problem.reason is Reason.SOURCE_UNREACHABLE or reported.get("reason") == "DeadlineExceeded"
    retry_at = at + (RETRY_SOON if resumes else RETRY_LATER)
    message = f"{problem.message} The next try is at {retry_at:%H:%M:%S} UTC."
    return BuildState("Failed", Problem(problem.reason, message, needs_action=False), retry_at=retry_at)


def _ending(pod: Manifest) -> Mapping[str, Any]:
    status = pods.container_status(pod, build.CONTAINER)
    return pods.termination(status) if status else {}


def _under_way(progress: BuildProgress | None) -> Problem:
    if progress is None:
        return Problem(Reason.BUILDING_REPOSITORY, "The build has started; its Job's log tells how far it is.", needs_action=False)
    reason = Reason.DOWNLOADING_WEIGHTS if progress.stage.startswith("fetch") else Reason.BUILDING_REPOSITORY
    return Problem(reason, f"{progress.stage}: {_figures(progress)}.", needs_action=False)


def _figures(progress: BuildProgress) -> str:
    total = f" of {progress.bytes_total / MEBIBYTE:.0f}" if progress.bytes_total is not None else ""
    parts = [f"{progress.bytes_done / MEBIBYTE:.0f}{total} MiB"]
    if progress.bytes_per_second is not None:
        parts.append(f"{progress.bytes_per_second / MEBIBYTE:.1f} MiB/s")
    if progress.eta_seconds is not None:
        parts.append(f"{progress.eta_seconds:.0f} s left")
    return ", ".join(parts)
