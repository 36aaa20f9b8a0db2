"""What the operator's writes do on a real API server, with the operator's own rights."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.api.operator_parts import ACCOUNT, get, grant, kubectl, transcriber_deployment
from tests.rig.control_plane import ControlPlane
from tests.unit.operator_io.parts import FakeClock
from transcriber_api.conditions import ConditionType, Observation, Reason, merge
from transcriber_api.status import Status
from transcriber_operator.clock import SystemClock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import TRANSCRIBER_DEPLOYMENT, Resource, resource_of
from transcriber_operator.debug import Journal
from transcriber_operator.decide.decision import Announcement, Apply, Decision, Key, Prune
from transcriber_operator.decide.live import replicas_owners
from transcriber_operator.decide.observed import Installation, Observed
from transcriber_operator.errors import ConflictError, LeaseLostError, TerminalError, TransientError
from transcriber_operator.execute.executor import Executor
from transcriber_operator.execute.lease import Lease
from transcriber_operator.handlers.reconcile import Decide, Reconciler, Subject
from transcriber_operator.handlers.schedule import Outcome
from transcriber_operator.handlers.wakes import Wakes
from transcriber_operator.metrics import Metrics
from transcriber_operator.observe.gatherer import Gatherer
from transcriber_operator.observe.load import LoadReader
from transcriber_operator.observe.progress import ProgressReader
from transcriber_operator.render.names import DEPLOYMENT_LABEL

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CONTROLLER, AUTOSCALER = "transcriber-controller", "transcriber-autoscaler"
LABELS = {"app.kubernetes.io/managed-by": "transcriber-operator", DEPLOYMENT_LABEL: "whisper"}


class Cluster:
    """One resource in a namespace of its own, and the operator's parts around a client with the operator's rights."""

    def __init__(
        self, plane: ControlPlane, namespace: str, kube: Kube, progress: ProgressReader, load: LoadReader, kubeconfig: Path
    ) -> None:
        self.plane, self.namespace, self.kube, self.kubeconfig = plane, namespace, kube, kubeconfig
        self.metrics = Metrics()
        self.executor = Executor(kube, "operator-1", self.metrics, SystemClock())
        installation = Installation(serving_image="serving:1", namespace=namespace)
        self.gatherer = Gatherer(kube, progress, load, installation, SystemClock())

    async def observe(self) -> Observed:
        found = await self.gatherer.observe(self.namespace, "whisper")
        assert found is not None
        return found

    async def carry_out(self, *apply: Apply, **more: Any) -> None:
        await self.executor.execute(await self.observe(), Decision(apply=apply, **more))

    async def get(self, kind: str, name: str) -> Any:
        return await get(self.plane, f"{kind}/{name}", f"--namespace={self.namespace}", "--show-managed-fields")

    async def child(self, name: str, *, api_version: str = "v1", kind: str = "ConfigMap", **content: Any) -> dict[str, Any]:
        owner = (await self.observe()).resource
        reference = {
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": "whisper", "uid": owner["metadata"]["uid"],
            "controller": True, "blockOwnerDeletion": True,
        }  # fmt: skip
        metadata = {"namespace": self.namespace, "name": name, "labels": LABELS, "ownerReferences": [reference]}
        return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}

    async def deployment(self, **spec: Any) -> dict[str, Any]:
        selector = {"matchLabels": {"app": "whisper"}}
        template = {"metadata": {"labels": {"app": "whisper"}}, "spec": {"containers": [{"name": "triton", "image": "none"}]}}
        spec = {"selector": selector, "template": template, **spec}
        return await self.child("whisper-cpu", api_version="apps/v1", kind="Deployment", spec=spec)

    def reconciler(self, decide: Decide) -> Reconciler:
        return Reconciler(self.gatherer, self.executor, decide, SystemClock(), self.metrics, Journal(), Wakes())


@pytest.fixture
async def cluster(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Cluster]:
    await asyncio.to_thread(grant, control_plane, namespace)
    await asyncio.to_thread(control_plane.apply, transcriber_deployment(namespace))
    kubeconfig = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, ACCOUNT)
    async with Kube(kubeconfig, Metrics()) as kube, ProgressReader() as progress, LoadReader(SystemClock()) as load:
        yield Cluster(control_plane, namespace, kube, progress, load, kubeconfig)


def applied(manifest: dict[str, Any], manager: Any = CONTROLLER) -> Apply:
    return Apply(manifest=manifest, manager=manager)


async def test_a_child_is_created_once_and_the_same_apply_changes_nothing(cluster: Cluster) -> None:
    manifest = await cluster.child("one", data={"key": "value"})
    await cluster.carry_out(applied(manifest))
    first = await cluster.get("configmap", "one")
    assert [(entry["manager"], entry["operation"]) for entry in first["metadata"]["managedFields"]] == [(CONTROLLER, "Apply")]
    await cluster.carry_out(applied(manifest))
    assert (await cluster.get("configmap", "one"))["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    text = cluster.metrics.render().decode()
    assert 'applied_total{kind="ConfigMap",result="created"} 1.0' in text
    assert 'applied_total{kind="ConfigMap",result="unchanged"} 1.0' in text


async def test_what_is_not_rendered_any_more_goes_and_what_others_added_stays(cluster: Cluster) -> None:
    await cluster.carry_out(applied(await cluster.child("one", data={"kept": "1", "dropped": "1"})))
    patch = json.dumps({"data": {"theirs": "1", "kept": "edited by hand"}})
    await kubectl(
        cluster.plane, "patch", "configmap", "one", f"--namespace={cluster.namespace}", "--type=merge", f"--patch={patch}"
    )
    await cluster.carry_out(applied(await cluster.child("one", data={"kept": "1"})))
    assert (await cluster.get("configmap", "one"))["data"] == {"kept": "1", "theirs": "1"}


async def test_an_entry_that_was_edited_by_hand_under_another_key_is_undone(cluster: Cluster) -> None:
    spec = {"clusterIP": "None", "ports": [{"name": "grpc", "port": 8001, "protocol": "TCP"}]}
    manifest = await cluster.child("whisper", kind="Service", spec=spec)
    await cluster.carry_out(applied(manifest))
    patch = json.dumps({"spec": {"ports": [{"name": "grpc", "port": 1}]}})
    await kubectl(
        cluster.plane, "patch", "service", "whisper", f"--namespace={cluster.namespace}", "--type=merge", f"--patch={patch}"
    )
    await cluster.carry_out(applied(manifest))
    live = await cluster.get("service", "whisper")
    assert [port["port"] for port in live["spec"]["ports"]] == [8001]
    assert [entry["manager"] for entry in live["metadata"]["managedFields"]] == [CONTROLLER]


async def test_the_autoscalers_replicas_survive_what_the_controller_applies(cluster: Cluster) -> None:
    await cluster.carry_out(applied(await cluster.deployment(replicas=0)))
    scaled = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": cluster.namespace, "name": "whisper-cpu"},
        "spec": {"replicas": 3},
    }
    await cluster.carry_out(applied(scaled, AUTOSCALER))
    seen = next(child for child in (await cluster.observe()).children if child["kind"] == "Deployment")
    assert AUTOSCALER in replicas_owners(seen)
    await cluster.carry_out(applied(await cluster.deployment(minReadySeconds=1)))
    live = await cluster.get("deployment", "whisper-cpu")
    assert (live["spec"]["replicas"], live["spec"]["minReadySeconds"]) == (3, 1)
    seen = next(child for child in (await cluster.observe()).children if child["kind"] == "Deployment")
    assert replicas_owners(seen) == {AUTOSCALER}


async def test_a_part_of_a_child_that_is_gone_does_not_make_it_anew(cluster: Cluster) -> None:
    await cluster.carry_out(applied(await cluster.deployment(replicas=0)))
    before = await cluster.observe()
    await kubectl(cluster.plane, "delete", "deployment", "whisper-cpu", f"--namespace={cluster.namespace}")
    scaled = applied(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": cluster.namespace, "name": "whisper-cpu"},
            "spec": {"replicas": 3},
        },
        AUTOSCALER,
    )
    with pytest.raises(ConflictError):
        await cluster.executor.execute(before, Decision(apply=(scaled,)))
    await cluster.carry_out(applied(await cluster.deployment(replicas=0)))
    with pytest.raises(ConflictError):
        await cluster.executor.execute(before, Decision(apply=(scaled,)))
    assert (await cluster.get("deployment", "whisper-cpu"))["spec"]["replicas"] == 0


async def test_only_the_very_object_that_was_observed_is_pruned(cluster: Cluster) -> None:
    await cluster.carry_out(applied(await cluster.child("one")))
    uid = (await cluster.get("configmap", "one"))["metadata"]["uid"]
    key = Key("v1", "ConfigMap", "one")
    with pytest.raises(ConflictError):
        await cluster.carry_out(prune=(Prune(key=key, uid="00000000-0000-0000-0000-000000000000"),))
    assert (await cluster.get("configmap", "one"))["metadata"]["uid"] == uid
    for _ in range(2):  # gone already is as wanted
        await cluster.carry_out(prune=(Prune(key=key, uid=uid),))
    assert "one" not in {child["metadata"]["name"] for child in (await cluster.observe()).children}
    assert 'pruned_total{kind="ConfigMap"} 1.0' in cluster.metrics.render().decode()


def status(*types: ConditionType, **fields: Any) -> Status:
    seen = [Observation(type_, "True", Reason.AS_EXPECTED, "as it should be") for type_ in types]
    return Status(observed_generation=1, conditions=merge((), seen, 1, NOW), **fields)


async def test_status_is_written_whole_and_leaves_the_spec_alone(cluster: Cluster) -> None:
    before = await cluster.observe()
    await cluster.carry_out(status=status(ConditionType.READY, ConditionType.RECONCILING, replicas=1))
    await cluster.carry_out(status=status(ConditionType.READY))
    live = await cluster.get("transcriberdeployment", "whisper")
    assert [condition["type"] for condition in live["status"]["conditions"]] == ["Ready"]
    assert "replicas" not in live["status"]
    assert live["spec"] == before.resource["spec"]
    assert live["metadata"]["generation"] == 1
    await cluster.carry_out(status=status(ConditionType.READY))
    again = await cluster.get("transcriberdeployment", "whisper")
    assert again["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]


async def test_another_writers_condition_is_not_lost(cluster: Cluster) -> None:
    theirs = {"type": "Audited", "status": "True", "reason": "ByHand", "message": "", "lastTransitionTime": "2026-01-31T12:00:00Z"}
    await cluster.carry_out(status=status(ConditionType.READY))
    document = {
        "apiVersion": TRANSCRIBER_DEPLOYMENT.api_version,
        "kind": TRANSCRIBER_DEPLOYMENT.kind,
        "metadata": {"name": "whisper", "namespace": cluster.namespace},
        "status": {"conditions": [theirs]},
    }
    await kubectl(
        cluster.plane, "apply", "--server-side", "--subresource=status", "--field-manager=auditor", "-f", "-", document=document
    )
    await cluster.carry_out(status=status(ConditionType.READY, ConditionType.SPEC_VALID))
    live = await cluster.get("transcriberdeployment", "whisper")
    assert {condition["type"] for condition in live["status"]["conditions"]} == {"Ready", "SpecValid", "Audited"}


async def test_the_status_of_a_resource_that_was_made_anew_is_not_written(cluster: Cluster) -> None:
    before = await cluster.observe()
    await kubectl(cluster.plane, "delete", "transcriberdeployment", "whisper", f"--namespace={cluster.namespace}")
    with pytest.raises(ConflictError):
        await cluster.executor.write_status(before.resource, status(ConditionType.READY))
    await asyncio.to_thread(cluster.plane.apply, transcriber_deployment(cluster.namespace))
    with pytest.raises(ConflictError):
        await cluster.executor.write_status(before.resource, status(ConditionType.READY))
    assert "status" not in await cluster.get("transcriberdeployment", "whisper")


async def test_the_status_is_written_though_others_wrote_meanwhile(cluster: Cluster) -> None:
    before = await cluster.observe()
    await kubectl(cluster.plane, "annotate", "transcriberdeployment", "whisper", "by=hand", f"--namespace={cluster.namespace}")
    await cluster.executor.write_status(before.resource, status(ConditionType.READY))
    live = await cluster.get("transcriberdeployment", "whisper")
    assert [condition["type"] for condition in live["status"]["conditions"]] == ["Ready"]
    assert live["metadata"]["annotations"] == {"by": "hand"}


async def test_what_the_api_server_refuses_is_told_in_the_status_with_its_words(cluster: Cluster) -> None:
    broken = await cluster.deployment(replicas=-1)
    decided = Decision(apply=(applied(broken),), status=status(ConditionType.READY, ConditionType.SPEC_VALID))
    reconciler = cluster.reconciler(lambda _observed, _now: decided)
    uid = (await cluster.observe()).resource["metadata"]["uid"]
    end = await reconciler.run_pass(Subject(cluster.namespace, "whisper", uid))
    assert end.outcome is Outcome.TERMINAL
    live = await cluster.get("transcriberdeployment", "whisper")
    told = {condition["type"]: condition for condition in live["status"]["conditions"]}
    assert told["SpecValid"]["status"] == "False"
    assert "spec.replicas: Invalid value: -1: must be greater than or equal to 0" in told["SpecValid"]["message"]
    assert told["Stalled"]["status"] == "True"
    await reconciler.run_pass(Subject(cluster.namespace, "whisper", uid))
    again = await cluster.get("transcriberdeployment", "whisper")
    assert again["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]


async def test_an_announcement_is_an_event_of_the_resource(cluster: Cluster) -> None:
    await cluster.carry_out(announcements=(Announcement(type="Warning", reason=Reason.BUILD_FAILED, message="read its log"),))
    text = await kubectl(cluster.plane, "events", "--for=transcriberdeployment/whisper", f"--namespace={cluster.namespace}")
    assert "BuildFailed" in text
    assert "read its log" in text


async def test_an_object_of_somebody_else_is_not_taken_over(cluster: Cluster) -> None:
    await kubectl(cluster.plane, "create", "configmap", "one", "--from-literal=theirs=1", f"--namespace={cluster.namespace}")
    with pytest.raises(TerminalError, match="ConfigMap one exists and is not ours"):
        await cluster.carry_out(applied(await cluster.child("one", data={"ours": "1"})))
    assert (await cluster.get("configmap", "one"))["data"] == {"theirs": "1"}


async def test_an_orphan_of_ours_is_taken_in_again(cluster: Cluster) -> None:
    await cluster.carry_out(applied(await cluster.child("one")))
    await kubectl(
        cluster.plane, "delete", "transcriberdeployment", "whisper", "--cascade=orphan", f"--namespace={cluster.namespace}"
    )
    orphan = await cluster.get("configmap", "one")
    assert not orphan["metadata"].get("ownerReferences")
    await asyncio.to_thread(cluster.plane.apply, transcriber_deployment(cluster.namespace))
    await cluster.carry_out(applied(await cluster.child("one")))
    adopted = await cluster.get("configmap", "one")
    assert adopted["metadata"]["uid"] == orphan["metadata"]["uid"]
    owner = (await cluster.observe()).resource["metadata"]["uid"]
    assert [reference["uid"] for reference in adopted["metadata"]["ownerReferences"]] == [owner]


async def test_what_the_operator_has_no_right_to_is_transient_and_named(cluster: Cluster) -> None:
    cluster.plane.expect_refusals(cluster.namespace, "list secrets", "get leases")
    with pytest.raises(TransientError, match=r"403 .*cannot list resource \"secrets\""):
        await cluster.kube.select(Resource("v1", "Secret", "secrets"), cluster.namespace, "")
    with pytest.raises(TransientError, match=r"403 .*cannot get resource \"leases\""):
        await cluster.kube.get(resource_of("coordination.k8s.io/v1", "Lease"), "kube-system", "kube-scheduler")


async def test_of_two_that_want_the_lease_at_once_one_gets_it(cluster: Cluster) -> None:
    async with Kube(cluster.kubeconfig, Metrics()) as kube:
        clock = FakeClock()
        leases = [Lease(kube, clock, cluster.namespace, "transcriber-operator", name) for name in ("a", "b", "c")]
        for _ in range(3):  # on creation, renewal and another renewal
            await asyncio.gather(*(lease._attempt() for lease in leases))
            assert [lease.is_held for lease in leases].count(True) <= 1
        holders = [lease.identity for lease in leases if lease.is_held]
        live = await cluster.get("lease", "transcriber-operator")
        assert [live["spec"]["holderIdentity"]] == holders


async def test_one_that_was_deposed_writes_nothing(cluster: Cluster) -> None:
    clocks = FakeClock(), FakeClock()
    async with Kube(cluster.kubeconfig, Metrics()) as kube:
        old, new = (
            Lease(kube, clock, cluster.namespace, "transcriber-operator", name)
            for clock, name in zip(clocks, ("old", "new"), strict=True)
        )
        await old.acquire()
        manifest = await cluster.child("one")
        async with Kube(cluster.kubeconfig, Metrics(), gate=old.require) as held, Kube(
            cluster.kubeconfig, Metrics(), gate=new.require
        ) as waiting:  # fmt: skip
            await held.apply(manifest, CONTROLLER)
            with pytest.raises(LeaseLostError):
                await waiting.apply(manifest, CONTROLLER)
            clocks[0].seconds = 90  # the old one slept
            await new.acquire()
            await waiting.apply({**manifest, "data": {"by": "new"}}, CONTROLLER)
            with pytest.raises(LeaseLostError):
                await held.apply({**manifest, "data": {"by": "old"}}, CONTROLLER)
        await old.keep()  # sees the other one and gives up
        assert not old.is_held
    assert (await cluster.get("configmap", "one"))["data"] == {"by": "new"}
