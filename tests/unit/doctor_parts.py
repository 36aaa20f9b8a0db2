"""A healthy EKS cluster as `transcriber doctor` sees it, and the objects in it, for tests that spoil one thing."""

from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

from transcriber_api.schema import custom_resource_definition
from transcriber_cli.cluster import Server, Unread, Why
from transcriber_cli.doctor.asked import NodeClass
from transcriber_cli.doctor.checks import examine
from transcriber_cli.doctor.findings import Finding
from transcriber_cli.doctor.rights import Account
from transcriber_cli.doctor.seen import Answers, Seen

Manifest = dict[str, Any]
NOW: Final = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LONG_AGO: Final = "2026-01-30T12:00:00Z"
JUST_NOW: Final = "2026-01-31T11:59:57Z"
SYSTEM: Final = "transcriber-system"
GPU_CLASS: Final = NodeClass("karpenter.k8s.aws", "EC2NodeClass", "gpu")
FORBIDDEN: Final = Unread(Why.FORBIDDEN, 'is forbidden: User "dev" cannot list it')
ABSENT: Final = Unread(Why.ABSENT, "not found")
GROUPS: Final = {
    "apps": ("v1",),
    "autoscaling": ("v2", "v1"),
    "serving.transcriber.dev": ("v1alpha1",),
    "karpenter.sh": ("v1",),
    "karpenter.k8s.aws": ("v1",),
    "monitoring.coreos.com": ("v1",),
}
EXISTS: Final = [{"operator": "Exists"}]


def named(kind: str, namespace: str | None, name: str, labels: dict[str, str] | None = None, **fields: Any) -> Manifest:
    metadata = {
        "name": name,
        "creationTimestamp": LONG_AGO,
        "labels": labels or {},
        **({"namespace": namespace} if namespace else {}),
    }
    return {"kind": kind, "metadata": metadata, **fields}


def condition(type_: str, status: str, reason: str = "AsExpected", message: str = "") -> Manifest:
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": LONG_AGO}


def deployment(
    namespace: str, name: str, image: str, *, env: dict[str, str] | None = None, replicas: int = 1, ready: int = 1, **labels: str
) -> Manifest:
    container = {"name": name, "image": image, "env": [{"name": key, "value": value} for key, value in (env or {}).items()]}
    spec = {"replicas": replicas, "template": {"spec": {"serviceAccountName": name, "containers": [container]}}}
    return named("Deployment", namespace, name, labels, spec=spec, status={"readyReplicas": ready})


def daemon_set(name: str, image: str, tolerations: list[Manifest] | None = None, wanted: int = 1, ready: int = 1) -> Manifest:
    spec = {"template": {"spec": {"containers": [{"name": name, "image": image}], "tolerations": tolerations or []}}}
    status = {"desiredNumberScheduled": wanted, "numberReady": ready}
    return named("DaemonSet", "kube-system", name, spec=spec, status=status)


def node(
    name: str, instance_type: str = "m7i.large", created: str = LONG_AGO, offers: tuple[str, ...] = (), **labels: str
) -> Manifest:
    named_type = {"node.kubernetes.io/instance-type": instance_type, **labels}
    manifest = named("Node", None, name, named_type, status={"allocatable": dict.fromkeys(offers, "1")})
    manifest["metadata"]["creationTimestamp"] = created
    return manifest


def gpu_node(name: str = "gpu-1") -> Manifest:
    return node(name, "g6.xlarge", offers=("nvidia.com/gpu",))


def resource(name: str = "whisper", conditions: tuple[Manifest, ...] | None = None, **parts: Any) -> Manifest:
    """A resource of whisper from the hub on spot GPU nodes of Karpenter; `parts` are merged into the parts of its spec."""
    spec: Manifest = {
        "model": {"target": {"uri": "hf://openai/whisper-large-v3", "credentialsSecret": "hub-token"}},
        "runtime": {"device": "GPU", "gpuResourceName": "nvidia.com/gpu", "serviceAccountName": "whisper"},
        "repository": {"volume": {"claimName": "repositories"}},
        "scaling": {"mode": "Builtin", "maxReplicas": 5},
        "capacity": {
            "provisioner": "Karpenter",
            "nodeClassRef": {"group": GPU_CLASS.group, "kind": GPU_CLASS.kind, "name": GPU_CLASS.name},
            "pools": [{"name": "spot", "capacityType": "Spot"}],
        },
    }
    for part, content in parts.items():
        spec[part] = {**spec[part], **content} if isinstance(content, dict) else content
    manifest = named("TranscriberDeployment", "speech", name, spec=spec)
    manifest["metadata"]["generation"] = 2
    told = (condition("Ready", "True", message="Replicas pass their canary."),) if conditions is None else conditions
    manifest["status"] = {"observedGeneration": 2, "conditions": list(told)}
    return manifest


def node_pool(name: str = "spot", ready: str = "True", message: str = "") -> Manifest:
    labels = {
        "serving.transcriber.dev/namespace": "speech",
        "serving.transcriber.dev/deployment": "whisper",
        "serving.transcriber.dev/pool": name,
    }
    return named(
        "NodePool",
        None,
        f"speech-whisper-{name}",
        labels,
        status={"conditions": [condition("Ready", ready, message=message)], "nodes": 1},
    )


def claim(*modes: str, phase: str = "Bound", storage_class: str = "efs") -> Manifest:
    spec = {"accessModes": list(modes), "storageClassName": storage_class}
    return named("PersistentVolumeClaim", "speech", "repositories", spec=spec, status={"phase": phase})


def lease(renewed: str = JUST_NOW, holder: str = "operator-1") -> Manifest:
    spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
    return named("Lease", SYSTEM, "transcriber-operator", spec=spec)


def operator_deployment(tag: str = version("transcriber-operator"), **fields: Any) -> Manifest:
    labels = {"app.kubernetes.io/instance": "whisperer"}
    return deployment(SYSTEM, "transcriber-operator", f"images.example.com/transcriber-operator:{tag}", **labels, **fields)


def karpenter_deployment(ready: int = 2, **env: str) -> Manifest:
    return deployment("kube-system", "karpenter", "karpenter:1.8.0", env=env, replicas=2, ready=ready)


def pod_monitor(labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    selector = {"matchLabels": {"app.kubernetes.io/component": "serving"}}
    return named(
        "PodMonitor",
        SYSTEM,
        "transcriber",
        {"release": "prometheus"} if labels is None else labels,
        spec={"selector": selector, "namespaceSelector": {"any": True}, **spec},
    )


def alerts(labels: dict[str, str] | None = None) -> Manifest:
    spec = {"groups": [{"name": "serving", "rules": [{"alert": "TranscriberNoReadyReplicas"}]}]}
    return named("PrometheusRule", SYSTEM, "transcriber", {"release": "prometheus"} if labels is None else labels, spec=spec)


def prometheus(**spec: Any) -> Manifest:
    wanted = {"matchLabels": {"release": "prometheus"}}
    chosen = {"podMonitorSelector": wanted, "podMonitorNamespaceSelector": {}, "ruleSelector": wanted, "ruleNamespaceSelector": {}}
    return named("Prometheus", "monitoring", "main", spec={**chosen, **spec})


HEALTHY: Final = Seen(
    server=Server("v1.33.5-eks-3cfe0ce", NOW, GROUPS),
    operator_namespace=SYSTEM,
    scope="all namespaces",
    resources=(resource(),),
    definition=custom_resource_definition(),
    operators=(operator_deployment(),),
    leases=(lease(),),
    rights=Answers(Account(SYSTEM, "transcriber-operator"), 70, ()),
    nodes=(node("system-1"), gpu_node()),
    daemon_sets=(daemon_set("nvidia-device-plugin", "nvidia/k8s-device-plugin:v0.18.0", EXISTS),),
    karpenters=(karpenter_deployment(INTERRUPTION_QUEUE="speech"),),
    node_pools=(node_pool(),),
    node_classes={GPU_CLASS: named("EC2NodeClass", None, "gpu", spec={}, status={"conditions": [condition("Ready", "True")]})},
    claims={("speech", "repositories"): claim("ReadWriteMany")},
    storage_classes=(named("StorageClass", None, "efs", volumeBindingMode="Immediate"),),
    accounts={("speech", "whisper"): named("ServiceAccount", "speech", "whisper")},
    secrets={("speech", "hub-token"): True},
    prometheuses=(prometheus(),),
    pod_monitors=(pod_monitor(),),
    prometheus_rules=(alerts(),),
    namespaces=(named("Namespace", None, SYSTEM, {"kubernetes.io/metadata.name": SYSTEM}),),
)


def without_group(seen: Seen, *groups: str, **others: tuple[str, ...]) -> Seen:
    """The cluster without some API groups; `others` replace versions, with `_` for `.`."""
    left = {name: versions for name, versions in seen.server.groups.items() if name not in groups}
    return replace(
        seen, server=replace(seen.server, groups={**left, **{key.replace("_", "."): value for key, value in others.items()}})
    )


def of(code: str, seen: Seen) -> list[Finding]:
    """The findings of one kind."""
    return [finding for finding in examine(seen) if finding.code == code]
