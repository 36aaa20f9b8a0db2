"""A cluster for people and for tests of the whole: control plane, KWOK, pod bridge and operators, all of them local processes.

`python -m tests.rig.cluster` (`make cluster`) starts one with the operator running, says how to use it, and ends with Ctrl-C.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.rig.binaries import find_binaries
from tests.rig.bridge_objects import bridge_namespace, make_claim
from tests.rig.chart import operator_account
from tests.rig.control_plane import ControlPlane
from tests.rig.go_build import BuildError
from tests.rig.kwok import fake_node
from tests.rig.pod_bridge import PodBridge
from tests.rig.processes import LOOPBACK, Part, Program, Spawner, free_ports

ROOT: Final = Path(__file__).parents[2]
SYSTEM_NAMESPACE: Final = "transcriber-system"
SERVICE_ACCOUNT: Final = "transcriber-operator"
START_SECONDS: Final = 60.0
IMAGE: Final = "localhost/transcriber-serving:dev"  # the bridge runs commands, not images


class OperatorProcess:
    """An operator under its own ServiceAccount's token, `python -m transcriber_operator`; blocks, so call it from a thread."""

    def __init__(self, plane: ControlPlane, environment: Mapping[str, str] | None = None, server: str | None = None) -> None:
        """Prepare it; `server` is another address of the API server, such as a fault proxy's."""
        metrics, health, self.debug_port = free_ports(3)
        kubeconfig = plane.kubeconfig_for(SYSTEM_NAMESPACE, SERVICE_ACCOUNT, server)
        self.metrics_url = f"http://{LOOPBACK}:{metrics}/metrics"
        health_url = f"http://{LOOPBACK}:{health}/healthz"
        variables = {
            "TRANSCRIBER_KUBECONFIG": str(kubeconfig),
            "TRANSCRIBER_OPERATOR_NAMESPACE": SYSTEM_NAMESPACE,
            "TRANSCRIBER_SERVING_IMAGE": IMAGE,
            "TRANSCRIBER_METRICS_ADDRESS": f"{LOOPBACK}:{metrics}",
            "TRANSCRIBER_HEALTH_ADDRESS": f"{LOOPBACK}:{health}",
            "TRANSCRIBER_DEBUG_ADDRESS": f"{LOOPBACK}:{self.debug_port}",
            "TRANSCRIBER_LOG_FORMAT": "Text",
            **(environment or {}),
        }
        program = Program("operator", (sys.executable, "-m", "transcriber_operator"), health_url, variables)
        self.log_file = plane.folder / f"operator-{health}.log"
        self._spawner = Spawner()
        self.part = Part(program, self.log_file, self._spawner, plane.tls)

    def start(self) -> None:
        """Start it and wait until it is healthy: it holds the Lease and its watches work."""
        self.part.start()
        self.part.await_ready(START_SECONDS)

    def stop(self) -> None:
        """End it and wait for that."""
        self.part.stop()
        self._spawner.close()


class Cluster:
    """A control plane with KWOK and one node, the operator's account, and a bridge for all pods that are its own.

    Use it as an async context manager; on leaving, no process stays.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Prepare it; `folder` gets the pods' volumes and logs. Raises BuildError where the binaries are missing."""
        self.plane = ControlPlane(find_binaries(environment))
        self.folder = folder
        self.bridge = PodBridge(self.plane.kubeconfig, folder / "pods")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._start)
            await self._stack.enter_async_context(self.bridge)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def start_operator(self, environment: Mapping[str, str] | None = None) -> OperatorProcess:
        """Start the operator; it ends with the cluster."""
        operator = await asyncio.to_thread(OperatorProcess, self.plane, environment)
        self._stack.push_async_callback(asyncio.to_thread, operator.stop)
        await asyncio.to_thread(operator.start)
        return operator

    async def namespace(self, name: str, **claims: Path) -> None:
        """Make a namespace whose pods the bridge runs, with claims on folders of this machine (`_` in a name stands for `-`)."""
        await asyncio.to_thread(self._namespace, name, claims)

    async def kubectl(self, *arguments: str, document: str | None = None, timeout_seconds: float = 600.0) -> str:
        """Run kubectl as admin; returns its stdout, raises KubectlError."""
        return await asyncio.to_thread(self.plane.kubectl, *arguments, document=document, timeout_seconds=timeout_seconds)

    def _start(self) -> None:
        self._stack.callback(self.plane.close)
        self.plane.start()
        self.plane.apply_crds(*sorted((ROOT / "crds").glob("*.yaml")))
        self.plane.start_kwok()
        self.plane.apply(fake_node("node-1", tainted=False))
        install_account(self.plane)

    def _namespace(self, name: str, claims: Mapping[str, Path]) -> None:
        self.plane.kubectl("create", "namespace", name)
        self.plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
        bridge_namespace(self.plane, name)
        for claim, folder in claims.items():
            make_claim(self.plane, name, claim.replace("_", "-"), folder)


def install_account(plane: ControlPlane) -> None:
    """Create the operator's namespace, its ServiceAccount and the rights that the chart gives it over all namespaces."""
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM_NAMESPACE}})
    plane.apply(*operator_account(SYSTEM_NAMESPACE))


async def run(folder: Path) -> None:
    """Run a cluster for a person until SIGINT or SIGTERM."""
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    say("starting a control plane; this takes some seconds")
    async with Cluster(folder, os.environ) as cluster:
        await cluster.namespace("speech", models=ROOT / "examples" / "models", transcriber_repositories=folder / "repositories")
        operator = await cluster.start_operator()
        kubectl = cluster.plane.binaries["kubectl"]
        say(f"ready; in another terminal:\n  export KUBECONFIG={cluster.plane.kubeconfig}")
        say(f"  {kubectl} apply --namespace=speech -f examples/cluster/whisper-base.yaml")
        say(f"  {kubectl} get td --namespace=speech --watch")
        say(f"operator's log: {operator.log_file}\npods' logs:     {folder / 'pods'}\nCtrl-C ends everything.")
        await ended.wait()
        say("stopping")


def say(line: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig.cluster", description="A Kubernetes cluster of local processes.")
    parser.add_argument(
        "--dir",
        type=Path,
        default=ROOT / ".cache" / "cluster",
        metavar="FOLDER",
        help="gets volumes and logs; default %(default)s",
    )
    options = parser.parse_args(arguments)
    options.dir.mkdir(parents=True, exist_ok=True)
    try:
        asyncio.run(run(options.dir))
    except BuildError as error:
        parser.exit(1, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
