"""Objects of tests of the rights: kinds of projects that are not installed, and children that nobody asks for."""

from collections.abc import Mapping
from typing import Any, Final

from tests.chart.rendering import Manifest

RESOURCE: Final = "transcriberdeployments"


def minimal_kind(group: str, version: str, kind: str, plural: str, scope: str) -> Manifest:
    """Return a CustomResourceDefinition that lets everything through: the kind of a project that is not installed here."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}", "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


OTHERS_KINDS: Final = (
    minimal_kind("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects", "Namespaced"),
    minimal_kind("karpenter.k8s.aws", "v1", "EC2NodeClass", "ec2nodeclasses", "Cluster"),
    minimal_kind("eks.amazonaws.com", "v1", "NodeClass", "nodeclasses", "Cluster"),
)
NODE_CLASSES: Final = (
    {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
    {"group": "eks.amazonaws.com", "kind": "NodeClass", "name": "gpu"},
)


def on_karpenter(node_class: Mapping[str, str], pool: str = "nodes") -> Manifest:
    """Return `spec.capacity` of one NodePool; Karpenter fixes the kind of its node class, so another takes another pool."""
    return {"provisioner": "Karpenter", "nodeClassRef": node_class, "pools": [{"name": pool}]}


def stray(kind: str, api_version: str, owner: Manifest, **spec: Any) -> Manifest:
    """Return a child that the operator does not ask for, such as an earlier version may have left."""
    labels = {
        "app.kubernetes.io/managed-by": "transcriber-operator",
        "serving.transcriber.dev/deployment": owner["metadata"]["name"],
    }
    reference = {
        **{name: owner[name] for name in ("apiVersion", "kind")},
        **{name: owner["metadata"][name] for name in ("name", "uid")},
        "controller": True,
    }
    metadata = {"name": "stray", "namespace": owner["metadata"]["namespace"], "labels": labels, "ownerReferences": [reference]}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}
