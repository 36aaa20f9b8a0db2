"""Every check of `transcriber doctor` on a cluster in which one thing is spoilt, does not matter, or may not be read."""

from dataclasses import fields, replace
from typing import Any

import pytest

from tests.unit.doctor_parts import (
    ABSENT,
    FORBIDDEN,
    GPU_CLASS,
    HEALTHY,
    JUST_NOW,
    LONG_AGO,
    NOW,
    SYSTEM,
    alerts,
    claim,
    condition,
    daemon_set,
    gpu_node,
    karpenter_deployment,
    lease,
    named,
    node,
    node_pool,
    of,
    operator_deployment,
    pod_monitor,
    prometheus,
    resource,
    without_group,
)
from transcriber_cli.cluster import Server, Unread, Why
from transcriber_cli.doctor.checks import examine
from transcriber_cli.doctor.checks.gpus import looks_like_gpu
from transcriber_cli.doctor.checks.karpenter import has_interruption_queue
from transcriber_cli.doctor.checks.monitoring import matches
from transcriber_cli.doctor.command import as_document, as_lines
from transcriber_cli.doctor.findings import Severity
from transcriber_cli.doctor.rights import Account, Right, review, rights
from transcriber_cli.doctor.seen import NOT_ASKED, Answers, Seen

CPU = {"runtime": {"device": "CPU"}, "capacity": {"provisioner": "None", "nodeClassRef": None}}
FIXED = {"capacity": {"provisioner": "None", "nodeClassRef": None}}
HOLD = Account(SYSTEM, "transcriber-operator")
WAITING = [condition("Ready", "False", "Starting", "Replicas load the model."), condition("Reconciling", "True", "Starting")]


def having(**changes: Any) -> Seen:
    return replace(HEALTHY, **changes)


def with_resource(*conditions: Any, **parts: Any) -> Seen:
    return having(resources=(resource(conditions=tuple(conditions) or None, **parts),))


def refused(*lacking: Right, asked: int = 70) -> Seen:
    return having(rights=Answers(HOLD, asked, lacking))


def generation(number: int, created: str = LONG_AGO) -> Seen:
    manifest = resource()
    manifest["metadata"] |= {"generation": number, "creationTimestamp": created}
    return having(resources=(manifest,))


def just_changed() -> Seen:
    manifest = resource()
    manifest["metadata"]["generation"] = 3
    manifest["metadata"]["managedFields"] = [{"time": JUST_NOW}, {"time": LONG_AGO, "subresource": "status"}]
    return having(resources=(manifest,))


def deleted(at: str) -> Seen:
    manifest = resource()
    manifest["metadata"]["deletionTimestamp"] = at
    return having(resources=(manifest,))


def server(version: str) -> Seen:
    return having(server=Server(version, NOW, HEALTHY.server.groups))


PROBLEMS: dict[str, tuple[Seen, str, str, str]] = {
    "an old cluster": (server("v1.28.9-eks-1"), "version-too-old", "native sidecars", "1.29"),
    "no definition": (
        without_group(having(definition=ABSENT, resources=()), "serving.transcriber.dev"),
        "definition-missing",
        "is not there",
        "kubectl apply --server-side --force-conflicts -f crds/serving.transcriber.dev_transcriberdeployments.yaml",
    ),
    "a definition of another version": (
        without_group(HEALTHY, serving_transcriber_dev=("v1",)),
        "version-not-served",
        "serves v1 and not v1alpha1",
        "kubectl apply --server-side",
    ),
    "no operator": (
        having(operators=(), leases=()),
        "operator-missing",
        "is not there",
        f"helm upgrade --install transcriber-operator charts/transcriber-operator --namespace {SYSTEM} --create-namespace",
    ),
    "an operator in another namespace": (
        replace(HEALTHY, operator_namespace="elsewhere", leases=()),
        "operator-elsewhere",
        f"there is one in {SYSTEM}",
        f"--operator-namespace {SYSTEM}",
    ),
    "an operator that is scaled to none": (
        having(operators=(operator_deployment(replicas=0, ready=0),)),
        "operator-off",
        "is scaled to 0",
        f"kubectl scale --namespace {SYSTEM} deployment/transcriber-operator --replicas=1",
    ),
    "an operator that does not start": (
        having(operators=(operator_deployment(ready=0),)),
        "operator-not-ready",
        "0/1 ready",
        f"kubectl logs --namespace {SYSTEM} deployment/transcriber-operator",
    ),
    "a Lease that nobody renews": (having(leases=(lease(LONG_AGO),)), "lease-stale", "last renewed 86400 s ago", "kubectl logs"),
    "a Lease that nobody holds": (having(leases=(lease(holder=""),)), "lease-free", "held by nobody", "kubectl logs"),
    "no Lease": (having(leases=()), "lease-missing", "no operator has begun", "kubectl logs"),
    "a right that is missing": (
        refused(Right("create", "apps", "deployments"), Right("patch", "apps", "deployments")),
        "rights-missing",
        "may not create, patch deployments.apps in the whole cluster",
        '{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "patch"]}',
    ),
    "a right in a namespace that is missing": (
        refused(Right("update", "coordination.k8s.io", "leases", SYSTEM, "transcriber-operator")),
        "rights-missing",
        f"may not update leases.coordination.k8s.io named transcriber-operator in namespace {SYSTEM}",
        f"Role bound to it in {SYSTEM}",
    ),
    "no rights at all": (
        refused(Right("list", "", "pods"), asked=1),
        "rights-missing",
        "has none of the rights",
        f"helm upgrade whisperer charts/transcriber-operator --namespace {SYSTEM} --reuse-values --set rbac.create=true",
    ),
    "rights of Karpenter, which a resource asks for": (
        refused(Right("create", "karpenter.sh", "nodepools")),
        "rights-missing",
        "may not create nodepools.karpenter.sh",
        "ClusterRole",
    ),
    "a stalled resource": (
        with_resource(
            condition("Ready", "False", "SecretMissing", "no Secret"),
            condition("Stalled", "True", "SecretMissing", "Secret x is gone."),
        ),
        "stalled",
        "Stalled, SecretMissing: Secret x is gone.",
        "create it in this namespace",
    ),
    "a resource that is not ready": (
        with_resource(condition("Ready", "False", "InsufficientCapacity", "The cloud refused.")),
        "not-ready",
        "InsufficientCapacity: The cloud refused.",
        "add zones, GPUs or an OnDemand pool",
    ),
    "a reason of a later version": (
        with_resource(condition("Ready", "False", "BrandNew", "Do it.")),
        "not-ready",
        "BrandNew: Do it.",
        "do what the message says",
    ),
    "a resource whose children the server refuses": (
        with_resource(condition("Ready", "False", "ApiRefused"), condition("Stalled", "True", "ApiRefused", "Quota x is used up.")),
        "stalled",
        "Quota x is used up.",
        "do what the message says",
    ),
    "a resource that no operator looks at": (
        generation(3),
        "not-looked-at",
        "has not looked at its present spec",
        "TRANSCRIBER_NAMESPACES",
    ),
    "a resource that does not go": (
        deleted(LONG_AGO),
        "deletion-stuck",
        "its finalizer waits for an operator",
        """kubectl patch td/whisper --namespace speech --type=merge --patch='{"metadata": {"finalizers": null}}'""",
    ),
    "no claim": (
        having(claims={("speech", "repositories"): ABSENT}),
        "claim-missing",
        "speech/whisper needs it",
        "create it in namespace speech; access mode ReadWriteMany",
    ),
    "a claim that is not bound": (
        having(claims={("speech", "repositories"): claim("ReadWriteMany", phase="Pending")}),
        "claim-not-bound",
        "Pending",
        "kubectl describe pvc/repositories --namespace speech",
    ),
    "a claim without its storage class": (
        having(claims={("speech", "repositories"): claim("ReadWriteMany", phase="Pending", storage_class="fast")}),
        "claim-not-bound",
        "there is no StorageClass fast",
        "StorageClass that exists: efs",
    ),
    "no ServiceAccount": (
        having(accounts={("speech", "whisper"): ABSENT}),
        "account-missing",
        "speech/whisper runs under it",
        "kubectl create serviceaccount whisper --namespace speech",
    ),
    "no Secret": (
        having(secrets={("speech", "hub-token"): False}),
        "secret-missing",
        "speech/whisper needs it",
        "kubectl create secret generic hub-token --namespace speech",
    ),
    "a bucket without a role": (
        with_resource(model={"target": {"uri": "s3://weights/whisper"}}),
        "cloud-role-missing",
        "no EKS Pod Identity agent",
        "aws eks create-pod-identity-association --cluster-name CLUSTER --namespace speech --service-account whisper --role",
    ),
    "no GPU where nodes are brought": (
        replace(with_resource(**FIXED), nodes=(node("m-1"),)),
        "gpus-missing",
        "no node offers it; speech/whisper waits for it",
        "runtime.device: CPU",
    ),
    "GPU nodes that offer none": (
        replace(with_resource(**FIXED), nodes=(node("g-1", "g6.xlarge"),)),
        "gpus-missing",
        "though there are GPU nodes",
        "install the NVIDIA device plugin",
    ),
    "a GPU node that offers none": (
        having(nodes=(gpu_node(), node("g-2", "g5.2xlarge", **{"serving.transcriber.dev/deployment": "whisper"}))),
        "gpu-not-offered",
        "g5.2xlarge, offers none of nvidia.com/gpu",
        "device plugin",
    ),
    "GPUs under another name": (
        replace(with_resource(**FIXED), nodes=(node("g-1", "g6.xlarge", offers=("nvidia.com/gpu.shared",)),)),
        "gpu-resource-unknown",
        "nodes offer nvidia.com/gpu.shared",
        "runtime.gpuResourceName: nvidia.com/gpu.shared",
    ),
    "no device plugin": (
        having(daemon_sets=(), nodes=(node("m-1"),)),
        "device-plugin-missing",
        "nodes of speech/whisper will offer no GPU",
        "install the NVIDIA device plugin",
    ),
    "a device plugin that the taint of a pool keeps out": (
        having(
            daemon_sets=(
                daemon_set(
                    "nvdp", "k8s-device-plugin:1", [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
                ),
            )
        ),
        "device-plugin-kept-out",
        "does not tolerate serving.transcriber.dev/pool",
        "tolerations: [{operator: Exists}]",
    ),
    "a device plugin that does not start": (
        having(daemon_sets=(daemon_set("nvidia-device-plugin", "x", [{"operator": "Exists"}], wanted=3, ready=1),)),
        "device-plugin-not-ready",
        "ready on 1 of 3 nodes",
        "kubectl logs --namespace kube-system daemonset/nvidia-device-plugin",
    ),
    "no Karpenter": (
        without_group(HEALTHY, "karpenter.sh", "karpenter.k8s.aws"),
        "karpenter-missing",
        "is not installed; speech/whisper asks for it",
        "install Karpenter 1.x (https://karpenter.sh/docs/getting-started/), or set capacity.provisioner: None",
    ),
    "an old Karpenter": (
        without_group(HEALTHY, karpenter_sh=("v1beta1",)),
        "karpenter-too-old",
        "serves v1beta1 and not v1",
        "upgrade Karpenter",
    ),
    "Karpenter's kinds alone": (
        having(karpenters=(), node_pools=()),
        "karpenter-not-running",
        "no Deployment",
        "its kinds alone bring no nodes",
    ),
    "a Karpenter that does not start": (
        having(karpenters=(karpenter_deployment(ready=0, INTERRUPTION_QUEUE="speech"),)),
        "karpenter-not-running",
        "0/2 ready",
        "kubectl logs --namespace kube-system deployment/karpenter",
    ),
    "no node class": (
        having(node_classes={GPU_CLASS: ABSENT}),
        "node-class-missing",
        "speech/whisper names it",
        "correct capacity.nodeClassRef",
    ),
    "a node class that is not ready": (
        having(
            node_classes={
                GPU_CLASS: named(
                    "EC2NodeClass", None, "gpu", status={"conditions": [condition("Ready", "False", "X", "no subnets")]}
                )
            }
        ),
        "node-class-not-ready",
        "not Ready: no subnets",
        "kubectl describe ec2nodeclass/gpu",
    ),
    "a NodePool that is not ready": (
        having(node_pools=(node_pool(ready="False", message="no class"),)),
        "node-pool-not-ready",
        "no class",
        "kubectl describe nodepool/speech-whisper-spot",
    ),
    "no KEDA": (with_resource(scaling={"mode": "Keda"}), "keda-missing", "has scaling.mode: Keda", "https://keda.sh"),
    "a KEDA that cannot ask": (
        without_group(with_resource(scaling={"mode": "Keda"}), keda_sh=("v1alpha1",)),
        "metrics-url-missing",
        "refuses scaling.mode: Keda",
        "config.metricsUrl=",
    ),
    "no metrics adapter": (
        replace(with_resource(scaling={"mode": "Hpa"}), external_metrics=ABSENT),
        "external-metrics-missing",
        "has scaling.mode: Hpa",
        "prometheus-adapter",
    ),
}

WARNINGS: dict[str, tuple[Seen, str, str, str]] = {
    "a definition that differs": (
        having(definition={"spec": {"versions": [{"name": "v1alpha1", "schema": {}}]}}),
        "definition-differs",
        "are not those of transcriber",
        "kubectl apply --server-side",
    ),
    "a claim of one node for several replicas": (
        having(claims={("speech", "repositories"): claim("ReadWriteOnce")}),
        "claim-not-shared",
        "ReadWriteOnce, but speech/whisper may have 5 replicas",
        "access mode ReadWriteMany",
    ),
    "weights of one node where each replica builds for itself": (
        replace(
            with_resource(
                model={"target": {"uri": "pvc://repositories/whisper"}}, repository={"volume": {"ephemeral": {"sizeLimit": "20Gi"}}}
            ),
            claims={("speech", "repositories"): claim("ReadWriteOnce")},
        ),
        "claim-not-shared",
        "may have 5 replicas",
        "ReadOnlyMany or ReadWriteMany",
    ),
    "no interruption queue for spot": (
        having(karpenters=(karpenter_deployment(INTERRUPTION_QUEUE=""),)),
        "interruption-queue-missing",
        "spot nodes of speech/whisper go without notice",
        "helm upgrade --reuse-values --namespace kube-system --set settings.interruptionQueue=QUEUE karpenter CHART",
    ),
    "no NodePool of a pool": (
        having(node_pools=(node_pool("other"),)),
        "node-pool-missing",
        "is not there",
        "transcriber status whisper --namespace speech",
    ),
    "no PodMonitor": (
        having(pod_monitors=(pod_monitor(selector={"matchLabels": {"app": "other"}}),)),
        "pod-monitor-missing",
        "are not scraped",
        f"charts/transcriber-operator --namespace {SYSTEM} --reuse-values --set metrics.podMonitor.enabled=true",
    ),
    "a PodMonitor of its own namespace": (
        having(pod_monitors=(pod_monitor(namespaceSelector={}),)),
        "pod-monitor-narrow",
        "leaves out the namespaces of speech/whisper",
        "namespaceSelector: {any: true}",
    ),
    "a PodMonitor that no Prometheus selects": (
        having(pod_monitors=(pod_monitor({}),)),
        "not-selected",
        "no Prometheus selects it",
        "--set 'metrics.podMonitor.labels.release=prometheus'",
    ),
    "no alerts": (having(prometheus_rules=()), "alerts-missing", "none has the alerts", "prometheusRule.enabled=true"),
    "alerts that no Prometheus selects": (
        having(prometheus_rules=(alerts({}),)),
        "not-selected",
        "no Prometheus selects it",
        "--set 'prometheusRule.labels.release=prometheus'",
    ),
    "alerts in a namespace that no Prometheus reads": (
        having(prometheuses=(prometheus(ruleSelector={}, ruleNamespaceSelector=None),)),
        "not-selected",
        "no Prometheus selects it",
        "widen ruleSelector and ruleNamespaceSelector of Prometheus monitoring/main",
    ),
}
NOTES: dict[str, tuple[Seen, str, str]] = {
    "a server of unknown version": (server("main"), "version-unknown", "cannot be compared"),
    "an operator of another version": (
        having(operators=(operator_deployment(tag="9.9.9"),)),
        "operator-version",
        "runs 9.9.9, and the command installed here is",
    ),
    "an operator outside the cluster": (having(operators=()), "operator-outside", "an operator runs outside the cluster"),
    "rights of what nobody asks for": (
        refused(Right("create", "autoscaling", "horizontalpodautoscalers")),
        "rights-left-out",
        "only scaling.mode: Hpa needs that",
    ),
    "no resources": (having(resources=()), "no-resources", "none in all namespaces"),
    "resources of one namespace only": (
        having(is_narrowed=True, scope="namespace speech"),
        "narrowed",
        "only namespace speech was looked at",
    ),
    "a resource at work": (with_resource(*WAITING), "in-progress", "not Ready yet, Starting"),
    "a new resource": (generation(3, JUST_NOW), "not-looked-at", "is new or was just changed"),
    "a resource that was just changed": (just_changed(), "not-looked-at", "was just changed"),
    "a resource that goes": (deleted(JUST_NOW), "ending", "is being deleted since 3 s"),
    "a resource that rests": (with_resource(suspend=True), "suspended", "the operator changes nothing"),
    "a claim that waits for its pod": (
        having(
            claims={("speech", "repositories"): claim("ReadWriteMany", phase="Pending")},
            storage_classes=(named("StorageClass", None, "efs", volumeBindingMode="WaitForFirstConsumer"),),
        ),
        "claim-waits",
        "until a first pod mounts it",
    ),
    "a bucket read by pods of another cloud": (
        replace(
            with_resource(model={"target": {"uri": "s3://weights/whisper"}}), server=Server("v1.33.1", NOW, HEALTHY.server.groups)
        ),
        "cloud-role-unknown",
        "with what its pods find",
    ),
    "a bucket read by Pod Identity": (
        replace(
            with_resource(model={"target": {"uri": "s3://weights/whisper"}}),
            daemon_sets=(*HEALTHY.daemon_sets, daemon_set("eks-pod-identity-agent", "agent:1")),
        ),
        "cloud-role-unknown",
        "the association is not seen from here",
    ),
    "GPU nodes that Karpenter will order": (having(nodes=(node("m-1"),)), "gpus-to-come", "Karpenter orders them"),
    "a GPU node that has just come": (
        having(nodes=(gpu_node(), node("g-2", "g6.xlarge", JUST_NOW))),
        "gpu-node-boots",
        "it is new",
    ),
    "a GPU node of others that offers none": (
        having(nodes=(gpu_node(), node("g-2", "g5.2xlarge"))),
        "gpu-not-offered",
        "no resource runs there",
    ),
    "GPUs that somebody offers": (having(daemon_sets=()), "device-plugin-unknown", "they bring it along"),
    "a Karpenter somewhere else": (having(karpenters=()), "karpenter-elsewhere", "no Deployment"),
    "a NodePool that nobody looks at": (
        having(node_pools=({**node_pool(), "status": {}},)),
        "node-pool-not-looked-at",
        "Karpenter has not looked at it",
    ),
    "no Prometheus operator": (without_group(HEALTHY, "monitoring.coreos.com"), "prometheus-operator-absent", "is not installed"),
    "no Prometheus": (having(prometheuses=()), "prometheus-unknown", "there is no Prometheus object"),
    "no gateway": (HEALTHY, "gateway-absent", "gRPC to Service NAME, port 8001"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_a_problem_is_found_and_comes_with_its_fix(case: str) -> None:
    seen, code, words, fix = PROBLEMS[case]
    found = of(code, seen)
    assert {finding.severity for finding in found} == {Severity.PROBLEM}, examine(seen)
    assert words in found[0].seen
    assert fix in found[0].fix


@pytest.mark.parametrize("case", WARNINGS)
def test_a_weakness_is_a_warning_and_comes_with_its_fix(case: str) -> None:
    seen, code, words, fix = WARNINGS[case]
    found = of(code, seen)
    assert {finding.severity for finding in found} == {Severity.WARNING}, examine(seen)
    assert words in found[0].seen
    assert fix in found[0].fix


@pytest.mark.parametrize("case", NOTES)
def test_what_may_be_right_is_only_noted(case: str) -> None:
    seen, code, words = NOTES[case]
    found = of(code, seen)
    assert {finding.severity for finding in found} == {Severity.NOTE}, examine(seen)
    assert words in found[0].seen


def test_a_healthy_cluster_has_nothing_to_mend() -> None:
    assert {finding.code for finding in examine(HEALTHY) if finding.severity is not Severity.OK} == {"gateway-absent"}
    assert [finding.fix for finding in examine(HEALTHY) if finding.severity is Severity.OK and finding.fix] == []


def test_every_problem_and_warning_names_a_fix() -> None:
    seen = [case[0] for case in (*PROBLEMS.values(), *WARNINGS.values())]
    bad = [finding for each in seen for finding in examine(each) if finding.severity in (Severity.PROBLEM, Severity.WARNING)]
    assert bad
    assert [finding for finding in bad if not finding.fix] == []


def test_findings_come_by_area_and_the_worst_first() -> None:
    found = examine(having(leases=(), operators=(operator_deployment(),)))
    operator = [finding.severity for finding in found if finding.area == "Operator"]
    assert operator == [Severity.PROBLEM, Severity.OK]
    areas = list(dict.fromkeys(finding.area for finding in found))
    assert areas[:3] == ["API server", "Resource definition", "Operator"]


NOT_READ = [field.name for field in fields(Seen) if field.name not in ("server", "operator_namespace", "scope", "is_narrowed")]


@pytest.mark.parametrize("field", NOT_READ)
def test_what_may_not_be_read_is_said_and_is_no_problem(field: str) -> None:
    value = getattr(HEALTHY, field)
    is_by_name = field in ("node_classes", "claims", "accounts", "secrets")
    seen = with_resource(scaling={"mode": "Hpa"}) if field == "external_metrics" else HEALTHY
    found = examine(replace(seen, **{field: dict.fromkeys(value, FORBIDDEN) if is_by_name else FORBIDDEN}))
    assert [finding for finding in found if finding.severity is Severity.PROBLEM] == []
    if field not in ("storage_classes", "namespaces"):  # they only sharpen what is said of others
        assert {finding.seen for finding in found if finding.code == "not-allowed"} == {f"not checked: {FORBIDDEN.message}"}


def test_what_failed_to_be_read_is_to_be_looked_at_again() -> None:
    found = of("not-read", having(nodes=Unread(Why.FAILED, "/api/v1/nodes answered 503: busy")))
    assert [(finding.seen, finding.fix) for finding in found] == [("not checked: /api/v1/nodes answered 503: busy", "look again")]


@pytest.mark.parametrize("device", [CPU, FIXED])
def test_karpenter_is_a_note_where_no_resource_asks_for_it(device: dict[str, Any]) -> None:
    seen = without_group(replace(with_resource(**device), node_classes={}), "karpenter.sh", "karpenter.k8s.aws")
    assert [finding.severity for finding in of("karpenter-absent", seen)] == [Severity.NOTE]
    assert not [finding for finding in examine(seen) if finding.area == "Karpenter" and finding.severity is Severity.PROBLEM]


def test_gpus_do_not_matter_to_resources_on_cpu() -> None:
    seen = replace(with_resource(**CPU), nodes=NOT_ASKED, daemon_sets=NOT_ASKED)
    assert [finding for finding in examine(seen) if finding.area == "GPU nodes"] == []


def test_other_parts_of_the_device_plugins_image_are_not_taken_for_it() -> None:
    discovery = daemon_set("gpu-feature-discovery", "nvidia/k8s-device-plugin:v0.18.0")
    assert of("device-plugin-kept-out", having(daemon_sets=(discovery, *HEALTHY.daemon_sets))) == []


def test_the_taint_of_a_pool_does_not_matter_where_nodes_are_brought() -> None:
    plugin = daemon_set("nvidia-device-plugin", "k8s-device-plugin:1")
    seen = replace(with_resource(**FIXED), daemon_sets=(plugin,))
    assert [finding.severity for finding in of("device-plugin", seen)] == [Severity.OK]


def test_an_interruption_queue_does_not_matter_without_spot_nor_off_aws() -> None:
    no_queue = {"karpenters": (karpenter_deployment(),)}
    on_demand = with_resource(capacity={"pools": [{"name": "spot", "capacityType": "OnDemand"}]})
    assert of("interruption-queue-missing", replace(on_demand, **no_queue)) == []
    assert of("interruption-queue-missing", without_group(having(**no_queue), "karpenter.k8s.aws")) == []


def test_eks_auto_mode_runs_karpenter_device_plugin_and_pod_identity_itself() -> None:
    reference = {"group": "eks.amazonaws.com", "kind": "NodeClass", "name": "gpu"}
    auto = with_resource(model={"target": {"uri": "s3://weights/whisper"}}, capacity={"nodeClassRef": reference})
    auto = replace(auto, karpenters=(), daemon_sets=(), nodes=(), node_classes={})
    auto = without_group(auto, "karpenter.k8s.aws", eks_amazonaws_com=("v1",))
    assert [finding for finding in examine(auto) if finding.severity is Severity.PROBLEM] == []
    assert len(of("device-plugin-of-nodes", auto)) == 1


@pytest.mark.parametrize("spec", [{"amiFamily": "Bottlerocket"}, {"amiSelectorTerms": [{"alias": "bottlerocket@latest"}]}])
def test_bottlerocket_brings_the_device_plugin(spec: dict[str, Any]) -> None:
    seen = having(daemon_sets=(), nodes=(), node_classes={GPU_CLASS: named("EC2NodeClass", None, "gpu", spec=spec)})
    assert of("device-plugin-missing", seen) == []


def test_a_role_by_annotation_is_enough_for_a_bucket() -> None:
    account = named("ServiceAccount", "speech", "whisper")
    account["metadata"]["annotations"] = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/whisper"}
    seen = replace(with_resource(model={"target": {"uri": "s3://weights/whisper"}}), accounts={("speech", "whisper"): account})
    assert [finding.severity for finding in of("cloud-role", seen)] == [Severity.OK]


def test_one_replica_may_have_a_claim_of_one_node() -> None:
    seen = replace(with_resource(scaling={"maxReplicas": 1}), claims={("speech", "repositories"): claim("ReadWriteOnce")})
    assert of("claim-not-shared", seen) == []


def test_monitoring_does_not_matter_to_an_empty_cluster() -> None:
    seen = having(resources=(), operators=(), leases=(), pod_monitors=(), prometheus_rules=())
    assert [finding for finding in examine(seen) if finding.area == "Monitoring"] == []


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"args": ["--interruption-queue=speech"]}, True),
        ({"args": ["--interruption-queue", "speech"]}, True),
        ({"args": ["--interruption-queue="]}, False),
        ({"args": ["--interruption-queue"]}, False),
        ({"env": [{"name": "INTERRUPTION_QUEUE", "valueFrom": {"configMapKeyRef": {}}}]}, True),
        ({"env": [{"name": "INTERRUPTION_QUEUE"}]}, False),
        ({}, False),
    ],
)
def test_an_interruption_queue_is_given_by_environment_or_flag(container: dict[str, Any], expected: bool) -> None:
    assert has_interruption_queue({"spec": {"template": {"spec": {"containers": [container]}}}}) is expected


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (node("a", "g6e.4xlarge"), True),
        (node("a", "p5.48xlarge"), True),
        (node("a", "gr6.4xlarge"), True),
        (node("a", "g4ad.xlarge"), False),  # AMD's
        (node("a", "m7i.large"), False),
        (node("a", "custom", **{"nvidia.com/gpu.present": "true"}), True),
        (node("a", "custom", **{"nvidia.com/gpu.present": "false"}), False),
    ],
)
def test_a_gpu_node_is_known_by_its_type_or_labels(manifest: dict[str, Any], expected: bool) -> None:
    assert looks_like_gpu(manifest) is expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, False),
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_a_label_selector_chooses_as_kubernetes_does(selector: dict[str, Any] | None, expected: bool) -> None:
    assert matches(selector, {"a": "1"}) is expected


def test_a_fix_is_a_line_of_its_own_and_whole_however_narrow_the_terminal() -> None:
    found = examine(having(operators=(), leases=()))
    lines = [line.plain for line in as_lines("main", "https://cluster.example.com", found, 60)]
    fix = (
        "helm upgrade --install transcriber-operator charts/transcriber-operator --namespace transcriber-system --create-namespace"
    )
    assert f"        fix: {fix}" in lines
    assert max(len(line) for line in lines if "fix: " not in line) <= 60
    assert lines[-1].startswith("\n1 problem, 0 warnings, ")


def test_the_document_counts_and_lists_what_was_found() -> None:
    document = as_document("main", "https://cluster.example.com", "v1.33.5", examine(having(leases=())))
    assert document["counts"] == {"problem": 1, "warning": 0, "note": 1, "ok": 15}
    first = next(finding for finding in document["findings"] if finding["severity"] == "problem")
    assert (first["area"], first["code"], first["subject"]) == ("Operator", "lease-missing", f"Lease {SYSTEM}/transcriber-operator")


def test_an_operator_of_the_whole_cluster_needs_its_rights_everywhere() -> None:
    wanted = set(rights((), SYSTEM, "transcriber-operator", {"karpenter.sh"}))
    assert Right("create", "apps", "deployments") in wanted
    assert Right("list", "coordination.k8s.io", "leases", "", "transcriber-operator") in wanted
    assert Right("update", "coordination.k8s.io", "leases", SYSTEM, "transcriber-operator") in wanted
    assert Right("list", "events.k8s.io", "events", "default") in wanted
    assert not [right for right in wanted if right.group in ("keda.sh", "karpenter.k8s.aws")]  # the cluster has none


def test_an_operator_of_some_namespaces_writes_there_and_watches_its_own_too() -> None:
    wanted = set(rights(("speech",), SYSTEM, "lease", ()))
    deployments = {(right.verb, right.namespace) for right in wanted if right.resource == "deployments"}
    assert {("create", "speech"), ("watch", "speech"), ("watch", SYSTEM)} <= deployments
    assert ("create", SYSTEM) not in deployments
    assert not [right for right in wanted if right.group == "events.k8s.io" and right.verb == "list"]  # without Karpenter


def test_a_review_asks_as_the_account_with_its_groups() -> None:
    asked = review(
        Account(SYSTEM, "operator"), Right("patch", "serving.transcriber.dev", "transcriberdeployments/status", "speech")
    )
    assert asked["spec"]["user"] == f"system:serviceaccount:{SYSTEM}:operator"
    assert f"system:serviceaccounts:{SYSTEM}" in asked["spec"]["groups"]
    assert asked["spec"]["resourceAttributes"] == {
        "verb": "patch",
        "group": "serving.transcriber.dev",
        "resource": "transcriberdeployments",
        "subresource": "status",
        "namespace": "speech",
    }
