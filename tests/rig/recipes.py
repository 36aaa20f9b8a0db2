"""What the control plane is built of: Go modules, their versions, and the files that come with them; data only."""

import hashlib
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

OURS: Final = "./"  # before the name of a main package that lies in a folder beside this file

KUBERNETES_VERSION: Final = "v1.36.2"
MINIMUM_GO: Final = (1, 26, 7)  # the highest that a module below asks for (prometheus's)
# Kubernetes keeps these beside itself and replaces them by folders, which a module that requires it cannot see.
STAGING_MODULES: Final = (
    "api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go", "cloud-provider",
    "cluster-bootstrap", "code-generator", "component-base", "component-helpers", "controller-manager", "cri-api", "cri-client",
    "cri-streaming", "csi-translation-lib", "dynamic-resource-allocation", "endpointslice", "externaljwt", "kms",
    "kube-aggregator", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "metrics", "mount-utils",
    "pod-security-admission", "sample-apiserver", "sample-cli-plugin", "sample-controller", "streaming",
)  # fmt: skip

# Those that KEDA pins.
KEDA_KUBERNETES_MODULES: Final = (
    "api", "apiextensions-apiserver", "apimachinery", "apiserver", "client-go", "code-generator", "component-base", "metrics",
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """A Go module at a version.

    `is_wrapped`: its go.mod has `replace` lines, so `go install` refuses it; it is built from a module of ours that requires it
    and has the `replaces` (path, version) that it needs.
    """

    path: str
    version: str
    is_wrapped: bool = False
    replaces: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One binary: its main package, linker stamps (variable, value), and the module's files to keep beside it.

    A package `./NAME` is ours, in a folder beside this file, and is built around the module, which `is_wrapped` then.
    """

    name: str
    module: Module
    package: str
    stamps: tuple[tuple[str, str], ...] = ()
    assets: tuple[str, ...] = ()
    tags: tuple[str, ...] = field(default=(), repr=False)  # of the build; not in the name of a folder where there are none

    @property
    def folder_name(self) -> str:
        """Name of its folder in the cache: another recipe, source of ours or machine type, another folder."""
        recipe = hashlib.sha256(repr((self, *self.tags, platform.system(), platform.machine())).encode())
        for file in sorted(self.source_folder.iterdir()) if self.source_folder else ():
            recipe.update(file.read_bytes())
        return f"{self.name}-{self.module.version}-{recipe.hexdigest()[:8]}"

    @property
    def source_folder(self) -> Path | None:
        """The folder of a main package of ours, None for one of the module."""
        return Path(__file__).parent / self.package if self.package.startswith(OURS) else None


def _kubernetes_stamps(version: str) -> tuple[tuple[str, str], ...]:
    """Without these the server calls itself v0.0.0-master+$Format:%H$, which kubectl and charts cannot parse."""
    major, minor, _ = version.removeprefix("v").split(".")
    return tuple(
        (f"{package}.{name}", value)
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        for name, value in (("gitVersion", version), ("gitMajor", major), ("gitMinor", minor))
    )


def _helm_stamps(helm_version: str, kubernetes_version: str) -> tuple[tuple[str, str], ...]:
    """Without these `helm template` renders for Kubernetes 1.20."""
    major, minor, _ = kubernetes_version.removeprefix("v").split(".")
    return (
        ("helm.sh/helm/v3/internal/version.version", helm_version),
        *(
            (f"helm.sh/helm/v3/pkg/{package}.k8sVersion{name}", value)
            for package in ("chartutil", "lint/rules")
            for name, value in (("Major", major), ("Minor", minor))
        ),
    )


KUBERNETES: Final = Module(
    "k8s.io/kubernetes",
    KUBERNETES_VERSION,
    is_wrapped=True,
    replaces=tuple((f"k8s.io/{name}", KUBERNETES_VERSION.replace("v1.", "v0.")) for name in STAGING_MODULES),
)
ETCD: Final = Module("go.etcd.io/etcd/server/v3", "v3.6.14", is_wrapped=True)
KWOK: Final = Module("sigs.k8s.io/kwok", "v0.8.0")
KARPENTER: Final = Module("sigs.k8s.io/karpenter", "v1.14.1", is_wrapped=True)
KEDA: Final = Module(
    "github.com/kedacore/keda/v2",
    "v2.20.2",
    is_wrapped=True,
    replaces=(
        ("github.com/google/cel-go", "v0.26.0"),
        ("github.com/prometheus/client_golang", "v1.23.2"),
        ("github.com/prometheus/client_model", "v0.6.2"),
        ("github.com/prometheus/common", "v0.66.1"),
        ("github.com/prometheus/prometheus", "v0.304.2"),
        *((f"k8s.io/{name}", "v0.35.5") for name in KEDA_KUBERNETES_MODULES),
        ("k8s.io/gengo/v2", "v2.0.0-20250922181213-ec3ebc5fd46b"),
        ("k8s.io/kube-openapi", "v0.0.0-20250910181357-589584f1c912"),
        ("sigs.k8s.io/controller-runtime", "v0.23.3"),
    ),
)
HELM: Final = Module("helm.sh/helm/v3", "v3.21.4")
PROMETHEUS: Final = Module("github.com/prometheus/prometheus", "v0.316.0")
CONTAINERD: Final = Module("github.com/containerd/containerd/v2", "v2.2.0", is_wrapped=True)
COREDNS: Final = Module("github.com/coredns/coredns", "v1.12.4")

KWOK_STAGES: Final = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    *(
        f"pod/general/pod-{name}.yaml"
        for name in ("create", "init-container-running", "init-container-completed", "ready", "complete", "delete")
    ),
)
KARPENTER_CRDS: Final = (
    "kwok/charts/crds/autoscaling.x-k8s.io_capacitybuffers.yaml",
    "kwok/charts/crds/karpenter.sh_nodeclaims.yaml",
    "kwok/charts/crds/karpenter.sh_nodeoverlays.yaml",
    "kwok/charts/crds/karpenter.sh_nodepools.yaml",
    "kwok/apis/crds/karpenter.kwok.sh_kwoknodeclasses.yaml",
)
KEDA_CRDS: Final = tuple(
    f"config/crd/bases/{name}.yaml"
    for name in (
        "keda.sh_scaledobjects",
        "keda.sh_scaledjobs",
        "keda.sh_triggerauthentications",
        "keda.sh_clustertriggerauthentications",
        "eventing.keda.sh_cloudeventsources",
        "eventing.keda.sh_clustercloudeventsources",
    )
)

RECIPES: Final = (
    Recipe("etcd", ETCD, ETCD.path),
    *(
        Recipe(name, KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", _kubernetes_stamps(KUBERNETES_VERSION))
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    ),
    Recipe("kwok", KWOK, "sigs.k8s.io/kwok/cmd/kwok", assets=tuple(f"kustomize/stage/{path}" for path in KWOK_STAGES)),
    Recipe("karpenter", KARPENTER, f"{OURS}karpenter_faults", assets=KARPENTER_CRDS),
    Recipe("helm", HELM, "helm.sh/helm/v3/cmd/helm", _helm_stamps(HELM.version, KUBERNETES_VERSION)),
    # Without the tag it brings the clients of every cloud, to discover targets there.
    Recipe("promtool", PROMETHEUS, f"{PROMETHEUS.path}/cmd/promtool", tags=("remove_all_sd",)),
)
# What only a comparison with other autoscalers needs; built by name, and no part of the control plane.
PEERS: Final = (
    Recipe("keda-operator", KEDA, f"{KEDA.path}/cmd/operator", assets=KEDA_CRDS),
    Recipe("keda-adapter", KEDA, f"{KEDA.path}/cmd/adapter"),
)
# What makes this machine a node that runs containers (tests/rig/real_node.py); built by name too.
NODE: Final = (
    *(
        Recipe(name, KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", _kubernetes_stamps(KUBERNETES_VERSION))
        for name in ("kubelet", "kube-proxy")
    ),
    # The tags leave out snapshotters that want headers of C libraries.
    *(
        Recipe(name, CONTAINERD, f"{CONTAINERD.path}/cmd/{name}", tags=("no_btrfs", "no_devmapper"))
        for name in ("containerd", "containerd-shim-runc-v2", "ctr")
    ),
    Recipe("coredns", COREDNS, COREDNS.path),
)
