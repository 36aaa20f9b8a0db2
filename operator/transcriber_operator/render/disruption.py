"""How many replicas may be evicted at once."""

from transcriber_api.capacity import Pool
from transcriber_operator.render import names
from transcriber_operator.render.context import Context, Manifest


def disruption_budget(context: Context, pool: Pool) -> Manifest:
    """Return the PodDisruptionBudget of an OnDemand pool. Spot pools have none: it would only delay the drain of a lost node."""
    return names.child(
        context,
        "policy/v1",
        "PodDisruptionBudget",
        names.pool_name(context, pool.name),
        names.SERVING,
        pool=pool.name,
        spec={
            "maxUnavailable": 1,
            "selector": {"matchLabels": names.selector(context, names.SERVING, pool.name)},
            # A replica that is not ready serves nobody; keeping it would block a node's drain for ever.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )
