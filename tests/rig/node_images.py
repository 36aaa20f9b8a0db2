"""The images that a real node runs, built on this machine from our Dockerfiles with buildah and imported into its containerd.

`python -m tests.rig.node_images` builds what is missing. An image is built again only when what it is made of has changed: bases of
Debian by debootstrap, Triton for CPU from its wheel, then ours by `make image-operator image-serving`.
"""

import hashlib
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.rig.binaries import find_binaries
from tests.rig.cluster import ROOT, say
from tests.rig.go_build import BuildError
from tests.rig.processes import PartError
from tests.rig.real_node import RealNode
from tests.rig.real_node_machine import SEARCH_PATH, MachineError, require_tools
from tests.rig.real_node_programs import PAUSE_IMAGE
from tests.rig.recipes import NODE, RECIPES
from transcriber_repository.launch import cache_dir

VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
PREVIOUS_VERSION: Final = "0.0.9"  # none was released before the first: the same under another number
PREFIX: Final = "localhost/"
SUITE: Final = "bookworm"
# Python's shared library is for Triton's Python backend.
RUN_PACKAGES: Final = ("ca-certificates", "libpython3.11", "python3")
BUILD_PACKAGES: Final = (*RUN_PACKAGES, "python3-pip", "python3-venv")
CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"  # of Debian
# What a build is sent: .dockerignore.
SOURCES: Final = (
    "LICENSE", "README.md", "pyproject.toml", "requirements-build.lock", "cli", "crds", "exporter", "model_repository", "operator",
)  # fmt: skip
VARIABLES: Final[Mapping[str, str]] = {"operator": "OPERATOR", "serving": "SERVING", "cpu-base": "CPU"}  # of the Makefile
# In namespaces of its own a build that is killed leaves no mount and no process; what buildah knows of mounts goes with them.
ALONE: Final = (
    "setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
    "sh", "-c", 'mount -t tmpfs tmpfs "$0" && exec "$@"',
)  # fmt: skip
LAST_LINES: Final = 25
GIGABYTE: Final = 1e9


@dataclass(frozen=True)
class Image:
    """An image by name; `key` is the sum of all that it is made of, so that another key means another image."""

    name: str
    key: str


class Builder:
    """Builds images with buildah in a store of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        """Prepare it; raises MachineError that says what this machine lacks."""
        require_tools(os.geteuid() == 0)
        self._folder = folder
        self._mounts = folder / "mounts"
        self._mounts.mkdir(parents=True, exist_ok=True)
        storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder / "store"}"\nrunroot = "{self._mounts}"\n'
        (folder / "storage.conf").write_text(storage, encoding="utf-8")
        self._built = Keys(folder / "built.json")

    def images(self) -> list[Image]:
        """Build every image that the node needs, in order, and return them; raises MachineError."""
        base = self._debian("run", RUN_PACKAGES)
        build_base = self._debian("build", BUILD_PACKAGES)
        pause = self._pause(base)
        cpu_base = self._made("cpu-base", "model_repository/cpu-base", base, build_base)
        return [
            pause,
            self._made("operator", "operator", base, build_base, PREVIOUS_VERSION),
            self._made("operator", "operator", base, build_base),
            self._made("serving", "model_repository", cpu_base, build_base),
        ]

    def archive(self, image: Image, file: Path) -> None:
        """Write an image as an archive that containerd can import."""
        self._run("buildah", "push", "--quiet", image.name, f"docker-archive:{file}:{image.name}")

    def _debian(self, name: str, packages: Sequence[str]) -> Image:
        """Return a small Debian with some packages."""
        image = Image(f"{PREFIX}transcriber-debian-{name}:{SUITE}", _sum(SUITE, *packages))
        if image in self._built:
            return image
        root, downloads = self._folder / f"rootfs-{name}", self._folder / "packages"
        shutil.rmtree(root, ignore_errors=True)
        downloads.mkdir(exist_ok=True)
        include = f"--include={','.join(packages)}"
        with _timed(f"{image.name}: debootstrap"):
            self._run("debootstrap", "--variant=minbase", include, f"--cache-dir={downloads}", SUITE, str(root))
        for leftover in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / leftover, ignore_errors=True)
        self._commit(image, "scratch", ("copy", "--quiet"), str(root), "/")
        shutil.rmtree(root)
        return image

    def _pause(self, base: Image) -> Image:
        """Return the image that holds a pod's namespaces: any that sleeps; it shares all its layers with others."""
        image = Image(PAUSE_IMAGE, _sum(base.key))
        if image not in self._built:
            self._commit(image, base.name, ("config", '--entrypoint=["/bin/sleep","infinity"]', "--user=65534:65534"))
        return image

    def _commit(self, image: Image, start: str, step: Sequence[str], *arguments: str) -> None:
        """Make an image by one step of buildah upon another image."""
        with _timed(f"{image.name}: buildah {step[0]}"):
            container = self._run("buildah", "from", "--pull-never", start).strip()
            try:
                self._run("buildah", *step, container, *arguments)
                self._run("buildah", "commit", "--quiet", container, image.name)
            finally:
                self._run("buildah", "rm", container)
        self._built.add(image)

    def _made(self, target: str, folder: str, base: Image, build_base: Image, version: str = VERSION) -> Image:
        """Return an image that `make image-TARGET` builds from a Dockerfile of ours."""
        sources = SOURCES if target in ("operator", "serving") else (folder,)
        key = _sum(base.key, build_base.key, version, *_contents((*sources, f"{folder}/Dockerfile")))
        image = Image(f"{PREFIX}transcriber-{target}:{version}", key)
        if image in self._built:
            return image
        options = f"--layers --secret id=pip,src={self._pip_configuration()} --volume {_certificates()}:{CERTIFICATES}:ro"
        bases = {"BASE": base.name, "BUILD_BASE": build_base.name}
        with _timed(f"{image.name}: make image-{target}"):
            self._run(
                "make", "--no-print-directory", f"image-{target}", "BUILDER=buildah", f"IMAGE_PREFIX={PREFIX}",
                *(f"{VARIABLES[target]}_{name}={value}" for name, value in bases.items()),
                f"VERSION={version}", f"BUILD_OPTIONS={options}",
            )  # fmt: skip
        self._built.add(image)
        return image

    def _pip_configuration(self) -> Path:
        """Write how pip finds packages here, with the certificates where a build has them; only the build sees it."""
        listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
        found = dict(line.partition("=")[::2] for line in listed.splitlines())
        settings = {name.rpartition(".")[2]: shlex.split(value)[0] for name, value in found.items()}
        lines = [f"{name} = {value}" for name, value in (settings | {"cert": CERTIFICATES}).items() if name != "find-links"]
        file = self._folder / "pip.conf"
        file.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
        return file

    def _run(self, *argv: str) -> str:
        environment = {
            **os.environ,
            "PATH": SEARCH_PATH,
            "CONTAINERS_STORAGE_CONF": str(self._folder / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }
        done = subprocess.run(
            [*ALONE, str(self._mounts), *argv], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            tail = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).splitlines()[-LAST_LINES:])
            raise MachineError(f"`{' '.join(argv[:3])} …` failed with exit code {done.returncode}:\n{tail}")
        return done.stdout


class Keys:
    """Which image is there under a name, in a file; `in` asks whether it is this one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __contains__(self, image: Image) -> bool:
        return self._read().get(image.name) == image.key

    def add(self, image: Image) -> None:
        """Note that it is there now."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps({**self._read(), image.name: image.key}, indent=1), encoding="utf-8")
        partial.replace(self._file)

    def _read(self) -> dict[str, str]:
        return dict(json.loads(self._file.read_text(encoding="utf-8"))) if self._file.exists() else {}


def import_images(node: RealNode, builder: Builder, images: Sequence[Image]) -> None:
    """Import those images into the containerd of a node that it does not have; raises MachineError."""
    imported = Keys(node.folder / "imported.json")
    for image in images:
        if image in imported:
            continue
        file = node.folder / "image.tar"
        file.unlink(missing_ok=True)
        with _timed(f"{image.name}: import"):
            builder.archive(image, file)
            say(f"{image.name}: {file.stat().st_size / GIGABYTE:.2f} GB")
            node.ctr("images", "import", "--local", "--discard-unpacked-layers", str(file))
        file.unlink()
        imported.add(image)
    _forget_replaced(node)


def _forget_replaced(node: RealNode) -> None:
    """Let go of images that another one has the name of now: containerd keeps them under their digests, gigabytes each."""
    rows = [line.split()[:3] for line in node.ctr("images", "list").splitlines()[1:]]  # REF TYPE DIGEST …
    named = {digest for reference, _, digest in rows if not reference.startswith("sha256:")}
    replaced = [reference for reference, _, digest in rows if digest not in named]
    if replaced:
        node.ctr("images", "remove", "--sync", *replaced)


def _contents(paths: Sequence[str]) -> Iterator[str]:
    """Yield names and contents of the files that a build is sent."""
    for path in paths:
        place = ROOT / path
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(ROOT))
                yield hashlib.sha256(file.read_bytes()).hexdigest()


def _sum(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _certificates() -> str:
    """Return this machine's file of trusted certificates."""
    paths = ssl.get_default_verify_paths()
    found = [path for path in (os.environ.get("PIP_CERT"), paths.cafile, CERTIFICATES) if path and Path(path).is_file()]
    if not found:
        raise MachineError("ca-certificates: not installed; run `apt-get install -y ca-certificates`")
    return str(Path(found[0]).resolve())


@contextmanager
def _timed(what: str) -> Iterator[None]:
    say(f"{what} …")
    started_at = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - started_at:.0f} s")


def node_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of a node's images, and of those that are being built."""
    return cache_dir(environment) / "node"


def main() -> int:
    """Build and import what is missing; returns the exit code."""
    folder = node_folder(os.environ)
    try:
        builder = Builder(folder / "build")
        images = builder.images()
        with RealNode(find_binaries(os.environ, (*RECIPES, *NODE)), folder) as node:
            import_images(node, builder, images)
    except (MachineError, BuildError, PartError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
