"""What the tests of the operator on a real API server share: its rights, its resource, and the operator as a process."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from tests.chart.rendering import NAMESPACE
from tests.rig.chart import operator_account
from tests.rig.control_plane import ControlPlane
from tests.rig.processes import free_ports

ROOT: Final = Path(__file__).parents[2]
ACCOUNT: Final = "transcriber-operator"
LEASE: Final = "transcriber-operator"
PATIENCE: Final = 60.0
PROGRAM: Final = ("-m", "transcriber_operator")


def grant(plane: ControlPlane, namespace: str, everywhere: bool = True) -> None:
    """Give the operator's ServiceAccount of a namespace the chart's rights; not `everywhere`: in this namespace, none to nodes."""
    if everywhere:
        plane.apply(*operator_account(namespace))
        return
    plane.apply(*operator_account(namespace, watchNamespaces=[NAMESPACE], rbac={"karpenter": False}))
    plane.expect_refusals(namespace, "list nodepools")  # it asks whether it may watch nodes, and whether any are its own


def transcriber_deployment(namespace: str, name: str = "whisper", **spec: Any) -> dict[str, Any]:
    """Return a resource with one replica on any node; `spec` replaces parts."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "whisper-base.yaml").read_text(encoding="utf-8"))
    document["metadata"] = {"name": name, "namespace": namespace}
    document["spec"] |= {"scaling": {"minReplicas": 1, "maxReplicas": 2}, **spec}
    return document


async def kubectl(plane: ControlPlane, *arguments: str, document: Mapping[str, Any] | None = None) -> str:
    """Run kubectl without holding up the loop."""
    text = yaml.safe_dump(document) if document else None
    return await asyncio.to_thread(plane.kubectl, *arguments, document=text)


async def get(plane: ControlPlane, kind: str, *arguments: str) -> Any:
    """Return an object or a list as JSON."""
    return json.loads(await kubectl(plane, "get", kind, "--output=json", *arguments))


class Running:
    """An operator's process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, ports: list[int]) -> None:
        self.process = process
        self._log = log
        self._health, self._metrics, self._debug = ports

    def log(self) -> list[dict[str, Any]]:
        """Return its log."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) if line.startswith("{") else {"message": line} for line in lines]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; returns the exit code, negative for a signal."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def stop(self) -> int:
        """Ask it to end and wait for that."""
        self.send(signal.SIGTERM)
        return await self.ended()

    async def health(self) -> tuple[int, dict[str, Any]]:
        """Return what /healthz says."""
        status, body = await _read(self._health, "/healthz")
        return status, json.loads(body)

    async def metrics(self) -> str:
        """Return its metrics."""
        return (await _read(self._metrics, "/metrics"))[1]

    async def debug(self, namespace: str, name: str) -> dict[str, Any]:
        """Return the last pass of a resource."""
        found: dict[str, Any] = json.loads((await _read(self._debug, f"/debug/{namespace}/{name}"))[1])
        return found

    async def is_in(self, role: str) -> None:
        """Wait until it is in this role: Standby or Leading."""
        async with asyncio.timeout(PATIENCE):
            while await self.role() != role:
                if self.process.returncode is not None:
                    raise AssertionError(f"the operator ended with {self.process.returncode}: {self.log()[-5:]}")
                await asyncio.sleep(0.1)  # it announces nothing: it is asked

    async def role(self) -> str:
        """Return Standby or Leading, and Starting before it answers."""
        try:
            return str((await self.health())[1]["role"])
        except aiohttp.ClientError:
            return "Starting"


@asynccontextmanager
async def operator(
    kubeconfig: Path, namespace: str, folder: Path, program: Sequence[str] = PROGRAM, **settings: str
) -> AsyncIterator[Running]:
    """Run an operator with its Lease in `namespace`; what still runs in the end is killed."""
    ports = free_ports(3)
    addresses = {
        f"TRANSCRIBER_{name}_ADDRESS": f"127.0.0.1:{port}" for name, port in zip(("HEALTH", "METRICS", "DEBUG"), ports, strict=True)
    }
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TRANSCRIBER_")},
        "TRANSCRIBER_SERVING_IMAGE": "serving:1",
        "TRANSCRIBER_OPERATOR_NAMESPACE": namespace,
        "TRANSCRIBER_KUBECONFIG": str(kubeconfig),
        "TRANSCRIBER_LOG_FORMAT": "Json",
        **addresses,
        **settings,
    }
    log = folder / f"operator-{ports[0]}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(sys.executable, *program, env=environment, stdout=output, stderr=output)
    try:
        yield Running(process, log, ports)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()


async def _read(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()
