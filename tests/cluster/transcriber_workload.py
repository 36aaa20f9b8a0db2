"""The workload that the operator is killed in: a resource is made, changed, rolled back, scaled, remade and deleted."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.cluster.crash_runs import Manifest, Step, Workload
from tests.rig.chart import operator_account
from tests.rig.cluster import IMAGE, SERVICE_ACCOUNT
from tests.rig.control_plane import ControlPlane
from tests.rig.processes import LOOPBACK, Program, free_ports

NAME: Final = "td"
API_VERSION: Final = "serving.transcriber.dev/v1alpha1"
KIND: Final = "TranscriberDeployment"
# Everything that the operator writes, and what the controllers make of it.
KINDS: Final = (
    (API_VERSION, KIND),
    ("v1", "ConfigMap"),
    ("v1", "Service"),
    ("v1", "Pod"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("batch/v1", "Job"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)


def document(**changes: Any) -> dict[str, Any]:
    """Return a resource of two pools, built once on a claim; `changes` are by path, `scaling__replicas=3`."""
    sha256 = hashlib.sha256(b"weights").hexdigest()
    files = [{"path": name, "sha256": sha256} for name in ("model.safetensors", "config.json")]
    spec: dict[str, Any] = {
        "model": {"target": {"uri": "pvc://models/whisper", "files": files}, "precision": "Float32"},
        "decoding": {"language": "en"},
        "runtime": {"device": "CPU", "slots": 4, "terminationGracePeriodSeconds": 60},
        "repository": {"volume": {"claimName": "repositories"}, "revisionHistoryLimit": 1},
        "scaling": {"mode": "External", "replicas": 2, "maxReplicas": 4},
        "capacity": {
            "provisioner": "None",
            "pools": [
                {"name": "spot", "capacityType": "Spot", "weight": 100, "maxNodes": 2},
                {"name": "floor", "capacityType": "OnDemand", "weight": 10, "minReplicas": 1},
            ],
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = spec
        for key in parents:
            part = part[key]
        part[last] = value
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": NAME}, "spec": spec}


STEPS: Final = (
    Step("create", applies=document()),
    Step("change the model", applies=document(decoding__language="de")),
    Step("roll back", applies=document()),
    Step("scale", applies=document(scaling__replicas=3)),
    Step("change the pods", applies=document(scaling__replicas=3, runtime__terminationGracePeriodSeconds=90)),
    Step("remake", deletes=True, applies=document(decoding__language="fr")),
    Step("delete", deletes=True),
)


def unsettled(objects: Sequence[Manifest]) -> str:
    """Return what is still under way: a status that lags behind, a rollout, a build, an object on its way out."""
    uids = {item["metadata"]["uid"] for item in objects}
    for item in objects:
        what = f"{item['kind']} {item['metadata']['name']}"
        status = item.get("status") or {}
        if item["metadata"].get("deletionTimestamp"):
            return f"{what} is being deleted"
        if any(owner["uid"] not in uids for owner in item["metadata"].get("ownerReferences", ())):
            return f"{what} has lost its owner"
        if item["kind"] in (KIND, "Deployment") and status.get("observedGeneration") != item["metadata"].get("generation"):
            return f"{what} has a status of an earlier generation"
        if item["kind"] == KIND and any(entry["type"] == "Reconciling" for entry in status.get("conditions", ())):
            return f"{what} is reconciling: {status['conditions']}"
        if item["kind"] == "Deployment" and not _is_rolled_out(item):
            return f"{what} is rolling out: {status}"
        if item["kind"] == "Job" and not any(entry["type"] in ("Complete", "Failed") for entry in status.get("conditions", ())):
            return f"{what} runs"
    return ""


def operator(namespace: str, kubeconfig: Path) -> Program:
    """Return an operator that serves one namespace and has its Lease there."""
    metrics, health, debug = free_ports(3)
    environment = {
        "TRANSCRIBER_KUBECONFIG": str(kubeconfig),
        "TRANSCRIBER_OPERATOR_NAMESPACE": namespace,
        "TRANSCRIBER_NAMESPACES": namespace,
        "TRANSCRIBER_SERVING_IMAGE": IMAGE,
        "TRANSCRIBER_METRICS_ADDRESS": f"{LOOPBACK}:{metrics}",
        "TRANSCRIBER_HEALTH_ADDRESS": f"{LOOPBACK}:{health}",
        "TRANSCRIBER_DEBUG_ADDRESS": f"{LOOPBACK}:{debug}",
        "TRANSCRIBER_LOG_FORMAT": "Text",
    }
    argv = (sys.executable, "-m", "transcriber_operator")
    return Program("operator", argv, f"http://{LOOPBACK}:{health}/healthz", environment)


def account(plane: ControlPlane, namespace: str, server: str) -> Path:
    """Make the operator's account with its least rights in a namespace; returns its kubeconfig for the API server at `server`."""
    plane.apply(*operator_account(namespace))
    return plane.kubeconfig_for(namespace, SERVICE_ACCOUNT, server)


WORKLOAD: Final = Workload(
    api_version=API_VERSION,
    kind=KIND,
    plural="transcriberdeployments",
    name=NAME,
    steps=STEPS,
    kinds=KINDS,
    unsettled=unsettled,
    operator=operator,
    prepare=account,
    lease="transcriber-operator",
)


def _is_rolled_out(deployment: Manifest) -> bool:
    wanted, status = deployment["spec"].get("replicas", 1), deployment.get("status") or {}
    return all(status.get(field, 0) == wanted for field in ("replicas", "updatedReplicas", "readyReplicas"))
