"""What a request is about, and which rule speaks of it: tables without any server."""

import asyncio

import pytest

from tests.rig.api_calls import Call, parse_call, with_name_of
from tests.rig.faults import (
    ALL_BUT_LEASES,
    ANY,
    ANY_WRITE,
    Cut,
    Delay,
    ErrorEvent,
    HalfLine,
    Hold,
    Rule,
    Rules,
    Silent,
    Status,
    is_match,
    is_picked,
    status_object,
)

CORE = "/api/v1/namespaces/ns"
APPS = "/apis/apps/v1/namespaces/ns/deployments"
OURS = "/apis/serving.transcriber.dev/v1alpha1"
APPLY = "application/apply-patch+yaml"


@pytest.mark.parametrize(
    ("method", "target", "content_type", "call"),
    [
        ("GET", f"{CORE}/pods/a", "", Call("get", "pods", "ns", "a")),
        ("HEAD", f"{CORE}/pods/a", "", Call("get", "pods", "ns", "a")),
        ("GET", f"{CORE}/pods?limit=5", "", Call("list", "pods", "ns")),
        ("GET", "/api/v1/pods", "", Call("list", "pods")),
        ("GET", f"{CORE}/pods?watch=true", "", Call("watch", "pods", "ns")),
        ("GET", f"{CORE}/pods?watch=1&resourceVersion=7", "", Call("watch", "pods", "ns")),
        ("GET", f"{CORE}/pods?watch=false", "", Call("list", "pods", "ns")),
        ("GET", f"{CORE}/pods/a?watch=true", "", Call("get", "pods", "ns", "a")),
        ("GET", f"{CORE}/pods?watch=true&fieldSelector=metadata.name%3Da", "", Call("watch", "pods", "ns", "a")),
        ("GET", f"{CORE}/pods?fieldSelector=status.phase%3DRunning,metadata.name%3Da", "", Call("list", "pods", "ns", "a")),
        ("GET", f"{CORE}/pods/a/log", "", Call("get", "pods/log", "ns", "a")),
        ("POST", f"{CORE}/configmaps?fieldManager=kubectl", "application/json", Call("create", "configmaps", "ns", "", "kubectl")),
        ("POST", f"{CORE}/pods/a/eviction", "application/json", Call("create", "pods/eviction", "ns", "a")),
        ("PUT", f"{APPS}/a", "application/json", Call("update", "deployments", "ns", "a")),
        ("PUT", f"{APPS}/a/scale", "application/json", Call("update", "deployments/scale", "ns", "a")),
        ("PATCH", f"{APPS}/a", "application/merge-patch+json", Call("patch", "deployments", "ns", "a")),
        ("PATCH", f"{APPS}/a?fieldManager=m&force=true", APPLY, Call("apply", "deployments", "ns", "a", "m")),
        (
            "PATCH",
            f"{APPS}/a/status?fieldManager=m",
            f"{APPLY}; charset=utf-8",
            Call("apply", "deployments/status", "ns", "a", "m"),
        ),
        ("PATCH", f"{APPS}/a?dryRun=All", APPLY, Call("apply", "deployments", "ns", "a", "", is_dry_run=True)),
        ("DELETE", f"{APPS}/a", "", Call("delete", "deployments", "ns", "a")),
        ("DELETE", f"{APPS}?labelSelector=x", "", Call("deletecollection", "deployments", "ns")),
        ("GET", "/api/v1/namespaces", "", Call("list", "namespaces")),
        ("GET", "/api/v1/namespaces/ns", "", Call("get", "namespaces", "ns", "ns")),
        ("PUT", "/api/v1/namespaces/ns/finalize", "", Call("update", "namespaces/finalize", "ns", "ns")),
        ("DELETE", "/api/v1/namespaces/ns", "", Call("delete", "namespaces", "ns", "ns")),
        ("GET", "/apis/karpenter.sh/v1/nodepools/spot", "", Call("get", "nodepools", "", "spot")),
        ("PATCH", f"{OURS}/namespaces/ns/transcriberdeployments/td", "", Call("patch", "transcriberdeployments", "ns", "td")),
        ("GET", "/version", "", Call("get", "")),
        ("GET", "/api", "", Call("get", "")),
        ("GET", "/api/v1", "", Call("get", "")),
        ("GET", "/apis/apps/v1", "", Call("get", "")),
        ("GET", "/openapi/v3", "", Call("get", "")),
        (
            "GET",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Aadmin",
            "",
            Call("get", "clusterroles", "", "system:admin"),
        ),
    ],
)
def test_a_request_is_named_as_rbac_names_it(method: str, target: str, content_type: str, call: Call):
    assert parse_call(method, target, content_type) == call


def test_only_what_changes_an_object_is_a_write():
    assert parse_call("PATCH", f"{APPS}/a", APPLY).is_write
    assert parse_call("DELETE", APPS).is_write
    assert not parse_call("PATCH", f"{APPS}/a?dryRun=All", APPLY).is_write
    assert not parse_call("GET", f"{APPS}/a").is_write
    assert not parse_call("POST", "/version").is_write


def test_a_create_is_named_by_its_body_unless_the_server_makes_up_the_name():
    create = parse_call("POST", f"{CORE}/configmaps")
    assert with_name_of(create, b'{"metadata": {"name": "a"}}').name == "a"
    assert with_name_of(create, b'{"metadata": {"generateName": "a-"}}').name == ""
    assert with_name_of(create, b"k8s\x00protobuf").name == ""
    assert with_name_of(create, b"[]").name == ""
    assert with_name_of(parse_call("POST", f"{CORE}/pods/a/eviction"), b'{"metadata": {"name": "b"}}').name == "a"


APPLIED = Call("apply", "deployments", "ns", "a", "m")
WATCHED = Call("watch", "pods", "ns", "a")


@pytest.mark.parametrize(
    ("rule", "call", "expected"),
    [
        (Rule("apply", "deployments", action=Cut()), APPLIED, True),
        (Rule("apply", "deployments", "a", "ns", action=Cut()), APPLIED, True),
        (Rule("apply", "deployments", "b", action=Cut()), APPLIED, False),
        (Rule("apply", "deployments", None, "other", action=Cut()), APPLIED, False),
        (Rule("apply", "deployments/status", action=Cut()), APPLIED, False),
        (Rule("patch", "deployments", action=Cut()), APPLIED, False),
        (Rule(ANY_WRITE, ANY, action=Cut()), APPLIED, True),
        (Rule(ANY_WRITE, ANY, action=Cut()), Call("get", "deployments", "ns", "a"), False),
        (Rule(ANY_WRITE, ANY, action=Cut()), Call("apply", "deployments", "ns", "a", is_dry_run=True), False),
        (Rule(ANY, ANY, action=Cut()), Call("get", ""), True),
        (Rule(ANY_WRITE, ANY, action=Cut()), Call("update", "leases", "ns", "l"), True),
        (Rule(ANY_WRITE, ALL_BUT_LEASES, action=Cut()), Call("update", "leases", "ns", "l"), False),
        (Rule(ANY_WRITE, ALL_BUT_LEASES, action=Cut()), APPLIED, True),
        (Rule(ANY, ANY, action=Cut()), WATCHED, True),
        (Rule(ANY, ANY, when="after", action=Cut()), WATCHED, False),
        (Rule("watch", ANY, when="after", action=Cut()), WATCHED, True),
        (Rule("watch", "pods", "b", when="after", action=Cut()), WATCHED, False),
    ],
)
def test_a_rule_speaks_of_the_calls_that_it_names(rule: Rule, call: Call, expected: bool):
    assert is_match(rule, call) is expected


def test_a_rule_acts_on_the_nth_match_on_every_multiple_or_on_all():
    numbers = range(1, 7)
    assert [n for n in numbers if is_picked(Rule(ANY, ANY, nth=3, action=Cut()), n)] == [3]
    assert [n for n in numbers if is_picked(Rule(ANY, ANY, every=3, action=Cut()), n)] == [3, 6]
    assert [n for n in numbers if is_picked(Rule(ANY, ANY, action=Cut()), n)] == list(numbers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rule("fetch", ANY, action=Cut()), "verb: 'fetch' is none of"),
        (lambda: Rule(ANY, ANY, nth=1, every=1, action=Cut()), "nth, every: give at most one"),
        (lambda: Rule("watch", ANY, action=Hold(count=1)), "Hold needs verb watch and when='after'"),
        (lambda: Rule("list", ANY, when="after", action=Hold(count=1)), "Hold needs verb watch"),
        (lambda: Rule("list", ANY, action=ErrorEvent(410)), "ErrorEvent needs verb watch"),
        (lambda: Rule("list", ANY, action=HalfLine()), "needs when='after'"),
        (lambda: Rule("watch", ANY, when="after", action=Status(500)), "use ErrorEvent"),
        (lambda: Hold(), "exactly one of release and count"),
        (lambda: Hold(asyncio.Event(), 1), "exactly one of release and count"),
    ],
)
def test_a_rule_that_could_never_act_is_refused(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_every_rule_counts_its_own_matches_and_the_first_that_acts_wins():
    rules = Rules()
    second = rules.add(Rule("apply", ANY, nth=2, action=Cut()))
    all_of_them = rules.add(Rule("apply", "deployments", action=Silent()))
    after = rules.add(Rule("apply", ANY, when="after", action=Delay(1)))
    assert rules.firing(Call("apply", "services"), "before") is None
    assert rules.firing(APPLIED, "before") is second
    assert rules.firing(APPLIED, "before") is all_of_them
    assert (second.matches, second.fires, all_of_them.matches, all_of_them.fires, after.matches) == (3, 1, 2, 1, 0)
    assert second.fired.is_set()
    assert not after.fired.is_set()


def test_a_rule_ends_when_it_is_removed_or_its_time_is_over():
    rules = Rules()
    removed = rules.add(Rule(ANY, ANY, action=Cut()))
    rules.remove(removed)
    rules.remove(removed)
    rules.add(Rule(ANY, ANY, action=Cut()), for_seconds=0)
    assert rules.firing(APPLIED, "before") is None
    kept = rules.add(Rule(ANY, ANY, action=Cut()), for_seconds=60)
    assert rules.firing(APPLIED, "before") is kept
    rules.clear()
    assert rules.firing(APPLIED, "before") is None


def test_a_status_has_the_reason_of_its_code_and_says_when_to_come_back():
    status = status_object(Status(429, retry_after_seconds=5))
    assert (status["reason"], status["code"], status["details"]) == ("TooManyRequests", 429, {"retryAfterSeconds": 5})
    assert status_object(Status(409, "AlreadyExists"))["reason"] == "AlreadyExists"
