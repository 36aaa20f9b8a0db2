"""The status: what is observed and decided, in the fields that people, autoscalers and `kubectl wait` read."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from transcriber_api.conditions import Condition
from transcriber_api.status import Endpoints, RepositoryStatus, Status
from transcriber_operator.decide import pods
from transcriber_operator.decide import scaling_report as report
from transcriber_operator.decide.conditions import Facts
from transcriber_operator.decide.live import Live, annotation
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.results import Built, read_published
from transcriber_operator.decide.scaling import Scaling
from transcriber_operator.render import build, names
from transcriber_operator.render.context import Context
from transcriber_operator.render.services import grpc_endpoint, metrics_endpoint


def previous_status(resource: Manifest) -> Status:
    """Read the status that is there; one that this version cannot read, such as a newer one's, counts as none."""
    try:
        return Status.model_validate(resource.get("status") or {})
    except ValidationError:
        return Status()


def status_of(
    context: Context,
    live: Live,
    facts: Facts,
    scaling: Scaling,
    previous: Status,
    generation: int,
    conditions: tuple[Condition, ...],
) -> Status:
    """Return the full status."""
    serving, wanted = facts.serving, facts.wanted
    return Status(
        observed_generation=generation,
        conditions=conditions,
        replicas=serving.existing,
        ready_replicas=serving.ready,
        desired_replicas=serving.wanted,
        replica_summary=f"{serving.ready}/{serving.wanted}",
        pool_summary=", ".join(f"{pool.name} {pool.ready}/{pool.wanted}" for pool in serving.pools),
        selector=names.selector_text(context),
        endpoints=Endpoints(grpc=grpc_endpoint(context), metrics=metrics_endpoint(context)),
        repository=_repository(live, facts, previous.repository),
        pools=report.pool_statuses(scaling, serving, context, previous),
        scaling=report.scaling_status(scaling, wanted.replicas, wanted.sentence, previous.scaling),
        speculation=report.speculation_status(scaling, previous.speculation),
        cost=report.cost_status(scaling, previous.cost),
        cold_starts=report.cold_starts(scaling, previous.cold_starts),
    )


def refused_status(previous: Status, generation: int, conditions: tuple[Condition, ...]) -> Status:
    """Return the status of a spec that cannot be acted on: only what was found out is new."""
    return previous.model_copy(update={"observed_generation": generation, "conditions": conditions})


def _repository(live: Live, facts: Facts, previous: RepositoryStatus | None) -> RepositoryStatus | None:
    """Return the repository that most ready replicas serve; before any does, the one that is built for this spec."""
    digest = _served_digest(live) or facts.repository.digest
    if digest is None:
        return previous if facts.serving.ready else None
    built = facts.repository.known.get(digest)
    if built:
        return _described(built)
    return previous if previous and previous.digest == digest else RepositoryStatus(digest=digest)


def _described(built: Built) -> RepositoryStatus:
    published = built.published
    return RepositoryStatus(digest=published.digest, bytes=published.bytes, built_at=built.at, files=published.files)


def _served_digest(live: Live) -> str | None:
    """The digest of most ready pods; of equals, the one that comes last in the alphabet, so that it does not jump."""
    digests = (_digest_of(pod) for pod in live.serving_pods if pods.is_ready(pod))
    counts = Counter(digest for digest in digests if digest)
    return max(counts, key=lambda digest: (counts[digest], digest), default=None)


def _digest_of(pod: Manifest) -> str | None:
    """What a pod reads from the claim, or has built for itself."""
    read = annotation(pod, names.DIGEST_ANNOTATION)
    status: Mapping[str, Any] = pods.container_status(pod, build.CONTAINER) or {}
    published = read_published(pods.termination(status).get("message"))
    return read or (published.digest if published else None)
