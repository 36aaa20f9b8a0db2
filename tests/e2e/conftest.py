"""The cluster of the story: the one of --kube-context, or a control plane and a real node of this machine."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import unavailable
from tests.e2e.release import Release, install_previous
from tests.e2e.site import Site, SiteError
from tests.rig.binaries import find_binaries
from tests.rig.go_build import BuildError
from tests.rig.node_images import PREFIX, node_folder
from tests.rig.real_node import RealNode
from tests.rig.real_node_machine import MachineError
from tests.rig.recipes import NODE, RECIPES

KUBECONFIG: Final = "KUBECONFIG"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("end to end")
    group.addoption("--kube-context", metavar="NAME", help="a throw-away cluster in place of a node of this machine: kind-…")
    group.addoption("--claims-folder", metavar="HERE:THERE", help="a folder of this machine, and where that cluster's node has it")
    group.addoption("--image-prefix", default=PREFIX, metavar="PREFIX", help="before the images' names there; default %(default)s")


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """The cluster."""
    if request.config.getoption("--kube-context"):
        yield given(request.config)
        return
    started_at = time.monotonic()
    try:
        node = RealNode(find_binaries(os.environ, (*RECIPES, *NODE)), node_folder(os.environ))
    except (BuildError, MachineError) as error:
        unavailable(str(error))
    with ExitStack() as stack:
        stack.enter_context(node)
        plane = stack.enter_context(node.control_plane())
        claims = node.folder / "run" / "claims"
        claims.mkdir()
        executables = (str(plane.binaries["kubectl"]), str(plane.binaries["helm"]))
        seconds = time.monotonic() - started_at
        yield Site(plane.context, str(plane.kubeconfig), *executables, claims, str(claims), PREFIX, seconds)
        plane.keep_logs |= request.session.testsfailed > 0


def given(config: pytest.Config) -> Site:
    """Return the cluster that the options name; raises SiteError for one that may be somebody's."""
    here, separator, there = (config.getoption("--claims-folder") or "").partition(":")
    if not separator:
        raise SiteError(
            "--claims-folder HERE:THERE: needed with --kube-context; HERE is a folder of this machine, THERE the node's"
        )
    executables = [shutil.which(name) for name in ("kubectl", "helm")]
    if None in executables:
        raise SiteError("kubectl and helm: both must be on PATH")
    kubeconfig = os.environ.get(KUBECONFIG) or str(Path.home() / ".kube" / "config")
    prefix = config.getoption("--image-prefix")
    return Site(
        config.getoption("--kube-context"),
        kubeconfig,
        str(executables[0]),
        str(executables[1]),
        Path(here).resolve(),
        there,
        prefix,
    )


@pytest.fixture(scope="session")
def release(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The chart of the version before, installed, with all that the example needs."""
    made = Release(site, tmp_path_factory.mktemp("charts"))
    made.prepare()
    install_previous(made)
    return made


@pytest.fixture(scope="session")
def served(release: Release) -> Release:
    """The same, with the example of the repository applied and ready."""
    release.apply()
    release.settled()
    return release
