"""Two runs with the same result compare equal, and what a crash leaves behind does not."""

import copy
import json
from typing import Any

import pytest

from tests.rig.control_plane import ControlPlane
from tests.rig.oracle import Footprint, creates_and_deletes, differences, end_state
from tests.rig.write_log import Write


def run(namespace: str, tag: str, time: str) -> list[dict[str, Any]]:
    """What one run leaves; `tag` makes up the names and uids that the server would."""
    owner = {"kind": "TranscriberDeployment", "name": "td", "uid": f"td-{tag}"}
    template_hash = f"5f{tag}"

    def metadata(name: str, kind: str, **more: Any) -> dict[str, Any]:
        given = {"uid": f"{kind}-{tag}", "resourceVersion": tag, "creationTimestamp": time, "managedFields": [tag], "generation": 2}
        return {"name": name, "namespace": namespace, "ownerReferences": [dict(owner)], **given, **more}

    labels = {"pod-template-hash": template_hash}
    return [
        {
            "kind": "TranscriberDeployment",
            "metadata": metadata("td", "td", ownerReferences=[], generation=3 if tag == "aaa" else 4),
            "status": {
                "observedGeneration": 3 if tag == "aaa" else 4,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}],
                "endpoints": {"grpc": f"td.{namespace}.svc:8001"},
            },
        },
        {
            "kind": "Deployment",
            "metadata": metadata("td-spot", "deploy", annotations={"serving.transcriber.dev/manifest-hash": tag, "kept": "yes"}),
            "spec": {"replicas": 1},
        },
        {"kind": "ReplicaSet", "metadata": metadata(f"td-spot-{template_hash}", "rs", labels=labels), "spec": {"replicas": 1}},
        {
            "kind": "Pod",
            "metadata": metadata(f"td-spot-{template_hash}-{tag}", "pod", generateName=f"td-spot-{template_hash}-", labels=labels),
            "spec": {"nodeName": f"node-{tag}"},
            "status": {"podIP": f"10.0.0.{len(tag)}", "phase": "Running", "startTime": time},
        },
        {
            "kind": "Service",
            "metadata": metadata("td", "svc"),
            "spec": {"clusterIP": f"10.1.{tag}", "ports": [{"port": 1, "nodePort": 3}]},
        },
        {"kind": "Lease", "metadata": metadata("lock", "lease"), "spec": {"renewTime": time}},
        {"kind": "Event", "metadata": metadata(f"td.{tag}", "event")},
    ]


FIRST = run("run-one", "aaa", "2026-01-31T12:00:00Z")
SECOND = run("run-two", "bbbb", "2026-02-01T09:30:00.123456Z")


def test_what_a_run_cannot_choose_makes_no_difference():
    state = end_state(FIRST, "run-one")
    assert state == end_state(reversed(SECOND), "run-two")
    assert differences(state, end_state(SECOND, "run-two")) == []
    assert set(state) == {
        "TranscriberDeployment/td",
        "Deployment/td-spot",
        "ReplicaSet/td-spot-*",
        "Pod/td-spot-HASH-*",
        "Service/td",
    }
    assert state["TranscriberDeployment/td"]["status"] == {
        "observedGeneration": "Current",
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "TIME"}],
        "endpoints": {"grpc": "td.NAMESPACE.svc:8001"},
    }
    assert state["Deployment/td-spot"]["metadata"] == {
        "name": "td-spot",
        "namespace": "NAMESPACE",
        "ownerReferences": [{"kind": "TranscriberDeployment", "name": "td", "uid": "UID"}],
        "annotations": {"kept": "yes"},
    }


def test_the_objects_given_are_left_as_they_are():
    before = copy.deepcopy(FIRST)
    end_state(FIRST, "run-one")
    assert before == FIRST


@pytest.mark.parametrize(
    ("index", "path", "value", "line"),
    [
        (1, ["spec", "replicas"], 2, "Deployment/td-spot.spec.replicas: 2, not 1"),
        (
            1,
            ["metadata", "ownerReferences", 0, "uid"],
            "gone",
            'Deployment/td-spot.metadata.ownerReferences[0].uid: "gone", not "UID"',
        ),
        (0, ["status", "observedGeneration"], 1, 'TranscriberDeployment/td.status.observedGeneration: "Stale", not "Current"'),
        (
            0,
            ["status", "conditions", 0, "status"],
            "False",
            'TranscriberDeployment/td.status.conditions[0].status: "False", not "True"',
        ),
        (0, ["metadata", "finalizers"], ["f"], 'TranscriberDeployment/td.metadata.finalizers: unexpected ["f"]'),
        (3, ["status", "phase"], "Failed", 'Pod/td-spot-HASH-*[0].status.phase: "Failed", not "Running"'),
        (4, ["spec", "clusterIP"], "None", 'Service/td.spec.clusterIP: unexpected "None"'),
        (1, ["metadata", "annotations"], {}, 'Deployment/td-spot.metadata.annotations.kept: missing, was "yes"'),
    ],
)
def test_what_a_crash_leaves_behind_is_named(index: int, path: list[Any], value: Any, line: str):
    changed = copy.deepcopy(SECOND)
    part: Any = changed[index]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    assert differences(end_state(FIRST, "run-one"), end_state(changed, "run-two")) == [line]


def test_one_object_too_many_or_too_few_is_named():
    state = end_state(FIRST, "run-one")
    orphan = copy.deepcopy(SECOND[1])
    orphan["metadata"]["name"] = "td-old"
    [line] = differences(state, end_state([*SECOND, orphan], "run-two"))
    assert line.startswith("Deployment/td-old: unexpected")
    [line] = differences(state, end_state(SECOND[:4] + SECOND[5:], "run-two"))
    assert line.startswith("Service/td: missing")
    twin = copy.deepcopy(SECOND[3])
    [line] = differences(state, end_state([*SECOND, twin], "run-two"))
    assert line.startswith("Pod/td-spot-HASH-*: [")


def write(verb: str, resource: str, name: str, status_code: int | None, uid: str = "u") -> Write:
    return Write(0, 0.0, verb, resource, "ns", name, "", status_code, uid)


def test_creations_and_deletions_are_counted_as_the_server_did_them():
    writes = [
        write("apply", "jobs", "a", 201),
        write("apply", "jobs", "a", 200),
        write("create", "jobs", "b", 409),
        write("create", "jobs", "b", None),
        write("delete", "jobs", "a", 200, "one"),
        write("delete", "jobs", "a", 200, "one"),
        write("apply", "jobs", "a", 201),
        write("delete", "jobs", "a", 202, "two"),
        write("delete", "jobs", "c", 404),
        write("create", "pods/eviction", "p", 201),
        write("create", "events", "e", 201),
        write("create", "leases", "l", 201),
    ]
    assert creates_and_deletes(writes) == {("jobs", "a"): Footprint(created=2, deleted=2)}


def test_the_same_objects_in_two_namespaces_of_a_real_api_server_are_the_same_end_state(
    control_plane: ControlPlane, namespace: str
):
    other = f"{namespace}-other"
    control_plane.kubectl("create", "namespace", other)
    container = {
        "name": "main",
        "image": "none",
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container]}},
        },
    }
    ports = {"selector": {"app": "d"}, "type": "NodePort", "ports": [{"port": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": ports}
    states = []
    for place in (namespace, other):
        control_plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={place}", "--timeout=30s")
        for document in (deployment, service):
            control_plane.apply({**document, "metadata": {**document["metadata"], "namespace": place}})
        # Nothing schedules them: the test needs no node.
        control_plane.kubectl("wait", "--for=jsonpath={.status.unavailableReplicas}=2", "deployment/d", f"--namespace={place}")
        control_plane.kubectl(
            "wait", "--for=condition=PodScheduled=False", "pods", "--all", f"--namespace={place}", "--timeout=30s"
        )
        listed = control_plane.kubectl("get", "deployments,replicasets,pods,services", f"--namespace={place}", "--output=json")
        states.append(end_state(json.loads(listed)["items"], place))
    assert differences(*states) == []
    assert set(states[0]) == {"Deployment/d", "ReplicaSet/d-*", "Pod/d-HASH-*", "Service/s"}
    assert len(states[0]["Pod/d-HASH-*"]) == 2
    control_plane.kubectl("delete", "namespace", other, "--wait=false")
