"""A hook of the chart, run here as its pod would run it: its account, its rights, its arguments."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tests.chart.rendering import Manifest, one, pod_specs, rendered
from tests.rig.control_plane import ControlPlane

ACCOUNT_KINDS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@dataclass(frozen=True)
class Hook:
    """The objects of a hook."""

    namespace: str
    objects: Sequence[Manifest]

    @property
    def account(self) -> str:
        """Name of its ServiceAccount."""
        return str(one(self.objects, "ServiceAccount")["metadata"]["name"])

    @property
    def command(self) -> list[str]:
        """What its container runs, by this Python."""
        [spec] = pod_specs(self.objects).values()
        [container] = spec["containers"]
        python, *arguments = [*container["command"], *container["args"]]
        assert python == "python3"
        return [sys.executable, *arguments]

    @property
    def workload(self) -> Manifest:
        """Its Job or Pod."""
        [found] = [each for each in self.objects if each["kind"] in {"Job", "Pod"}]
        return found

    def grant(self, plane: ControlPlane) -> None:
        """Make its account and rights, as helm does before it runs."""
        plane.apply(*(each for each in self.objects if each["kind"] in ACCOUNT_KINDS))


def hook(template: str, namespace: str, values: Mapping[str, Any]) -> Hook:
    """Render a hook for a release in a namespace."""
    return Hook(namespace, rendered(values, namespace=namespace, only=f"{template}.yaml"))


def admit(plane: ControlPlane, found: Hook) -> None:
    """Have the API server admit the hook's pod at Pod Security's level restricted, without making it; raises KubectlError."""
    [spec] = pod_specs(found.objects).values()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "as-rendered", "namespace": found.namespace},
        "spec": spec,
    }
    plane.kubectl("label", "namespace", found.namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
    plane.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", document=yaml.safe_dump(pod))
