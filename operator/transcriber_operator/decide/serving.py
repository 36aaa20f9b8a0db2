"""The Deployments: which revision they have, and the replicas of each."""

from collections.abc import Mapping
from dataclasses import dataclass

from transcriber_operator.decide.applied import needs_apply
from transcriber_operator.decide.decision import Apply
from transcriber_operator.decide.live import AUTOSCALER, CONTROLLER, Live, count, is_ending, label, replicas_owners
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.pools import kept_while_moving
from transcriber_operator.render import names
from transcriber_operator.render.children import deployments
from transcriber_operator.render.context import Context
from transcriber_operator.render.serving import scaled


@dataclass(frozen=True)
class Plan:
    """The replicas of the Deployments, and the writes that are missing."""

    allotted: Mapping[str, int]  # replicas by pool of the spec
    kept: Mapping[str, int]  # replicas by pool as long as some move, those of pools that are leaving included
    applies: tuple[Apply, ...]
    changed: frozenset[str]  # pools whose Deployment is written
    replica_writers: frozenset[str]  # strangers that own spec.replicas
    details: tuple[str, ...]

    @property
    def staying_pools(self) -> frozenset[str]:
        """The pools of the spec, and those that are leaving but still serve for others."""
        return frozenset(pool for pool, replicas in self.kept.items() if replicas > 0 or pool in self.allotted)


def decide_serving(context: Context, live: Live, digest: str | None, allotted: Mapping[str, int]) -> Plan:
    """Decide the writes to Deployments.

    A corrected spec is written at once, whatever the pods' state. Without a built repository (`digest` is None and there is a
    claim) Deployments stay as they are, and only their replicas are decided.
    """
    current = {name: child for child in live.of_kind("Deployment") if (name := label(child, names.POOL_LABEL))}
    kept = kept_while_moving(allotted, {pool: count(child, "readyReplicas") for pool, child in current.items()})
    given = {pool: None if _is_handed_over(current.get(pool)) else replicas for pool, replicas in kept.items()}
    rendered = deployments(context, digest, given)
    written = tuple(Apply(manifest=manifest) for manifest in rendered if needs_apply(manifest, live))
    changed = frozenset(pool for apply in written if (pool := label(apply.manifest, names.POOL_LABEL)))
    scales = tuple(
        Apply(manifest=scaled(context, pool, kept[pool]), manager="transcriber-autoscaler")
        for pool in allotted
        if pool in changed - set(current) or _needs_scale(current.get(pool), kept[pool])
    )
    writers = frozenset(
        owner for child in current.values() for owner in replicas_owners(child) if owner not in (AUTOSCALER, CONTROLLER)
    )
    return Plan(allotted, kept, (*written, *scales), changed, writers, _details(written, scales))


def _is_handed_over(deployment: Manifest | None) -> bool:
    """Whether somebody beside the controller owns the replicas, so that leaving them out does not reset them."""
    return deployment is not None and bool(replicas_owners(deployment) - {CONTROLLER})


def _needs_scale(deployment: Manifest | None, replicas: int) -> bool:
    if deployment is None or is_ending(deployment):
        return False
    return deployment["spec"].get("replicas") != replicas or AUTOSCALER not in replicas_owners(deployment)


def _details(written: tuple[Apply, ...], scales: tuple[Apply, ...]) -> tuple[str, ...]:
    return (
        *(f"Deployment {apply.manifest['metadata']['name']} is written as the spec asks." for apply in written),
        *(
            f"Deployment {apply.manifest['metadata']['name']} gets {apply.manifest['spec']['replicas']} replicas."
            for apply in scales
        ),
    )
