"""What the control plane is built of: Go modules, their versions, and the files that come with them; data only."""

import hashlib
import platform
from dataclasses import dataclass
from typing import Final

KUBERNETES_VERSION: Final = "v1.36.2"
MINIMUM_GO: Final = (1, 26, 6)  # the highest that a module below asks for (karpenter's)
# Kubernetes keeps these beside itself and replaces them by folders, which a module that requires it cannot see.
STAGING_MODULES: Final = (
    "api", "apiextensions-apiserver", "apimachinery", "apiserver", "cli-runtime", "client-go", "cloud-provider",
    "cluster-bootstrap", "code-generator", "component-base", "component-helpers", "controller-manager", "cri-api", "cri-client",
    "cri-streaming", "csi-translation-lib", "dynamic-resource-allocation", "endpointslice", "externaljwt", "kms",
    "kube-aggregator", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet", "metrics", "mount-utils",
    "pod-security-admission", "sample-apiserver", "sample-cli-plugin", "sample-controller", "streaming",
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
    """One binary: its main package, linker stamps (variable, value), and the module's files to keep beside it."""

    name: str
    module: Module
    package: str
    stamps: tuple[tuple[str, str], ...] = ()
    assets: tuple[str, ...] = ()

    @property
    def folder_name(self) -> str:
        """Name of its folder in the cache: another recipe or machine type, another folder."""
        recipe = repr((self, platform.system(), platform.machine()))
        return f"{self.name}-{self.module.version}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"


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
KARPENTER: Final = Module("sigs.k8s.io/karpenter", "v1.14.1")
HELM: Final = Module("helm.sh/helm/v3", "v3.21.4")

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

RECIPES: Final = (
    Recipe("etcd", ETCD, ETCD.path),
    *(
        Recipe(name, KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", _kubernetes_stamps(KUBERNETES_VERSION))
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
    ),
    Recipe("kwok", KWOK, "sigs.k8s.io/kwok/cmd/kwok", assets=tuple(f"kustomize/stage/{path}" for path in KWOK_STAGES)),
    Recipe("karpenter", KARPENTER, "sigs.k8s.io/karpenter/kwok", assets=KARPENTER_CRDS),
    Recipe("helm", HELM, "helm.sh/helm/v3/cmd/helm", _helm_stamps(HELM.version, KUBERNETES_VERSION)),
)
