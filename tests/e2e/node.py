"""The node itself: however a run of it ends, with pods in it, nothing of it stays on this machine, and the next one starts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import unavailable
from tests.e2e.site import until
from tests.rig.binaries import binaries_root, find_binaries
from tests.rig.cluster import ROOT
from tests.rig.go_build import BuildError
from tests.rig.node_images import PREFIX, VERSION, node_folder
from tests.rig.real_node_machine import CGROUPS, END_SECONDS, LINK, MachineError, require_tools
from tests.rig.recipes import NODE

pytestmark = pytest.mark.timeout(600)
Record = Callable[[str, object], None]
# A node with a pod in it, until a signal comes.
HOLD: Final = f"""
import json, os, signal
from tests.e2e.calls import restricted, user
from tests.rig.binaries import find_binaries
from tests.rig.node_images import node_folder
from tests.rig.real_node import RealNode
from tests.rig.recipes import NODE, RECIPES

container = {{"name": "main", "image": "{PREFIX}transcriber-operator:{VERSION}", "command": ["sleep", "infinity"]}}
spec = {{"containers": [{{**container, "securityContext": restricted()}}], "securityContext": user()}}
pod = {{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "held", "namespace": "default"}}, "spec": spec}}
with RealNode(find_binaries(os.environ, (*RECIPES, *NODE)), node_folder(os.environ)) as node, node.control_plane() as plane:
    plane.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    plane.apply(pod)
    plane.kubectl("wait", "--for=condition=Ready", "pod/held", "--timeout=120s")
    print(plane.folder, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def here() -> None:
    """This machine can have a node, and its parts are built."""
    try:
        require_tools(os.geteuid() == 0)
        find_binaries(os.environ, NODE)
    except (BuildError, MachineError) as error:
        unavailable(str(error))


@contextmanager
def held() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """Yield a process that has a node with a pod, and the folder of its control plane."""
    with subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        try:
            assert folder.is_absolute(), "the node did not start"
            yield process, folder
        finally:
            process.kill()
            process.wait()
            if folder.is_absolute():
                shutil.rmtree(folder, ignore_errors=True)


def left() -> list[str]:
    """Return what a node has on this machine: processes, mounts, its cable; cgroups are another matter."""
    binaries = {f"{find_binaries(os.environ, NODE)[recipe.name]}" for recipe in NODE}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue  # it ended meanwhile
        if binaries & set(argv) or any("containerd-shim-runc" in word for word in argv[:1]):
            found.append(" ".join(argv[:2]))
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    found += [line for line in mounts if str(node_folder(os.environ)) in line or str(binaries_root(os.environ)) in line]
    return found + ([LINK] if Path(f"/sys/class/net/{LINK}").exists() else [])


def cgroups() -> list[Path]:
    return list(CGROUPS.glob("**/transcriber-node"))


def test_a_run_that_is_interrupted_leaves_nothing(record_property: Record):
    with held() as (process, _):
        assert left(), "it is seen while it is there"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait(END_SECONDS)
        record_property("seconds_until_gone", round(time.monotonic() - began, 1))
        assert left() == []
        assert cgroups() == []


def test_a_run_that_is_killed_leaves_nothing_either_and_the_next_one_starts_and_takes_back_what_the_kernel_kept():
    with held() as (process, _):
        process.kill()
        process.wait()
        until("nothing is left", lambda: not left(), END_SECONDS)
        assert cgroups()
    with held() as (process, _):
        process.send_signal(signal.SIGINT)
        process.wait(END_SECONDS)
    assert cgroups() == []
