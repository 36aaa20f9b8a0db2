"""The rights that the operator needs, as one table, and how the API server is asked whether it has them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from transcriber_api.schema import PLURAL
from transcriber_api.v1alpha1 import GROUP
from transcriber_cli.doctor.asked import Asked
from transcriber_operator.decide.observed import Manifest

REVIEWS_PATH: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
KARPENTER: Final = "karpenter.sh"
KEDA: Final = "keda.sh"
EVENTS_NAMESPACE: Final = "default"  # where Events are about objects without a namespace


class Where(StrEnum):
    """Where a right is needed."""

    SERVED = (
        "served"  # in the namespaces whose resources are served: all, or those of TRANSCRIBER_NAMESPACES; watches reach further
    )
    OWN = "own"  # in the operator's namespace
    CLUSTER = "cluster"  # of kinds that live in no namespace
    EVENTS = "events"


@dataclass(frozen=True)
class Rule:
    """A line of the operator's role."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    where: Where = Where.SERVED
    is_lease: bool = False  # for the Lease of its name only
    if_served: bool = False  # only where the cluster has the group


_ALL: Final = ("get", "list", "watch", "create", "patch", "delete")
_UNWATCHED: Final = ("get", "list", "create", "patch", "delete")
RULES: Final = (
    Rule(GROUP, (PLURAL,), ("get", "list", "watch", "patch")),
    Rule(GROUP, (f"{PLURAL}/status",), ("patch",)),
    Rule(GROUP, (f"{PLURAL}/finalizers",), ("update",)),
    Rule("", ("configmaps", "services"), _ALL),
    Rule("apps", ("deployments",), _ALL),
    Rule("batch", ("jobs",), _ALL),
    Rule("policy", ("poddisruptionbudgets",), _ALL),
    Rule("networking.k8s.io", ("networkpolicies",), _ALL),
    Rule("", ("pods",), ("list", "watch", "patch", "delete")),
    Rule("autoscaling", ("horizontalpodautoscalers",), _UNWATCHED),
    Rule(KEDA, ("scaledobjects",), _UNWATCHED, if_served=True),
    Rule(KARPENTER, ("nodepools",), _ALL, Where.CLUSTER, if_served=True),
    Rule(KARPENTER, ("nodeclaims",), ("list", "watch"), Where.CLUSTER, if_served=True),
    Rule("karpenter.k8s.aws", ("ec2nodeclasses",), ("get",), Where.CLUSTER, if_served=True),
    Rule("eks.amazonaws.com", ("nodeclasses",), ("get",), Where.CLUSTER, if_served=True),
    Rule("events.k8s.io", ("events",), ("create",)),
    Rule("events.k8s.io", ("events",), ("list",), Where.EVENTS),
    Rule("coordination.k8s.io", ("leases",), ("list", "watch"), is_lease=True),
    Rule("coordination.k8s.io", ("leases",), ("create",), Where.OWN),
    Rule("coordination.k8s.io", ("leases",), ("get", "update"), Where.OWN, is_lease=True),
)


@dataclass(frozen=True)
class Optional:
    """What rights are for that an installation may leave out."""

    needed_for: str
    is_asked_by: Callable[[Asked], bool]


_KARPENTER_ASKED: Final = Optional("capacity.provisioner: Karpenter", lambda asked: asked.is_karpenter)
OPTIONAL: Final = {
    "autoscaling": Optional("scaling.mode: Hpa", lambda asked: asked.scaling_mode == "Hpa"),
    KEDA: Optional("scaling.mode: Keda", lambda asked: asked.scaling_mode == "Keda"),
    **dict.fromkeys((KARPENTER, "karpenter.k8s.aws", "eks.amazonaws.com"), _KARPENTER_ASKED),
}


@dataclass(frozen=True)
class Right:
    """One verb on one resource in one place."""

    verb: str
    group: str
    resource: str  # with its subresource: deployments, transcriberdeployments/status
    namespace: str = ""  # empty: all of them, or none for a kind that lives in none
    name: str = ""

    @property
    def place(self) -> str:
        """Where it is needed, for a sentence."""
        return f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"


@dataclass(frozen=True)
class Account:
    """A ServiceAccount."""

    namespace: str
    name: str

    @property
    def user(self) -> str:
        """What the API server calls it."""
        return f"system:serviceaccount:{self.namespace}:{self.name}"

    @property
    def groups(self) -> list[str]:
        """The groups that it is in."""
        return ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]


def rights(served: Iterable[str], own: str, lease: str, groups: Collection[str]) -> Iterator[Right]:
    """Return every right that an operator needs in a cluster with these API groups; no `served` namespaces: it serves all."""
    served = tuple(served)
    for rule in RULES:
        if (rule.if_served and rule.group not in groups) or (rule.where is Where.EVENTS and KARPENTER not in groups):
            continue
        for resource in rule.resources:
            for verb in rule.verbs:
                for namespace in _places(rule, verb, served, own):
                    yield Right(verb, rule.group, resource, namespace, lease if rule.is_lease else "")


def _places(rule: Rule, verb: str, served: tuple[str, ...], own: str) -> tuple[str, ...]:
    """Return the namespaces in which a verb is needed. What is watched is watched in the operator's own namespace too."""
    match rule.where:
        case Where.OWN:
            return (own,)
        case Where.CLUSTER:
            return ("",)
        case Where.EVENTS:
            return (EVENTS_NAMESPACE,)
    is_watched = "watch" in rule.verbs and verb in ("list", "watch")
    return tuple(dict.fromkeys((*served, own) if is_watched else served)) if served else ("",)


def review(account: Account, right: Right) -> Manifest:
    """Return the question whether an account has a right."""
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": account.user,
            "groups": account.groups,
            "resourceAttributes": {field: value for field, value in attributes.items() if value},
        },
    }
