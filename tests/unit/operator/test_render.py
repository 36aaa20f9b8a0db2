"""What is rendered: golden YAML, the API server's own schemas, and what must hold of every child of every spec."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.generated import contexts
from tests.unit.operator.specs import DIGEST, POOLS, SHA256, TARGET, Manifest, claim_spec, context, ephemeral_spec
from transcriber_api.loading import load, parse
from transcriber_operator.decide.results import REASONS
from transcriber_operator.render import names
from transcriber_operator.render.build import TERMINAL_EXIT_CODES, build_job, config_map
from transcriber_operator.render.children import children
from transcriber_operator.render.context import Context
from transcriber_operator.render.network import build_policy, serving_policy
from transcriber_operator.render.serving import deployment
from transcriber_repository.__main__ import _parser
from transcriber_repository.errors import EXIT_CODES, Reason
from transcriber_repository.request import build_request

KUBERNETES_VERSIONS = ("1.33", kubernetes_validate.utils.latest_version())  # 1.33: native sidecars are stable
Golden = Callable[[str, tuple[Manifest, ...]], None]


def all_children(of: Context, keep: tuple[str, ...] = ()) -> tuple[Manifest, ...]:
    digest = DIGEST if of.claim else None
    return children(of, digest, {pool.name: 1 for pool in of.spec.capacity.pools}, keep)


def pod_specs(manifests: tuple[Manifest, ...]) -> Iterator[Manifest]:
    return (manifest["spec"]["template"]["spec"] for manifest in manifests if manifest["kind"] in ("Job", "Deployment"))


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def only_job(of: Context, keep: tuple[str, ...] = ()) -> Manifest:
    return build_job(of, keep)["spec"]["template"]["spec"]["containers"][0]


def test_the_eks_example_renders_as_reviewed(assert_golden: Golden, root_dir: Path):
    spec = load(root_dir / "examples/eks-large-v3.yaml").spec
    of = replace(context(claim_spec()), name="whisper-large-v3", spec=spec)
    assert_golden("eks-large-v3", all_children(of, keep=(f"sha256-{'0' * 64}",)))


def test_the_laptop_example_renders_as_reviewed(assert_golden: Golden, root_dir: Path):
    spec = load(root_dir / "examples/whisper-base.yaml").spec
    assert_golden("whisper-base", all_children(replace(context(claim_spec()), name="whisper-base", spec=spec)))


def test_a_bucket_and_a_site_with_secrets_render_as_reviewed(assert_golden: Golden):
    target = {"uri": "s3://models/large", "files": [{"path": "model.safetensors", "sha256": SHA256}], "credentialsSecret": "bucket"}
    draft = {"uri": "https://models.example.com:8443/draft", "files": target["files"], "credentialsSecret": "site"}
    of = context(claim_spec(model={"target": target, "draft": draft}), https_hosts=("models.example.com",))
    assert_golden("private-sources", all_children(of))


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("spec", [claim_spec(), ephemeral_spec()], ids=["claim", "ephemeral"])
def test_every_child_is_valid_for_kubernetes(version: str, spec: Manifest):
    for manifest in all_children(context(spec), keep=(DIGEST,)):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_of_kubernetes_refuse_a_field_that_they_do_not_know():
    manifest = all_children(context(claim_spec()))[0]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "dat": {}}, KUBERNETES_VERSIONS[-1], strict=True)


@settings(max_examples=20)
@given(contexts())
def test_rendering_twice_gives_the_same_text(of: Context):
    again = replace(of)
    assert json.dumps(all_children(of)) == json.dumps(all_children(again))


@settings(max_examples=20)
@given(contexts())
def test_every_child_is_owned_labelled_and_named_within_the_limits(of: Context):
    manifests = all_children(of)
    assert len({(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}) == len(manifests)
    for manifest in manifests:
        metadata = manifest["metadata"]
        if manifest["kind"] == "NodePool":  # has no namespace, and so no owner with one
            assert metadata["labels"][names.OWNER_UID_LABEL] == of.uid
        else:
            assert [owner["uid"] for owner in metadata["ownerReferences"]] == [of.uid]
        assert metadata["labels"][names.DEPLOYMENT_LABEL] == of.name
        assert len(metadata["name"]) <= (63 if manifest["kind"] in ("Job", "Service", "Deployment", "NodePool") else 253)
        assert all(len(value) <= 63 for value in metadata["labels"].values())


@settings(max_examples=20)
@given(contexts())
def test_nothing_is_rendered_that_the_api_server_would_leave_out(of: Context):
    def empties(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, each in value.items():
                yield from empties(each, f"{path}.{key}")
        elif isinstance(value, list):
            for index, each in enumerate(value):
                yield from empties(each, f"{path}[{index}]")
        if (value in ({}, [], None, "") and not path.endswith(".emptyDir")) or isinstance(value, float):
            yield path

    assert [path for manifest in all_children(of) for path in empties(manifest, manifest["kind"])] == []


@settings(max_examples=20)
@given(contexts())
def test_every_pod_meets_pod_security_restricted_and_has_no_token(of: Context):
    for pod in pod_specs(all_children(of)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & set(pod)
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        for each in containers(pod):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@settings(max_examples=20)
@given(contexts())
def test_every_mount_has_its_volume_and_every_volume_is_used(of: Context):
    for pod in pod_specs(all_children(of)):
        mounted = {mount["name"] for each in containers(pod) for mount in each["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@settings(max_examples=20)
@given(contexts())
def test_the_build_document_is_a_valid_resource_that_asks_for_the_same_build(of: Context):
    document = parse(config_map(of)["data"]["deployment.yaml"], "document")
    assert build_request(document.spec) == build_request(of.spec)


@settings(max_examples=20)
@given(contexts())
def test_the_build_command_is_one_that_the_builder_understands(of: Context):
    for pod in pod_specs(all_children(of, keep=(DIGEST,))):
        for each in containers(pod):
            if each["name"] == "build":
                assert each["command"][:3] == ["python3", "-m", "transcriber_repository"]
                _parser().parse_args(each["command"][3:])


def test_exit_codes_that_fail_a_job_at_once_are_those_no_retry_can_cure():
    passing = {EXIT_CODES[Reason.SOURCE_UNAVAILABLE], EXIT_CODES[Reason.STORAGE_FAILED]}
    assert set(TERMINAL_EXIT_CODES) == set(EXIT_CODES.values()) - passing


def test_every_reason_of_the_builder_has_a_condition_reason():
    assert set(REASONS) == {reason.value for reason in Reason}


def test_quantities_stay_as_they_were_written():
    resources = {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"memory": "2Gi", "ephemeral-storage": "1500M"}}
    of = context(claim_spec(runtime={"resources": resources, "sharedMemorySize": "1024Mi"}))
    pod = deployment(of, of.spec.capacity.pools[0], DIGEST, 1)["spec"]["template"]["spec"]
    expected = {**resources, "limits": {**resources["limits"], "nvidia.com/gpu": "1"}}
    assert pod["containers"][0]["resources"] == expected
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}} in pod["volumes"]


def test_on_cpu_no_gpu_is_asked_for_or_tolerated():
    of = context(claim_spec(runtime={"device": "CPU"}, model={"target": TARGET, "precision": "Float32"}))
    text = json.dumps(deployment(of, of.spec.capacity.pools[0], DIGEST, 1))
    assert "nvidia.com" not in text


def test_the_repository_is_read_only_where_it_is_served_and_each_resource_has_its_own_folder():
    of = context(claim_spec())
    pod = deployment(of, of.spec.capacity.pools[0], DIGEST, 1)["spec"]["template"]["spec"]
    assert {"name": "repositories", "mountPath": "/repositories", "subPath": "whisper", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    assert {"name": "repositories", "mountPath": "/repositories", "subPath": "whisper"} in only_job(of)["volumeMounts"]


def test_a_secret_is_mounted_by_the_build_alone():
    target = TARGET | {"credentialsSecret": "hub-token"}
    of = context(ephemeral_spec(model={"target": target}))
    pod = deployment(of, of.spec.capacity.pools[0], None, 1)["spec"]["template"]["spec"]
    readers = [each["name"] for each in containers(pod) if any("credentials" in mount["name"] for mount in each["volumeMounts"])]
    assert readers == ["build"]


def test_a_draft_that_is_not_used_is_not_mounted():
    draft = {"uri": "pvc://drafts/small", "files": [{"path": "model.safetensors", "sha256": SHA256}]}
    of = context(claim_spec(model={"target": TARGET, "draft": draft}, decoding={"draftSource": "None"}))
    assert "drafts" not in json.dumps(build_job(of))


def test_what_a_build_keeps_does_not_count_as_a_change_of_its_job():
    of = context(claim_spec())
    first, second = build_job(of), build_job(of, (DIGEST,))
    assert first["metadata"] == second["metadata"]
    assert [word for word in only_job(of, (DIGEST,))["command"] if word in ("--keep", DIGEST)] == ["--keep", DIGEST]


def test_replicas_are_no_part_of_the_manifest_hash():
    of = context(claim_spec())
    pool = of.spec.capacity.pools[0]
    with_replicas, without = deployment(of, pool, DIGEST, 3), deployment(of, pool, DIGEST, None)
    assert "replicas" not in without["spec"]
    assert with_replicas["metadata"] == without["metadata"]


def test_the_manifest_hash_tells_when_a_field_is_not_rendered_any_more():
    hashes = {
        deployment(of, of.spec.capacity.pools[0], DIGEST, 1)["metadata"]["annotations"][names.HASH_ANNOTATION]
        for of in (context(claim_spec()), context(claim_spec(runtime={"priorityClassName": "interactive"})))
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("parts", "is_new"),
    [
        ({"model": {"target": TARGET}}, True),
        ({"decoding": {"maxDraftTokens": 4}}, True),
        ({"runtime": {"slots": 8}}, True),
        ({"runtime": {"image": "images.example.com/serving:2"}}, True),
        ({"runtime": {"terminationGracePeriodSeconds": 60}}, False),
        ({"scaling": {"maxReplicas": 3}}, False),
        ({"capacity": {"provisioner": "None", "pools": [*POOLS, {"name": "more"}]}}, False),
        ({"aliases": ["whisper-1"]}, False),
    ],
)
def test_only_what_changes_a_repository_makes_a_new_revision(parts: Manifest, is_new: bool):
    assert (context(claim_spec(**parts)).key != context(claim_spec()).key) is is_new


@given(st.integers(36, 52))
def test_long_names_give_jobs_that_are_told_apart(length: int):
    names_of_jobs = {names.job_name(context(claim_spec(), name=name)) for name in ("a" * length, "a" * (length - 1) + "b")}
    assert len(names_of_jobs) == 2
    assert all(len(name) <= 63 for name in names_of_jobs)


def test_serving_pods_that_read_a_claim_have_no_way_out_and_grpc_is_open_to_all():
    policy = serving_policy(context(claim_spec()))["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    assert {"ports": [{"port": 8001, "protocol": "TCP"}]} in policy["ingress"]
    others = [rule for rule in policy["ingress"] if "from" in rule]
    assert [rule["from"] for rule in others] == [
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "operator-system"}}}]
    ]


def test_namespaces_of_monitoring_reach_the_metrics_of_serving_pods_and_nothing_else_of_them():
    monitored = replace(context(claim_spec()), metrics_namespaces=("monitoring", "keda"))
    [rule] = [rule for rule in serving_policy(monitored)["spec"]["ingress"] if len(rule.get("from", ())) == 2]
    chosen = [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in rule["from"]]
    assert (chosen, [port["port"] for port in rule["ports"]]) == (["monitoring", "keda"], [8002, 8003])
    assert build_policy(monitored) == build_policy(context(claim_spec()))


def test_a_build_reaches_public_addresses_on_the_ports_of_its_sources_alone():
    site = {"uri": "https://models.example.com:8443/x", "files": [{"path": "model.safetensors", "sha256": SHA256}]}
    egress = build_policy(context(claim_spec(model={"target": site})))["spec"]["egress"]
    to_sources = [rule for rule in egress if "to" in rule]
    assert [rule["ports"] for rule in to_sources] == [[{"port": 8443, "protocol": "TCP"}]]
    assert "169.254.0.0/16" in to_sources[0]["to"][0]["ipBlock"]["except"]


def test_a_build_from_mounted_claims_reaches_nothing():
    target = {"uri": "pvc://models/x", "files": [{"path": "model.safetensors", "sha256": SHA256}]}
    assert "egress" not in build_policy(context(claim_spec(model={"target": target})))["spec"]


def test_a_spot_pool_has_no_disruption_budget():
    pools = [{"name": "spot", "capacityType": "Spot"}, {"name": "steady", "capacityType": "OnDemand"}]
    manifests = all_children(context(claim_spec(capacity={"provisioner": "None", "pools": pools})))
    assert [each["metadata"]["name"] for each in manifests if each["kind"] == "PodDisruptionBudget"] == ["whisper-steady"]


def test_without_a_repository_on_the_claim_there_is_nothing_to_serve():
    manifests = children(context(claim_spec()), None, {})
    assert "Job" in {each["kind"] for each in manifests}
    assert "Deployment" not in {each["kind"] for each in manifests}


def test_golden_files_hold_what_kubectl_can_read(root_dir: Path):
    for path in (root_dir / "tests/unit/operator/golden").glob("*.yaml"):
        assert all(manifest["kind"] for manifest in yaml.safe_load_all(path.read_text()))
