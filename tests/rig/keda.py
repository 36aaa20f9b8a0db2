"""KEDA's operator and the adapter that gives its figures to the HPA controller, for comparison; not part of the control plane.

`python -m tests.rig.binaries keda-operator keda-adapter` builds them, in some twenty minutes.
"""

import base64
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane
from tests.rig.external_metrics import reader, registration
from tests.rig.processes import LOOPBACK, Part, Program, Spawner, free_ports

NAMESPACE: Final = "keda"
START_SECONDS: Final = 60.0
PORTS: Final = ("operator", "operator-metrics", "grpc", "adapter", "adapter-metrics")


class Keda:
    """Runs both while it is entered, as a context manager; blocks, so enter it from a thread."""

    def __init__(self, plane: ControlPlane, binaries: Binaries) -> None:
        """Prepare them; `binaries` are those of `recipes.PEERS`."""
        self._plane = plane
        self._binaries = binaries
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        plane = self._plane
        plane.apply_crds(*self._binaries.assets("keda-operator"))
        plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        certificates = self._certificates()
        spawner = Spawner()
        stack.callback(spawner.close)
        for program in (self._operator(certificates), self._adapter(certificates)):
            part = Part(program, plane.folder / f"{program.name}.log", spawner, plane.tls)
            stack.callback(part.stop)
            part.start()
            part.await_ready(START_SECONDS)
        authority = base64.b64encode(plane.authority.certificate.read_bytes()).decode()
        plane.apply(*registration(self._ports["adapter"], authority), *reader())
        plane.kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.external.metrics.k8s.io", "--timeout=50s")

    def _certificates(self) -> Path:
        """Write the keys of operator and adapter, under the names that both expect; each shows them to the other."""
        folder = self._plane.folder / "keda-certificates"
        folder.mkdir()
        pair = self._plane.authority.peer("keda")
        shutil.copyfile(self._plane.authority.certificate, folder / "ca.crt")
        shutil.copyfile(pair.certificate, folder / "tls.crt")
        shutil.copyfile(pair.key, folder / "tls.key")
        return folder

    def _operator(self, certificates: Path) -> Program:
        ports = self._ports
        argv = (
            str(self._binaries["keda-operator"]),
            f"--kubeconfig={self._plane.kubeconfig}",
            f"--cert-dir={certificates}",
            f"--metrics-bind-address={LOOPBACK}:{ports['operator-metrics']}",
            f"--health-probe-bind-address={LOOPBACK}:{ports['operator']}",
            f"--metrics-service-bind-address={LOOPBACK}:{ports['grpc']}",
        )
        return Program("keda-operator", argv, f"http://{LOOPBACK}:{ports['operator']}/readyz", self._environment())

    def _adapter(self, certificates: Path) -> Program:
        ports, plane = self._ports, self._plane
        # It is asked under the name of the Service that stands before it.
        pair = plane.authority.server("keda-adapter", ("localhost", "external-metrics.kube-system.svc"))
        argv = (
            str(self._binaries["keda-adapter"]),
            f"--kubeconfig={plane.kubeconfig}",
            f"--lister-kubeconfig={plane.kubeconfig}",
            f"--authentication-kubeconfig={plane.kubeconfig}",
            f"--authorization-kubeconfig={plane.kubeconfig}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={ports['adapter']}",
            f"--port={ports['adapter-metrics']}",
            f"--cert-dir={certificates}",
            f"--tls-cert-file={pair.certificate}",
            f"--tls-private-key-file={pair.key}",
            f"--client-ca-file={plane.authority.certificate}",
            f"--metrics-service-address={LOOPBACK}:{ports['grpc']}",
        )
        return Program("keda-adapter", argv, f"https://{LOOPBACK}:{ports['adapter']}/readyz", self._environment())

    def _environment(self) -> dict[str, str]:
        return {
            "POD_NAMESPACE": NAMESPACE,
            "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
            "WATCH_NAMESPACE": "",
            "KUBECONFIG": str(self._plane.kubeconfig),
        }


def scaled_object(
    name: str, namespace: str, target: Mapping[str, str], most: int, trigger: Mapping[str, str], **spec: Any
) -> dict[str, Any]:
    """Return a ScaledObject over a figure that a URL answers (KEDA's metrics-api scaler); `trigger` is its metadata."""
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": dict(target),
            "maxReplicaCount": most,
            "triggers": [{"type": "metrics-api", "metadata": dict(trigger)}],
            **spec,
        },
    }
