"""What a TranscriberDeployment asks of its cluster, read from the object itself: it may be of another version than ours."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from transcriber_operator.decide.observed import Manifest

DEFAULT_ACCOUNT: Final = "default"
DEFAULT_GPU_RESOURCE: Final = "nvidia.com/gpu"
CLAIM_URI: Final = re.compile(r"^pvc://([^/]+)")
Name = tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class NodeClass:
    """A node class that a resource names."""

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        """Return it as messages name it."""
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Asked:
    """One resource's demands."""

    manifest: Manifest

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.manifest["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.manifest["metadata"]["name"])

    def __str__(self) -> str:
        """Return NAMESPACE/NAME."""
        return f"{self.namespace}/{self.name}"

    @property
    def gpu_resource(self) -> str | None:
        """The extended resource that its GPUs are asked for by; None on CPU."""
        runtime = self._part("runtime")
        return None if runtime.get("device") == "CPU" else str(runtime.get("gpuResourceName") or DEFAULT_GPU_RESOURCE)

    @property
    def is_karpenter(self) -> bool:
        """Whether Karpenter is to bring its nodes."""
        return bool(self._part("capacity").get("provisioner", "Karpenter") == "Karpenter")

    @property
    def node_class(self) -> NodeClass | None:
        """The node class of its NodePools."""
        reference = self._part("capacity").get("nodeClassRef")
        return NodeClass(reference["group"], reference["kind"], reference["name"]) if reference else None

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of its pools."""
        return tuple(pool["name"] for pool in self._pools)

    @property
    def has_spot(self) -> bool:
        """Whether any of its nodes can be taken back."""
        return any(pool.get("capacityType") == "Spot" for pool in self._pools)

    @property
    def scaling_mode(self) -> str:
        """Who decides its replicas."""
        return str(self._part("scaling").get("mode") or "Builtin")

    @property
    def max_replicas(self) -> int:
        """Most replicas over all pools."""
        return int(self._part("scaling").get("maxReplicas") or 20)

    @property
    def account(self) -> Name:
        """The ServiceAccount of its pods."""
        return self.namespace, str(self._part("runtime").get("serviceAccountName") or DEFAULT_ACCOUNT)

    @property
    def repository_claim(self) -> Name | None:
        """The claim that keeps its repositories."""
        name = ((self._part("repository").get("volume")) or {}).get("claimName")
        return (self.namespace, name) if name else None

    @property
    def source_claims(self) -> frozenset[Name]:
        """The claims that hold weights."""
        found = (CLAIM_URI.match(source["uri"]) for source in self._sources)
        return frozenset((self.namespace, match[1]) for match in found if match)

    @property
    def secrets(self) -> frozenset[Name]:
        """The Secrets that its sources name."""
        return frozenset(
            (self.namespace, source["credentialsSecret"]) for source in self._sources if source.get("credentialsSecret")
        )

    @property
    def needs_cloud_role(self) -> bool:
        """Whether a bucket is read with no keys of its own: the pods' ServiceAccount has to have a role."""
        return any(source["uri"].startswith("s3://") and not source.get("credentialsSecret") for source in self._sources)

    @cached_property
    def _sources(self) -> tuple[Manifest, ...]:
        model = self._part("model")
        return tuple(source for which in ("target", "draft") if (source := model.get(which)))

    @property
    def _pools(self) -> tuple[Manifest, ...]:
        return tuple(self._part("capacity").get("pools") or ())

    def _part(self, name: str) -> dict[str, Any]:
        return (self.manifest.get("spec") or {}).get(name) or {}


def named_by(asked: Iterable[Asked]) -> str:
    """Return the resources that ask for something, for a sentence."""
    names = sorted(map(str, asked))
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def node_classes(asked: Iterable[Asked]) -> Iterator[NodeClass]:
    """Return the node classes that resources name, each once."""
    found = {each.node_class for each in asked if each.is_karpenter and each.node_class}
    yield from sorted(found, key=lambda entry: (entry.group, entry.kind, entry.name))
