"""Objects that tests with the pod bridge create: what gives it the pods of a namespace, and claims on folders of this machine."""

import time
from pathlib import Path
from typing import Any, Final

import yaml

from tests.rig.control_plane import ControlPlane
from tests.rig.kwok import BRIDGE_ANNOTATION

NAMESPACE_LABEL: Final = "test.transcriber.dev/bridge"
RUN_AS_PROCESS: Final = "process"
POLICY_NAME: Final = "pods-for-the-bridge"
EFFECT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.1  # the API server does not say when a policy has come into force
CAPACITY: Final = "1Ti"  # of a claim; nothing enforces it


def admission_policy() -> list[dict[str, Any]]:
    """Return the policy that annotates all new pods of namespaces with the label, so that product manifests stay as they are."""
    annotated = f'Object{{metadata: Object.metadata{{annotations: {{"{BRIDGE_ANNOTATION}": "{RUN_AS_PROCESS}"}}}}}}'
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    version = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": POLICY_NAME},
        "spec": {
            "matchConstraints": {"resourceRules": [pods]},
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": annotated}}],
        },
    }
    binding = {
        "apiVersion": version,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": POLICY_NAME},
        "spec": {
            "policyName": POLICY_NAME,
            "matchResources": {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: "true"}}},
        },
    }
    return [policy, binding]


def bridge_namespace(plane: ControlPlane, namespace: str) -> None:
    """Give all pods that will be created in a namespace to the bridge; blocks until that is in force. Raises TimeoutError."""
    plane.apply(*admission_policy())
    plane.kubectl("label", "namespace", namespace, f"{NAMESPACE_LABEL}=true", "--overwrite")
    probe = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bridge-probe", "namespace": namespace},
        "spec": {"containers": [{"name": "none", "image": "none"}]},
    }
    deadline = time.monotonic() + EFFECT_SECONDS
    while time.monotonic() < deadline:
        created = yaml.safe_load(
            plane.kubectl("create", "--dry-run=server", "--output=yaml", "-f", "-", document=yaml.safe_dump(probe))
        )
        if created["metadata"].get("annotations", {}).get(BRIDGE_ANNOTATION) == RUN_AS_PROCESS:
            return
        time.sleep(POLL_SECONDS)
    raise TimeoutError(
        f"MutatingAdmissionPolicy {POLICY_NAME} had no effect in namespace {namespace} within {EFFECT_SECONDS:.0f} s"
    )


def claim_on(namespace: str, name: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a hostPath volume and the PersistentVolumeClaim that it is bound to."""
    modes = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name}
    volume_name = f"{namespace}-{name}"
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name},
        "spec": {
            **modes,
            "capacity": {"storage": CAPACITY},
            "claimRef": reference,
            "hostPath": {"path": str(folder.resolve())},
            "persistentVolumeReclaimPolicy": "Retain",
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**modes, "volumeName": volume_name, "resources": {"requests": {"storage": CAPACITY}}},
    }
    return volume, claim


def make_claim(plane: ControlPlane, namespace: str, name: str, folder: Path) -> None:
    """Create a claim on a folder of this machine; blocks until it is bound."""
    folder.mkdir(parents=True, exist_ok=True)
    volume, claim = claim_on(namespace, name, folder)
    plane.apply(volume)
    # One after the other: of two that come at once the binder can miss both, and looks again only after 15 s.
    plane.kubectl("wait", "--for=jsonpath={.status.phase}=Available", f"pv/{volume['metadata']['name']}", "--timeout=30s")
    plane.apply(claim)
    plane.kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{name}", f"--namespace={namespace}", "--timeout=30s")
