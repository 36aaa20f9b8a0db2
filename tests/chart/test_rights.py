"""The chart's rights on a real API server: no more than it takes. That they are enough, all tests of the operator show."""

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.api.operator_parts import ACCOUNT, PATIENCE, get, grant, kubectl, transcriber_deployment
from tests.chart.attacks import ATTACKS, Attack
from tests.chart.kinds import RESOURCE, stray
from tests.chart.rendering import NAMESPACE, VALUES_FILES, Manifest, read_values, rendered
from tests.rig.chart import operator_account
from tests.rig.control_plane import ControlPlane, KubectlError
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.cluster.resources import Resource
from transcriber_operator.errors import ForbiddenError
from transcriber_operator.metrics import Metrics

FORBIDDEN_RESOURCES: Final = {
    "*", "secrets", "roles", "rolebindings", "clusterroles", "clusterrolebindings", "serviceaccounts", "serviceaccounts/token",
    "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "nodes", "nodes/proxy", "namespaces",
    "customresourcedefinitions", "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
}  # fmt: skip
FORBIDDEN_VERBS: Final = {"*", "bind", "escalate", "impersonate", "deletecollection"}
SWITCHES: Final = (
    ("karpenter", {"karpenter.sh", "karpenter.k8s.aws", "eks.amazonaws.com"}),
    ("keda", {"keda.sh"}),
    ("hpa", {"autoscaling"}),
)


def roles(values: Mapping[str, Any]) -> list[Manifest]:
    """Return the roles of a rendered chart that are bound to one of its accounts."""
    return [
        each for each in rendered(values) if each["kind"] in {"Role", "ClusterRole"} and "aggregate" not in str(each["metadata"])
    ]


def api_groups(values: Mapping[str, Any]) -> set[str]:
    return {group for role in roles(values) for rule in role["rules"] for group in rule["apiGroups"]}


@pytest.mark.parametrize("file", VALUES_FILES, ids=lambda file: file.stem)
def test_no_role_has_a_star_a_secret_or_a_way_to_more_rights(file: Path) -> None:
    found = [rule for role in roles(read_values(file)) for rule in role["rules"]]
    assert not [rule for rule in found if FORBIDDEN_RESOURCES & set(rule["resources"])]
    assert not [rule for rule in found if FORBIDDEN_VERBS & set(rule["verbs"])]
    assert not [rule for rule in found if "*" in rule["apiGroups"]]


@pytest.mark.parametrize(("part", "groups"), SWITCHES, ids=[part for part, _ in SWITCHES])
def test_a_part_that_is_switched_off_gives_no_right_to_its_kinds(part: str, groups: set[str]) -> None:
    assert api_groups({}) >= groups
    assert not api_groups({"rbac": {part: False}}) & groups


def test_other_node_classes_take_the_place_of_those_of_aws() -> None:
    classes = [{"group": "karpenter.azure.com", "resource": "aksnodeclasses"}]
    found = api_groups({"rbac": {"nodeClassGroups": classes}})
    assert "karpenter.azure.com" in found
    assert "karpenter.k8s.aws" not in found


def test_serving_some_namespaces_takes_a_cluster_role_for_karpenter_alone() -> None:
    served = {"watchNamespaces": ["speech", "voice"], "rbac": {"aggregateToDefaultRoles": False}}
    of_cluster = [role for role in roles(served) if role["kind"] == "ClusterRole"]
    assert {group for role in of_cluster for rule in role["rules"] for group in rule["apiGroups"]} == {
        "karpenter.sh", "karpenter.k8s.aws", "eks.amazonaws.com",
    }  # fmt: skip
    without = {"watchNamespaces": ["speech"], "rbac": {"karpenter": False, "aggregateToDefaultRoles": False}}
    assert {role["kind"] for role in roles(without)} == {"Role"}
    assert {role["metadata"]["namespace"] for role in roles(without)} == {"speech", NAMESPACE}


def test_without_rbac_create_there_is_no_role_and_no_hook_that_would_need_one() -> None:
    kinds = {each["kind"] for each in rendered({"rbac": {"create": False}})}
    assert not kinds & {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Job", "Pod"}


async def status_of(
    session: aiohttp.ClientSession, attack: Attack, plane: ControlPlane, tls: ssl.SSLContext, namespace: str
) -> int:
    body = None if attack.body is None else json.dumps(attack.body).replace("NS", namespace)
    kind = "application/merge-patch+json" if attack.method == "PATCH" else "application/json"
    headers = {**attack.headers, "Content-Type": kind}
    url = plane.server + attack.path.replace("NS", namespace)
    async with session.request(attack.method, url, data=body, headers=headers, ssl=tls) as answer:
        return answer.status


@pytest.mark.parametrize("everywhere", [True, False], ids=["all-namespaces", "one-namespace"])
async def test_who_has_the_operators_token_gets_no_further(
    control_plane: ControlPlane, namespace: str, everywhere: bool, record_property: Any
) -> None:
    await asyncio.to_thread(grant, control_plane, namespace, everywhere)
    control_plane.expect_refusals(namespace)
    token = (await kubectl(control_plane, "create", "token", ACCOUNT, f"--namespace={namespace}")).strip()
    tls = ssl.create_default_context(cafile=str(control_plane.authority.certificate))
    tried = [attack for attack in ATTACKS if attack.is_in_any_scope or not everywhere]
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        codes = {attack.name: await status_of(session, attack, control_plane, tls, namespace) for attack in tried}
    assert {name: code for name, code in codes.items() if code != 403} == {}
    record_property("refused with the operator's token", f"{len(codes)} of {len(tried)}")


async def test_without_the_right_to_finalizers_a_child_that_blocks_the_deletion_of_its_owner_is_refused(
    control_plane: ControlPlane, namespace: str
) -> None:
    """The API server's admission asks whether the right is there, so that its audit log does not show it."""
    await asyncio.to_thread(control_plane.apply, transcriber_deployment(namespace))
    owner = await get(control_plane, f"{RESOURCE}/whisper", f"--namespace={namespace}")
    child = stray("ConfigMap", "v1", owner)
    child["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = True
    del child["spec"]
    rights = operator_account(namespace)
    bare = [
        {**each, "rules": [rule for rule in each.get("rules", ()) if f"{RESOURCE}/finalizers" not in rule["resources"]]}
        for each in rights
    ]
    narrow = [each if "rules" in whole else whole for each, whole in zip(bare, rights, strict=True)]
    await asyncio.to_thread(control_plane.apply, *narrow)
    kubeconfig = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, ACCOUNT)
    async with Kube(kubeconfig, Metrics()) as kube:
        with pytest.raises(ForbiddenError, match="cannot set blockOwnerDeletion"):
            await kube.apply(child, "transcriber-controller")
        await asyncio.to_thread(control_plane.apply, *rights)
        async with asyncio.timeout(PATIENCE):
            while not await is_allowed(kube, child):
                await asyncio.sleep(0.2)  # a right that has just come is refused for a moment
        assert (await kube.get(Resource("v1", "ConfigMap", "configmaps"), namespace, "stray"))["metadata"]["ownerReferences"]


async def is_allowed(kube: Kube, child: Manifest) -> bool:
    try:
        await kube.apply(child, "transcriber-controller")
    except ForbiddenError:
        return False
    return True


async def test_who_may_view_or_edit_a_namespace_may_do_so_with_its_resources(control_plane: ControlPlane, namespace: str) -> None:
    aggregated = [each for each in rendered({}, namespace=namespace) if "aggregate" in str(each["metadata"]["labels"])]
    assert [each["kind"] for each in aggregated] == ["ClusterRole", "ClusterRole"]
    await asyncio.to_thread(control_plane.apply, *aggregated)
    for role in ("view", "edit", "admin"):
        await kubectl(
            control_plane, "create", "rolebinding", role, f"--clusterrole={role}", f"--user={role}-er", f"--namespace={namespace}"
        )

    async def may(role: str, verb: str, subresource: str = "") -> bool:
        asked = (verb, RESOURCE, f"--subresource={subresource}", f"--as={role}-er", f"--namespace={namespace}", "--quiet")
        try:
            await kubectl(control_plane, "auth", "can-i", *asked)
        except KubectlError:
            return False
        return True

    async with asyncio.timeout(PATIENCE):
        while not await may("admin", "create"):
            await asyncio.sleep(0.2)  # a controller adds them up
    assert await may("view", "watch")
    assert not await may("view", "patch")
    assert await may("edit", "patch", "scale")
    assert not await may("admin", "patch", "status")
    await kubectl(control_plane, "delete", "clusterrole", *(each["metadata"]["name"] for each in aggregated))
