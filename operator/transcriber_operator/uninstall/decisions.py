"""What an uninstall does to which object; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transcriber_operator.decide.live import is_ending, label
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.decide.pods import is_over
from transcriber_operator.render.names import NAMESPACE_LABEL, OWNER_UID_LABEL


@dataclass(frozen=True)
class Target:
    """What is uninstalled.

    `pods` is the label selector of the operator's pods, `served` its namespaces (empty: all). With `deletes_resources` the
    resources go first, for their CustomResourceDefinition goes too; without, they stay and serve on.
    """

    namespace: str
    deployment: str
    pods: str
    served: tuple[str, ...] = ()
    deletes_resources: bool = False


def holds(resource: Manifest, finalizer: str) -> bool:
    """Whether an object waits for the bearer of a finalizer before it goes."""
    return finalizer in (resource["metadata"].get("finalizers") or ())


def without(resource: Manifest, finalizer: str) -> dict[str, Any]:
    """Return the merge patch that takes a finalizer off an object, if that is still as it was read; others' stay."""
    metadata = resource["metadata"]
    kept = [other for other in metadata.get("finalizers") or () if other != finalizer]
    return {"metadata": {"finalizers": kept, "resourceVersion": metadata["resourceVersion"]}}


def running(pods: Iterable[Manifest]) -> list[str]:
    """Return the names of the pods that may still write: all but those that have ended."""
    return [pod["metadata"]["name"] for pod in pods if not is_over(pod)]


def doomed_node_pools(pools: Iterable[Manifest], resources: Sequence[Manifest], target: Target) -> list[Manifest]:
    """Return the NodePools that nobody will delete once the finalizers are gone, and that are not on their way out.

    Those of resources that go, and where all resources go, also those that earlier ones left behind. The rest serve on.
    """
    owners = {resource["metadata"]["uid"] for resource in resources if is_ending(resource)}
    return [pool for pool in pools if not is_ending(pool) and _is_doomed(pool, owners, target)]


def _is_doomed(pool: Manifest, owners: set[str], target: Target) -> bool:
    if label(pool, OWNER_UID_LABEL) in owners:
        return True
    return target.deletes_resources and (not target.served or label(pool, NAMESPACE_LABEL) in target.served)
