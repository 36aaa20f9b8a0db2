"""Environment, arguments and paths of a container as a process sees them; pure.

A process has no mount namespace: each path below a mountPath in an argument or in a value of the environment is turned into the
folder that stands for it. Paths that a program has in itself, or reads from a file, are not.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Manifest = Mapping[str, Any]
Reference = tuple[str, str]  # kind (ConfigMap, Secret) and name
NAME_CHARACTERS: Final = r"\w./-"  # of these before a path, or (but the slash) after it, the path is another's part
REFERENCE: Final = re.compile(r"\$(?:\$|\(([^()]*)\))")
MAPPED_FIELD: Final = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
FIELDS: Final = frozenset(
    {
        *("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName"),
        *("status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"),
    }
)
KINDS_BY_FIELD: Final = {"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}
EVERY_ADDRESS: Final = "0.0.0.0"
KINDS_BY_SOURCE: Final = {"configMapRef": "ConfigMap", "secretRef": "Secret"}


class ConfigError(Exception):
    """A container cannot be made as its manifest says; the message names the field at fault."""


@dataclass(frozen=True)
class Mount:
    """A path in the container, and the file or folder that stands for it."""

    path: str
    source: Path


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace $(NAME) by its value; an unknown name stays as it is, and $$ is a dollar."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group(0))

    return REFERENCE.sub(value, text)


def rewrite(text: str, mounts: Sequence[Mount]) -> str:
    """Turn each path below a mount into the path that stands for it; of mounts within each other the inner one counts."""
    if not mounts:
        return text
    sources = {mount.path.rstrip("/"): str(mount.source) for mount in mounts}
    paths = "|".join(re.escape(path) for path in sorted(sources, key=len, reverse=True))
    # In one pass: what is put in may contain a mountPath itself, for example /tmp.
    return re.sub(rf"(?<![{NAME_CHARACTERS}])({paths})(?=/|[^{NAME_CHARACTERS}]|$)", lambda match: sources[match.group(1)], text)


def field(pod: Manifest, path: str) -> str:
    """Return a field of the pod as text (downward API); raises ConfigError for one that the bridge does not know."""
    if match := MAPPED_FIELD.fullmatch(path):
        return str(pod["metadata"].get(match.group(1), {}).get(match.group(2), ""))
    if path not in FIELDS:
        raise ConfigError(f"fieldPath {path}: the bridge knows {', '.join(sorted(FIELDS))}, and labels and annotations by key")
    part, name = path.split(".")
    value = pod[part].get(name, "")
    return ",".join(entry["ip"] for entry in value) if name in {"podIPs", "hostIPs"} else str(value)


def references(container: Manifest) -> set[Reference]:
    """Return the objects that the container's environment is made of."""
    found = set()
    for source in container.get("envFrom", []):
        found |= {(kind, source[name]["name"]) for name, kind in KINDS_BY_SOURCE.items() if name in source}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        found |= {(kind, source[name]["name"]) for name, kind in KINDS_BY_FIELD.items() if name in source}
    return found


def variables(pod: Manifest, container: Manifest, objects: Mapping[Reference, Manifest | None]) -> dict[str, str]:
    """Return the container's own environment, with paths as in the container; `objects` holds None for one that is missing.

    Raises ConfigError that names the variable and what is missing.
    """
    result: dict[str, str] = {}
    for source in container.get("envFrom", []):
        result |= _all_keys(source, objects)
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            value = _value_from(entry["name"], entry["valueFrom"], pod, objects)
            if value is not None:
                result[entry["name"]] = value
        else:
            result[entry["name"]] = expand(entry.get("value", ""), result)
    return result


def arguments(
    container: Manifest, known: Mapping[str, str], mounts: Sequence[Mount], programs: Mapping[str, str], address: str
) -> tuple[str, ...]:
    """Return the argv of a container; raises ConfigError if it leaves the command to its image.

    A process has no network namespace either: what would listen on all addresses of the pod listens on `address`, its own.
    """
    if not container.get("command"):
        raise ConfigError(f"containers[{container['name']}].command: the bridge has no images; say what to run")
    words = [rewrite(expand(word, known), mounts) for word in [*container["command"], *container.get("args", [])]]
    return resolved([address if word == EVERY_ADDRESS else word for word in words], programs)


def resolved(argv: Sequence[str], programs: Mapping[str, str]) -> tuple[str, ...]:
    """Return argv with the executable that stands for the program."""
    return (programs.get(argv[0], argv[0]), *argv[1:])


def data(manifest: Manifest) -> dict[str, bytes]:
    """Return the contents of a ConfigMap or Secret by key."""
    is_secret = manifest["kind"] == "Secret"
    encoded = (manifest.get("data") if is_secret else manifest.get("binaryData")) or {}
    plain = {} if is_secret else manifest.get("data") or {}
    return {key: base64.b64decode(value) for key, value in encoded.items()} | {key: value.encode() for key, value in plain.items()}


def _all_keys(source: Manifest, objects: Mapping[Reference, Manifest | None]) -> dict[str, str]:
    for name, kind in KINDS_BY_SOURCE.items():
        if name in source:
            found = objects[kind, source[name]["name"]]
            if found is not None:
                return {f"{source.get('prefix', '')}{key}": value.decode() for key, value in data(found).items()}
            if not source[name].get("optional"):
                raise ConfigError(f"envFrom: {kind} {source[name]['name']} not found")
    return {}


def _value_from(name: str, source: Manifest, pod: Manifest, objects: Mapping[Reference, Manifest | None]) -> str | None:
    """Return the value of one variable, or None if it is optional and missing."""
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    for reference_name, kind in KINDS_BY_FIELD.items():
        if reference_name in source:
            reference = source[reference_name]
            found = objects[kind, reference["name"]]
            contents = data(found) if found is not None else {}
            if reference["key"] in contents:
                return contents[reference["key"]].decode()
            if reference.get("optional"):
                return None
            missing = f"key {reference['key']} not found in" if found is not None else "not found:"
            raise ConfigError(f"env {name}: {missing} {kind} {reference['name']}")
    raise ConfigError(f"env {name}: the bridge knows fieldRef, configMapKeyRef and secretKeyRef, not {', '.join(source)}")
