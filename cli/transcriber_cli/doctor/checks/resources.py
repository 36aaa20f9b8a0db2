"""The resources themselves, and the objects in their namespaces that they name: claims, ServiceAccounts, Secrets, cloud roles."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from transcriber_api.conditions import Reason
from transcriber_api.v1alpha1 import GROUP, VERSION
from transcriber_cli.cluster import Unread, Why
from transcriber_cli.doctor.asked import Asked, Name, named_by
from transcriber_cli.doctor.findings import Area, Finding, not_checked, note, ok, problem, warning
from transcriber_cli.doctor.seen import Seen
from transcriber_operator.decide.live import annotation, condition, timestamp
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.render.names import DEPLOYMENT_LABEL, NAMESPACE_LABEL

MANY_NODES: Final = "ReadWriteMany"
READ_BY_MANY: Final = frozenset({MANY_NODES, "ReadOnlyMany"})
ROLE_ANNOTATION: Final = "eks.amazonaws.com/role-arn"
POD_IDENTITY_AGENT: Final = "eks-pod-identity-agent"
PATIENCE: Final = timedelta(minutes=2)  # in which an operator looks at a change, however busy


def resources(seen: Seen) -> Iterator[Finding]:
    """Each resource is Ready, or says why not; a Stalled one waits for a person."""
    if VERSION not in seen.server.groups.get(GROUP, ()):
        return
    if isinstance(seen.resources, Unread):
        yield not_checked(Area.RESOURCES, "TranscriberDeployments", seen.resources, f"list transcriberdeployments.{GROUP} -A")
        return
    if seen.is_narrowed:
        said = f"not checked: you may not list them; only {seen.scope} was looked at"
        yield note(Area.RESOURCES, "narrowed", "TranscriberDeployments of other namespaces", said, "look as a user who may")
    if not seen.asked:
        fix = "kubectl apply -f examples/whisper-base.yaml"
        yield note(
            Area.RESOURCES, "no-resources", "TranscriberDeployments", f"none in {seen.scope}; nothing more is asked for", fix
        )
    for each in seen.asked:
        yield _readiness(seen, each)


def _readiness(seen: Seen, each: Asked) -> Finding:
    subject = f"TranscriberDeployment {each}"
    ready, metadata = condition(each.manifest, "Ready"), each.manifest["metadata"]
    if ending_since := timestamp(metadata.get("deletionTimestamp")):
        return _ending(seen, each, ending_since)
    if (each.manifest.get("spec") or {}).get("suspend"):
        fix = f'kubectl patch td/{each.name} --namespace {each.namespace} --type=merge --patch=\'{{"spec": {{"suspend": false}}}}\''
        return note(Area.RESOURCES, "suspended", subject, "is suspended: the operator changes nothing", fix)
    if ready is None or (each.manifest["status"].get("observedGeneration") or 0) < (metadata.get("generation") or 0):
        if seen.server.now - _changed_at(each.manifest, seen.server.now) < PATIENCE:
            return note(
                Area.RESOURCES, "not-looked-at", subject, "is new or was just changed; the operator has not looked at it yet"
            )
        fix = "see the findings about the operator, and whether it serves this namespace (TRANSCRIBER_NAMESPACES)"
        return problem(Area.RESOURCES, "not-looked-at", subject, "the operator has not looked at its present spec", fix)
    said = f"{ready['reason']}: {ready.get('message') or 'no message'}"
    if ready["status"] == "True":
        return ok(Area.RESOURCES, "ready", subject, f"Ready, {said}")
    stalled = condition(each.manifest, "Stalled") or {}
    if stalled.get("status") == "True":
        told = f"{stalled['reason']}: {stalled.get('message') or 'no message'}"
        return problem(Area.RESOURCES, "stalled", subject, f"Stalled, {told}", _remedy(stalled))
    if (condition(each.manifest, "Reconciling") or {}).get("status") == "True":
        watch = f"transcriber status {each.name} --namespace {each.namespace} --watch"
        return note(Area.RESOURCES, "in-progress", subject, f"not Ready yet, {said}", watch)
    return problem(Area.RESOURCES, "not-ready", subject, f"not Ready, {said}", _remedy(ready))


def _ending(seen: Seen, each: Asked, since: datetime) -> Finding:
    """Return that a resource is being deleted: it goes once the operator has cleaned up and taken its finalizer off."""
    subject, seconds = f"TranscriberDeployment {each}", (seen.server.now - since).total_seconds()
    if seconds < PATIENCE.total_seconds():
        return note(Area.RESOURCES, "ending", subject, f"is being deleted since {seconds:.0f} s")
    patch = (
        f'kubectl patch td/{each.name} --namespace {each.namespace} --type=merge --patch=\'{{"metadata": {{"finalizers": null}}}}\''
    )
    fix = f"{patch}   # only where no operator is to come back: its NodePools stay, kubectl delete nodepools -l {_labels(each)}"
    said = f"is being deleted since {seconds:.0f} s; its finalizer waits for an operator"
    return problem(Area.RESOURCES, "deletion-stuck", subject, said, fix)


def _labels(each: Asked) -> str:
    return f"{NAMESPACE_LABEL}={each.namespace},{DEPLOYMENT_LABEL}={each.name}"


def _changed_at(manifest: Manifest, now: datetime) -> datetime:
    """Return when a resource was made, or when anyone but the operator, who writes its status, last wrote to it."""
    metadata = manifest["metadata"]
    written = (entry.get("time") for entry in metadata.get("managedFields") or () if entry.get("subresource") != "status")
    return max(filter(None, map(timestamp, (metadata.get("creationTimestamp"), *written))), default=now)


def _remedy(condition: Mapping[str, Any]) -> str:
    """Return what the reference says is to be done; a later operator may have reasons that are not known here."""
    known = {reason.value: reason.meaning.rpartition("; ")[2] for reason in Reason if reason is not Reason.API_REFUSED}
    return known.get(condition["reason"], "do what the message says")


def claims(seen: Seen) -> Iterator[Finding]:
    """Claims exist, are bound, and can be mounted by as many nodes as replicas come to."""
    for name, claim in seen.claims.items():
        users = tuple(each for each in seen.asked if name in {*each.source_claims, each.repository_claim})
        subject = f"PersistentVolumeClaim {name[0]}/{name[1]}"
        if isinstance(claim, Unread):
            if claim.why is Why.ABSENT:
                fix = f"create it in namespace {name[0]}; access mode {MANY_NODES} where replicas span nodes"
                yield problem(Area.INPUTS, "claim-missing", subject, f"is not there; {named_by(users)} needs it", fix)
            else:
                yield not_checked(Area.INPUTS, subject, claim, f"get persistentvolumeclaims -n {name[0]}")
            continue
        found = [*_binding(seen, subject, claim, name), *_sharing(subject, claim, name, users)]
        modes = ", ".join(claim["spec"].get("accessModes") or ())
        yield from found or [ok(Area.INPUTS, "claim", subject, f"Bound, {modes}")]


def _binding(seen: Seen, subject: str, claim: Manifest, name: Name) -> Iterator[Finding]:
    phase = (claim.get("status") or {}).get("phase", "Pending")
    if phase == "Bound":
        return
    wanted = claim["spec"].get("storageClassName")
    classes = () if isinstance(seen.storage_classes, Unread) else seen.storage_classes
    storage = next((each for each in classes if each["metadata"]["name"] == wanted), {})
    describe = f"kubectl describe pvc/{name[1]} --namespace {name[0]}"
    if phase == "Pending" and storage.get("volumeBindingMode") == "WaitForFirstConsumer":
        yield note(Area.INPUTS, "claim-waits", subject, "Pending until a first pod mounts it, as its storage class wants")
    elif wanted and not storage and not isinstance(seen.storage_classes, Unread):
        there = ", ".join(each["metadata"]["name"] for each in classes) or "none"
        said = f"{phase}: there is no StorageClass {wanted}"
        yield problem(Area.INPUTS, "claim-not-bound", subject, said, f"make it anew with a StorageClass that exists: {there}")
    else:
        yield problem(Area.INPUTS, "claim-not-bound", subject, phase, describe)


def _sharing(subject: str, claim: Manifest, name: Name, users: tuple[Asked, ...]) -> Iterator[Finding]:
    """A repository is written once and read by all replicas; weights are read by all where each replica builds for itself."""
    modes = frozenset(claim["spec"].get("accessModes") or ())
    several = tuple(each for each in users if each.max_replicas > 1)
    writers = tuple(each for each in several if each.repository_claim == name)
    readers = tuple(each for each in several if each.repository_claim is None)
    if writers and MANY_NODES not in modes:
        lacking, needed = writers, MANY_NODES
    elif readers and not modes & READ_BY_MANY:
        lacking, needed = readers, " or ".join(sorted(READ_BY_MANY))
    else:
        return
    most = max(each.max_replicas for each in lacking)
    said = f"{', '.join(sorted(modes))}, but {named_by(lacking)} may have {most} replicas, each on a node of its own"
    yield warning(
        Area.INPUTS,
        "claim-not-shared",
        subject,
        said,
        f"make it anew with access mode {needed} (EFS, FSx, Filestore, NFS), or set scaling.maxReplicas: 1",
    )


def accounts(seen: Seen) -> Iterator[Finding]:
    """ServiceAccounts that pods run under exist."""
    for (namespace, name), account in seen.accounts.items():
        if not isinstance(account, Unread):
            continue
        subject = f"ServiceAccount {namespace}/{name}"
        if account.why is Why.ABSENT:
            users = named_by(each for each in seen.asked if each.account == (namespace, name))
            fix = f"kubectl create serviceaccount {name} --namespace {namespace}"
            yield problem(Area.INPUTS, "account-missing", subject, f"is not there; {users} runs under it", fix)
        else:
            yield not_checked(Area.INPUTS, subject, account, f"get serviceaccounts -n {namespace}")


def secrets(seen: Seen) -> Iterator[Finding]:
    """Secrets that sources name exist; their content is never asked for."""
    for (namespace, name), is_there in seen.secrets.items():
        subject = f"Secret {namespace}/{name}"
        if isinstance(is_there, Unread):
            yield not_checked(Area.INPUTS, f"{subject} (only whether it exists)", is_there, f"get secrets/{name} -n {namespace}")
        elif is_there:
            yield ok(Area.INPUTS, "secret", subject, "exists; its content was not read")
        else:
            users = named_by(each for each in seen.asked if (namespace, name) in each.secrets)
            create = f"kubectl create secret generic {name} --namespace {namespace} --from-file=token=FILE"
            fix = f"{create}   # for s3://: accessKeyId and secretAccessKey"
            yield problem(Area.INPUTS, "secret-missing", subject, f"is not there; {users} needs it", fix)


def cloud_roles(seen: Seen) -> Iterator[Finding]:
    """Who reads a bucket without keys of its own has a role: by EKS Pod Identity, or by IRSA."""
    users = tuple(each for each in seen.asked if each.needs_cloud_role)
    if not users:
        return
    agent = _pod_identity_agent(seen)
    for name in sorted({each.account for each in users}):
        account = seen.accounts.get(name)
        by = named_by(each for each in users if each.account == name)
        subject = f"ServiceAccount {name[0]}/{name[1]}"
        role = annotation(account, ROLE_ANNOTATION) if account and not isinstance(account, Unread) else None
        if role:
            yield ok(Area.INPUTS, "cloud-role", subject, f"has role {role} by IRSA, for the s3:// sources of {by}")
        elif not seen.is_eks:
            fix = "give the source credentialsSecret, or the pods a role in your own way"
            yield note(Area.INPUTS, "cloud-role-unknown", subject, f"reads the s3:// sources of {by} with what its pods find", fix)
        elif isinstance(agent, Unread):
            yield not_checked(Area.INPUTS, f"{subject}: EKS Pod Identity agent", agent, "list daemonsets -n kube-system")
        elif not agent:
            fix = f"aws eks create-addon --cluster-name CLUSTER --addon-name {POD_IDENTITY_AGENT}, then: {_association(name)}"
            said = f"reads the s3:// sources of {by} with no role: no EKS Pod Identity agent, and no annotation {ROLE_ANNOTATION}"
            yield problem(Area.INPUTS, "cloud-role-missing", subject, said, fix)
        else:
            said = f"reads the s3:// sources of {by}; the EKS Pod Identity agent is there, the association is not seen from here"
            yield note(Area.INPUTS, "cloud-role-unknown", subject, said, f"if it has none: {_association(name)}")


def _pod_identity_agent(seen: Seen) -> bool | Unread:
    if seen.is_auto_mode:
        return True
    if isinstance(seen.daemon_sets, Unread):
        return seen.daemon_sets
    return any(each["metadata"]["name"] == POD_IDENTITY_AGENT for each in seen.daemon_sets)


def _association(account: Name) -> str:
    return (
        f"aws eks create-pod-identity-association --cluster-name CLUSTER --namespace {account[0]} "
        f"--service-account {account[1]} --role-arn ARN"
    )
