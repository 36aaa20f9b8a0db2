"""What two runs must have in common, however they got there: the objects at the end, and how often each came and went; pure.

What a run cannot choose is left out of the comparison or replaced by a word:

* replaced within any string: the namespace (NAMESPACE), the uid of an object that is there (UID), the hash of a pod template
  (HASH), the name of a pod's volume for its token (TOKEN). The uid of an object that is gone stays, so an owner that was
  replaced meanwhile shows as a difference;
* replaced as a whole: a time (TIME); an observedGeneration, by whether it is the object's own (Current) or not (Stale);
* left out of any object: LEFT_OUT_OF_ALL, and the annotation that hashes a manifest, since that covers uid and namespace;
* left out by kind: LEFT_OUT, and the node ports of a Service; a Service without a cluster address is told from one with;
* named by the server: pods and ReplicaSets are compared by what they are named after, as a sorted list.

Left out altogether: Events and Leases (they tell of times), Endpoints and EndpointSlices (they follow from the rest).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.rig.write_log import Write

Manifest = Mapping[str, Any]
IGNORED_KINDS: Final = frozenset({"Event", "Lease", "Endpoints", "EndpointSlice"})
IGNORED_WRITES: Final = frozenset({"events", "leases"})
LEFT_OUT_OF_ALL: Final = (
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.generation",
    "metadata.managedFields",
    "metadata.creationTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.selfLink",
)
MANIFEST_HASH: Final = "serving.transcriber.dev/manifest-hash"
LEFT_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "Pod": ("spec.nodeName", "status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"),
    "Service": ("spec.clusterIP", "spec.clusterIPs", "spec.healthCheckNodePort"),
    "PersistentVolumeClaim": ("spec.volumeName",),
}
HASH_LABEL: Final = "pod-template-hash"
TOKEN_VOLUME: Final = re.compile(r"kube-api-access-[a-z0-9]{5}")
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Footprint:
    """How often an object was created and deleted."""

    created: int = 0
    deleted: int = 0


def end_state(objects: Iterable[Manifest], namespace: str) -> dict[str, Any]:
    """Return what is there, by `Kind/name`, so that it equals that of another run with the same result in another namespace.

    A key that ends in `*` holds all objects that the server named after the same thing, in a list of an order of its own.
    """
    present = [document for document in objects if document["kind"] not in IGNORED_KINDS]
    words = _words(present, namespace)
    state: dict[str, Any] = {}
    for document in present:
        key = f"{document['kind']}/{_said(_name(document), words)}"
        generation = document["metadata"].get("generation")
        content = _normalised(_without(document), words, generation)
        if key.endswith("*"):
            content["metadata"].pop("name")
            state[key] = sorted([*state.get(key, ()), content], key=lambda entry: json.dumps(entry, sort_keys=True))
        else:
            state[key] = content
    return dict(sorted(state.items()))


def creates_and_deletes(writes: Iterable[Write]) -> dict[tuple[str, str], Footprint]:
    """Return by (resource, name) how often the writes created and deleted an object, as the server answered.

    A second delete of an object that is going already (of the same uid) counts once. Events and Leases are left out: an Event may
    be told twice after a crash.
    """
    created: dict[tuple[str, str], int] = {}
    deleted: dict[tuple[str, str], set[str]] = {}
    for write in writes:
        if not write.succeeded or "/" in write.resource or write.resource in IGNORED_WRITES:
            continue
        key = (write.resource, write.name)
        if write.verb == "delete":
            deleted.setdefault(key, set()).add(write.uid)
        elif write.status_code == 201:
            created[key] = created.get(key, 0) + 1
    return {key: Footprint(created.get(key, 0), len(deleted.get(key, ()))) for key in sorted(created.keys() | deleted.keys())}


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Return a line per place where two states differ, that names the place and both values."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        lines = []
        for key in sorted(expected.keys() | actual.keys(), key=str):
            place = f"{where}.{key}" if where else str(key)
            if key not in actual:
                lines.append(f"{place}: missing, was {_shown(expected[key])}")
            elif key not in expected:
                lines.append(f"{place}: unexpected {_shown(actual[key])}")
            else:
                lines += differences(expected[key], actual[key], place)
        return lines
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [line for i in range(len(expected)) for line in differences(expected[i], actual[i], f"{where}[{i}]")]
    return [] if expected == actual else [f"{where}: {_shown(actual)}, not {_shown(expected)}"]


def _words(objects: Iterable[Manifest], namespace: str) -> dict[str, str]:
    """Return what to replace within strings."""
    words = {namespace: "NAMESPACE"}
    for document in objects:
        metadata = document["metadata"]
        words[metadata["uid"]] = "UID"
        if template_hash := metadata.get("labels", {}).get(HASH_LABEL):
            words[template_hash] = "HASH"
    return words


def _name(document: Manifest) -> str:
    """Return what names an object in every run: its name, or what the server made it from."""
    metadata = document["metadata"]
    if generated := metadata.get("generateName"):
        return f"{generated}*"
    if document["kind"] == "ReplicaSet" and HASH_LABEL in metadata.get("labels", {}):
        return f"{metadata['name'].removesuffix(metadata['labels'][HASH_LABEL])}*"
    return str(metadata["name"])


def _without(document: Manifest) -> dict[str, Any]:
    """Return a copy without what a run cannot choose."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    places = [*LEFT_OUT_OF_ALL, *LEFT_OUT.get(copy["kind"], ())]
    if copy["kind"] == "Service" and copy.get("spec", {}).get("clusterIP") == "None":
        places = [place for place in places if not place.startswith("spec.clusterIP")]
    for place in places:
        *path, last = place.split(".")
        part = copy
        for key in path:
            part = part.get(key, {})
        part.pop(last, None)
    copy["metadata"].get("annotations", {}).pop(MANIFEST_HASH, None)
    for port in copy.get("spec", {}).get("ports", ()) if copy["kind"] == "Service" else ():
        port.pop("nodePort", None)
    return copy


def _normalised(value: Any, words: Mapping[str, str], generation: int | None) -> Any:
    if isinstance(value, dict):
        return {
            _said(key, words): _currency(item, generation) if key == "observedGeneration" else _normalised(item, words, generation)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_normalised(item, words, generation) for item in value]
    return _said(value, words) if isinstance(value, str) else value


def _currency(observed: Any, generation: int | None) -> str:
    return "Current" if observed == generation else "Stale"


def _said(text: str, words: Mapping[str, str]) -> str:
    if TIME.fullmatch(text):
        return "TIME"
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return TOKEN_VOLUME.sub("TOKEN", text)


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}…"
