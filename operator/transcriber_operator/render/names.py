"""Names, labels and annotations of the children, and the metadata that all of them carry."""

import hashlib
from typing import Any, Final

from transcriber_api.v1alpha1 import API_VERSION, GROUP, KIND
from transcriber_operator.render.context import Context, Manifest, sha256_of

MANAGED_BY: Final = "transcriber-operator"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
OURS: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY}"  # selects what the operator made
DEPLOYMENT_LABEL: Final = f"{GROUP}/deployment"
NAMESPACE_LABEL: Final = f"{GROUP}/namespace"  # of a cluster-scoped child, and of its nodes
OWNER_UID_LABEL: Final = f"{GROUP}/owner-uid"  # of a cluster-scoped child: it can have no owner with a namespace
POOL_LABEL: Final = f"{GROUP}/pool"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
SERVING: Final = "serving"
BUILD: Final = "build"

HASH_ANNOTATION: Final = f"{GROUP}/manifest-hash"
REVISION_ANNOTATION: Final = f"{GROUP}/revision"  # key that a Job builds, a Deployment serves, or a pod builds for itself
DIGEST_ANNOTATION: Final = f"{GROUP}/digest"  # repository that a Deployment's pods read from the claim
RESULT_ANNOTATION: Final = f"{GROUP}/result"  # what a Job's pod wrote when it was done; outlives the pod
DELETION_COST_ANNOTATION: Final = "controller.kubernetes.io/pod-deletion-cost"

HASH_CHARACTERS: Final = 12
LABEL_CHARACTERS: Final = 63  # the name of a Job is a label of its pods, and that of a NodePool one of its nodes


def config_name(context: Context) -> str:
    """Name of the ConfigMap that holds the build document."""
    return f"{context.name}-{context.key}"


def job_name(context: Context) -> str:
    """Name of the build Job; a long resource name is cut and told apart by its hash."""
    suffix = f"-build-{context.key}"
    room = LABEL_CHARACTERS - len(suffix)
    return (context.name if len(context.name) <= room else _told_apart(context.name, context.name, room)) + suffix


def pool_name(context: Context, pool: str) -> str:
    """Name of a pool's Deployment and PodDisruptionBudget."""
    return f"{context.name}-{pool}"


def node_pool_name(context: Context, pool: str) -> str:
    """Name of a pool's NodePool, which has no namespace: `NAMESPACE-NAME-POOL`, with a hash where that is too long or can be read
    in two ways.
    """
    parts = (context.namespace, context.name, pool)
    plain = "-".join(parts)
    if len(plain) <= LABEL_CHARACTERS and "-" not in context.namespace + pool:
        return plain
    return _told_apart(plain, "/".join(parts), LABEL_CHARACTERS)


def pods_service_name(context: Context) -> str:
    """Name of the headless Service, for clients that balance by themselves."""
    return f"{context.name}-pods"


def metrics_service_name(context: Context) -> str:
    """Name of the Service of the pods' metrics."""
    return f"{context.name}-metrics"


def labels(context: Context, component: str, pool: str | None = None) -> dict[str, str]:
    """Labels of a child or pod."""
    return {
        "app.kubernetes.io/name": "transcriber",
        "app.kubernetes.io/instance": context.name,
        COMPONENT_LABEL: component,
        "app.kubernetes.io/part-of": MANAGED_BY,
        MANAGED_BY_LABEL: MANAGED_BY,
        DEPLOYMENT_LABEL: context.name,
        **({POOL_LABEL: pool} if pool else {}),
    }


def selector(context: Context, component: str, pool: str | None = None) -> dict[str, str]:
    """The labels that choose the pods of a component, or of one pool."""
    return {DEPLOYMENT_LABEL: context.name, COMPONENT_LABEL: component, **({POOL_LABEL: pool} if pool else {})}


def selector_text(context: Context) -> str:
    """The serving pods as a label selector, for the scale subresource."""
    return ",".join(f"{label}={value}" for label, value in sorted(selector(context, SERVING).items()))


def child(
    context: Context,
    api_version: str,
    kind: str,
    name: str,
    component: str,
    *,
    pool: str | None = None,
    annotations: dict[str, str] | None = None,
    **content: Any,
) -> Manifest:
    """Return a child with the metadata of all children; `content` are its fields beside metadata, such as spec."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": context.name,
        "uid": context.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata: Manifest = {
        "name": name,
        "namespace": context.namespace,
        "labels": labels(context, component, pool),
        "ownerReferences": [owner],
    }
    if annotations:
        metadata["annotations"] = annotations
    return hashed({"apiVersion": api_version, "kind": kind, "metadata": metadata, **content})


def cluster_child(context: Context, api_version: str, kind: str, name: str, pool: str, **content: Any) -> Manifest:
    """Return a cluster-scoped child: labels say whose it is, since an owner with a namespace cannot own it."""
    metadata = {
        "name": name,
        "labels": {**labels(context, SERVING, pool), **node_labels(context, pool), OWNER_UID_LABEL: context.uid},
    }
    return hashed({"apiVersion": api_version, "kind": kind, "metadata": metadata, **content})


def node_labels(context: Context, pool: str) -> dict[str, str]:
    """Labels of a pool's NodePool, NodeClaims and nodes."""
    return {DEPLOYMENT_LABEL: context.name, NAMESPACE_LABEL: context.namespace, POOL_LABEL: pool}


def hashed(manifest: Manifest) -> Manifest:
    """Return `manifest` with the annotation that shows when a field is not rendered any more."""
    metadata = manifest["metadata"]
    annotations = {name: value for name, value in metadata.get("annotations", {}).items() if name != HASH_ANNOTATION}
    bare = {**manifest, "metadata": {**metadata, "annotations": annotations}}
    digest = sha256_of(bare)[:HASH_CHARACTERS]
    return {**bare, "metadata": {**metadata, "annotations": {**annotations, HASH_ANNOTATION: digest}}}


def _told_apart(text: str, identity: str, room: int) -> str:
    """Cut `text` to `room` characters, the last nine of which are a hash of `identity`."""
    suffix = f"-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    return text[: room - len(suffix)].rstrip("-") + suffix
