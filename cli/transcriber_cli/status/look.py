"""Reads the resources, what belongs to them, and the nodes that their pods are on."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from transcriber_api.v1alpha1 import GROUP, KIND, VERSION
from transcriber_cli.cluster import NODE, CannotLookError, Cluster, Unread, Why, at_once
from transcriber_cli.console import CommandError
from transcriber_operator.cluster.resources import DEPLOYMENT, EVENT, JOB, NODE_CLAIM, POD, TRANSCRIBER_DEPLOYMENT
from transcriber_operator.decide.nodes import node_of
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.render.names import DEPLOYMENT_LABEL

EVENTS_OF_RESOURCES: Final = f"regarding.kind={KIND}"
Found = tuple[Manifest, ...]


@dataclass(frozen=True)
class Seen:
    """What there is of some resources; `unread` says what could not be looked at."""

    now: datetime
    resources: Found
    deployments: Found = ()
    jobs: Found = ()
    pods: Found = ()
    claims: Found = ()  # Karpenter's NodeClaims
    nodes: Found = ()
    events: Found = ()
    unread: tuple[str, ...] = ()


def look(cluster: Cluster, namespace: str | None, name: str | None) -> Seen:
    """Return what there is in a namespace, or in all; raises CommandError where there is no such resource or kind."""
    server = cluster.server()
    if VERSION not in server.groups.get(GROUP, ()):
        raise CommandError(f"the cluster has no kind {KIND}; `transcriber doctor` says what is missing")
    labels = DEPLOYMENT_LABEL if name is None else f"{DEPLOYMENT_LABEL}={name}"
    events = EVENTS_OF_RESOURCES if name is None else f"{EVENTS_OF_RESOURCES},regarding.name={name}"
    reads = {
        "deployments": partial(cluster.select, DEPLOYMENT, namespace, labels),
        "jobs": partial(cluster.select, JOB, namespace, labels),
        "pods": partial(cluster.select, POD, namespace, labels),
        "events": partial(cluster.select, EVENT, namespace, None, events),
    }
    if NODE_CLAIM.api_version.partition("/")[0] in server.groups:
        reads["claims"] = partial(cluster.select, NODE_CLAIM, None, labels)
    resources, *read = at_once(partial(_resources, cluster, namespace, name), *reads.values())
    if isinstance(resources, Unread):
        raise _refused(resources, namespace, name)
    answers = dict(zip(reads, read, strict=True))
    found = {what: () if isinstance(answer, Unread) else answer for what, answer in answers.items()}
    nodes = _nodes(cluster, found["pods"], found.get("claims", ()))
    unread = [f"{what}: {answer.message}" for what, answer in answers.items() if isinstance(answer, Unread)]
    unread += sorted({f"nodes: {node.message}" for node in nodes if isinstance(node, Unread) and node.why is not Why.ABSENT})
    return Seen(
        now=server.now,
        resources=resources,
        nodes=tuple(node for node in nodes if not isinstance(node, Unread)),
        unread=tuple(unread),
        **found,
    )


def _resources(cluster: Cluster, namespace: str | None, name: str | None) -> Found | Unread:
    if name is None:
        return cluster.select(TRANSCRIBER_DEPLOYMENT, namespace)
    found = cluster.get(TRANSCRIBER_DEPLOYMENT, namespace, name)
    return found if isinstance(found, Unread) else (found,)


def _refused(unread: Unread, namespace: str | None, name: str | None) -> CommandError:
    if unread.why is Why.ABSENT:
        return CommandError(f"namespace {namespace} has no {KIND} {name}; `transcriber status --all-namespaces` shows all")
    return CannotLookError(f"{KIND}s cannot be read: {unread.message}")


def _nodes(cluster: Cluster, pods: Iterable[Manifest], claims: Iterable[Manifest]) -> list[Manifest | Unread]:
    """Return the nodes by name: a large cluster has thousands of others."""
    names = {pod["spec"].get("nodeName") for pod in pods} | {node_of(claim) for claim in claims}
    return at_once(*(partial(cluster.get, NODE, None, name) for name in sorted(filter(None, names))))
