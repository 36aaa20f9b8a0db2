"""Karpenter with its KWOK provider: pending pods become NodeClaims, and those nodes that KWOK keeps Ready.

The binary is ours around Karpenter's packages (`karpenter_faults/main.go`), so that capacity can run out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.rig.binaries import Binaries
from tests.rig.processes import Program
from tests.rig.programs import Site

NODE_CLASS_GROUP: Final = "karpenter.kwok.sh"
NODE_CLASS_KIND: Final = "KWOKNodeClass"
FEATURE_GATES: Final = "CapacityBuffer=true,NodeOverlay=true,StaticCapacity=true,SpotToSpotConsolidation=true"
ZONES: Final = ("us-east-1a", "us-east-1b")


@dataclass(frozen=True)
class GpuType:
    """An instance type with GPUs; prices in US dollars per hour, made up but in a real order."""

    name: str
    gpu: str
    gpu_mebibytes: int
    cpus: int
    memory_gibibytes: int
    on_demand_per_hour: float
    spot_per_hour: float
    gpus: int = 1


FAULTS_FILE: Final = "capacity-faults.json"  # in the folder of the control plane
GPU_TYPES: Final = (
    GpuType("g6.xlarge", "l4", 22_888, 4, 16, 0.80, 0.32),
    GpuType("g6.2xlarge", "l4", 22_888, 8, 32, 0.98, 0.40),
    GpuType("g5.xlarge", "a10g", 22_888, 4, 16, 1.01, 0.42),
    GpuType("g6e.xlarge", "l40s", 45_776, 4, 32, 1.86, 0.80),
)


@dataclass(frozen=True)
class NoCapacity:
    """Offerings that have no capacity; what is None stands for all."""

    capacity_type: str | None = None
    zone: str | None = None
    instance_type: str | None = None


def program(binaries: Binaries, site: Site, kubeconfig: Path, instance_types: Sequence[GpuType] = GPU_TYPES) -> Program:
    """Return Karpenter, and write the instance types that it can buy. It has no flags for these: all are in its environment."""
    file = site.folder / "instance-types.json"
    file.write_text(json.dumps([instance_type(gpu_type) for gpu_type in instance_types]), encoding="utf-8")
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "DISABLE_LEADER_ELECTION": "true",
        "METRICS_PORT": str(site.ports["karpenter-metrics"]),
        "HEALTH_PROBE_PORT": str(site.ports["karpenter"]),
        "SYSTEM_NAMESPACE": "kube-system",
        "BATCH_IDLE_DURATION": "1s",
        "BATCH_MAX_DURATION": "2s",
        "PREFERENCE_POLICY": "Ignore",
        "FEATURE_GATES": FEATURE_GATES,
        "INSTANCE_TYPES_FILE_PATH": str(file),
        "CAPACITY_FAULTS_FILE_PATH": str(site.folder / FAULTS_FILE),
    }
    return Program("karpenter", (str(binaries["karpenter"]),), site.url("karpenter", "/readyz", scheme="http"), environment)


def write_faults(site: Site, faults: Sequence[NoCapacity], cache_seconds: float) -> None:
    """Let launches fail from now on, and offerings that failed be shown as unavailable for so long; AWS's provider takes 180 s."""
    places = [{"capacityType": fault.capacity_type, "zone": fault.zone, "instanceType": fault.instance_type} for fault in faults]
    written = site.folder / f".{FAULTS_FILE}"
    written.write_text(json.dumps({"noCapacity": places, "cacheSeconds": cache_seconds}), encoding="utf-8")
    written.rename(site.folder / FAULTS_FILE)  # whole, since a launch may read it at any time


def instance_type(gpu_type: GpuType, zones: Sequence[str] = ZONES) -> dict[str, Any]:
    """Return an instance type as the provider reads it: an offering per zone and capacity type, with AWS's labels of a GPU node."""
    prices = {"spot": gpu_type.spot_per_hour, "on-demand": gpu_type.on_demand_per_hour}
    return {
        "name": gpu_type.name,
        "architecture": "amd64",
        "operatingSystems": ["linux"],
        "resources": {
            "cpu": str(gpu_type.cpus),
            "memory": f"{gpu_type.memory_gibibytes}Gi",
            "ephemeral-storage": "100Gi",
            "nvidia.com/gpu": str(gpu_type.gpus),
        },
        "offerings": [_offering(gpu_type, zone, kind, price) for zone in zones for kind, price in prices.items()],
    }


def node_class(name: str, registration_delay: str | None = None) -> dict[str, Any]:
    """Return a KWOKNodeClass; `registration_delay`, such as 20s, stands for the time that a machine takes to boot."""
    spec = {"nodeRegistrationDelay": registration_delay} if registration_delay else {}
    return {"apiVersion": f"{NODE_CLASS_GROUP}/v1alpha1", "kind": NODE_CLASS_KIND, "metadata": {"name": name}, "spec": spec}


def _offering(gpu_type: GpuType, zone: str, capacity_type: str, price: float) -> Mapping[str, Any]:
    labels = {
        "karpenter.sh/capacity-type": capacity_type,
        "topology.kubernetes.io/zone": zone,
        "karpenter.k8s.aws/instance-gpu-name": gpu_type.gpu,
        "karpenter.k8s.aws/instance-gpu-memory": str(gpu_type.gpu_mebibytes),
        "karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia",
        "karpenter.k8s.aws/instance-gpu-count": str(gpu_type.gpus),
    }
    requirements = [{"key": key, "operator": "In", "values": [value]} for key, value in labels.items()]
    return {"Price": price, "Available": True, "Requirements": requirements}
