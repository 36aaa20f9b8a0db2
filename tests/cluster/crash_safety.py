"""The operator, killed before and after its writes: it must end as if nothing had happened, and with no step too many on the way.

Every run costs half a minute, so a sample of the points is tried. `CRASH_POINTS=all` tries them all, in about half an hour on two
cores; `CRASH_POINTS=40` that many.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient

from tests.cluster.crash_points import summary
from tests.cluster.crash_runs import CrashTest
from tests.cluster.transcriber_workload import WORKLOAD
from tests.rig.binaries import Binaries
from tests.rig.control_plane import ControlPlane

POINTS_VARIABLE = "CRASH_POINTS"
SAMPLED_POINTS = "12"


@pytest.fixture
def plane(binaries: Binaries, root_dir: Path, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A control plane without a scheduler, which would call the fake pods unschedulable for want of a node."""
    with ControlPlane(binaries) as plane:
        plane.part("kube-scheduler").stop()
        plane.apply_crds(*sorted((root_dir / "crds").glob("*.yaml")))
        failed_before = request.session.testsfailed
        yield plane
        plane.keep_logs |= request.session.testsfailed > failed_before


@pytest.mark.timeout(5400)
async def test_the_operator_survives_being_killed_at_its_writes(plane: ControlPlane, capsys: pytest.CaptureFixture[str]):
    def tell(text: object) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}")
            sys.stdout.flush()

    wanted = os.environ.get(POINTS_VARIABLE, SAMPLED_POINTS)
    configuration = Configuration()
    await load_kube_config(str(plane.kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as connection:
        test = CrashTest(plane, await DynamicClient(connection), WORKLOAD)
        await test.record()
        verdicts = await test.kill(None if wanted == "all" else int(wanted), tell)
    told = summary(verdicts)
    tell(told)
    assert not [str(verdict.point) for verdict in verdicts if verdict.is_failure], told
