"""What an uninstall leaves behind, whatever the operator, the API server and others do meanwhile."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.operator_io.parts import FakeClock
from transcriber_operator.cluster.resources import NODE_POOL, POD, TRANSCRIBER_DEPLOYMENT, Resource
from transcriber_operator.errors import ConflictError, ForbiddenError, KindMissingError, NotFoundError, TransientError
from transcriber_operator.handlers.lifecycle import FINALIZER
from transcriber_operator.render.names import NAMESPACE_LABEL, OWNER_UID_LABEL
from transcriber_operator.uninstall.__main__ import main
from transcriber_operator.uninstall.decisions import Target, running, without
from transcriber_operator.uninstall.procedure import DEPLOYMENT, Uninstall, UninstallError

KEEP = Target("transcriber-system", "transcriber-operator", "app.kubernetes.io/component=operator")
DELETE = Target("transcriber-system", "transcriber-operator", "app.kubernetes.io/component=operator", deletes_resources=True)
TIMEOUT_SECONDS = 120.0
Key = tuple[str, str | None, str]
Manifest = dict[str, Any]


class Cluster:
    """Stands for the client, over objects that go once they have no finalizer; fails as often as a test says."""

    def __init__(self, *objects: Manifest) -> None:
        self.objects: dict[Key, Manifest] = {}
        for each in objects:
            self.add(each)
        self.failures: list[Exception] = []  # of the next calls, whatever they are
        self.missing: set[str] = set()  # plurals that the cluster has no kind of
        self.forbidden: set[str] = set()
        self.on_call: Callable[[str, str], None] = lambda verb, plural: None
        self.deleted: list[str] = []

    def add(self, manifest: Manifest) -> None:
        metadata = manifest["metadata"]
        self.objects[manifest["kind"], metadata.get("namespace"), metadata["name"]] = manifest

    def names(self, kind: str) -> list[str]:
        return sorted(name for found, _, name in self.objects if found == kind)

    async def get(self, kind: Resource, namespace: str | None, name: str) -> Manifest:
        self._check("get", kind)
        return self._find(kind, namespace, name)

    async def select(self, kind: Resource, namespace: str | None, selector: str | None = None) -> list[Manifest]:
        self._check("list", kind)
        return [each for (found, where, _), each in self.objects.items() if found == kind.kind and namespace in (None, where)]

    async def delete(self, kind: Resource, namespace: str | None, name: str, uid: str) -> None:
        self._check("delete", kind)
        found = self._find(kind, namespace, name)
        assert found["metadata"]["uid"] == uid
        self.deleted.append(name)
        found["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
        self._collect(kind.kind, namespace, name)

    async def merge(self, kind: Resource, namespace: str | None, name: str, change: Manifest) -> Manifest:
        self._check("patch", kind)
        found = self._find(kind, namespace, name)
        assert change["metadata"].pop("resourceVersion") == found["metadata"]["resourceVersion"]
        found["metadata"].update(change["metadata"])
        self._collect(kind.kind, namespace, name)
        return found

    def _check(self, verb: str, kind: Resource) -> None:
        self.on_call(verb, kind.plural)
        if self.failures:
            raise self.failures.pop(0)
        if kind.plural in self.missing:
            raise KindMissingError(f"no {kind.plural}")
        if kind.plural in self.forbidden:
            raise ForbiddenError(f"403 {kind.plural} is forbidden")

    def _find(self, kind: Resource, namespace: str | None, name: str) -> Manifest:
        try:
            return self.objects[kind.kind, namespace, name]
        except KeyError:
            raise NotFoundError(f"{kind.kind} {name} not found") from None

    def _collect(self, kind: str, namespace: str | None, name: str) -> None:
        metadata = self.objects[kind, namespace, name]["metadata"]
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            del self.objects[kind, namespace, name]


def made(kind: str, name: str, namespace: str | None, **metadata: Any) -> Manifest:
    base = {"name": name, "uid": f"uid-{name}", "resourceVersion": "7", **metadata}
    return {"kind": kind, "metadata": base if namespace is None else {**base, "namespace": namespace}}


def resource(name: str, namespace: str = "speech", **metadata: Any) -> Manifest:
    return made(TRANSCRIBER_DEPLOYMENT.kind, name, namespace, **{"finalizers": [FINALIZER], **metadata})


def node_pool(name: str, owner: str, namespace: str = "speech") -> Manifest:
    return made(NODE_POOL.kind, name, None, labels={OWNER_UID_LABEL: f"uid-{owner}", NAMESPACE_LABEL: namespace})


def operator_pod(phase: str = "Running") -> Manifest:
    return {**made(POD.kind, "operator-1", KEEP.namespace), "status": {"phase": phase}}


def installed() -> tuple[Manifest, Manifest]:
    return made(DEPLOYMENT.kind, KEEP.deployment, KEEP.namespace), operator_pod()


def ends_with_its_deployment(cluster: Cluster) -> None:
    """Let the operator's pod be gone at the look after its Deployment was deleted."""

    def look(verb: str, plural: str) -> None:
        if not cluster.names(DEPLOYMENT.kind) and (verb, plural) == ("get", "deployments"):
            cluster.objects.pop((POD.kind, KEEP.namespace, "operator-1"), None)

    cluster.on_call = look


async def uninstall(cluster: Cluster, target: Target = KEEP) -> float:
    """Return how many seconds it took."""
    clock = FakeClock()
    await Uninstall(cluster, target, clock, TIMEOUT_SECONDS).run()  # type: ignore[arg-type]
    return clock.seconds


async def test_the_operator_ends_first_and_then_every_resource_is_released_and_stays() -> None:
    cluster = Cluster(*installed(), resource("a", finalizers=["other/one", FINALIZER]), resource("b", "voice"))
    ends_with_its_deployment(cluster)
    assert await uninstall(cluster) < 5
    assert cluster.deleted == [KEEP.deployment]
    assert cluster.names("TranscriberDeployment") == ["a", "b"]
    assert [each["metadata"]["finalizers"] for each in cluster.objects.values()] == [["other/one"], []]


async def test_nothing_is_released_while_a_pod_of_the_operator_may_put_the_finalizer_back() -> None:
    cluster = Cluster(*installed(), resource("a"))
    looks = 0

    def look(verb: str, plural: str) -> None:
        nonlocal looks
        assert (verb, plural) != ("patch", "transcriberdeployments") or not cluster.names(POD.kind)
        if (verb, plural) == ("list", "pods"):
            looks += 1
            if looks == 20:
                del cluster.objects[POD.kind, KEEP.namespace, "operator-1"]

    cluster.on_call = look
    assert 18 < await uninstall(cluster) < 25


async def test_a_pod_of_a_node_that_is_gone_is_not_waited_for_to_the_end(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(*installed(), resource("a"))
    assert 90 <= await uninstall(cluster) < 100
    assert "the operator's pods operator-1 have not ended; going on" in caplog.text
    assert cluster.objects["TranscriberDeployment", "speech", "a"]["metadata"]["finalizers"] == []


async def test_where_there_never_was_an_operator_it_is_done_at_once() -> None:
    assert await uninstall(Cluster()) == 0
    without_kind = Cluster()
    without_kind.missing = {"transcriberdeployments", "nodepools"}
    assert await uninstall(without_kind) == 0
    assert await uninstall(without_kind, DELETE) == 0


async def test_a_finalizer_that_comes_back_is_taken_off_again() -> None:
    cluster = Cluster(resource("a"))
    came_back = False

    def look(verb: str, plural: str) -> None:
        nonlocal came_back
        metadata = cluster.objects["TranscriberDeployment", "speech", "a"]["metadata"]
        if not (came_back or metadata["finalizers"]):
            came_back, metadata["finalizers"] = True, [FINALIZER]

    cluster.on_call = look
    await uninstall(cluster)
    assert came_back
    assert cluster.objects["TranscriberDeployment", "speech", "a"]["metadata"]["finalizers"] == []


async def test_a_resource_that_was_deleted_while_the_operator_was_dead_goes_with_its_node_pools_and_others_keep_theirs() -> None:
    going = resource("a", deletionTimestamp="2026-01-31T12:00:00Z")
    cluster = Cluster(going, resource("b"), node_pool("pool-a", "a"), node_pool("pool-b", "b"))
    await uninstall(cluster)
    assert cluster.names("TranscriberDeployment") == ["b"]
    assert cluster.names("NodePool") == ["pool-b"]


async def test_where_the_kind_goes_too_the_operator_cleans_up_first() -> None:
    cluster = Cluster(*installed(), resource("a"), node_pool("pool-a", "a"))

    def look(verb: str, plural: str) -> None:  # the operator, at work
        going = cluster.objects.get(("TranscriberDeployment", "speech", "a"))
        if going and "deletionTimestamp" in going["metadata"]:
            assert cluster.names(DEPLOYMENT.kind)
            del cluster.objects["TranscriberDeployment", "speech", "a"]
            del cluster.objects["NodePool", None, "pool-a"]
        if not cluster.names(DEPLOYMENT.kind):
            cluster.objects.pop((POD.kind, KEEP.namespace, "operator-1"), None)

    cluster.on_call = look
    assert await uninstall(cluster, DELETE) < 5
    assert cluster.objects == {}
    assert cluster.deleted == ["a", KEEP.deployment]


async def test_where_the_kind_goes_too_an_operator_that_hangs_has_half_the_time(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(*installed(), resource("a"), node_pool("pool-a", "a"), node_pool("pool-of-earlier", "gone"))
    ends_with_its_deployment(cluster)
    assert 60 <= await uninstall(cluster, DELETE) < 65
    assert "The operator has not cleaned up: TranscriberDeployments speech/a not gone yet" in caplog.text
    assert cluster.objects == {}


async def test_where_the_kind_goes_too_a_dead_operator_is_not_waited_for() -> None:
    cluster = Cluster(made(DEPLOYMENT.kind, KEEP.deployment, KEEP.namespace), operator_pod("Failed"), resource("a"))
    assert await uninstall(cluster, DELETE) < 5
    assert cluster.names("TranscriberDeployment") == []


async def test_of_an_installation_of_some_namespaces_the_rest_is_left_alone() -> None:
    cluster = Cluster(resource("a"), resource("b", "voice"), node_pool("pool-a", "a"), node_pool("pool-b", "b", "voice"))
    served = Target(KEEP.namespace, KEEP.deployment, KEEP.pods, served=("speech",), deletes_resources=True)
    await uninstall(cluster, served)
    assert cluster.names("TranscriberDeployment") == ["b"]
    assert cluster.names("NodePool") == ["pool-b"]


async def test_without_the_right_to_nodes_the_resources_go_all_the_same_and_it_is_told_what_to_delete(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster(resource("a"))
    cluster.forbidden = {"nodepools"}
    await uninstall(cluster, DELETE)
    assert cluster.names("TranscriberDeployment") == []
    assert "kubectl delete nodepools -l app.kubernetes.io/managed-by=transcriber-operator" in caplog.text


async def test_an_api_server_that_is_away_for_a_while_is_waited_for() -> None:
    cluster = Cluster(resource("a"))
    cluster.failures = [TransientError("503"), ConflictError("409"), TransientError("no answer")] * 5
    assert 15 <= await uninstall(cluster) < 20
    assert cluster.objects["TranscriberDeployment", "speech", "a"]["metadata"]["finalizers"] == []


async def test_an_api_server_that_stays_away_ends_it_with_what_is_left() -> None:
    cluster = Cluster(resource("a"))
    cluster.on_call = lambda verb, plural: cluster.failures.append(TransientError("the API server does not answer"))
    with pytest.raises(UninstallError, match="the API server does not answer after 120 s"):
        await uninstall(cluster)


async def test_what_it_may_not_do_ends_it_at_once() -> None:
    cluster = Cluster(resource("a"))
    cluster.forbidden = {"transcriberdeployments"}
    with pytest.raises(ForbiddenError):
        await uninstall(cluster)


async def test_a_resource_that_others_hold_back_is_named_where_the_kind_must_go() -> None:
    cluster = Cluster(resource("a", finalizers=["other/one", FINALIZER]))
    with pytest.raises(UninstallError, match="speech/a not gone yet after 120 s"):
        await uninstall(cluster, DELETE)
    assert cluster.objects["TranscriberDeployment", "speech", "a"]["metadata"]["finalizers"] == ["other/one"]


def test_the_patch_of_a_finalizer_leaves_those_of_others_and_is_of_this_very_version() -> None:
    assert without(resource("a", finalizers=["x/y", FINALIZER]), FINALIZER) == {
        "metadata": {"finalizers": ["x/y"], "resourceVersion": "7"}
    }


def test_a_pod_that_has_ended_writes_nothing() -> None:
    assert running([operator_pod(phase) for phase in ("Succeeded", "Failed")]) == []
    assert running([operator_pod(), operator_pod("Pending"), made("Pod", "new", "x")]) == ["operator-1", "operator-1", "new"]


def test_the_help_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "takes the operator's finalizer off every" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "nan", "soon", "1e9"])
def test_a_time_that_is_none_is_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--namespace=a", "--deployment=b", f"--timeout-seconds={seconds}"])
    assert "is not a number of seconds from 1 to 86400, such as 120" in capsys.readouterr().err


def test_without_credentials_it_says_so_and_how_to_go_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        code = main(["--namespace=a", "--deployment=b", "--kubeconfig=/nowhere"])
    assert code == 1
