"""Karpenter: its kinds, its controller, its interruption queue, and the objects that resources need of it."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Final

from transcriber_cli.cluster import Unread, Why
from transcriber_cli.doctor.asked import Asked, named_by
from transcriber_cli.doctor.findings import Area, Finding, not_checked, note, ok, problem, warning
from transcriber_cli.doctor.rights import KARPENTER
from transcriber_cli.doctor.seen import Seen
from transcriber_operator.decide.live import condition, count, has_condition, label
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.render.names import DEPLOYMENT_LABEL, NAMESPACE_LABEL, POOL_LABEL
from transcriber_operator.render.node_pool import AWS

VERSION: Final = "v1"
QUEUE_VARIABLE: Final = "INTERRUPTION_QUEUE"
QUEUE_FLAG: Final = "--interruption-queue"
DOCS: Final = "https://karpenter.sh/docs/getting-started/"


def karpenter(seen: Seen) -> Iterator[Finding]:
    """Karpenter is there where a resource asks for it, and its controller runs."""
    users = tuple(each for each in seen.asked if each.is_karpenter)
    versions = seen.server.groups.get(KARPENTER, ())
    if not versions and not users:
        yield note(
            Area.KARPENTER, "karpenter-absent", "Karpenter", "is not installed; only capacity.provisioner: Karpenter needs it"
        )
    elif not versions:
        said = f"is not installed; {named_by(users)} asks for it"
        fix = f"install Karpenter 1.x ({DOCS}), or set capacity.provisioner: None and bring nodes"
        yield problem(Area.KARPENTER, "karpenter-missing", "Karpenter", said, fix)
    elif VERSION not in versions:
        said = f"serves {', '.join(versions)} and not {VERSION}"
        yield problem(Area.KARPENTER, "karpenter-too-old", "Karpenter", said, "upgrade Karpenter to 1.0 or newer")
    else:
        yield from _controller(seen, users)


def _controller(seen: Seen, users: tuple[Asked, ...]) -> Iterator[Finding]:
    if seen.is_auto_mode:
        yield ok(
            Area.KARPENTER, "karpenter", "Karpenter", f"serves {VERSION}; EKS Auto Mode runs it, and hears of interruptions itself"
        )
        return
    if isinstance(seen.karpenters, Unread):
        yield not_checked(Area.KARPENTER, "Karpenter's controller", seen.karpenters, "list deployments -A")
        return
    for each in seen.karpenters:
        yield _deployment(each)
        yield from _interruption_queue(seen, each, users)
    if seen.karpenters:
        return
    pools = () if isinstance(seen.node_pools, Unread) else seen.node_pools
    said = "no Deployment with label app.kubernetes.io/name=karpenter in any namespace"
    if not users or any(has_condition(pool, "Ready") for pool in pools):
        yield note(Area.KARPENTER, "karpenter-elsewhere", "Karpenter's controller", f"{said}; its kinds are there")
    else:
        fix = f"install Karpenter's controller ({DOCS}): its kinds alone bring no nodes"
        yield problem(Area.KARPENTER, "karpenter-not-running", "Karpenter's controller", said, fix)


def _deployment(found: Manifest) -> Finding:
    name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
    ready, wanted = count(found, "readyReplicas"), int(found["spec"].get("replicas", 1))
    subject = f"Deployment {namespace}/{name}"
    if ready:
        return ok(Area.KARPENTER, "karpenter", subject, f"serves {VERSION}, {ready}/{wanted} ready")
    fix = f"kubectl logs --namespace {namespace} deployment/{name}"
    return problem(Area.KARPENTER, "karpenter-not-running", subject, f"0/{wanted} ready", fix)


def _interruption_queue(seen: Seen, found: Manifest, users: tuple[Asked, ...]) -> Iterator[Finding]:
    """Where spot nodes of AWS are asked for, Karpenter has to hear that one is about to be taken."""
    spot = tuple(each for each in users if each.has_spot)
    if not spot or not seen.serves(AWS):
        return
    name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
    if has_interruption_queue(found):
        yield ok(Area.KARPENTER, "interruption-queue", "Interruption queue", f"Deployment {namespace}/{name} reads one")
        return
    said = f"Deployment {namespace}/{name} reads none: spot nodes of {named_by(spot)} go without notice, and cut work short"
    fix = (
        f"make the SQS queue and its EventBridge rules ({DOCS}), then: "
        f"helm upgrade --reuse-values --namespace {namespace} --set settings.interruptionQueue=QUEUE {name} CHART"
    )
    yield warning(Area.KARPENTER, "interruption-queue-missing", "Interruption queue", said, fix)


def has_interruption_queue(deployment: Manifest) -> bool:
    """Whether Karpenter is told of a queue, by its environment or a flag; a value from elsewhere counts as one."""
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for entry in container.get("env") or ():
            if entry["name"] == QUEUE_VARIABLE and (entry.get("value") or entry.get("valueFrom")):
                return True
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        for word, following in pairwise([*words, ""]):
            if (word == QUEUE_FLAG and following) or word.removeprefix(f"{QUEUE_FLAG}=") not in ("", word):
                return True
    return False


def node_classes(seen: Seen) -> Iterator[Finding]:
    """Each node class that a resource names is there and Ready."""
    if not seen.serves(KARPENTER):
        return
    for wanted, found in seen.node_classes.items():
        users = named_by(each for each in seen.asked if each.is_karpenter and each.node_class == wanted)
        subject = f"{wanted} ({wanted.group})"
        if isinstance(found, Unread) and found.why is Why.ABSENT:
            fix = f"create it, or correct capacity.nodeClassRef of {users}: kubectl get {wanted.kind.lower()}"
            yield problem(Area.KARPENTER, "node-class-missing", subject, f"is not there; {users} names it", fix)
        elif isinstance(found, Unread):
            yield not_checked(Area.KARPENTER, subject, found, f"get {wanted.kind.lower()}")
        elif (ready := condition(found, "Ready")) and ready.get("status") == "False":
            fix = f"kubectl describe {wanted.kind.lower()}/{wanted.name}"
            yield problem(Area.KARPENTER, "node-class-not-ready", subject, f"not Ready: {_said(ready)}", fix)
        else:
            yield ok(Area.KARPENTER, "node-class", subject, "Ready" if ready else "is there, and tells no condition")


def node_pools(seen: Seen) -> Iterator[Finding]:
    """Each pool of a resource has its NodePool, and Karpenter can use it."""
    users = tuple(each for each in seen.asked if each.is_karpenter)
    if not users or VERSION not in seen.server.groups.get(KARPENTER, ()):
        return
    if isinstance(seen.node_pools, Unread):
        yield not_checked(Area.KARPENTER, "NodePools", seen.node_pools, "list nodepools")
        return
    for each in users:
        found = {pool: _pool_of(seen.node_pools, each, pool) for pool in each.pools}
        yield from (_pool(each, pool, manifest) for pool, manifest in found.items())


def _pool_of(pools: tuple[Manifest, ...], asked: Asked, name: str) -> Manifest | None:
    wanted = {NAMESPACE_LABEL: asked.namespace, DEPLOYMENT_LABEL: asked.name, POOL_LABEL: name}
    return next((pool for pool in pools if all(label(pool, key) == value for key, value in wanted.items())), None)


def _pool(asked: Asked, name: str, found: Manifest | None) -> Finding:
    if found is None:
        fix = f"see why the operator has not made it: transcriber status {asked.name} --namespace {asked.namespace}"
        return warning(Area.KARPENTER, "node-pool-missing", f"NodePool of pool {name} of {asked}", "is not there", fix)
    subject, ready = f"NodePool {found['metadata']['name']}", condition(found, "Ready")
    if ready and ready.get("status") == "False":
        fix = f"kubectl describe nodepool/{found['metadata']['name']}"
        return problem(Area.KARPENTER, "node-pool-not-ready", subject, f"not Ready: {_said(ready)}", fix)
    if ready is None:
        return note(Area.KARPENTER, "node-pool-not-looked-at", subject, "Karpenter has not looked at it")
    nodes = count(found, "nodes")
    return ok(Area.KARPENTER, "node-pool", subject, f"Ready, {nodes} node{'' if nodes == 1 else 's'}")


def _said(ready: Mapping[str, Any]) -> str:
    return " ".join(str(ready.get("message") or ready.get("reason") or "no message").split())
