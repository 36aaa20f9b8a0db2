"""The operator: its Deployment, the Lease that it renews, and what its ServiceAccount may do."""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib.metadata import version
from itertools import groupby
from typing import Any, Final

from transcriber_cli.cluster import Unread
from transcriber_cli.doctor.findings import Area, Finding, not_checked, note, ok, problem
from transcriber_cli.doctor.rights import OPTIONAL, Right
from transcriber_cli.doctor.seen import Seen, account_of, chart_install, chart_upgrade, setting
from transcriber_operator.decide.live import count, timestamp
from transcriber_operator.decide.observed import Manifest

VERSION_TAG: Final = re.compile(r"^v?\d+\.\d+")


def operator(seen: Seen) -> Iterator[Finding]:
    """An operator runs in its namespace and holds its Lease."""
    lease, found = _lease(seen), seen.operator
    if found is None and isinstance(seen.operators, Unread):
        yield not_checked(
            Area.OPERATOR, "Deployment of the operator", seen.operators, f"list deployments -n {seen.operator_namespace}"
        )
        yield from _lease_findings(seen, lease)
    elif found is None:
        yield from _absent(seen, lease)
    else:
        yield from _deployment(seen, found)
        yield from _lease_findings(seen, lease)


def rights(seen: Seen) -> Iterator[Finding]:
    """The operator's ServiceAccount may do what the operator does."""
    if seen.operator is None:
        return
    account = account_of(seen.operator)
    subject = f"ServiceAccount {account.namespace}/{account.name}"
    if isinstance(seen.rights, Unread):
        yield not_checked(Area.RIGHTS, f"rights of {subject}", seen.rights, "create subjectaccessreviews")
        return
    answers = seen.rights
    if not answers.refused:
        yield ok(Area.RIGHTS, "rights", subject, f"has the {answers.asked} rights that the operator needs")
        return
    if len(answers.refused) == answers.asked:
        fix = f"{chart_upgrade(seen, 'rbac.create=true')}   # or bind a role of yours to it"
        yield problem(Area.RIGHTS, "rights-missing", subject, "has none of the rights that the operator needs", fix)
        return
    yield from (_lacking(seen, subject, lacking) for lacking in _together(answers.refused))


def _lacking(seen: Seen, subject: str, lacking: list[Right]) -> Finding:
    """Return that rights on a resource are missing in a place: a note where no resource asks for what they are for."""
    first, verbs = lacking[0], ", ".join(right.verb for right in lacking)
    what = ".".join(part for part in (first.resource, first.group) if part)
    said = f"may not {verbs} {what}{f' named {first.name}' if first.name else ''} {first.place}"
    kind = f"Role bound to it in {first.namespace}" if first.namespace else "ClusterRole bound to it"
    fix = f"add to the {kind}: {_rule(lacking)}"
    if first.group in OPTIONAL and not any(map(OPTIONAL[first.group].is_asked_by, seen.asked)):
        return note(Area.RIGHTS, "rights-left-out", subject, f"{said}; only {OPTIONAL[first.group].needed_for} needs that", fix)
    return problem(Area.RIGHTS, "rights-missing", subject, said, fix)


def _absent(seen: Seen, lease: Manifest | None) -> Iterator[Finding]:
    namespace = seen.operator_namespace
    subject = f"Deployment of the operator in namespace {namespace}"
    others = () if isinstance(seen.operators, Unread) else seen.operators
    if others:
        where = sorted({each["metadata"]["namespace"] for each in others})
        fix = f"look again with --operator-namespace {where[0]}"
        yield problem(Area.OPERATOR, "operator-elsewhere", subject, f"is not there; there is one in {', '.join(where)}", fix)
    elif lease and _lease_age(lease, seen.server.now) <= _lease_seconds(lease):
        yield note(
            Area.OPERATOR,
            "operator-outside",
            subject,
            "is not there, but its Lease is renewed: an operator runs outside the cluster",
        )
        yield from _lease_findings(seen, lease)
    else:
        yield problem(Area.OPERATOR, "operator-missing", subject, "is not there", chart_install(namespace))


def _deployment(seen: Seen, found: Manifest) -> Iterator[Finding]:
    name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
    subject = f"Deployment {namespace}/{name}"
    wanted, ready = int(found["spec"].get("replicas", 1)), count(found, "readyReplicas")
    image = found["spec"]["template"]["spec"]["containers"][0]["image"]
    if not wanted:
        fix = f"kubectl scale --namespace {namespace} deployment/{name} --replicas=1"
        yield problem(Area.OPERATOR, "operator-off", subject, "is scaled to 0", fix)
    elif not ready:
        fix = f"kubectl logs --namespace {namespace} deployment/{name}   # and kubectl describe pods --namespace {namespace}"
        yield problem(Area.OPERATOR, "operator-not-ready", subject, f"0/{wanted} ready, image {image}{_conditions(found)}", fix)
    else:
        yield ok(Area.OPERATOR, "operator", subject, f"{ready}/{wanted} ready, image {image}")
    tag, here = image.partition("@")[0].rpartition(":")[2], version("transcriber-operator")
    if VERSION_TAG.match(tag) and tag.removeprefix("v") != here:
        yield note(Area.OPERATOR, "operator-version", subject, f"runs {tag}, and the command installed here is {here}")


def _conditions(deployment: Manifest) -> str:
    said = [entry["message"] for entry in (deployment.get("status") or {}).get("conditions") or () if entry["status"] == "False"]
    return f": {' '.join(said)}" if said else ""


def _lease_findings(seen: Seen, lease: Manifest | None) -> Iterator[Finding]:
    namespace = seen.operator_namespace
    subject = f"Lease {namespace}/{setting(seen.operator, 'lease_name')}"
    name = seen.operator["metadata"]["name"] if seen.operator else "transcriber-operator"
    logs = f"kubectl logs --namespace {namespace} deployment/{name}"
    if isinstance(seen.leases, Unread):
        yield not_checked(Area.OPERATOR, subject, seen.leases, f"list leases -n {namespace}")
    elif lease is None:
        yield problem(Area.OPERATOR, "lease-missing", subject, "is not there: no operator has begun to work", logs)
    elif not lease["spec"].get("holderIdentity"):
        yield problem(Area.OPERATOR, "lease-free", subject, "is held by nobody: no operator works", logs)
    elif (age := _lease_age(lease, seen.server.now)) > _lease_seconds(lease):
        said = f"was last renewed {age:.0f} s ago: no operator works"
        yield problem(Area.OPERATOR, "lease-stale", subject, said, logs)
    else:
        yield ok(Area.OPERATOR, "lease", subject, f"renewed {max(age, 0):.0f} s ago by {lease['spec']['holderIdentity']}")


def _lease(seen: Seen) -> Manifest | None:
    name = setting(seen.operator, "lease_name")
    found = () if isinstance(seen.leases, Unread) else seen.leases
    return next((each for each in found if each["metadata"]["name"] == name), None)


def _lease_age(lease: Manifest, now: datetime) -> float:
    renewed = timestamp(lease["spec"].get("renewTime"))
    return (now - renewed).total_seconds() if renewed else float("inf")


def _lease_seconds(lease: Manifest) -> float:
    return float(lease["spec"].get("leaseDurationSeconds") or 0)


def _together(refused: Iterable[Right]) -> Iterator[list[Right]]:
    """Return rights that differ in their verb alone, each list a line."""

    def place(right: Right) -> tuple[str, ...]:
        return right.group, right.resource, right.namespace, right.name

    for _, lacking in groupby(sorted(refused, key=place), place):
        yield list(lacking)


def _rule(lacking: list[Right]) -> str:
    """Return the rule of a role that gives rights, as YAML on a line."""
    first = lacking[0]
    rule: dict[str, Any] = {"apiGroups": [first.group], "resources": [first.resource]}
    if first.name:
        rule["resourceNames"] = [first.name]
    return json.dumps({**rule, "verbs": [right.verb for right in lacking]})
