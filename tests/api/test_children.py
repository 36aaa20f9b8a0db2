"""What is rendered, judged by a real API server: accepted, admitted by pod security, and as it comes back, counted as applied."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.control_plane import ControlPlane
from tests.unit.operator.specs import DIGEST, SHA256, Manifest, context, ephemeral_spec
from transcriber_operator.decide.applied import is_applied
from transcriber_operator.decide.live import replicas_owners
from transcriber_operator.decide.repository import RESULTS
from transcriber_operator.render import names
from transcriber_operator.render.children import children
from transcriber_operator.render.context import Context
from transcriber_operator.render.serving import deployment, scaled

BUCKET = {"uri": "s3://models/x", "files": [{"path": "model.safetensors", "sha256": SHA256}], "credentialsSecret": "bucket"}
TAINT = {"key": "dedicated", "operator": "Equal", "value": "speech", "effect": "NoExecute"}
LIMITED = {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"memory": "2048Mi", "ephemeral-storage": "1.5G"}}
OWN_BUILD = ephemeral_spec(
    model={"target": BUCKET},
    runtime={"resources": LIMITED, "serviceAccountName": "default", "sharedMemorySize": "1024Mi"},
    capacity={"provisioner": "None", "pools": [{"name": "main", "zones": ["b", "a"], "tolerations": [TAINT]}]},
)


@pytest.fixture
def restricted(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace that admits nothing but pods of the level restricted."""
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return namespace


@pytest.fixture(params=["eks-large-v3", "whisper-base", "own build"])
def of(request: pytest.FixtureRequest, control_plane: ControlPlane, restricted: str, root_dir: Path) -> Context:
    """A stored resource; without one of its UID its children would be collected as garbage."""
    control_plane.apply_crds(*control_plane.binaries.assets("karpenter"))
    example = root_dir / "examples" / f"{request.param}.yaml"
    spec = OWN_BUILD if request.param == "own build" else yaml.safe_load(example.read_text(encoding="utf-8"))["spec"]
    base = context(spec, name="whisper", namespace=restricted)
    resource = {"apiVersion": "serving.transcriber.dev/v1alpha1", "kind": "TranscriberDeployment"}
    metadata = {"name": base.name, "namespace": restricted}
    document = json.dumps({**resource, "metadata": metadata, "spec": spec})
    stored = json.loads(control_plane.kubectl("create", "--filename=-", "--output=json", document=document))
    return replace(base, uid=stored["metadata"]["uid"])


def apply(plane: ControlPlane, manager: str, *manifests: Manifest) -> list[Manifest]:
    """Apply server-side as the operator does, with unknown fields refused; return what is stored then."""
    options = ("--server-side", "--force-conflicts", f"--field-manager={manager}", "--validate=strict", "--show-managed-fields")
    document = "\n".join(map(json.dumps, manifests))  # not YAML: PyYAML writes a hash such as 12345e6789 as kubectl reads a number
    answer: Manifest = json.loads(plane.kubectl("apply", *options, "--filename=-", "--output=json", document=document))
    items: list[Manifest] = answer["items"] if answer["kind"] == "List" else [answer]
    return items


def rendered(of: Context) -> tuple[Manifest, ...]:
    return children(of, DIGEST if of.claim else None, {pool.name: 0 for pool in of.spec.capacity.pools}, (DIGEST,))


def pod_templates(manifests: tuple[Manifest, ...]) -> Iterator[tuple[str, Manifest]]:
    return ((each["metadata"]["name"], each["spec"]["template"]) for each in manifests if each["kind"] in ("Job", "Deployment"))


def test_every_child_is_stored_and_comes_back_as_applied(control_plane: ControlPlane, of: Context):
    manifests = rendered(of)
    stored = apply(control_plane, "transcriber-controller", *manifests)
    assert len(stored) == len(manifests)
    for manifest, live in zip(manifests, stored, strict=True):
        assert is_applied(manifest, live), f"{manifest['kind']} would be written for ever"
    again = apply(control_plane, "transcriber-controller", *(each for each in manifests if each["kind"] != "Job"))
    generations = {_key(each): each["metadata"].get("generation") for each in stored}
    assert {_key(each): each["metadata"].get("generation") for each in again} == {
        key: generation for key, generation in generations.items() if key[0] != "Job"
    }


def test_every_pod_is_admitted_at_the_level_restricted(control_plane: ControlPlane, of: Context):
    pods = list(pod_templates(rendered(of)))
    for name, template in pods:
        metadata = {**template["metadata"], "name": name, "namespace": of.namespace}
        spec = {name: value for name, value in template["spec"].items() if name != "serviceAccountName"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"restartPolicy": "Always", **spec}}
        control_plane.kubectl("create", "--dry-run=server", "--validate=strict", "--filename=-", document=json.dumps(pod))
    assert pods


def test_the_result_of_a_job_is_noted_without_touching_the_rest_of_it(control_plane: ControlPlane, of: Context):
    manifests = rendered(of)
    jobs = [each for each in manifests if each["kind"] == "Job"]
    assert len(jobs) == (1 if of.claim else 0)
    for job in jobs:
        (live,) = apply(control_plane, "transcriber-controller", job)
        kept = {field: live["metadata"][field] for field in ("name", "namespace", "uid")}
        note: Manifest = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**kept, "annotations": {names.RESULT_ANNOTATION: "{}"}},
        }
        (noted,) = apply(control_plane, RESULTS, note)
        assert noted["spec"] == live["spec"]
        assert is_applied(job, noted)
        assert is_applied(note, noted)


def test_replicas_stay_when_the_controller_leaves_them_to_the_autoscaler(control_plane: ControlPlane, of: Context):
    pool = of.spec.capacity.pools[0]
    digest = DIGEST if of.claim else None
    created: Any = apply(control_plane, "transcriber-controller", deployment(of, pool, digest, 0))[0]
    assert replicas_owners(created) == {"transcriber-controller"}
    apply(control_plane, "transcriber-autoscaler", scaled(of, pool.name, 0))
    changed = deployment(replace(of, default_image="images.example.com/serving:2"), pool, digest, None)
    (live,) = apply(control_plane, "transcriber-controller", changed)
    assert live["spec"]["replicas"] == 0
    assert replicas_owners(live) == {"transcriber-autoscaler"}


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]
