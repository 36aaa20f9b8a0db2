"""The chart as a release: installed, upgraded, removed; and the resource that it serves."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from examples.models.assemble import assemble

from tests.e2e.site import Manifest, Site, condition, until
from tests.rig.bridge_objects import claim_on
from tests.rig.cluster import ROOT
from tests.rig.node_images import PREVIOUS_VERSION, VERSION

CHART: Final = ROOT / "charts" / "transcriber-operator"
EXAMPLE: Final = ROOT / "examples" / "cluster" / "whisper-base.yaml"
RELEASE: Final = "transcriber-operator"
SYSTEM: Final = "transcriber-system"
NAMESPACE: Final = "speech"
NAME: Final = "whisper-base"
KIND: Final = "transcriberdeployments.serving.transcriber.dev"
OPERATOR: Final = "app.kubernetes.io/name=transcriber-operator,app.kubernetes.io/component=operator"
SERVED: Final = f"serving.transcriber.dev/deployment={NAME}"
SERVING: Final = f"{SERVED},app.kubernetes.io/component=serving"
OURS: Final = "td,deployments,jobs,pods,services,configmaps,poddisruptionbudgets,networkpolicies,replicasets"
READY_SECONDS: Final = 900.0  # of a build and a start, on a machine that is busy with other things too
INSTALL_SECONDS: Final = 300
# In which the release before differs from the one that follows.
PREVIOUS_SETTINGS: Final = ("config.resyncSeconds=300", "config.logLevel=Debug", "resources.requests.cpu=50m")


@dataclass(frozen=True)
class Replica:
    """A serving pod, told apart from its successor; `restarts` counts those of all its containers."""

    name: str
    uid: str
    restarts: int


class Release:
    """The chart in a cluster, and the namespace of what it serves."""

    def __init__(self, site: Site, folder: Path) -> None:
        """Prepare it; `folder` gets packaged charts."""
        self.site = site
        self._folder = folder

    @property
    def serving_image(self) -> str:
        """The image of serving pods."""
        return f"{self.site.image_prefix}transcriber-serving:{VERSION}"

    def prepare(self) -> None:
        """Make both namespaces, which let in nothing that is not `restricted`, and the claims that the example names."""
        models, repositories = self.site.here / "models", self.site.here / "repositories"
        assemble(models / "whisper-base")
        shutil.copytree(ROOT / "examples" / "models" / "whisper-base-draft", models / "whisper-base-draft", dirs_exist_ok=True)
        repositories.mkdir(exist_ok=True)
        repositories.chmod(0o777)  # pods write to it as uid 1000, and a hostPath is nobody's to give away
        for namespace in (SYSTEM, NAMESPACE):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            self.site.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
        for claim, folder in (("models", "models"), ("transcriber-repositories", "repositories")):
            volume, document = claim_on(NAMESPACE, claim, Path(self.site.there) / folder)
            self.site.apply(volume, document)
            bound = "--for=jsonpath={.status.phase}=Bound"
            self.site.kubectl("wait", bound, f"pvc/{claim}", f"--namespace={NAMESPACE}", "--timeout=60s")

    def install(self, version: str = VERSION, *settings: str, timeout_seconds: int = INSTALL_SECONDS) -> None:
        """Install the chart, or upgrade to it, and wait until its operator is ready; raises SiteError."""
        registry = self.site.image_prefix.rstrip("/")
        values = {"image": {"registry": registry}, "serving": {"image": {"registry": registry, "tag": VERSION}}}
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(values), encoding="utf-8")
        where = (f"--namespace={SYSTEM}", f"--values={file}", "--wait", f"--timeout={timeout_seconds}s")
        chosen = [f"--set={setting}" for setting in settings]
        self.site.helm("upgrade", "--install", RELEASE, str(self._packaged(version)), *where, *chosen)

    def uninstall(self, *flags: str) -> str:
        """Remove the release and return what Helm says; raises SiteError."""
        return self.site.helm("uninstall", RELEASE, f"--namespace={SYSTEM}", "--wait", f"--timeout={INSTALL_SECONDS}s", *flags)

    def operator(self) -> Manifest:
        """Return the operator's pod; raises AssertionError unless there is one."""
        pods = [pod for pod in self.site.list("pods", SYSTEM, OPERATOR) if not pod["metadata"].get("deletionTimestamp")]
        assert len(pods) == 1, f"operators: {[pod['metadata']['name'] for pod in pods]}"
        return pods[0]

    def holder(self) -> str:
        """Return who holds the operator's Lease; empty: nobody."""
        leases = self.site.list("leases", SYSTEM)
        return next((each["spec"].get("holderIdentity") or "" for each in leases if each["metadata"]["name"] == RELEASE), "")

    def apply(self) -> None:
        """Apply the example of the repository, as it is."""
        self.site.kubectl("apply", f"--namespace={NAMESPACE}", f"--filename={EXAMPLE}")

    def patch(self, spec: dict[str, Any]) -> None:
        """Change the resource."""
        body = json.dumps({"spec": spec})
        self.site.kubectl("patch", KIND, NAME, f"--namespace={NAMESPACE}", "--type=merge", f"--patch={body}")

    def resource(self) -> Manifest:
        """Return the resource."""
        return self.site.get(KIND, NAME, NAMESPACE)

    def settled(self, replicas: int = 1) -> Manifest:
        """Wait until the resource is served as its spec says, by so many pods and no others, and return it."""
        return until(f"{NAME} ready with {replicas} replicas", lambda: self._settled(replicas), READY_SECONDS)

    def replicas(self) -> list[Replica]:
        """Return the serving pods that are ready."""
        return [_replica(pod) for pod in self._serving() if condition(pod, "Ready").get("status") == "True"]

    def _settled(self, replicas: int) -> Manifest | None:
        resource = self.resource()
        is_seen = resource.get("status", {}).get("observedGeneration") == resource["metadata"]["generation"]
        is_ready = condition(resource, "Ready").get("status") == "True" and not condition(resource, "Reconciling")
        return resource if is_seen and is_ready and len(self.replicas()) == len(self._serving()) == replicas else None

    def _serving(self) -> Sequence[Manifest]:
        return self.site.list("pods", NAMESPACE, SERVING)

    def _packaged(self, version: str) -> Path:
        """Return the chart as it is here, under a version."""
        flags = (f"--version={version}", f"--app-version={version}", f"--destination={self._folder}")
        self.site.helm("package", str(CHART), *flags)
        return self._folder / f"{CHART.name}-{version}.tgz"


def install_previous(release: Release) -> None:
    """Install the version before this one, with other settings of the operator."""
    release.install(PREVIOUS_VERSION, *PREVIOUS_SETTINGS)


def _replica(pod: Manifest) -> Replica:
    statuses = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
    return Replica(pod["metadata"]["name"], pod["metadata"]["uid"], sum(each["restartCount"] for each in statuses))
