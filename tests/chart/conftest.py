import pytest

from tests.chart.rendering import find_helm
from tests.conftest import unavailable
from tests.rig.fixtures import binaries, control_plane, namespace
from tests.rig.go_build import BuildError

__all__ = ["binaries", "control_plane", "namespace"]


@pytest.fixture(scope="session", autouse=True)
def helm_binary() -> None:
    """All tests of the chart need helm."""
    try:
        find_helm()
    except BuildError as error:
        unavailable(str(error))
