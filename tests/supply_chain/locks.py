"""The locks, and what of them is installed on Linux, the one system that the images and the tests run on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
REPOSITORY: Final = "repository"
LOCKS: Final = {
    REPOSITORY: ROOT / "requirements.lock",
    "operator": ROOT / "operator/requirements.lock",
    "serving": ROOT / "model_repository/requirements.lock",
}
# The extras of pyproject.toml that a lock is for.
EXTRAS: Final = {REPOSITORY: ("dev",), "operator": ("operator",), "serving": ("engine", "repository", "exporter")}
LINUX: Final = {
    **default_environment(),
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "sys_platform": "linux",
}
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_ENTRY: Final = re.compile(r"\n(?=[^\s#])")


class NotInstalledError(Exception):
    """What a lock names is not what is installed here, so nothing can be read of it; the message says what to do."""


@dataclass(frozen=True)
class Pin:
    """One package of a lock, at one version, with the sha256 of each of its files."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]


def pins(lock: str) -> tuple[Pin, ...]:
    """Read the text of a lock; raises ValueError that names an entry that is not pinned to one version."""
    entries = (entry for entry in _ENTRY.split(f"\n{lock}") if entry.strip() and not entry.lstrip().startswith("#"))
    return tuple(_pin(entry) for entry in entries)


def installed(given: Iterable[Pin], environment: Mapping[str, str] = LINUX) -> dict[str, Pin]:
    """Return by name what an environment gets of a lock."""
    return {pin.name: pin for pin in given if pin.marker is None or pin.marker.evaluate(dict(environment))}


def described(pin: Pin) -> PackageMetadata:
    """Return what the installed package says of itself; raises NotInstalledError."""
    try:
        found = metadata(pin.name)
    except PackageNotFoundError:
        raise NotInstalledError(f"{pin.name}: is in a lock and not installed; run `make setup`") from None
    if found["Version"] != pin.version:
        raise NotInstalledError(f"{pin.name}: the lock has {pin.version}, installed is {found['Version']}; run `make setup`")
    return found


def field(given: PackageMetadata, name: str) -> str:
    """Return a field of a package's metadata, empty where it is not there."""
    return str((given.get_all(name) or [""])[0]).strip()


def _pin(entry: str) -> Pin:
    line = entry.strip().partition(" \\\n")[0]
    requirement = Requirement(line)
    versions = [specifier.version for specifier in requirement.specifier if specifier.operator == "=="]
    if len(versions) != 1 or len(requirement.specifier) != 1:
        raise ValueError(f"{line!r} is not pinned to one version; run `make lock`")
    return Pin(canonicalize_name(requirement.name), versions[0], requirement.marker, frozenset(_HASH.findall(entry)))
