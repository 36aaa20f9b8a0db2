"""NodePools, and how pods and their nodes find each other."""

from dataclasses import replace
from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.operator.specs import DIGEST, SHA256, TARGET, Manifest, claim_spec, context
from transcriber_operator.render import names, node_pool
from transcriber_operator.render.children import children, foundations
from transcriber_operator.render.context import Context
from transcriber_operator.render.serving import deployment

AWS = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
AUTO_MODE = {"group": "eks.amazonaws.com", "kind": "NodeClass", "name": "default"}
KWOK = {"group": "karpenter.kwok.sh", "kind": "KWOKNodeClass", "name": "gpu"}
UNKNOWN_MODEL = {"target": {"uri": "pvc://models/tuned", "files": [{"path": "model.safetensors", "sha256": SHA256}]}}
ON_CPU = {"runtime": {"device": "CPU"}, "model": {"target": TARGET, "precision": "Float32"}}


def karpenter(*pools: Manifest, node_class: Manifest = AWS, **parts: Any) -> Context:
    made = [{"name": f"pool{index}", **pool} for index, pool in enumerate(pools or ({"gpus": ["l4"]},))]
    return context(claim_spec(capacity={"provisioner": "Karpenter", "nodeClassRef": node_class, "pools": made}, **parts))


def only(of: Context) -> Manifest:
    [manifest] = node_pool.node_pools(of)
    return manifest


def requirements(of: Context) -> dict[str, tuple[str, list[str]]]:
    template = only(of)["spec"]["template"]["spec"]
    return {each["key"]: (each["operator"], each["values"]) for each in template["requirements"]}


def pod_of(of: Context) -> Manifest:
    pod: Manifest = deployment(of, of.spec.capacity.pools[0], DIGEST, 1)["spec"]["template"]["spec"]
    return pod


def preflight(of: Context) -> str | None:
    return node_pool.preflight(of.spec.capacity.pools[0], of.spec)


def test_each_pool_has_a_node_pool_that_is_applied_before_its_deployment():
    kinds = [each["kind"] for each in children(karpenter({}, {}), DIGEST, {})]
    assert kinds.count("NodePool") == 2
    assert max(index for index, kind in enumerate(kinds) if kind == "NodePool") < kinds.index("Deployment")


def test_without_karpenter_there_are_none():
    assert "NodePool" not in {each["kind"] for each in foundations(context(claim_spec()))}


def test_it_is_cluster_scoped_so_labels_say_whose_it_is():
    metadata = only(karpenter())["metadata"]
    assert "namespace" not in metadata
    assert "ownerReferences" not in metadata
    expected = {
        "app.kubernetes.io/managed-by": "transcriber-operator",
        "serving.transcriber.dev/deployment": "whisper",
        "serving.transcriber.dev/namespace": "speech",
        "serving.transcriber.dev/pool": "pool0",
        "serving.transcriber.dev/owner-uid": "5b1f",
    }
    assert expected.items() <= metadata["labels"].items()


def test_its_nodes_tell_whose_they_are():
    assert only(karpenter())["spec"]["template"]["metadata"]["labels"] == {
        "serving.transcriber.dev/deployment": "whisper",
        "serving.transcriber.dev/namespace": "speech",
        "serving.transcriber.dev/pool": "pool0",
    }


def test_idle_nodes_go_all_at_once_and_others_one_by_one():
    disruption = only(karpenter())["spec"]["disruption"]
    assert disruption["consolidationPolicy"] == "WhenEmpty"
    assert disruption["budgets"] == [
        {"nodes": "100%", "reasons": ["Empty"]},
        {"nodes": "1", "reasons": ["Drifted", "Underutilized"]},
    ]


def test_nothing_keeps_karpenter_from_draining_a_node_that_is_taken_back():
    everything = str(children(karpenter({"capacityType": "Spot"}), DIGEST, {}))
    assert "do-not-disrupt" not in everything
    assert "PodDisruptionBudget" not in everything


def test_weight_and_limits_are_the_pools_with_one_node_for_a_replica_that_takes_over():
    spec = only(karpenter({"weight": 70, "maxNodes": 4}))["spec"]
    assert spec["weight"] == 70
    assert spec["limits"] == {"nodes": "5", "nvidia.com/gpu": "5"}


def test_a_share_of_a_gpu_is_not_limited_by_whole_ones_nor_judged_by_their_memory():
    of = karpenter(runtime={"gpuResourceName": "nvidia.com/mig-1g.10gb"})
    assert only(of)["spec"]["limits"] == {"nodes": "21"}
    assert not [key for key in requirements(of) if "memory" in key]


@pytest.mark.parametrize(("capacity_type", "label"), [("Spot", "spot"), ("OnDemand", "on-demand")])
def test_nodes_have_the_capacity_type_gpus_and_zones_of_the_pool(capacity_type: str, label: str):
    of = karpenter({"capacityType": capacity_type, "gpus": ["l40s", "l4"], "zones": ["us-east-1b", "us-east-1a"]})
    assert requirements(of) == {
        "karpenter.sh/capacity-type": ("In", [label]),
        "kubernetes.io/arch": ("In", ["amd64"]),
        "karpenter.k8s.aws/instance-gpu-count": ("In", ["1"]),
        "karpenter.k8s.aws/instance-gpu-name": ("In", ["l4", "l40s"]),
        "karpenter.k8s.aws/instance-gpu-memory": ("Gte", ["14363"]),
        "topology.kubernetes.io/zone": ("In", ["us-east-1a", "us-east-1b"]),
    }


def test_a_pool_without_gpus_takes_every_one_with_enough_memory():
    asked = requirements(karpenter({}))
    assert "karpenter.k8s.aws/instance-gpu-name" not in asked
    assert asked["karpenter.k8s.aws/instance-gpu-memory"] == ("Gte", ["14363"])


def test_a_gpu_that_the_model_does_not_fit_is_left_out():
    asked = requirements(karpenter({"gpus": ["t4", "l4"]}, runtime={"slots": 40}))
    assert asked["karpenter.k8s.aws/instance-gpu-name"] == ("In", ["l4"])


def test_where_nothing_fits_no_other_gpu_is_taken_instead():
    asked = requirements(karpenter({"gpus": ["t4"]}, runtime={"slots": 64}))
    assert asked["karpenter.k8s.aws/instance-gpu-name"] == ("In", ["t4"])


def test_a_model_that_is_not_known_asks_for_no_memory():
    assert not [key for key in requirements(karpenter(model=UNKNOWN_MODEL)) if "memory" in key]


def test_gpus_that_come_with_arm_alone_make_arm_nodes():
    assert requirements(karpenter({"gpus": ["t4g"]}))["kubernetes.io/arch"] == ("In", ["arm64"])


@pytest.mark.parametrize(
    ("node_class", "domain"), [(AWS, "karpenter.k8s.aws"), (KWOK, "karpenter.k8s.aws"), (AUTO_MODE, "eks.amazonaws.com")]
)
def test_the_labels_of_instance_types_are_those_of_the_node_class(node_class: Manifest, domain: str):
    of = karpenter(node_class=node_class)
    assert {key for key in requirements(of) if "gpu" in key} == {
        f"{domain}/instance-gpu-{part}" for part in ("count", "name", "memory")
    }
    assert only(of)["spec"]["template"]["spec"]["nodeClassRef"] == node_class


def test_what_the_pods_select_is_given_to_the_nodes():
    asked = requirements(karpenter({"nodeSelector": {"team": "speech"}}))
    assert asked["team"] == ("In", ["speech"])


def test_nodes_for_cpu_have_no_gpu_and_no_cpu_credits():
    of = karpenter({}, **ON_CPU)
    assert not [key for key in requirements(of) if "gpu" in key]
    assert requirements(of)["karpenter.k8s.aws/instance-category"] == ("In", ["c", "m", "r"])
    assert only(of)["spec"]["limits"] == {"nodes": "21"}
    assert [taint["key"] for taint in only(of)["spec"]["template"]["spec"]["taints"]] == ["serving.transcriber.dev/pool"]


def test_kwoks_nodes_for_cpu_are_asked_for_no_category():
    assert set(requirements(karpenter({}, node_class=KWOK, **ON_CPU))) == {"karpenter.sh/capacity-type", "kubernetes.io/arch"}


def test_pods_go_to_the_nodes_of_their_pool_and_tolerate_every_taint_of_them():
    of = karpenter({"tolerations": [{"key": "dedicated", "operator": "Exists"}], "nodeSelector": {"team": "speech"}})
    made, pod = only(of), pod_of(of)
    assert [taint["key"] for taint in made["spec"]["template"]["spec"]["taints"]] == [
        "nvidia.com/gpu",
        "serving.transcriber.dev/pool",
    ]
    assert pod["nodeSelector"] == {"karpenter.sh/nodepool": made["metadata"]["name"], "team": "speech"}
    for taint in made["spec"]["template"]["spec"]["taints"]:
        assert any(_tolerates(each, taint) for each in pod["tolerations"]), taint
    assert {"key": "dedicated", "operator": "Exists"} in pod["tolerations"]


def _tolerates(toleration: Manifest, taint: Manifest) -> bool:
    is_same = toleration["operator"] == "Exists" or toleration["value"] == taint["value"]
    return bool(toleration["key"] == taint["key"] and toleration["effect"] == taint["effect"] and is_same)


@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_deployment_of_a_pool_of_karpenters_is_valid_for_kubernetes(version: str):
    of = karpenter({"capacityType": "Spot"})
    kubernetes_validate.validate(deployment(of, of.spec.capacity.pools[0], DIGEST, 1), version, strict=True)


def test_pods_of_one_pool_do_not_go_to_the_nodes_of_another():
    of = karpenter({}, {})
    names_of_pools = [made["metadata"]["name"] for made in node_pool.node_pools(of)]
    selected = [deployment(of, pool, DIGEST, 1)["spec"]["template"]["spec"]["nodeSelector"] for pool in of.spec.capacity.pools]
    assert [each["karpenter.sh/nodepool"] for each in selected] == names_of_pools
    assert len(set(names_of_pools)) == 2


def test_replicas_are_spread_over_zones_where_karpenter_can_choose():
    of = karpenter()
    [spread] = pod_of(of)["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"], spread["maxSkew"]) == (
        "topology.kubernetes.io/zone",
        "ScheduleAnyway",
        1,
    )
    assert spread["labelSelector"]["matchLabels"] == names.selector(of, names.SERVING, "pool0")
    assert "affinity" not in pod_of(of)
    assert "topologySpreadConstraints" not in pod_of(context(claim_spec()))


def test_without_karpenter_zones_are_an_affinity_of_the_pods():
    pools = [{"name": "main", "zones": ["us-east-1a"]}]
    pod = pod_of(context(claim_spec(capacity={"provisioner": "None", "pools": pools})))
    [term] = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-east-1a"]}]


@pytest.mark.parametrize(
    ("capacity_type", "asked", "given_seconds"), [("Spot", 600, 110), ("Spot", 30, 30), ("OnDemand", 600, 600)]
)
def test_a_pod_on_spot_has_no_more_grace_than_its_node(capacity_type: str, asked: int, given_seconds: int):
    pod = pod_of(karpenter({"capacityType": capacity_type}, runtime={"terminationGracePeriodSeconds": asked}))
    assert pod["terminationGracePeriodSeconds"] == given_seconds
    exporter = next(each for each in pod["initContainers"] if each["name"] == "exporter")
    assert exporter["command"][-2:] == ["--drain-seconds", str(given_seconds - 15)]


@pytest.mark.parametrize(
    "change",
    [
        {"runtime": {"slots": 8}},
        {"runtime": {"image": "images.example.com/serving:2"}},
        {"runtime": {"terminationGracePeriodSeconds": 30}},
        {"scaling": {"maxReplicas": 3}},
        {"model": UNKNOWN_MODEL},
    ],
)
def test_what_would_drift_every_node_does_not_depend_on_how_they_serve(change: Manifest):
    def drifting(of: Context) -> Manifest:
        template = only(of)["spec"]["template"]
        return {**template, "spec": {**template["spec"], "requirements": None}}

    assert drifting(karpenter()) == drifting(karpenter(**change))


def test_a_name_that_can_be_read_in_one_way_only_is_plain():
    assert names.node_pool_name(context(claim_spec()), "spot") == "speech-whisper-spot"


@given(st.lists(st.from_regex(r"[a-z](-?[a-z])*", fullmatch=True), min_size=4, max_size=6))
@settings(max_examples=50)
def test_no_two_pools_have_a_node_pool_of_the_same_name(words: list[str]):
    identities = set()
    for first in range(1, len(words) - 1):
        for second in range(first + 1, len(words)):
            parts = words[:first], words[first:second], words[second:]
            identities.add(tuple("-".join(part)[:20].rstrip("-") for part in parts))
    made = {_name(*identity) for identity in identities}
    assert len(made) == len(identities)


@given(st.integers(1, 63), st.integers(1, 52), st.integers(1, 20))
def test_a_name_is_never_longer_than_a_label(namespace: int, name: int, pool: int):
    assert len(_name("n" * namespace, "w" * name, "p" * pool)) <= 63


def _name(namespace: str, name: str, pool: str) -> str:
    return names.node_pool_name(replace(context(claim_spec()), namespace=namespace, name=name), pool)


def test_a_replica_that_some_instance_type_has_room_for_passes():
    assert preflight(karpenter({"gpus": ["l4"]}, runtime={"resources": {"requests": {"cpu": "3", "memory": "10Gi"}}})) is None


def test_a_replica_that_is_too_large_for_every_instance_type_is_told_what_they_have():
    sentence = preflight(karpenter({"gpus": ["l4"]}, runtime={"resources": {"requests": {"cpu": "96"}}}))
    assert sentence == (
        "No instance type with one l4 has room for a replica of pool pool0: it asks for 96.05 cores and 0.1 GiB with its exporter, "
        "and g6.16xlarge, the largest, has 63.62 cores and 228.5 GiB to give; lower runtime.resources.requests."
    )


def test_cores_that_daemons_and_the_exporter_take_are_not_the_replicas():
    [selected] = [{"gpus": ["l4"], "nodeSelector": {"node.kubernetes.io/instance-type": "g6.xlarge"}}]
    most = {"resources": {"requests": {"cpu": "3720m"}}}
    assert preflight(karpenter(selected, runtime=most)) is None
    assert preflight(karpenter(selected, runtime={"resources": {"requests": {"cpu": "3721m"}}})) is not None


def test_gpus_that_never_come_alone_are_told():
    assert preflight(karpenter({"gpus": ["h200"]})) == (
        "No EC2 instance type has a single h200, as pool pool0 asks for; take l4, a10g or l40s."
    )


def test_an_instance_type_that_has_another_gpu_is_told():
    sentence = preflight(karpenter({"gpus": ["l4"], "nodeSelector": {"node.kubernetes.io/instance-type": "g5.xlarge"}}))
    assert sentence == "Pool pool0 selects g5.xlarge, which has no single l4; correct its nodeSelector or gpus."


@pytest.mark.parametrize(
    "of",
    [
        karpenter({"gpus": ["z9"]}, runtime={"resources": {"requests": {"cpu": "96"}}}),
        karpenter({"gpus": ["l4"], "nodeSelector": {"node.kubernetes.io/instance-type": "g9.xlarge"}}),
        karpenter({"gpus": ["l4"]}, node_class={"group": "karpenter.example.com", "kind": "Class", "name": "a"}, runtime={
            "resources": {"requests": {"cpu": "96"}}}),
        karpenter({}, runtime={"device": "CPU", "resources": {"requests": {"cpu": "96"}}}, model=ON_CPU["model"]),
        context(claim_spec(runtime={"resources": {"requests": {"cpu": "96"}}})),
    ],
    ids=["a GPU that is not in the table", "an instance type that is not", "another cloud", "no GPU", "nodes of others"],
)  # fmt: skip
def test_what_the_table_cannot_tell_passes(of: Context):
    assert preflight(of) is None
