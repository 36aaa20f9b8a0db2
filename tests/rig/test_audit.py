"""The audit itself: what it takes for a call, a right and a failure."""

from pathlib import Path
from typing import Any

import pytest

from tests.rig.audit import OPERATOR, SHOWN_ELSEWHERE, Call, Refusals, Right, calls, keep, kept, read_log, refused, rights, unused
from tests.rig.audit_report import Report, granted

BY_CLUSTER_ROLE = (
    'RBAC: allowed by ClusterRoleBinding "transcriber-operator-speech" of ClusterRole "transcriber-operator-speech" '
    'to ServiceAccount "transcriber-operator/speech"'
)
BY_ROLE = (
    'RBAC: allowed by RoleBinding "transcriber-operator-lease/speech" of Role "transcriber-operator-lease" '
    'to ServiceAccount "transcriber-operator/speech"'
)
LIST_PODS = Right(OPERATOR, OPERATOR, "", "pods", "list")


def event(verb: str, resource: str, *, reason: str = BY_CLUSTER_ROLE, code: int = 200, account: str = OPERATOR, **more: Any) -> Any:
    annotations = {"authorization.k8s.io/decision": "allow" if reason else "forbid", "authorization.k8s.io/reason": reason}
    return {
        "user": {"username": f"system:serviceaccount:speech:{account}"},
        "verb": verb,
        "objectRef": {"resource": resource, **more},
        "responseStatus": {"code": code},
        "annotations": annotations,
    }


def test_a_call_is_known_by_the_role_that_allowed_it_whatever_the_installations_namespace() -> None:
    [of_cluster, of_lease] = calls(
        [event("list", "pods"), event("update", "leases", reason=BY_ROLE, apiGroup="coordination.k8s.io", namespace="speech")]
    )
    assert of_cluster.rights == {LIST_PODS}
    assert of_lease.rights == {Right(OPERATOR, f"{OPERATOR}-lease", "coordination.k8s.io", "leases", "update")}


def test_an_apply_that_makes_an_object_takes_the_right_to_create_it_too() -> None:
    [made, changed] = calls([event("patch", "services", code=201), event("patch", "services")])
    assert {right.verb for right in made.rights} == {"patch", "create"}
    assert {right.verb for right in changed.rights} == {"patch"}


def test_a_part_of_a_resource_is_a_right_of_its_own() -> None:
    [call] = calls([event("patch", "transcriberdeployments", subresource="status", apiGroup="serving.transcriber.dev")])
    assert {right.resource for right in call.rights} == {"transcriberdeployments/status"}


def test_other_users_and_what_is_no_object_are_left_out() -> None:
    discovery = {**event("get", "x"), "objectRef": None}
    person = {**event("get", "x"), "user": {"username": "admin"}}
    assert list(calls([event("list", "pods", account="default"), discovery, person])) == []


def test_a_refusal_is_a_failure_unless_a_test_provoked_it() -> None:
    events = [event("list", "secrets", reason="", code=403), event("get", "pods", reason="", code=403)]
    assert [str(call) for call in refused(calls(events))] == [
        "transcriber-operator: get pods, 403",
        "transcriber-operator: list secrets, 403",
    ]
    assert [call.resource for call in refused(calls(events, [Refusals("speech", frozenset({"list secrets"}))]))] == ["pods"]
    assert refused(calls(events, [Refusals("speech")])) == []
    assert len(refused(calls(events, [Refusals("elsewhere")]))) == 2


def test_what_admission_forbids_is_no_missing_right() -> None:
    assert refused(calls([event("create", "pods", code=403)])) == []


def test_rights_are_those_of_roles_that_are_bound_to_one_of_our_accounts() -> None:
    role = {
        "kind": "Role",
        "metadata": {"name": f"{OPERATOR}-lease", "namespace": "speech"},
        "rules": [{"apiGroups": ["", "apps"], "resources": ["x", "y"], "verbs": ["get", "list"]}],
    }
    binding = {
        "kind": "RoleBinding",
        "metadata": {"name": "any", "namespace": "speech"},
        "roleRef": {"kind": "Role", "name": f"{OPERATOR}-lease"},
        "subjects": [{"kind": "ServiceAccount", "name": OPERATOR}],
    }
    assert len(rights([role, binding], "speech")) == 8
    assert rights([role], "speech") == set()
    assert rights([role, {**binding, "subjects": [{"kind": "ServiceAccount", "name": "default"}]}], "speech") == set()


def test_a_right_that_no_call_took_fails_a_session_of_all_tests_alone() -> None:
    of_pods = {LIST_PODS, Right(OPERATOR, OPERATOR, "", "pods", "watch")}
    made = frozenset(calls([event("list", "pods")]))
    assert [right.verb for right in unused(of_pods, made)] == ["watch"]
    whole, part = (Report(frozenset(of_pods), made, is_whole=is_whole) for is_whole in (True, False))
    assert whole.failures == ["granted and never used: transcriber-operator: watch pods (transcriber-operator)"]
    assert part.failures == []
    assert whole.failures[0] in whole.lines()


@pytest.mark.usefixtures("binaries")  # helm is one of them
def test_what_no_call_can_show_is_granted_and_names_a_test_that_is_there(root_dir: Path) -> None:
    assert granted() >= SHOWN_ELSEWHERE.keys()
    for proof in SHOWN_ELSEWHERE.values():
        file, _, test = proof.partition(": ")[2].partition("::")
        assert f"def {test}(" in (root_dir / file).read_text(encoding="utf-8")


def test_several_processes_write_down_what_was_asked_and_one_reads_it(tmp_path: Path) -> None:
    first, second = (Call(OPERATOR, OPERATOR, "", resource, "list", 200) for resource in ("pods", "services"))
    keep([first, first], tmp_path)
    keep([first, second], tmp_path)
    assert kept(tmp_path) == {first, second}


@pytest.mark.parametrize("last", ['{"n": 3}\n', '{"n": 3'])
def test_a_log_is_read_with_all_of_its_parts_and_without_a_line_that_was_cut_off(tmp_path: Path, last: str) -> None:
    (tmp_path / "audit-2026-01-31T12-00-00.000.log").write_text('{"n": 1}\n')
    (tmp_path / "audit.log").write_text('{"n": 2}\n' + last)
    assert [line["n"] for line in read_log(tmp_path / "audit.log")] == ([1, 2, 3] if last.endswith("\n") else [1, 2])
