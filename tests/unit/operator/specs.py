"""Specs that the tests of rendering and deciding start from."""

from typing import Any

from transcriber_api.v1alpha1 import Spec
from transcriber_operator.render.context import Context

Manifest = dict[str, Any]
SHA256 = "26a5b8eacec24c142c2a5295a440d1ad5539faf32ba1aeb34ee477987ef0c04d"
DIGEST = f"sha256-{SHA256}"
TARGET = {"uri": "hf://openai/whisper-large-v3", "revision": "06f233fe06e710322aca913c1bc4249a0d71fce1"}
DRAFT = {"uri": "hf://distil-whisper/distil-large-v3", "revision": "8031d2e6ce6631b7fc45629dddfc00271116d981"}
POOLS = [{"name": "main", "minReplicas": 1, "nodeSelector": {"gpu": "l4"}}]


def claim_spec(**parts: Any) -> Manifest:
    """A spec whose repository is built by a Job into a claim."""
    return {
        "model": {"target": TARGET, "draft": DRAFT},
        "repository": {"volume": {"claimName": "repositories"}},
        "capacity": {"provisioner": "None", "pools": POOLS},
        **parts,
    }


def ephemeral_spec(**parts: Any) -> Manifest:
    """A spec whose pods build their own repository."""
    return claim_spec(repository={"volume": {"ephemeral": {"sizeLimit": "20Gi"}}}, **parts)


def context(spec: Manifest, **parts: Any) -> Context:
    given: dict[str, Any] = {
        "name": "whisper",
        "namespace": "speech",
        "uid": "5b1f",
        "default_image": "images.example.com/serving:1",
        "operator_namespace": "operator-system",
    }
    return Context(spec=Spec.model_validate(spec), **given | parts)
