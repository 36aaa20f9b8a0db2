"""Fixtures around one control plane per session; a conftest takes those that its tests name by importing them."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.rig.binaries import Binaries, find_binaries
from tests.rig.control_plane import ControlPlane
from tests.rig.go_build import BuildError

RESOURCE = "transcriberdeployments.serving.transcriber.dev"
# A fixture that two conftests import exists twice; both mean this one.
_running: list[ControlPlane] = []


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The binaries of the control plane."""
    try:
        return find_binaries(os.environ)
    except BuildError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def control_plane(binaries: Binaries, request: pytest.FixtureRequest, root_dir: Path) -> Iterator[ControlPlane]:
    """A control plane that knows our CRD; parts beside the four are started by who needs them (`start_kwok`, `start_karpenter`)."""
    if _running:
        yield _running[0]
        return
    with ControlPlane(binaries) as plane:
        plane.apply_crds(*sorted((root_dir / "crds").glob("*.yaml")))
        _running.append(plane)
        try:
            yield plane
        finally:
            _running.clear()
            plane.keep_logs |= request.session.testsfailed > 0


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of this test alone, ready for pods. A part that died before or during the test is named."""
    control_plane.check()
    name = f"test-{secrets.token_hex(4)}"
    control_plane.kubectl("create", "namespace", name)
    # Pods are refused until the controller manager has made it.
    control_plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
    yield name
    control_plane.check()
    delete_namespace(control_plane, name)


def delete_namespace(plane: ControlPlane, name: str) -> None:
    """Delete our objects first, then the namespace, whose end nobody waits for.

    The test has ended its operator, so nobody else would take the finalizers away.
    """
    for deployment in plane.kubectl("get", RESOURCE, f"--namespace={name}", "--output=name").split():
        plane.kubectl("patch", deployment, f"--namespace={name}", "--type=merge", '--patch={"metadata": {"finalizers": null}}')
        plane.kubectl("delete", deployment, f"--namespace={name}")
    plane.kubectl("delete", "namespace", name, "--wait=false")
