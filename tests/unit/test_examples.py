"""The examples for a cluster: that they can be read, fit each other, and fit what the operator makes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import validate
from kubernetes_validate import validate as validate_object

from tests.unit.pages import ROOT
from tests.unit.test_docs import VALUES
from transcriber_api.loading import load
from transcriber_operator.render import names, pod
from transcriber_operator.render.context import Context
from transcriber_operator.render.node_pool import node_pool, taints
from transcriber_operator.render.serving import grace_seconds

EXAMPLES = ROOT / "examples"
EKS = EXAMPLES / "eks"
LARGE = load(EXAMPLES / "eks-large-v3.yaml")
BASE = load(EXAMPLES / "cluster/whisper-base.yaml")
CONTEXT = Context(
    name=LARGE.metadata.name,
    namespace="speech",
    uid="5b1f",
    spec=LARGE.spec,
    default_image="registry.example.com/transcriber-serving:0.1.0",
    operator_namespace="transcriber-system",
)
KUBERNETES = "1.34"
OTHERS = {"TranscriberDeployment", "EC2NodeClass", "NodePool"}  # kinds that Kubernetes itself does not have
NODE_CLASSES = ("ec2nodeclass-al2023.yaml", "ec2nodeclass-bottlerocket.yaml")
# Of karpenter.k8s.aws/v1, as its documentation of nodeclasses has them (August 2026).
NODE_CLASS_FIELDS = {
    "amiFamily", "amiSelectorTerms", "associatePublicIPAddress", "blockDeviceMappings", "capacityReservationSelectorTerms",
    "context", "detailedMonitoring", "instanceProfile", "instanceStorePolicy", "kubelet", "metadataOptions", "role",
    "securityGroupSelectorTerms", "subnetSelectorTerms", "tags", "userData",
}  # fmt: skip
EBS_FIELDS = {"deleteOnTermination", "encrypted", "iops", "kmsKeyID", "snapshotID", "throughput", "volumeSize", "volumeType"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def objects() -> list[Any]:
    found = [(path, each) for path in sorted(EXAMPLES.rglob("*.yaml")) for each in documents(path) if "kind" in each]
    return [pytest.param(each, id=f"{path.relative_to(EXAMPLES)}-{each['kind']}") for path, each in found]


def only(path: str) -> dict[str, Any]:
    (found,) = documents(EKS / path)
    return found


def tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    return (
        toleration["key"] == taint["key"]
        and toleration.get("effect") in (None, taint["effect"])
        and (toleration.get("operator") == "Exists" or toleration.get("value") == taint["value"])
    )


@pytest.mark.parametrize("given", objects())
def test_an_object_is_one_that_the_api_server_would_take(given: dict[str, Any]):
    if given["kind"] not in OTHERS:
        validate_object(given, KUBERNETES, strict=True)
    elif given["kind"] == "TranscriberDeployment":
        assert given["apiVersion"] == "serving.transcriber.dev/v1alpha1"


def test_the_resource_for_eks_finds_the_claim_the_account_and_the_node_class_of_the_other_files():
    _, account = documents(EKS / "namespace.yaml")
    claim = only("claims.yaml")
    assert LARGE.spec.repository.volume.claim_name == claim["metadata"]["name"]
    assert LARGE.spec.runtime.service_account_name == account["metadata"]["name"]
    assert {account["metadata"]["namespace"], claim["metadata"]["namespace"]} == {"speech"}
    reference = LARGE.spec.capacity.node_class_ref
    for file in NODE_CLASSES:
        given = only(file)
        assert (given["apiVersion"].partition("/")[0], given["kind"], given["metadata"]["name"]) == (
            reference.group,
            reference.kind,
            reference.name,
        )


@pytest.mark.parametrize("file", NODE_CLASSES)
def test_a_node_class_keeps_pods_from_the_role_of_their_node(file: str):
    options = only(file)["spec"]["metadataOptions"]
    assert (options["httpTokens"], options["httpPutResponseHopLimit"]) == ("required", 1)


@pytest.mark.parametrize("file", NODE_CLASSES)
def test_a_node_class_has_room_for_the_serving_image_and_an_ephemeral_repository(file: str):
    spec = only(file)["spec"]
    assert set(spec) <= NODE_CLASS_FIELDS
    assert spec["instanceStorePolicy"] == "RAID0"
    volumes = {mapping["deviceName"]: mapping["ebs"] for mapping in spec["blockDeviceMappings"]}
    assert all(set(ebs) <= EBS_FIELDS and ebs["encrypted"] for ebs in volumes.values())
    (term,) = spec["amiSelectorTerms"]
    family = term["alias"].partition("@")[0]
    assert file.endswith(f"{family}.yaml")
    # Bottlerocket keeps images on its second volume.
    size = volumes[{"al2023": "/dev/xvda", "bottlerocket": "/dev/xvdb"}[family]]["volumeSize"]
    assert int(size.removesuffix("Gi")) >= 2 * 16 + 20, "packed and unpacked, and the repository"


def test_nodes_for_the_operator_and_for_builds_are_open_to_their_pods():
    given, ours = only("nodepool-general.yaml"), node_pool(CONTEXT, LARGE.spec.capacity.pools[0])
    template = given["spec"]["template"]["spec"]
    assert given["apiVersion"] == ours["apiVersion"]
    assert set(given["spec"]) <= set(ours["spec"])
    assert set(template) <= set(ours["spec"]["template"]["spec"]) - {"taints"}
    assert {requirement["key"]: requirement["values"] for requirement in template["requirements"]}["kubernetes.io/arch"] == [
        "amd64"
    ]
    assert template["nodeClassRef"] == ours["spec"]["template"]["spec"]["nodeClassRef"]


@pytest.mark.parametrize("pool", LARGE.spec.capacity.pools, ids=lambda pool: pool.name)
def test_the_device_plugin_and_the_pre_pull_come_to_the_nodes_of_every_pool(pool: Any):
    for given in (only("values-device-plugin.yaml")["tolerations"], only("values.yaml")["prePull"]["tolerations"]):
        assert [taint for taint in taints(CONTEXT, pool) if not any(tolerates(each, taint) for each in given)] == []


def test_the_values_are_those_that_the_chart_has():
    validate(without_nulls(only("values.yaml")), VALUES)


def without_nulls(given: Any) -> Any:
    """As Helm does: a null takes a default away."""
    return {name: without_nulls(inner) for name, inner in given.items() if inner is not None} if isinstance(given, dict) else given


def test_the_load_balancer_reaches_the_serving_pods_and_waits_as_long_as_they_drain():
    service = only("nlb.yaml")
    spec, annotations = service["spec"], service["metadata"]["annotations"]
    assert spec["selector"] == names.selector(CONTEXT, names.SERVING)
    assert [port["targetPort"] for port in spec["ports"]] == [pod.GRPC_PORT]
    delay = annotations["service.beta.kubernetes.io/aws-load-balancer-target-group-attributes"]
    longest = max(grace_seconds(CONTEXT, pool) for pool in LARGE.spec.capacity.pools)
    assert delay == f"deregistration_delay.timeout_seconds={longest}"
    assert annotations["service.beta.kubernetes.io/aws-load-balancer-scheme"] == "internal", "nobody is asked who they are"


def test_what_is_written_to_efs_belongs_to_the_user_of_the_pods():
    storage = only("storageclass-efs.yaml")
    assert {storage["parameters"]["uid"], storage["parameters"]["gid"]} == {str(pod.USER_ID)}
    claim = only("claims.yaml")
    assert claim["spec"]["storageClassName"] == storage["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"], "replicas are on many nodes"


def policies() -> list[Any]:
    return [pytest.param(path, id=path.name) for path in sorted((EKS / "iam").glob("*.json"))]


@pytest.mark.parametrize("path", policies())
def test_an_iam_policy_allows_no_action_and_no_resource_by_a_wildcard_alone(path: Path):
    policy = json.loads(path.read_text(encoding="utf-8"))
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert statement["Effect"] == "Allow"
        assert [action for action in actions if not re.fullmatch(r"[a-z0-9]+:[A-Za-z]+", action)] == []
        if "Principal" in statement:
            assert "*" not in json.dumps(statement["Principal"])
            assert statement["Condition"], "whoever else has pods could take the role"
        else:
            # A wildcard stands at the end of a path, below a bucket and a prefix.
            assert re.fullmatch(r"arn:aws:(s3:::[a-z0-9.-]+(/[\w-]+/\*)?|kms:[\w-]+:\d+:key/[0-9a-f-]+)", statement["Resource"])


def test_the_role_that_reads_models_can_write_nothing():
    given = [json.loads((EKS / "iam" / name).read_text(encoding="utf-8")) for name in ("read-models.json", "decrypt-models.json")]
    actions = {statement["Action"] for policy in given for statement in policy["Statement"]}
    assert actions == {"s3:GetObject", "s3:ListBucket", "kms:Decrypt"}


def test_a_role_is_for_one_service_account_of_one_namespace():
    pod_identity, irsa = (json.loads((EKS / "iam" / f"trust-{name}.json").read_text()) for name in ("pod-identity", "irsa"))
    _, account = documents(EKS / "namespace.yaml")
    name, namespace = account["metadata"]["name"], account["metadata"]["namespace"]
    tags = pod_identity["Statement"][0]["Condition"]["StringEquals"]
    assert tags["aws:RequestTag/kubernetes-namespace"] == namespace
    assert tags["aws:RequestTag/kubernetes-service-account"] == name
    claims = irsa["Statement"][0]["Condition"]["StringEquals"]
    assert [value for key, value in claims.items() if key.endswith(":sub")] == [f"system:serviceaccount:{namespace}:{name}"]
    assert [value for key, value in claims.items() if key.endswith(":aud")] == ["sts.amazonaws.com"]


def test_the_claims_on_kind_are_those_that_its_resource_asks_for():
    given = {
        each["metadata"]["name"] for each in documents(EXAMPLES / "kind/claims.yaml") if each["kind"] == "PersistentVolumeClaim"
    }
    sources = {source.uri.removeprefix("pvc://").partition("/")[0] for source in (BASE.spec.model.target, BASE.spec.model.draft)}
    assert given == sources | {BASE.spec.repository.volume.claim_name}
