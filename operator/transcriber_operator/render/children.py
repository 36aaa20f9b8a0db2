"""All children of a resource, in the order in which they are applied: what others read or are selected by comes first."""

from collections.abc import Mapping, Sequence

from transcriber_operator.render.build import build_job, config_map
from transcriber_operator.render.context import Context, Manifest
from transcriber_operator.render.disruption import disruption_budget
from transcriber_operator.render.network import build_policy, serving_policy
from transcriber_operator.render.node_pool import node_pools
from transcriber_operator.render.scalers import scalers
from transcriber_operator.render.services import services
from transcriber_operator.render.serving import deployment


def children(
    context: Context, digest: str | None, replicas: Mapping[str, int | None], keep: Sequence[str] = ()
) -> tuple[Manifest, ...]:
    """Return every child; `replicas` by pool and `keep` are as in `deployment` and `build_job`.

    With a claim and no `digest` there is nothing to serve yet, and so no Deployment.
    """
    return (*foundations(context), *build_jobs(context, keep), *deployments(context, digest, replicas))


def foundations(context: Context) -> tuple[Manifest, ...]:
    """Return what needs no built repository."""
    policies = (serving_policy(context), *((build_policy(context),) if context.claim else ()))
    budgets = (disruption_budget(context, pool) for pool in context.spec.capacity.pools if pool.capacity_type == "OnDemand")
    return (config_map(context), *policies, *services(context), *budgets, *node_pools(context), *scalers(context))


def build_jobs(context: Context, keep: Sequence[str] = ()) -> tuple[Manifest, ...]:
    """Return the build Job, where there is a claim to build into."""
    return (build_job(context, keep),) if context.claim else ()


def deployments(context: Context, digest: str | None, replicas: Mapping[str, int | None]) -> tuple[Manifest, ...]:
    """Return a Deployment per pool."""
    if context.claim and digest is None:
        return ()
    return tuple(deployment(context, pool, digest, replicas.get(pool.name)) for pool in context.spec.capacity.pools)
