"""What rendering depends on: the spec, whose it is, and how the operator was installed."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from transcriber_api.v1alpha1 import API_VERSION, KIND, Spec

Manifest = dict[str, Any]
KEY_CHARACTERS: Final = 10
# Fields of the spec's parts that decide what a build writes; all else may change without a new repository.
BUILD_RUNTIME_FIELDS: Final = ("device", "slots", "maxQueuedAudioSeconds", "maxAudioSeconds", "maxAudioBytes")


@dataclass(frozen=True)
class Context:
    """One resource to render: its identity, its spec and the installation's part in it."""

    name: str
    namespace: str
    uid: str
    spec: Spec
    default_image: str  # the serving image of resources that name none
    operator_namespace: str
    https_hosts: tuple[str, ...] = ()  # that an https:// source may name
    scaling_url: str | None = None  # of the operator, where KEDA asks for replicas; None: it cannot be reached
    metrics_namespaces: tuple[str, ...] = ()  # that may read the metrics of serving pods, beside the operator's own

    @property
    def image(self) -> str:
        """The serving image in effect."""
        return self.spec.runtime.image or self.default_image

    @property
    def claim(self) -> str | None:
        """The claim that keeps repositories; None: every pod builds its own."""
        return self.spec.repository.volume.claim_name

    @cached_property
    def build_document(self) -> str:
        """The build document as canonical JSON."""
        return canonical(build_document(self.spec))

    @cached_property
    def key(self) -> str:
        """Name of the revision: what a build of this spec by this image writes, as 10 hex digits."""
        return sha256_of([self.build_document, self.image])[:KEY_CHARACTERS]


def build_document(spec: Spec) -> Manifest:
    """Return the reduced TranscriberDeployment that a build reads: only what changes a repository, or how its files are fetched."""
    given = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "build"},
        "spec": {
            "model": given["model"],
            "decoding": given["decoding"],
            "runtime": {field: given["runtime"][field] for field in BUILD_RUNTIME_FIELDS},
            # A valid document has a pool; the serving pods' own pools change no repository.
            "capacity": {"provisioner": "None", "pools": [{"name": "build"}]},
        },
    }


def canonical(value: Any) -> str:
    """Return `value` as JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_of(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value` in hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
