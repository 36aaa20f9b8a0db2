"""Looks at a cluster once, side by side, and only at what its resources make matter."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from transcriber_api.schema import PLURAL
from transcriber_api.v1alpha1 import GROUP, VERSION
from transcriber_cli.cluster import NODE, Cluster, Server, Unread, Why, at_once
from transcriber_cli.doctor.asked import Asked, NodeClass, node_classes
from transcriber_cli.doctor.rights import KARPENTER, REVIEWS_PATH, Account, Right, review, rights
from transcriber_cli.doctor.seen import (
    EXTERNAL_METRICS,
    NOT_ASKED,
    PROMETHEUS,
    Answers,
    Many,
    One,
    Seen,
    account_of,
    operator_in,
    served_namespaces,
    setting,
)
from transcriber_operator.cluster.resources import DEPLOYMENT, LEASE, NODE_POOL, TRANSCRIBER_DEPLOYMENT, Resource
from transcriber_operator.decide.observed import Manifest

DEFINITION: Final = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", False)
DAEMON_SET: Final = Resource("apps/v1", "DaemonSet", "daemonsets")
NAMESPACE: Final = Resource("v1", "Namespace", "namespaces", False)
CLAIM: Final = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
ACCOUNT: Final = Resource("v1", "ServiceAccount", "serviceaccounts")
SECRET: Final = Resource("v1", "Secret", "secrets")
STORAGE_CLASS: Final = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses", False)
OPERATOR_SELECTOR: Final = "app.kubernetes.io/part-of=transcriber-operator,app.kubernetes.io/component=operator"
KARPENTER_SELECTOR: Final = "app.kubernetes.io/name=karpenter"

Key = TypeVar("Key")
Value = TypeVar("Value")


def look(cluster: Cluster, namespace: str | None, operator_namespace: str) -> Seen:
    """Return what there is; `namespace` None: resources of all namespaces, or of the context's where that is not allowed.

    Raises CannotLookError where the cluster cannot be reached at all.
    """
    server = cluster.server()
    first: tuple[Callable[[], Any], ...] = (
        partial(_resources, cluster, server, namespace),
        partial(_operators, cluster, operator_namespace),
        partial(cluster.select, LEASE, operator_namespace),
        partial(cluster.get, DEFINITION, None, f"{PLURAL}.{GROUP}"),
    )
    (resources, scope, is_narrowed), operators, leases, definition = at_once(*first)
    asked = () if isinstance(resources, Unread) else tuple(map(Asked, resources))
    read = _others(cluster, server, asked)
    read["rights"] = partial(_rights, cluster, server, operator_in(operators, operator_namespace), operator_namespace)
    return Seen(
        server=server,
        operator_namespace=operator_namespace,
        scope=scope,
        is_narrowed=is_narrowed,
        resources=resources,
        definition=definition,
        operators=operators,
        leases=leases,
        **_each(read),
    )


def _others(cluster: Cluster, server: Server, asked: tuple[Asked, ...]) -> dict[str, Callable[[], Any]]:
    """Return how each field of the snapshot is read that resources or kinds of the cluster make matter."""
    is_gpu = any(each.gpu_resource for each in asked)
    is_karpenter = KARPENTER in server.groups
    has_prometheus = PROMETHEUS in server.groups
    claims = {name for each in asked for name in {*each.source_claims, each.repository_claim} if name}
    read: dict[str, Callable[[], Any]] = {
        "node_classes": partial(_node_classes, cluster, server, tuple(node_classes(asked))),
        "claims": partial(_named, partial(cluster.get, CLAIM), claims),
        "accounts": partial(_named, partial(cluster.get, ACCOUNT), {each.account for each in asked}),
        "secrets": partial(_named, partial(cluster.has, SECRET), {name for each in asked for name in each.secrets}),
    }
    if is_gpu:
        read["nodes"] = partial(cluster.select, NODE)
    if is_gpu or any(each.needs_cloud_role for each in asked):
        read["daemon_sets"] = partial(cluster.select, DAEMON_SET)
    if claims:
        read["storage_classes"] = partial(cluster.select, STORAGE_CLASS)
    if is_karpenter:
        read["karpenters"] = partial(cluster.select, DEPLOYMENT, None, KARPENTER_SELECTOR)
        read["node_pools"] = partial(cluster.select, NODE_POOL)
    if any(each.scaling_mode == "Hpa" for each in asked):
        read["external_metrics"] = partial(cluster.read, f"/apis/{EXTERNAL_METRICS}/v1beta1")
    if has_prometheus:
        read["prometheuses"] = partial(cluster.select, _prometheus_kind("Prometheus", "prometheuses"))
        read["pod_monitors"] = partial(cluster.select, _prometheus_kind("PodMonitor", "podmonitors"))
        read["prometheus_rules"] = partial(cluster.select, _prometheus_kind("PrometheusRule", "prometheusrules"))
        read["namespaces"] = partial(cluster.select, NAMESPACE)
    return read


def _prometheus_kind(kind: str, plural: str) -> Resource:
    return Resource(f"{PROMETHEUS}/v1", kind, plural)


def _resources(cluster: Cluster, server: Server, namespace: str | None) -> tuple[Many, str, bool]:
    """Return the resources, in words where they were looked for, and whether that is less than was asked for."""
    if VERSION not in server.groups.get(GROUP, ()):
        return (), "", False
    found = cluster.select(TRANSCRIBER_DEPLOYMENT, namespace)
    if namespace is None and isinstance(found, Unread) and found.why is Why.FORBIDDEN:
        own = cluster.select(TRANSCRIBER_DEPLOYMENT, cluster.namespace)
        if not isinstance(own, Unread):
            return own, f"namespace {cluster.namespace}", True
    return found, f"namespace {namespace}" if namespace else "all namespaces", False


def _operators(cluster: Cluster, namespace: str) -> Many:
    """Return the operators of all namespaces; where that is not allowed, of the one it should be in."""
    found = cluster.select(DEPLOYMENT, None, OPERATOR_SELECTOR)
    return cluster.select(DEPLOYMENT, namespace, OPERATOR_SELECTOR) if isinstance(found, Unread) else found


def _rights(cluster: Cluster, server: Server, operator: Manifest | None, namespace: str) -> Answers | Unread:
    if operator is None:
        return NOT_ASKED
    account = account_of(operator)
    wanted = tuple(rights(served_namespaces(operator), namespace, setting(operator, "lease_name"), server.groups))
    first = _review(cluster, account, wanted[0])
    if isinstance(first, Unread):
        return first
    others = at_once(*(partial(_review, cluster, account, right) for right in wanted[1:]))
    answers = dict(zip(wanted, (first, *others), strict=True))
    failed = next((answer for answer in answers.values() if isinstance(answer, Unread)), None)
    return failed or Answers(account, len(wanted), tuple(right for right, answer in answers.items() if not answer))


def _review(cluster: Cluster, account: Account, right: Right) -> bool | Unread:
    answer = cluster.create(REVIEWS_PATH, review(account, right))
    return answer if isinstance(answer, Unread) else bool(answer["status"].get("allowed"))


def _node_classes(cluster: Cluster, server: Server, wanted: Iterable[NodeClass]) -> Mapping[NodeClass, One]:
    return {each: _node_class(cluster, server, each) for each in wanted}


def _node_class(cluster: Cluster, server: Server, wanted: NodeClass) -> One:
    versions = server.groups.get(wanted.group)
    if not versions:
        return Unread(Why.ABSENT, f"the cluster has no API group {wanted.group}")
    kind = cluster.look_up(wanted.group, wanted.kind, versions[0])
    return kind if isinstance(kind, Unread) else cluster.get(kind, None, wanted.name)


def _named(read: Callable[[str, str], Value], names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Value]:
    return _each({name: partial(read, *name) for name in sorted(names)})


def _each(calls: Mapping[Key, Callable[[], Value]]) -> dict[Key, Value]:
    """Do calls side by side; returns their results by the same keys."""
    return dict(zip(calls, at_once(*calls.values()), strict=True))
