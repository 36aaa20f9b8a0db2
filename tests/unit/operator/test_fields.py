"""No field of the spec is taken in silence: each reaches a child or the status, or is named here with the reason why not yet."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from tests.unit.operator.cluster_model import Cluster, end_state, settle
from tests.unit.operator.specs import DRAFT, SHA256, TARGET, Manifest, claim_spec
from transcriber_api.rules import ApiModel
from transcriber_api.status import ScalingCause, StageName
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.decide.autoscale import Cause
from transcriber_operator.decide.coldstart import Stage
from transcriber_operator.decide.pipeline import decide

OTHER_SHA256 = SHA256[::-1]
FILES = [{"path": "model.safetensors", "sha256": SHA256}]
BUCKET = {"uri": "s3://models/target", "files": FILES}
EPHEMERAL = {"volume": {"ephemeral": {"sizeLimit": "20Gi"}}}
KARPENTER = {
    "provisioner": "Karpenter",
    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
    "pools": [{"name": "main", "minReplicas": 1}, {"name": "more"}],
}
TAINT = {"key": "dedicated", "operator": "Equal", "value": "speech", "effect": "NoSchedule"}
TOLERANT = {"provisioner": "None", "pools": [{"name": "main", "tolerations": [TAINT]}]}
EXTERNAL = {"mode": "External", "replicas": 6, "maxReplicas": 8}
TWO_POOLS = {"provisioner": "None", "pools": [{"name": "a", "maxNodes": 4}, {"name": "b", "maxNodes": 4}]}
OFFICE = {"name": "office", "cron": "0 8 * * *", "timezone": "UTC", "durationSeconds": 36_000, "minReplicas": 2}  # it is noon there
SCHEDULED = {"scaling": {"schedules": [OFFICE]}}
BUDGET = {"perHour": "20", "perMonth": "6000"}
LIMITED = {"limits": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "1Gi"}, "requests": {"cpu": "1"}}

# Field -> another value, and what the spec around it must be for it to count.
CHANGES: dict[str, tuple[Any, Manifest]] = {
    "model.target.uri": ("hf://openai/whisper-large-v2", {}),
    "model.target.revision": ("0" * 40, {}),
    "model.target.files[0].path": ("other.safetensors", {"model": {"target": BUCKET}}),
    "model.target.files[0].sha256": (OTHER_SHA256, {"model": {"target": BUCKET}}),
    "model.target.credentialsSecret": ("hub-token", {}),
    "model.draft.uri": ("hf://distil-whisper/distil-medium", {}),
    "model.draft.revision": ("0" * 40, {}),
    "model.draft.files[0].path": ("other.safetensors", {"model": {"target": TARGET, "draft": BUCKET}}),
    "model.draft.files[0].sha256": (OTHER_SHA256, {"model": {"target": TARGET, "draft": BUCKET}}),
    "model.draft.credentialsSecret": ("hub-token", {}),
    "model.precision": ("BFloat16", {}),
    "decoding.language": ("de", {}),
    "decoding.task": ("Translate", {}),
    "decoding.timestamps": ("None", {}),
    "decoding.draftSource": ("None", {}),
    "decoding.maxDraftTokens": (3, {}),
    "decoding.chunkSeconds": (20, {}),
    "decoding.voiceActivityDetection": ("None", {}),
    "decoding.temperatureFallback": (True, {}),
    "decoding.hallucinationGuards": (True, {}),
    "runtime.image": ("images.example.com/other:2", {}),
    "runtime.serviceAccountName": ("whisper", {}),
    "runtime.priorityClassName": ("interactive", {}),
    "runtime.device": ("CPU", {"model": {"target": TARGET, "precision": "Float32"}}),
    "runtime.gpuResourceName": ("nvidia.com/mig-1g.10gb", {}),
    "runtime.slots": (7, {}),
    "runtime.maxQueuedAudioSeconds": (20_000, {}),
    "runtime.maxAudioSeconds": (600, {}),
    "runtime.maxAudioBytes": (1000, {}),
    "runtime.sharedMemorySize": ("2Gi", {}),
    "runtime.startupTimeoutSeconds": (600, {}),
    "runtime.terminationGracePeriodSeconds": (60, {}),
    **{f"runtime.resources.{path}": (value, {"runtime": {"resources": LIMITED}}) for path, value in {
        "requests.cpu": "0.5", "requests.memory": "1Gi", "requests.ephemeral-storage": "1G",
        "limits.cpu": "3", "limits.memory": "5Gi", "limits.ephemeral-storage": "2Gi",
    }.items()},
    "repository.volume.claimName": ("other", {}),
    "repository.volume.ephemeral.sizeLimit": ("30Gi", {"repository": EPHEMERAL}),
    **{f"repository.build.resources.{path}": (value, {}) for path, value in {
        "requests.cpu": "0.5", "requests.memory": "1Gi", "requests.ephemeral-storage": "1G",
        "limits.cpu": "3", "limits.memory": "5Gi", "limits.ephemeral-storage": "2Gi",
    }.items()},
    "repository.build.timeoutSeconds": (100, {}),
    "repository.build.backoffLimit": (1, {}),
    "scaling.mode": ("External", {}),
    "scaling.replicas": (4, {"scaling": EXTERNAL}),
    "scaling.minReplicas": (2, {}),
    "scaling.maxReplicas": (5, {"scaling": EXTERNAL}),
    "capacity.provisioner": ("None", {"capacity": KARPENTER}),
    "capacity.nodeClassRef.group": (
        "eks.amazonaws.com",
        {"capacity": {**KARPENTER, "pools": [{"name": "main", "gpus": ["l4"]}]}},
    ),
    "capacity.nodeClassRef.kind": ("NodeClass", {"capacity": KARPENTER}),
    "capacity.nodeClassRef.name": ("other", {"capacity": KARPENTER}),
    "capacity.pools[0].name": ("other", {}),
    "capacity.pools[0].capacityType": ("Spot", {"capacity": KARPENTER}),
    "capacity.pools[0].gpus": (["l4"], {"capacity": KARPENTER}),
    "capacity.pools[0].zones": (["us-east-1a"], {}),
    "capacity.pools[0].weight": (1, {"capacity": TWO_POOLS, "scaling": EXTERNAL}),
    "capacity.pools[0].minReplicas": (2, {}),
    "capacity.pools[0].maxNodes": (2, {"capacity": TWO_POOLS, "scaling": EXTERNAL}),
    "capacity.pools[0].nodeSelector": ({"disk": "fast"}, {}),
    "capacity.pools[0].tolerations[0].key": ("other", {"capacity": TOLERANT}),
    "capacity.pools[0].tolerations[0].operator": ("Exists", {"capacity": {"provisioner": "None", "pools": [
        {"name": "main", "tolerations": [{"key": "dedicated", "operator": "Equal"}]}]}}),
    "capacity.pools[0].tolerations[0].value": ("music", {"capacity": TOLERANT}),
    "capacity.pools[0].tolerations[0].effect": ("NoExecute", {"capacity": TOLERANT}),
    "capacity.pools[0].pricePerHour": ("0.25", {"capacity": KARPENTER}),
    "scaling.schedules[0].cron": ("0 18 * * *", SCHEDULED),
    "scaling.schedules[0].timezone": ("Pacific/Auckland", SCHEDULED),
    "scaling.schedules[0].durationSeconds": (3600, SCHEDULED),
    "scaling.schedules[0].minReplicas": (3, SCHEDULED),
    "budget.perHour": ("1", {"budget": BUDGET}),
    "budget.perMonth": ("60", {"budget": BUDGET}),
    "suspend": (True, {}),
}  # fmt: skip

# Fields that show in other tests.
FIGURES = "shows in decisions over figures of the queue, which a resource at rest does not have: tests of deciding and simulation"
EXCEPTIONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "scaling.targetWaitSeconds",
            "scaling.targetWaitPercentile",
            "scaling.targetUtilizationPercent",
            "scaling.headroomReplicas",
            "scaling.idleTimeoutSeconds",
            "scaling.metricsStaleAfterSeconds",
            "capacity.fallback.afterSeconds",
            "capacity.fallback.returnAfterSeconds",
        ),
        FIGURES,
    ),
    "scaling.schedules[0].name": "the key by which the list is merged; messages about a schedule call it so",
    "scaling.holdTimeoutSeconds": "read by the gateway",
    "aliases": "read by the gateway",
    "repository.revisionHistoryLimit": "shows in what a second build leaves: test_as_many_revisions_stay_as_the_history_limit_says",
}


def test_the_causes_and_stages_of_the_status_are_those_of_the_decisions():
    assert set(get_args(ScalingCause)) == {cause.value for cause in Cause}
    assert set(get_args(StageName)) == {stage.value for stage in Stage}


def leaves(model: type[ApiModel], path: str = "") -> Iterator[str]:
    """Every field below `model` that holds no further object; of a list of objects, those of its first entry."""
    for field in model.model_fields.values():
        here = f"{path}.{field.alias}".lstrip(".")
        inner = next(_models_in(field.annotation), None)
        if inner is None:
            yield here
        else:
            yield from leaves(inner, f"{here}[0]" if "tuple" in str(field.annotation) else here)


def _models_in(annotation: Any) -> Iterator[type[ApiModel]]:
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def outcome(spec: Manifest) -> str:
    """Children and status once all has come to rest."""
    cluster = Cluster(spec)
    settle(cluster, decide)
    return json.dumps(end_state(cluster), sort_keys=True)


def with_value(spec: Manifest, path: str, value: Any) -> Manifest:
    changed = copy.deepcopy(spec)
    place: Any = changed
    *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
    for part in parents:
        place = place[part] if isinstance(part, int) else place.setdefault(part, {})
    place[last] = value
    return changed


def test_every_field_of_the_spec_is_walked_or_named():
    known = set(leaves(Spec))
    assert len(known) > 70
    assert set(CHANGES) | set(EXCEPTIONS) == known
    assert set(CHANGES) & set(EXCEPTIONS) == set()


@pytest.mark.parametrize("path", CHANGES)
def test_a_field_reaches_a_child_or_the_status(path: str):
    value, around = CHANGES[path]
    spec = claim_spec(**{"model": {"target": TARGET, "draft": DRAFT}, **around})
    before, after = spec, with_value(spec, path, value)
    if path == "capacity.provisioner":
        del after["capacity"]["nodeClassRef"]  # only Karpenter has one
    Spec.model_validate(before)
    Spec.model_validate(after)
    assert outcome(before) != outcome(after)
