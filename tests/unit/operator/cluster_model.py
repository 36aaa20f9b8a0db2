"""A small model of the API server and of the controllers of Jobs and Deployments, in memory, to run decisions against.

It is no substitute for the real ones: it knows just enough to see whether a sequence of writes, cut off anywhere, still leads to
the same end. Server-side apply: each manager owns what it applied last, and what nobody owns any more goes.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from transcriber_api.status import Status
from transcriber_api.v1alpha1 import API_VERSION, KIND
from transcriber_operator.decide.decision import Apply, Decision, Key, PodDelete, Prune
from transcriber_operator.decide.live import key_of, replicas_owners
from transcriber_operator.decide.observed import BuildProgress, Installation, LoadSample, Nodes, Observed
from transcriber_operator.decide.scaling_memory import ScalingMemory
from transcriber_operator.render import names

Manifest = dict[str, Any]
INSTALLATION = Installation(serving_image="images.example.com/serving:1", namespace="operator-system")
Decide = Callable[[Observed, datetime], Decision]
START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
TICK = timedelta(seconds=10)
LULL = timedelta(minutes=20)  # longer than anything that only time changes takes


def digest_of(document: str) -> str:
    """What the model's builder publishes for a build document."""
    return f"sha256-{hashlib.sha256(document.encode()).hexdigest()}"


def published(document: str) -> dict[str, Any]:
    return {"exitCode": 0, "message": json.dumps({"digest": digest_of(document), "bytes": 1000, "files": []})}


@dataclass
class Cluster:
    """One resource, its children and their pods. `build` ends a build, `is_healthy` says whether a new pod becomes ready."""

    spec: Manifest
    name: str = "whisper"
    build: Callable[[str], dict[str, Any]] = published
    is_healthy: Callable[[Manifest], bool] = lambda pod: True
    has_nodes: Callable[[Manifest], bool] = lambda pod: True
    installation: Installation = INSTALLATION
    now: datetime = START
    progress: BuildProgress | None = None
    load: Callable[[Manifest, datetime], LoadSample | None] = lambda pod, now: idle(pod, now)
    nodes: Nodes = field(default_factory=Nodes)
    memory: ScalingMemory | None = None
    children: dict[Key, Manifest] = field(default_factory=dict)
    pods: dict[str, Manifest] = field(default_factory=dict)
    created: list[Key] = field(default_factory=list)
    deleted: list[Key] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    writes: int = 0
    _applied: dict[Key, dict[str, Manifest]] = field(default_factory=dict)
    _count: int = 0
    _generation: int = 1

    def __post_init__(self) -> None:
        self.born = self.now
        self.uid = self._new_uid()
        self.status: Manifest = {}

    # The user's side.

    def change(self, **parts: Any) -> None:
        """Replace top-level parts of the spec."""
        self.spec = {**self.spec, **parts}
        self._generation += 1

    @property
    def resource(self) -> Manifest:
        metadata = {
            "name": self.name,
            "namespace": "speech",
            "uid": self.uid,
            "generation": self._generation,
            "creationTimestamp": _text(self.born),
        }
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": self.spec, "status": self.status}

    def observe(self) -> Observed:
        """What a gatherer would see, through JSON as from the API server."""
        found = Observed(
            installation=self.installation,
            resource=self.resource,
            children=tuple(self.children[key] for key in sorted(self.children)),
            pods=tuple(self.pods[name] for name in sorted(self.pods)),
            build_progress=self.progress,
            loads=tuple(sample for pod in self._serving() if (sample := self.load(pod, self.now))),
            nodes=self.nodes,
            memory=self.memory,
        )
        return Observed.model_validate_json(found.model_dump_json())

    def condition(self, type_: str) -> Manifest | None:
        return next((entry for entry in self.status.get("conditions", ()) if entry["type"] == type_), None)

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        return {key.name: child for key, child in self.children.items() if key.kind == kind}

    # The operator's side.

    def execute(self, decision: Decision, at_most: int | None = None) -> bool:
        """Do the writes of a decision in order; False where `at_most` cut them short, as a restart does, which forgets."""
        steps: list[Callable[[], None]] = [
            *(lambda apply=apply: self.apply(apply) for apply in decision.apply),
            *(lambda prune=prune: self.prune(prune) for prune in decision.prune),
            *(lambda deleted=deleted: self.delete_pod(deleted) for deleted in decision.pod_deletes),
        ]
        self.memory = decision.memory or self.memory
        if decision.status is not None:
            steps.append(lambda status=decision.status: self.write_status(status))
        for done, step in enumerate(steps):
            if at_most is not None and done >= at_most:
                self.memory = None
                return False
            step()
            self.writes += 1
        self.events += [str(announcement.reason) for announcement in decision.announcements]
        return True

    def write_status(self, status: Status) -> None:
        self.status = json.loads(status.model_dump_json(by_alias=True, exclude_none=True))

    def delete_pod(self, deleted: PodDelete) -> None:
        """Delete a pod with a UID precondition."""
        assert self.pods[deleted.name]["metadata"]["uid"] == deleted.uid, f"{deleted.name} is another pod"
        del self.pods[deleted.name]

    def apply(self, apply: Apply) -> None:
        """Server-side apply with force."""
        if apply.manifest["kind"] == "Pod":
            self._mark(apply.manifest)
            return
        manifest, key = copy.deepcopy(apply.manifest), key_of(apply.manifest)
        live = self.children.get(key)
        given_uid = manifest["metadata"].pop("uid", None)
        assert given_uid is None or (live is not None and live["metadata"]["uid"] == given_uid), f"{key} is another object"
        owned = self._applied.setdefault(key, {})
        if live is None:
            has_owner = "ownerReferences" in manifest["metadata"] or names.OWNER_UID_LABEL in manifest["metadata"]["labels"]
            assert has_owner, f"{key} would be made without an owner"
            self.created.append(key)
            live = {"metadata": {"uid": self._new_uid(), "generation": 0, "creationTimestamp": _text(self.now)}}
        elif key.kind == "Job" and apply.manager == "transcriber-controller":
            raise AssertionError(f"{key} is immutable")
        replicas = manifest.get("spec", {}).get("replicas")
        for other in owned.values():
            if replicas is not None and other.get("spec", {}).get("replicas") not in (None, replicas):
                del other["spec"]["replicas"]
        owned[apply.manager] = manifest
        merged: Manifest = {}
        for each in owned.values():
            merged = _merged(merged, each)
        if key.kind == "Deployment":
            merged["spec"].setdefault("replicas", 1)
        fields = ("uid", "generation", "creationTimestamp")
        merged["metadata"] |= {name: live["metadata"][name] for name in fields}
        merged["metadata"]["generation"] += merged.get("spec") != live.get("spec")
        self.children[key] = {**_without_empty(merged), "status": live.get("status", {})}
        self.children[key]["metadata"]["managedFields"] = [_managed(manager, each) for manager, each in owned.items()]

    def prune(self, prune: Prune) -> None:
        """Delete with a UID precondition; dependents go too."""
        live = self.children[prune.key]
        assert live["metadata"]["uid"] == prune.uid, f"{prune.key} is another object"
        self.remove(prune.key)

    def remove(self, key: Key) -> None:
        """Delete an object, whoever asks."""
        uid = self.children.pop(key)["metadata"]["uid"]
        self._applied.pop(key, None)
        self.deleted.append(key)
        self.pods = {name: pod for name, pod in self.pods.items() if pod["metadata"]["ownerReferences"][0]["uid"] != uid}

    def _mark(self, manifest: Manifest) -> None:
        pod = self.pods[manifest["metadata"]["name"]]["metadata"]
        assert pod["uid"] == manifest["metadata"]["uid"], f"{pod['name']} is another pod"
        pod["annotations"].pop(names.DELETION_COST_ANNOTATION, None)
        pod["annotations"] |= manifest["metadata"].get("annotations", {})

    def _serving(self) -> list[Manifest]:
        pods = (pod for pod in self.pods.values() if pod["metadata"]["labels"][names.COMPONENT_LABEL] == names.SERVING)
        return [pod for pod in pods if _is_ready(pod)]

    # The controllers' side.

    def tick(self) -> None:
        """Let time pass and every controller take a step."""
        self.now += TICK
        for key, child in list(self.children.items()):
            if key.kind == "Job":
                self._step_job(child)
            if key.kind == "Deployment":
                self._step_deployment(child)

    def _step_job(self, job: Manifest) -> None:
        if job["status"].get("conditions"):
            return
        mine = self._pods_of(job)
        if not mine:
            self._new_pod(job)
        elif mine[0]["status"]["phase"] == "Pending":
            if self.has_nodes(mine[0]):
                mine[0]["status"] |= {"phase": "Running", "conditions": _conditions(PodScheduled=True, Ready=True)}
        else:
            ended = self.build(self._document(job["spec"]["template"]["spec"]))
            mine[0]["status"] |= {
                "phase": "Failed" if ended["exitCode"] else "Succeeded",
                "containerStatuses": [{"name": "build", "state": {"terminated": ended}, "restartCount": 0}],
            }
            type_ = "Failed" if ended["exitCode"] else "Complete"
            done = {"type": type_, "status": "True", "reason": "PodFailurePolicy", "lastTransitionTime": _text(self.now)}
            job["status"] = {"conditions": [done], "completionTime": _text(self.now)}

    def _step_deployment(self, deployment: Manifest) -> None:
        wanted, template = deployment["spec"]["replicas"], _hash(deployment["spec"]["template"])
        mine = self._pods_of(deployment)
        new = [pod for pod in mine if pod["metadata"]["labels"]["pod-template-hash"] == template]
        old = [pod for pod in mine if pod not in new]
        for pod in new:
            self._start(pod)
        ready = [pod for pod in new if _is_ready(pod)]
        for pod in old[: max(len(ready) + len(old) - wanted, 0)] or (old if not wanted else []):
            del self.pods[pod["metadata"]["name"]]
        for pod in sorted(new, key=_keep_order)[: max(len(new) - wanted, 0)]:
            del self.pods[pod["metadata"]["name"]]
        mine = self._pods_of(deployment)
        new = [pod for pod in mine if pod["metadata"]["labels"]["pod-template-hash"] == template]
        if len(new) < wanted and len(mine) <= wanted:
            new.append(self._new_pod(deployment))
        mine = self._pods_of(deployment)
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(mine),
            "updatedReplicas": len(new),
            "readyReplicas": sum(map(_is_ready, mine)),
            "conditions": deployment["status"].get("conditions", []),
        }

    def _start(self, pod: Manifest) -> None:
        if not self.has_nodes(pod) or _is_ready(pod):
            return
        pod["spec"]["nodeName"] = f"node-{pod['metadata']['name']}"
        statuses = []
        if any(each["name"] == "build" for each in pod["spec"]["initContainers"]):
            ended = self.build(self._document(pod["spec"]))
            statuses = [{"name": "build", "state": {"terminated": ended}, "restartCount": 0}]
        healthy = self.is_healthy(pod) and not any(status["state"]["terminated"]["exitCode"] for status in statuses)
        triton = {"name": "triton", "state": {"running": {}}, "started": healthy, "ready": healthy, "restartCount": 0}
        pod["status"] = {
            "phase": "Running",
            "conditions": _conditions(PodScheduled=True, Ready=healthy),
            "initContainerStatuses": statuses,
            "containerStatuses": [triton],
        }

    def _pods_of(self, owner: Manifest) -> list[Manifest]:
        uid = owner["metadata"]["uid"]
        return [pod for pod in self.pods.values() if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _new_pod(self, owner: Manifest) -> Manifest:
        template = copy.deepcopy(owner["spec"]["template"])
        self._count += 1
        name = f"{owner['metadata']['name']}-{self._count:04d}"
        labels = {**template["metadata"]["labels"], "pod-template-hash": _hash(owner["spec"]["template"])}
        metadata = {
            **template["metadata"],
            "name": name,
            "namespace": "speech",
            "uid": self._new_uid(),
            "labels": labels,
            "creationTimestamp": _text(self.now),
            "ownerReferences": [{"uid": owner["metadata"]["uid"]}],
        }
        no_node = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/0 nodes are available."}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": template["spec"],
            "status": {"phase": "Pending", "conditions": [] if self.has_nodes({"metadata": metadata}) else [no_node]},
        }
        self.pods[name] = pod
        return pod

    def _document(self, pod_spec: Mapping[str, Any]) -> str:
        config = next(volume["configMap"]["name"] for volume in pod_spec["volumes"] if "configMap" in volume)
        text: str = self.children[Key("v1", "ConfigMap", config)]["data"]["deployment.yaml"]
        return text

    def _new_uid(self) -> str:
        self._count += 1
        return f"uid-{self._count:04d}"


def settle(cluster: Cluster, decide: Decide, crash_after: int | None = None, at_most_ticks: int = 60) -> None:
    """Let operator and controllers work until nothing moves; the operator dies once, after `crash_after` writes in all.

    What it did not write then is decided anew by the next pass. Rest is where not even a lull changes anything. Raises
    AssertionError when it never comes to rest.
    """
    is_lull = False
    for _ in range(at_most_ticks):
        before = repr((cluster.children, cluster.pods, cluster.status))
        decision = decide(cluster.observe(), cluster.now)
        left = None if crash_after is None else crash_after - cluster.writes
        is_whole = cluster.execute(decision, left)
        crash_after = crash_after if is_whole else None
        cluster.tick()
        is_still = is_whole and repr((cluster.children, cluster.pods, cluster.status)) == before
        if is_still and is_lull:
            return
        is_lull = is_still
        cluster.now += LULL if is_lull else timedelta(0)
    raise AssertionError(f"not at rest after {at_most_ticks} ticks: {cluster.status.get('conditions')}")


def end_state(cluster: Cluster) -> Manifest:
    """What counts of a cluster's end: everything but UIDs, times and the order of events."""
    text = json.dumps({"children": [cluster.children[key] for key in sorted(cluster.children)], "status": cluster.status})
    pods = sorted((pod["metadata"]["labels"].get(names.POOL_LABEL, ""), _is_ready(pod)) for pod in cluster.pods.values())
    plain: Manifest = _without_identity(json.loads(text))
    owners = {name: sorted(replicas_owners(each)) for name, each in sorted(cluster.of_kind("Deployment").items())}
    return {**plain, "pods": pods, "owners of replicas": owners}


def _without_identity(value: Any) -> Any:
    unstable = (
        *("uid", "generation", "creationTimestamp", "completionTime", "lastTransitionTime", "observedGeneration", "builtAt"),
        # What was learnt depends on when what happened.
        *("scaling", "coldStarts", "leadTimeSeconds", names.OWNER_UID_LABEL),
    )
    if isinstance(value, dict):
        return {name: _without_identity(each) for name, each in value.items() if name not in (*unstable, "managedFields")}
    return [_without_identity(each) for each in value] if isinstance(value, list) else value


def _merged(base: Any, more: Any) -> Any:
    if isinstance(base, dict) and isinstance(more, dict):
        return {name: _merged(base.get(name), more[name]) if name in more else base[name] for name in {**base, **more}}
    return more


def _without_empty(value: Any) -> Any:
    """Empty lists and maps are left out by the API server; an emptyDir is a choice and stays."""
    if isinstance(value, dict):
        cleaned = {key: _without_empty(each) for key, each in value.items()}
        return {key: each for key, each in cleaned.items() if each not in ({}, []) or key == "emptyDir"}
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


def _managed(manager: str, manifest: Manifest) -> Manifest:
    has_replicas = "replicas" in manifest.get("spec", {})
    return {"manager": manager, "fieldsV1": {"f:spec": {"f:replicas": {}}} if has_replicas else {}}


def _conditions(**states: bool) -> list[Manifest]:
    return [{"type": type_, "status": str(holds)} for type_, holds in states.items()]


def _is_ready(pod: Manifest) -> bool:
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in pod["status"].get("conditions", ()))


def _keep_order(pod: Manifest) -> tuple[bool, int]:
    """The ReplicaSet controller's: pods that are not ready first, then by their deletion cost."""
    return _is_ready(pod), int(pod["metadata"].get("annotations", {}).get(names.DELETION_COST_ANNOTATION, 0))


def idle(pod: Manifest, now: datetime) -> LoadSample:
    """What a replica without work tells."""
    return LoadSample(source=pod["metadata"]["name"], at=now, queued_audio_seconds=0.0, in_flight_audio_seconds=0.0)


def _hash(template: Manifest) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
