"""The trial of `helm test`, under its own rights, on a real API server, with a stand-in for Triton."""

import asyncio
from pathlib import Path

from tests.api.operator_parts import ACCOUNT, grant, kubectl, transcriber_deployment
from tests.chart.hooks import hook
from tests.rig.control_plane import ControlPlane
from tests.unit.exporter.test_trial import RIGHT, triton_that_hears
from transcriber_operator.clock import SystemClock
from transcriber_operator.cluster.kube import Kube
from transcriber_operator.execute.lease import Lease, LeaseTimes
from transcriber_operator.metrics import Metrics

READY = (
    '[{"type": "Ready", "status": "True", "reason": "AsExpected", "message": "x", "lastTransitionTime": "2026-01-31T12:00:00Z"}]'
)


async def test_it_lists_what_is_ready_and_transcribes_there(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    await asyncio.to_thread(grant, control_plane, namespace)
    await asyncio.to_thread(control_plane.apply, *(transcriber_deployment(namespace, name) for name in ("ready", "waiting")))
    status = f'{{"status": {{"conditions": {READY}, "readyReplicas": 1}}}}'
    there = f"--namespace={namespace}"
    await kubectl(
        control_plane, "patch", "transcriberdeployments/ready", "--subresource=status", "--type=merge", f"--patch={status}", there
    )
    found = hook("test-trial", namespace, {"watchNamespaces": [namespace]})
    await asyncio.to_thread(found.grant, control_plane)
    token = await kubectl(control_plane, "create", "token", found.account, there)
    (tmp_path / "token").write_text(token)
    (tmp_path / "ca.crt").write_bytes(control_plane.authority.certificate.read_bytes())
    operator = await asyncio.to_thread(control_plane.kubeconfig_for, namespace, ACCOUNT)
    async with Kube(operator, Metrics()) as kube, triton_that_hears(RIGHT) as triton:
        lease = Lease(kube, SystemClock(), namespace, ACCOUNT, "operator-1", LeaseTimes(renew=0.5))
        await lease.acquire()
        keeping = asyncio.create_task(lease.keep())
        process = await asyncio.create_subprocess_exec(
            *found.command,
            f"--api={control_plane.server}",
            f"--account={tmp_path}",
            f"--at={namespace}/ready={triton}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        keeping.cancel()
    assert process.returncode == 0, said.decode()
    operator_line, *lines = said.decode().splitlines()
    assert operator_line == "operator operator-1 is at work"
    assert lines[0].startswith(f"{namespace}/ready: transcribed the clip rightly in ")
    assert lines[1] == f"{namespace}/waiting: not Ready, so not tried: no status yet"
