"""Volumes of a bridged pod as folders. Nothing is enforced: neither readOnly nor sizeLimit, and /dev/shm is the machine's."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.rig.bridge_api import Api
from tests.rig.bridge_environment import ConfigError, Manifest, Mount, data, expand, field

SHARED_MEMORY: Final = "/dev/shm"
TOKEN_SECONDS: Final = 3600


class VolumeError(Exception):
    """A volume cannot be made now; the message names it and what is missing."""


async def make_volumes(pod: Manifest, folder: Path, api: Api) -> dict[str, Path]:
    """Return the folder of each volume of a pod, made below `folder` unless it is on the host; raises VolumeError."""
    volumes = {}
    for volume in pod["spec"].get("volumes", []):
        place = folder / volume["name"]
        [(kind, source)] = [(key, value) for key, value in volume.items() if key != "name"] or [("emptyDir", {})]
        try:
            volumes[volume["name"]] = await _make(kind, source, pod, place, api)
        except (ConfigError, VolumeError) as error:
            raise VolumeError(f"volume {volume['name']}: {error}") from None
    return volumes


def mounts_of(container: Manifest, volumes: Mapping[str, Path], variables: Mapping[str, str]) -> list[Mount]:
    """Return a container's mounts; a subPath that does not exist becomes a folder."""
    mounts = []
    for mount in container.get("volumeMounts", []):
        if mount["mountPath"].rstrip("/") == SHARED_MEMORY:
            continue
        below = expand(mount["subPathExpr"], variables) if "subPathExpr" in mount else mount.get("subPath", "")
        source = volumes[mount["name"]] / below
        if not source.exists():
            source.mkdir(parents=True)
        mounts.append(Mount(mount["mountPath"], source))
    return mounts


async def _make(kind: str, source: Manifest, pod: Manifest, place: Path, api: Api) -> Path:
    match kind:
        case "emptyDir":
            place.mkdir(parents=True, exist_ok=True)
            return place
        case "configMap" | "secret" | "projected" | "downwardAPI":
            files = await _files(kind, source, pod, api)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for path, contents in files.items():
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(contents)
            return place
        case "persistentVolumeClaim":
            return await _claimed(pod["metadata"]["namespace"], source["claimName"], api)
        case "hostPath":
            return Path(source["path"])
    raise VolumeError(f"the bridge does not know {kind}")


async def _claimed(namespace: str, claim_name: str, api: Api) -> Path:
    claim = await api.get("PersistentVolumeClaim", namespace, claim_name)
    if claim is None:
        raise VolumeError(f"PersistentVolumeClaim {claim_name} not found")
    if claim.get("status", {}).get("phase") != "Bound":
        raise VolumeError(f"PersistentVolumeClaim {claim_name} is not bound")
    volume = await api.get("PersistentVolume", namespace, claim["spec"]["volumeName"])
    if volume is None or "hostPath" not in volume["spec"]:
        raise VolumeError(f"PersistentVolumeClaim {claim_name} is bound to something else than a hostPath; see make_claim")
    return Path(volume["spec"]["hostPath"]["path"])


async def _files(kind: str, source: Manifest, pod: Manifest, api: Api) -> dict[str, bytes]:
    """Return contents by path of a volume that is made of the API's objects."""
    namespace = pod["metadata"]["namespace"]
    match kind:
        case "configMap":
            return _chosen(source, await api.get("ConfigMap", namespace, source["name"]), f"ConfigMap {source['name']}")
        case "secret":
            name = source.get("secretName") or source["name"]  # the latter in a projected volume
            return _chosen(source, await api.get("Secret", namespace, name), f"Secret {name}")
        case "downwardAPI":
            return {item["path"]: field(pod, _field_path(item)).encode() for item in source.get("items", [])}
        case "projected":
            parts = [await _files(name, part, pod, api) for entry in source.get("sources", []) for name, part in entry.items()]
            return {path: contents for part in parts for path, contents in part.items()}
        case "serviceAccountToken":
            account = pod["spec"].get("serviceAccountName", "default")
            token = await api.token(namespace, account, pod, source.get("audience"), source.get("expirationSeconds", TOKEN_SECONDS))
            if token is None:
                raise VolumeError(f"ServiceAccount {account} not found")
            return {source["path"]: token.encode()}
    raise VolumeError(f"the bridge does not know {kind}")


def _chosen(source: Manifest, found: Manifest | None, what: str) -> dict[str, bytes]:
    """Return the files of all keys, or those that `items` chooses."""
    if found is None and not source.get("optional"):
        raise VolumeError(f"{what} not found")
    contents = data(found) if found is not None else {}
    items: Sequence[Mapping[str, Any]] = source.get("items") or [{"key": key, "path": key} for key in contents]
    if not source.get("optional") and (missing := [item["key"] for item in items if item["key"] not in contents]):
        raise VolumeError(f"key {', '.join(missing)} not found in {what}")
    return {item["path"]: contents[item["key"]] for item in items if item["key"] in contents}


def _field_path(item: Manifest) -> str:
    if "fieldRef" not in item:
        raise VolumeError(f"{item['path']}: the bridge knows fieldRef only")
    return str(item["fieldRef"]["fieldPath"])
