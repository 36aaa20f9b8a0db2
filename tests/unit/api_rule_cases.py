"""For every cross-field rule an object that keeps it and one that breaks it, as merge patches (RFC 7386) on BASE.

Python and the API server must judge each alike, so both tests read this table.
"""

import copy
from dataclasses import dataclass
from typing import Any

COMMIT = "06f233fe06e710322aca913c1bc4249a0d71fce1"
SHA256 = "26a5b8eacec24c142c2a5295a440d1ad5539faf32ba1aeb34ee477987ef0c04d"
FILES = [{"path": "model.safetensors", "sha256": SHA256}]
HUB = {"uri": "hf://openai/whisper-base", "revision": COMMIT}
NODE_CLASS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}

BASE: dict[str, Any] = {
    "apiVersion": "serving.transcriber.dev/v1alpha1",
    "kind": "TranscriberDeployment",
    "metadata": {"name": "speech"},
    "spec": {"model": {"target": HUB}, "capacity": {"provisioner": "None", "pools": [{"name": "main"}]}},
}


@dataclass(frozen=True)
class RuleCase:
    """`accepted` and `refused` are patches of the spec; `path` is the field that the error names."""

    rule: str
    path: str
    accepted: dict[str, Any]
    refused: dict[str, Any]
    name: str = "speech"


def _target(**fields: Any) -> dict[str, Any]:
    return {"model": {"target": {"uri": None, "revision": None} | fields}}


def _file(path: str) -> dict[str, Any]:
    return _target(uri="file:///models/base", files=[{"path": path, "sha256": SHA256}])


def _from(uri: str) -> dict[str, Any]:
    return _target(uri=uri, files=FILES)


def _draft(uri: str) -> dict[str, Any]:
    return {"model": {"draft": {"uri": uri, "revision": COMMIT}}}


def _pools(*pools: dict[str, Any], **capacity: Any) -> dict[str, Any]:
    return {"capacity": {"pools": [{"name": f"pool-{index}"} | pool for index, pool in enumerate(pools)], **capacity}}


def _schedule(replicas: int) -> dict[str, Any]:
    return {"name": "office", "cron": "0 8 * * mon-fri", "durationSeconds": 3600, "minReplicas": replicas}


KARPENTER: dict[str, Any] = {"provisioner": "Karpenter", "nodeClassRef": NODE_CLASS}
SPOT, ON_DEMAND = {"capacityType": "Spot"}, {"capacityType": "OnDemand"}
TARGET, POOL = "spec.model.target", "spec.capacity.pools[0]"
GOOD_URIS = (
    "s3://weights/whisper/base",
    "s3://weights",
    "https://models.example.com:8443/whisper/base/",
    "file:///models/base",
    "pvc://models/base",
    "pvc://models",
)
BAD_URIS = (
    "oci://registry.example.com/whisper",
    "http://models.example.com/base",
    "HTTPS://models.example.com/base",
    "models/base",
    "file://models/base",
    "https://user:password@models.example.com/base",
    "https://models.example.com/base?token=abc",
    "pvc://-models/base",
    "s3://weights/a b",
    "hf://whisper-base",
    "pvc://models/base\n",
)
BAD_PATHS = (
    "/etc/passwd",
    "../model.safetensors",
    "a/../model.safetensors",
    "a//b",
    "a/",
    "./a",
    ".hidden",
    "a b",
    "C:\\model",
    "modèle.safetensors",
    "a\n",
)
PICKLES = ("pytorch_model.bin", "model.pt", "model.PTH", "sub/last.ckpt", "a.pkl", "a.pickle", "not-model.bin", "model.binx.bin")

CASES = (
    *(RuleCase("uri-known", f"{TARGET}.uri", _from(uri), _from(BAD_URIS[0])) for uri in GOOD_URIS),
    *(RuleCase("uri-known", f"{TARGET}.uri", _from(GOOD_URIS[0]), _from(uri)) for uri in BAD_URIS),
    RuleCase("uri-without-dots", f"{TARGET}.uri", _from("file:///models/base.v1"), _from("file:///models/../secrets")),
    RuleCase("revision-given", f"{TARGET}.revision", {}, _target(uri=HUB["uri"])),
    *(
        RuleCase("revision-fixed", f"{TARGET}.revision", _target(**HUB), _target(uri=HUB["uri"], revision=moving))
        for moving in ("main", "v3", "refs/pr/1", COMMIT[:39], COMMIT + "0", COMMIT.upper(), COMMIT + "\n")
    ),
    RuleCase(
        "revision-only-of-hub",
        f"{TARGET}.revision",
        _from("pvc://models/a"),
        _target(uri="pvc://models/a", revision=COMMIT, files=FILES),
    ),
    RuleCase("files-pinned", f"{TARGET}.files", _from("s3://weights/base"), _target(uri="s3://weights/base")),
    RuleCase(
        "credentials-used",
        f"{TARGET}.credentialsSecret",
        {"model": {"target": {"credentialsSecret": "hub-token"}}},
        _target(uri="pvc://models/a", files=FILES, credentialsSecret="hub-token"),
    ),
    *(
        RuleCase("file-path-safe", f"{TARGET}.files[0].path", _file("onnx/model_1-a.safetensors"), _file(path))
        for path in BAD_PATHS
    ),
    *(RuleCase("file-not-pickle", f"{TARGET}.files[0].path", _file("sub/model.bin"), _file(path)) for path in PICKLES),
    RuleCase("draft-other-than-target", "spec.model.draft", _draft("hf://distil-whisper/small"), _draft(HUB["uri"])),
    RuleCase(
        "cpu-precision",
        "spec.model.precision",
        {"runtime": {"device": "CPU"}, "model": {"precision": "Float32"}},
        {"runtime": {"device": "CPU"}, "model": {"precision": "BFloat16"}},
    ),
    RuleCase("cpu-precision", "spec.model.precision", {"model": {"precision": "Float32"}}, {"runtime": {"device": "CPU"}}),
    RuleCase(
        "int8-on-cpu",
        "spec.model.precision",
        {"runtime": {"device": "CPU"}, "model": {"precision": "Int8"}},
        {"model": {"precision": "Int8"}},
    ),
    RuleCase(
        "cpu-without-gpus",
        "spec.capacity.pools",
        _pools({"gpus": ["l4"]}, **KARPENTER),
        {"runtime": {"device": "CPU"}, "model": {"precision": "Float32"}} | _pools({"gpus": ["l4"]}, **KARPENTER),
    ),
    RuleCase(
        "draft-model-given",
        "spec.decoding.draftSource",
        {"decoding": {"draftSource": "Model"}} | _draft("hf://distil-whisper/small"),
        {"decoding": {"draftSource": "Model"}},
    ),
    RuleCase(
        "longest-audio-fits-queue",
        "spec.runtime.maxAudioSeconds",
        {"runtime": {"maxAudioSeconds": 600, "maxQueuedAudioSeconds": 600}},
        {"runtime": {"maxQueuedAudioSeconds": 600}},
    ),
    RuleCase(
        "one-volume",
        "spec.repository.volume.claimName",
        {"repository": {"volume": {"claimName": "models"}}},
        {"repository": {"volume": {"claimName": "models", "ephemeral": {}}}},
    ),
    RuleCase(
        "one-volume",
        "spec.repository.volume.claimName",
        {"repository": {"volume": {"ephemeral": {"sizeLimit": "5Gi"}}}},
        {"repository": {"volume": {}}},
    ),
    RuleCase(
        "replicas-ordered",
        "spec.scaling.minReplicas",
        {"scaling": {"minReplicas": 3, "maxReplicas": 3}},
        {"scaling": {"minReplicas": 4, "maxReplicas": 3}},
    ),
    RuleCase(
        "replicas-not-builtin",
        "spec.scaling.replicas",
        {"scaling": {"mode": "External", "replicas": 2}},
        {"scaling": {"replicas": 2}},
    ),
    RuleCase(
        "schedules-builtin",
        "spec.scaling.schedules",
        {"scaling": {"schedules": [_schedule(2)]}},
        {"scaling": {"mode": "Keda", "schedules": [_schedule(2)]}},
    ),
    RuleCase(
        "schedules-fit",
        "spec.scaling.schedules",
        {"scaling": {"maxReplicas": 3, "schedules": [_schedule(3)]}},
        {"scaling": {"maxReplicas": 3, "schedules": [_schedule(4)]}},
    ),
    RuleCase(
        "pool-floor-fits",
        f"{POOL}.minReplicas",
        _pools({"minReplicas": 2, "maxNodes": 2}),
        _pools({"minReplicas": 3, "maxNodes": 2}),
    ),
    RuleCase(
        "toleration-key",
        f"{POOL}.tolerations[0].key",
        _pools({"tolerations": [{"operator": "Exists"}]}),
        _pools({"tolerations": [{"value": "speech"}]}),
    ),
    RuleCase(
        "toleration-value",
        f"{POOL}.tolerations[0].value",
        _pools({"tolerations": [{"key": "dedicated", "value": "speech"}]}),
        _pools({"tolerations": [{"key": "dedicated", "operator": "Exists", "value": "speech"}]}),
    ),
    RuleCase(
        "node-class-given",
        "spec.capacity.nodeClassRef",
        {"capacity": KARPENTER},
        {"capacity": {"provisioner": "Karpenter"}},
    ),
    RuleCase("node-class-used", "spec.capacity.nodeClassRef", {}, {"capacity": {"nodeClassRef": NODE_CLASS}}),
    RuleCase(
        "gpus-used",
        "spec.capacity.pools",
        _pools({"gpus": ["l4"]}, **KARPENTER),
        _pools({"gpus": ["l4"]}),
    ),
    RuleCase("fallback-between-types", "spec.capacity.fallback", _pools(SPOT, ON_DEMAND, fallback={}), _pools(SPOT, fallback={})),
    RuleCase("fallback-between-types", "spec.capacity.fallback", _pools(SPOT), _pools(ON_DEMAND, fallback={})),
    RuleCase(
        "pool-floors-fit",
        "spec.scaling.maxReplicas",
        {"scaling": {"maxReplicas": 3}} | _pools({"minReplicas": 1}, {"minReplicas": 2}),
        {"scaling": {"maxReplicas": 2}} | _pools({"minReplicas": 1}, {"minReplicas": 2}),
    ),
    RuleCase("budget-given", "spec.budget.perHour", {"budget": {"perMonth": "6000"}}, {"budget": {}}),
    RuleCase("child-names-fit", "spec.capacity.pools", _pools({"name": "p" * 10}), _pools({"name": "p" * 11}), name="n" * 52),
)


def patched(spec_patch: dict[str, Any], name: str = "speech") -> dict[str, Any]:
    """Return BASE under another name and with its spec patched."""
    document = copy.deepcopy(BASE)
    document["metadata"]["name"] = name
    document["spec"] = merged(document["spec"], spec_patch)
    return document


def merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
