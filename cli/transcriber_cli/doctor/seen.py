"""The snapshot that checks read: everything that was looked at once, or why it was not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from transcriber_cli.cluster import Server, Unread, Why
from transcriber_cli.doctor.asked import Asked, Name, NodeClass
from transcriber_cli.doctor.rights import Account, Right
from transcriber_operator.decide.live import label
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.settings import Settings, variable

Many = tuple[Manifest, ...] | Unread
One = Manifest | Unread
NOT_ASKED: Final = Unread(Why.ABSENT, "not asked for")
EKS_AUTO_MODE: Final = "eks.amazonaws.com"
PROMETHEUS: Final = "monitoring.coreos.com"
CHART: Final = "charts/transcriber-operator"
RELEASE_LABEL: Final = "app.kubernetes.io/instance"
EXTERNAL_METRICS: Final = "external.metrics.k8s.io"


@dataclass(frozen=True)
class Answers:
    """Which rights of the operator's account were asked about, and which it has not."""

    account: Account
    asked: int
    refused: tuple[Right, ...]


@dataclass(frozen=True)
class Seen:
    """A cluster at one moment. What no resource asks for, and what the cluster has no kind for, is not read: `NOT_ASKED`."""

    server: Server
    operator_namespace: str
    scope: str  # the namespaces whose resources were looked at, for a sentence
    is_narrowed: bool = False  # all namespaces were asked for, and only the context's may be looked at
    resources: Many = ()
    definition: One = NOT_ASKED  # the CustomResourceDefinition
    operators: Many = ()  # Deployments of an operator, in all namespaces that may be read
    leases: Many = ()  # in the operator's namespace
    rights: Answers | Unread = NOT_ASKED
    nodes: Many = ()
    daemon_sets: Many = ()
    karpenters: Many = ()  # Deployments of Karpenter
    node_pools: Many = ()
    node_classes: Mapping[NodeClass, One] = field(default_factory=dict)
    claims: Mapping[Name, One] = field(default_factory=dict)
    storage_classes: Many = ()
    accounts: Mapping[Name, One] = field(default_factory=dict)
    secrets: Mapping[Name, bool | Unread] = field(default_factory=dict)
    external_metrics: One = NOT_ASKED  # the adapter's API
    prometheuses: Many = ()
    pod_monitors: Many = ()
    prometheus_rules: Many = ()
    namespaces: Many = ()

    @cached_property
    def asked(self) -> tuple[Asked, ...]:
        """The resources' demands; none where they could not be read."""
        return () if isinstance(self.resources, Unread) else tuple(map(Asked, self.resources))

    @cached_property
    def operator(self) -> Manifest | None:
        """The Deployment of the operator in its namespace."""
        return operator_in(self.operators, self.operator_namespace)

    @property
    def is_eks(self) -> bool:
        """Whether the cluster is Amazon's."""
        return "-eks-" in self.server.version

    @property
    def is_auto_mode(self) -> bool:
        """Whether EKS itself runs Karpenter, the device plugin and the Pod Identity agent."""
        return self.is_eks and EKS_AUTO_MODE in self.server.groups

    def serves(self, group: str) -> bool:
        """Whether the cluster has an API group."""
        return group in self.server.groups


def operator_in(operators: Many, namespace: str) -> Manifest | None:
    """Return the Deployment of the operator in a namespace."""
    found = () if isinstance(operators, Unread) else operators
    return next((each for each in found if each["metadata"]["namespace"] == namespace), None)


def setting(operator: Manifest | None, name: str) -> str:
    """Return a setting of the operator as its Deployment gives it, the default where it gives none; empty: unset."""
    default = Settings.model_fields[name].default
    containers = operator["spec"]["template"]["spec"]["containers"] if operator else []
    given = {entry["name"]: entry.get("value") for container in containers for entry in container.get("env") or ()}
    value = given.get(variable(name))
    return value or (default if isinstance(default, str) else "")


def served_namespaces(operator: Manifest | None) -> tuple[str, ...]:
    """Return the namespaces whose resources an operator serves; none: all."""
    return tuple(name.strip() for name in setting(operator, "namespaces").split(",") if name.strip())


def account_of(operator: Manifest) -> Account:
    """Return the ServiceAccount of a Deployment's pods."""
    return Account(operator["metadata"]["namespace"], operator["spec"]["template"]["spec"].get("serviceAccountName") or "default")


def chart_install(namespace: str) -> str:
    """Return the command that installs the operator."""
    return f"helm upgrade --install transcriber-operator {CHART} --namespace {namespace} --create-namespace"


def chart_upgrade(seen: Seen, values: str) -> str:
    """Return the command that sets values of the chart: KEY=VALUE, comma-separated."""
    release = (label(seen.operator, RELEASE_LABEL) if seen.operator else None) or "transcriber-operator"
    return f"helm upgrade {release} {CHART} --namespace {seen.operator_namespace} --reuse-values --set {values}"
