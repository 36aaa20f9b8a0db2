"""The arguments of Kubernetes' own parts; pure, but for files that the API server reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.rig.binaries import Binaries
from tests.rig.certificates import Authority, KeyPair
from tests.rig.processes import LOOPBACK, Program

# Without kube-proxy nothing routes there: pods reach the API server by the kubeconfig that they are given.
SERVICE_RANGE: Final = "10.0.0.0/24"
SERVICE_ADDRESS: Final = "10.0.0.1"
ADVERTISED_ADDRESS: Final = "10.255.0.1"
FRONT_PROXY: Final = "front-proxy"  # as whom the API server speaks for others to the servers of aggregated APIs
SERVER_NAMES: Final = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)
# Beside those that are on by default; the last one is OpenShift's, and holds everywhere what holds there.
ADMISSION_PLUGINS: Final = ("NodeRestriction", "PodSecurity", "OwnerReferencesPermissionEnforcement")
ALWAYS_ALLOWED: Final = "--authorization-always-allow-paths=/healthz,/readyz,/livez,/metrics"
# Who did what to which object, without bodies: enough to compare with the RBAC that a chart grants.
AUDIT_METADATA: Final[Mapping[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class Options:
    """How a control plane differs from the usual one.

    `audit_policy` turns the audit log on. `pod_security` is the level that every namespace without a label of its own enforces.
    `advertise_address` is an address of this machine for pods and kubelets: the API server then listens on all, and pods find it
    as `kubernetes.default`.
    """

    admission_plugins: tuple[str, ...] = ()
    audit_policy: Mapping[str, Any] | None = None
    pod_security: str | None = None
    advertise_address: str | None = None
    api_server_arguments: tuple[str, ...] = ()
    controller_manager_arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Site:
    """Where one control plane lives: its folder, its keys and its ports."""

    folder: Path
    authority: Authority
    service_account_key: Path
    serving: KeyPair
    ports: Mapping[str, int] = field(default_factory=dict)

    def url(self, name: str, path: str = "", scheme: str = "https") -> str:
        """Return the address of a part."""
        return f"{scheme}://{LOOPBACK}:{self.ports[name]}{path}"

    @property
    def audit_log(self) -> Path:
        """The file of audit events, one in JSON per line."""
        return self.folder / "audit.log"


def server_addresses(options: Options) -> tuple[str, ...]:
    """Return the addresses under which parts and pods call the API server."""
    return (LOOPBACK, SERVICE_ADDRESS, *([options.advertise_address] if options.advertise_address else []))


def etcd(binaries: Binaries, site: Site) -> Program:
    """Return etcd on one node that never syncs to disk."""
    client, peer = site.url("etcd", scheme="http"), site.url("etcd-peer", scheme="http")
    return Program(
        "etcd",
        (
            str(binaries["etcd"]),
            f"--data-dir={site.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=n0={peer}",
            "--name=n0",
            "--unsafe-no-fsync",
        ),
        f"{client}/health",
    )


def api_server(binaries: Binaries, site: Site, options: Options) -> Program:
    """Return the API server, and write the files that its options need."""
    arguments = [
        f"--etcd-servers={site.url('etcd', scheme='http')}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        f"--secure-port={site.ports['kube-apiserver']}",
        *_serving(site),
        f"--client-ca-file={site.authority.certificate}",
        f"--service-account-issuer={site.url('kube-apiserver', '/')}",
        f"--service-account-key-file={site.service_account_key}",
        f"--service-account-signing-key-file={site.service_account_key}",
        *_reached(site, options),
        f"--cert-dir={site.folder}",
        *_aggregation(site),
        f"--enable-admission-plugins={','.join([*ADMISSION_PLUGINS, *options.admission_plugins])}",
    ]
    if options.audit_policy is not None:
        policy = _write(site.folder / "audit-policy.json", options.audit_policy)
        arguments += [f"--audit-policy-file={policy}", f"--audit-log-path={site.audit_log}"]
    if options.pod_security is not None:
        arguments.append(
            f"--admission-control-config-file={_write(site.folder / 'admission.json', _admission(options.pod_security))}"
        )
    argv = (str(binaries["kube-apiserver"]), *arguments, *options.api_server_arguments)
    return Program("kube-apiserver", argv, site.url("kube-apiserver", "/readyz"))


def controller_manager(binaries: Binaries, site: Site, kubeconfig: Path, options: Options) -> Program:
    """Return the controllers of the core: Deployments, Jobs, garbage collection, namespaces, ServiceAccounts, autoscalers."""
    return Program(
        "kube-controller-manager",
        (
            str(binaries["kube-controller-manager"]),
            f"--kubeconfig={kubeconfig}",
            f"--root-ca-file={site.authority.certificate}",
            f"--service-account-private-key-file={site.service_account_key}",
            "--use-service-account-credentials",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={site.ports['kube-controller-manager']}",
            *_serving(site),
            "--leader-elect=false",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            ALWAYS_ALLOWED,
            *options.controller_manager_arguments,
        ),
        site.url("kube-controller-manager", "/healthz"),
    )


def scheduler(binaries: Binaries, site: Site, kubeconfig: Path) -> Program:
    """Return the scheduler."""
    return Program(
        "kube-scheduler",
        (
            str(binaries["kube-scheduler"]),
            f"--kubeconfig={kubeconfig}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={site.ports['kube-scheduler']}",
            *_serving(site),
            "--leader-elect=false",
            ALWAYS_ALLOWED,
        ),
        site.url("kube-scheduler", "/readyz"),
    )


def _reached(site: Site, options: Options) -> list[str]:
    """Return where the API server listens and what it tells pods; for kubelets also who it is when it asks them for logs."""
    if options.advertise_address is None:
        return [f"--bind-address={LOOPBACK}", "--endpoint-reconciler-type=none", f"--advertise-address={ADVERTISED_ADDRESS}"]
    pair = site.authority.client("kube-apiserver-kubelet-client", ["system:masters"])
    return [
        "--bind-address=0.0.0.0",
        "--endpoint-reconciler-type=lease",
        f"--advertise-address={options.advertise_address}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pair.certificate}",
        f"--kubelet-client-key={pair.key}",
    ]


def _aggregation(site: Site) -> list[str]:
    """Return what lets the API server pass on calls of APIs that other servers have, and tell them who asks."""
    pair = site.authority.client(FRONT_PROXY)
    return [
        f"--proxy-client-cert-file={pair.certificate}",
        f"--proxy-client-key-file={pair.key}",
        f"--requestheader-client-ca-file={site.authority.certificate}",
        f"--requestheader-allowed-names={FRONT_PROXY}",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    ]


def _serving(site: Site) -> tuple[str, str]:
    return f"--tls-cert-file={site.serving.certificate}", f"--tls-private-key-file={site.serving.key}"


def _admission(level: str) -> dict[str, Any]:
    configuration = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": {"enforce": level, "enforce-version": "latest"},
        "exemptions": {"namespaces": ["kube-system"]},
    }
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{"name": "PodSecurity", "configuration": configuration}],
    }


def _write(file: Path, document: Mapping[str, Any]) -> Path:
    file.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return file
