"""What of an `Observed` belongs to this very resource, found by key, and small readings of live objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from transcriber_operator.decide.decision import Key
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.render import names

AUTOSCALER: Final = "transcriber-autoscaler"
CONTROLLER: Final = "transcriber-controller"


@dataclass(frozen=True)
class Live:
    """The children of a resource; those that have no owner any more (`kubectl delete --cascade=orphan`), which are taken in where
    this spec asks for them and else left alone; and those of an earlier resource that still hold a name. All by key.
    """

    children: Mapping[Key, Manifest]
    orphans: Mapping[Key, Manifest]
    foreign: Mapping[Key, Manifest]
    build_pods: tuple[Manifest, ...]
    serving_pods: tuple[Manifest, ...]

    def of_kind(self, kind: str) -> Iterator[Manifest]:
        """The children of one kind, by name."""
        return (self.children[key] for key in sorted(self.children) if key.kind == kind)

    def get(self, manifest: Manifest) -> Manifest | None:
        """The live form of a rendered child."""
        key = key_of(manifest)
        return self.children.get(key) or self.orphans.get(key)

    def pods_of(self, job: Manifest) -> tuple[Manifest, ...]:
        """The pods of a Job, oldest first."""
        return tuple(pod for pod in self.build_pods if job["metadata"].get("uid") in owner_uids(pod))


def live_state(observed: Observed) -> Live:
    """Sort what was observed by whose it is; pods that are older than the resource are an earlier one's."""
    metadata = observed.resource["metadata"]
    born = timestamp(metadata.get("creationTimestamp"))
    children: dict[Key, Manifest] = {}
    orphans: dict[Key, Manifest] = {}
    foreign: dict[Key, Manifest] = {}
    for child in observed.children:
        owners = owner_uids(child)
        is_ours = metadata["uid"] in owners or (not owners and has_no_namespace(child))
        (children if is_ours else foreign if owners else orphans)[key_of(child)] = child
    pods = sorted((pod for pod in observed.pods if not _is_older(pod, born)), key=_age_order)
    return Live(
        children,
        orphans,
        foreign,
        build_pods=tuple(pod for pod in pods if label(pod, names.COMPONENT_LABEL) == names.BUILD),
        serving_pods=tuple(pod for pod in pods if label(pod, names.COMPONENT_LABEL) == names.SERVING),
    )


def key_of(manifest: Manifest) -> Key:
    """Return what names an object within its namespace."""
    return Key(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["name"])


def owner_uids(manifest: Manifest) -> frozenset[str]:
    """Return the UIDs of an object's owners."""
    return frozenset(owner["uid"] for owner in manifest["metadata"].get("ownerReferences", ()))


def has_no_namespace(manifest: Manifest) -> bool:
    """Whether an object is cluster-scoped: nothing that has a namespace can own it, and its labels say whose it is.

    They name the resource, so that what an earlier one of that name has left behind belongs to this one.
    """
    return label(manifest, names.OWNER_UID_LABEL) is not None


def label(manifest: Manifest, name: str) -> str | None:
    """Return a label's value."""
    value: str | None = (manifest["metadata"].get("labels") or {}).get(name)
    return value


def annotation(manifest: Manifest, name: str) -> str | None:
    """Return an annotation's value."""
    value: str | None = (manifest["metadata"].get("annotations") or {}).get(name)
    return value


def is_ending(manifest: Manifest) -> bool:
    """Whether an object is being deleted: writing to it would be in vain."""
    return bool(manifest["metadata"].get("deletionTimestamp"))


def timestamp(text: str | None) -> datetime | None:
    """Parse a time as the API server writes it."""
    return datetime.fromisoformat(text) if text else None


def condition(manifest: Manifest, type_: str) -> Mapping[str, Any] | None:
    """Return a condition of an object, whatever its status."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry.get("type") == type_), None)


def has_condition(manifest: Manifest, type_: str) -> bool:
    """Whether a condition is true."""
    found = condition(manifest, type_)
    return found is not None and found.get("status") == "True"


def replicas_owners(deployment: Manifest) -> frozenset[str]:
    """Return the field managers that own `spec.replicas`."""
    return frozenset(
        entry.get("manager", "")
        for entry in deployment["metadata"].get("managedFields", ())
        if "f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {})
    )


def count(manifest: Manifest | None, field: str) -> int:
    """Return a number of an object's status; one that is not there yet is 0."""
    return int(((manifest or {}).get("status") or {}).get(field) or 0)


def _is_older(pod: Manifest, born: datetime | None) -> bool:
    created = timestamp(pod["metadata"].get("creationTimestamp"))
    return bool(born and created and created < born)


def _age_order(pod: Manifest) -> tuple[str, str]:
    return pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]
