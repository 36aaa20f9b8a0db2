"""What runs on a node: containerd, kubelet, kube-proxy and CoreDNS, and their configurations; pure, but for the files written."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.rig.binaries import Binaries
from tests.rig.certificates import KeyPair
from tests.rig.processes import Program
from tests.rig.real_node_machine import CGROUP, CNI_FOLDER, DNS_ADDRESS, NODE_ADDRESS, POD_RANGE, SEARCH_PATH, Machine

NODE: Final = "transcriber-node"
PAUSE_IMAGE: Final = "localhost/transcriber-pause:1"
RUNTIME_SOCKET: Final = "/run/containerd/containerd.sock"
CLUSTER_DOMAIN: Final = "cluster.local"
IMAGES_NAMESPACE: Final = "k8s.io"  # containerd's own name for what belongs to the kubelet
CONTAINERD_PORT, KUBELET_PORT, KUBELET_HEALTH_PORT, PROXY_HEALTH_PORT, DNS_READY_PORT = 1338, 10250, 10248, 10256, 8181


@dataclass(frozen=True)
class Place:
    """Where a node's programs run, and the folders of this run (emptied before each) and of all runs (images, layers)."""

    binaries: Binaries
    machine: Machine
    run_folder: Path
    kept_folder: Path

    def program(self, name: str, port: int, path: str, *arguments: str) -> Program:
        """Return a program that runs in the machine, ready once a port of the node answers."""
        # containerd finds its shim, and the shim runc, on PATH.
        shims = self.binaries["containerd-shim-runc-v2"].parent
        argv = self.machine.inside(str(self.binaries[name]), *arguments)
        return Program(name, argv, f"http://{NODE_ADDRESS}:{port}{path}", {"PATH": f"{shims}:{SEARCH_PATH}"})

    def write(self, name: str, document: Mapping[str, Any] | str) -> Path:
        """Write a file of this run; JSON is YAML."""
        file = self.run_folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(document if isinstance(document, str) else json.dumps(document, indent=1), encoding="utf-8")
        return file


def containerd(place: Place) -> Program:
    """Return containerd, whose images and layers stay from run to run and whose containers do not."""
    place.write("cni/10-transcriber.conflist", _network())
    configuration = place.write("containerd.toml", _containerd(place))
    return place.program("containerd", CONTAINERD_PORT, "/v1/metrics", f"--config={configuration}")


def kubelet(place: Place, kubeconfig: Path, authority: Path, serving: KeyPair) -> Program:
    """Return the kubelet; it registers the node itself."""
    document = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "port": KUBELET_PORT,
        "healthzBindAddress": NODE_ADDRESS,
        "healthzPort": KUBELET_HEALTH_PORT,
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(authority)}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{RUNTIME_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,  # a lower one needs CAP_SYS_RESOURCE
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,  # never: nothing could be pulled again
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(place.write("resolv.conf", "")),
        "volumePluginDir": str(place.run_folder / "volume-plugins"),
    }
    arguments = (
        f"--config={place.write('kubelet.json', document)}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={place.run_folder / 'kubelet'}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
    )
    return place.program("kubelet", KUBELET_HEALTH_PORT, "/healthz", *arguments)


def kube_proxy(place: Place, kubeconfig: Path) -> Program:
    """Return kube-proxy, which makes the addresses of Services answer."""
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": NODE,
        "healthzBindAddress": f"{NODE_ADDRESS}:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": "127.0.0.1:10249",
        # Limits of the whole kernel, which may not be set from a network namespace.
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return place.program("kube-proxy", PROXY_HEALTH_PORT, "/healthz", f"--config={place.write('kube-proxy.json', document)}")


def coredns(place: Place, kubeconfig: Path, context: str) -> Program:
    """Return CoreDNS, which knows the names of Services and no others."""
    corefile = f""".:53 {{
  bind {DNS_ADDRESS}
  errors
  ready {NODE_ADDRESS}:{DNS_READY_PORT}
  kubernetes {CLUSTER_DOMAIN} {{
    kubeconfig {kubeconfig} {context}
    ttl 1
  }}
}}
"""
    return place.program("coredns", DNS_READY_PORT, "/ready", f"-conf={place.write('Corefile', corefile)}")


def ctr(place: Place, *arguments: str) -> tuple[str, ...]:
    """Return the command of containerd's client, for the machine, on what belongs to the kubelet."""
    return (str(place.binaries["ctr"]), f"--address={RUNTIME_SOCKET}", f"--namespace={IMAGES_NAMESPACE}", *arguments)


def _network() -> dict[str, Any]:
    """Each pod on a cable of its own, routed by the node: so kube-proxy sees also what pods of one node say to each other."""
    addresses = {
        "type": "host-local",
        "dataDir": "/run/cni",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"cniVersion": "1.0.0", "name": "transcriber", "plugins": [{"type": "ptp", "ipMasq": False, "ipam": addresses}]}


def _containerd(place: Place) -> str:
    return f"""version = 3
root = "{place.kept_folder / "containerd"}"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri"]

[grpc]
  address = "{RUNTIME_SOCKET}"

[metrics]
  address = "{NODE_ADDRESS}:{CONTAINERD_PORT}"

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  # Without the right to lower an oom_score_adj every sandbox would die.
  restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{CNI_FOLDER}"]
  conf_dir = "{place.run_folder / "cni"}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""
