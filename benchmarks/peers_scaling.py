"""The operator, the HPA controller and KEDA on one trace, each on a real control plane with Karpenter.

`python -m benchmarks.peers_scaling` takes some five minutes for each, and `… operator` runs that one anew, beside the others of the
last report. KEDA is built by `python -m tests.rig.binaries keda-operator keda-adapter`; where it is not, it is left out.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from benchmarks.recordings import ROOT
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient
from tests.cluster.quick_pods import Parts
from tests.cluster.scaled import NAME, SLOTS, THROUGHPUT, Scaled, document, make_namespace, prepare, scaled, spot_pool
from tests.cluster.transcriber_workload import API_VERSION
from tests.rig.binaries import find_binaries
from tests.rig.bridge_api import Api
from tests.rig.cluster import OperatorProcess, install_account
from tests.rig.control_plane import ControlPlane
from tests.rig.external_metrics import ExternalMetrics, autoscaler
from tests.rig.feeder import WORK_PORT, Call, File
from tests.rig.go_build import BuildError
from tests.rig.keda import Keda, scaled_object
from tests.rig.processes import LOOPBACK, free_ports
from tests.rig.programs import Options
from tests.rig.recipes import PEERS

REPORT: Final = ROOT / "docs" / "benchmarks" / "scaling-peers"
NAMESPACE: Final = "peers"
METRIC: Final = "audio_seconds"
MOST_REPLICAS: Final = 10
TARGET_WAIT_SECONDS: Final = 20
PER_REPLICA: Final = THROUGHPUT * TARGET_WAIT_SECONDS  # audio seconds that one replica decodes within the target
FILE_SECONDS: Final = 60.0
# From each time on, audio seconds that arrive per second.
RATES: Final = ((0.0, 60.0), (40.0, 3 * THROUGHPUT), (100.0, 60.0), (130.0, 5 * THROUGHPUT), (160.0, 60.0))
TRACE_SECONDS: Final = 200.0
WATCHED_SECONDS: Final = 250.0
SAMPLE_SECONDS: Final = 1.0
SEED: Final = 7
TARGET: Final = {"apiVersion": API_VERSION, "kind": "TranscriberDeployment", "name": NAME}
# Defaults are made for nodes that take minutes; here they take a twentieth, and so do the times of HPA and KEDA.
FASTER: Final = 20
HPA_SYNC: Final = Options(controller_manager_arguments=("--horizontal-pod-autoscaler-sync-period=1s",))
DOWN_WINDOW_SECONDS: Final = 300 // FASTER
BEHAVIOR: Final = {
    "scaleUp": {
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}, {"type": "Pods", "value": 4, "periodSeconds": 1}]
    },
    "scaleDown": {"stabilizationWindowSeconds": DOWN_WINDOW_SECONDS},
}
TITLES: Final = {"operator": "transcriber-operator", "hpa": "HPA (autoscaling/v2)", "keda": "KEDA 2.20.2"}


@dataclass(frozen=True)
class Sample:
    """The state at a time from the start of the trace; work is all audio that is not decoded, also what clients hold."""

    at_seconds: float
    wanted: int
    ready: int
    nodes: int
    work_audio_seconds: float


@dataclass(frozen=True)
class Run:
    """What one controller did with the trace."""

    controller: str
    samples: tuple[Sample, ...]
    files: int
    lost: int
    p95_wait_seconds: float
    missed_percent: float  # of audio, that waited longer than the target
    node_seconds: float
    replica_changes: int
    peak_replicas: int


def trace(rng: random.Random) -> list[File]:
    """Files of a minute at random times: two thirds of a replica's work, and twice a surge, of three replicas' and of five."""
    files = []
    for (begin, rate), (end, _) in itertools.pairwise((*RATES, (TRACE_SECONDS, 0.0))):
        at = begin
        while (at := at + rng.expovariate(rate / FILE_SECONDS)) < end:
            files.append(File(at, FILE_SECONDS))
    return files


@asynccontextmanager
async def ours(_own: Scaled, _plane: ControlPlane, _work: Callable[[], float]) -> AsyncIterator[None]:
    """The operator decides by itself."""
    yield


@asynccontextmanager
async def hpa(_own: Scaled, plane: ControlPlane, work: Callable[[], float]) -> AsyncIterator[None]:
    """The HPA controller reads the work by the external metrics API and writes the resource's scale."""
    scaler = autoscaler(NAME, NAMESPACE, TARGET, METRIC, str(round(PER_REPLICA)), MOST_REPLICAS)
    scaler["spec"]["behavior"] = BEHAVIOR
    async with ExternalMetrics(plane, {METRIC: work}):
        await asyncio.to_thread(plane.apply, scaler)
        yield


@asynccontextmanager
async def keda(_own: Scaled, plane: ControlPlane, work: Callable[[], float]) -> AsyncIterator[None]:
    """KEDA reads the work by HTTP and makes an HPA, whose figures it serves."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response({METRIC: work()})

    application = web.Application()
    application.add_routes([web.get("/work", answer)])
    runner = web.AppRunner(application)
    await runner.setup()
    [port] = free_ports(1)
    await web.TCPSite(runner, LOOPBACK, port).start()
    trigger = {"url": f"http://{LOOPBACK}:{port}/work", "valueLocation": METRIC, "targetValue": str(round(PER_REPLICA))}
    scaler = scaled_object(
        NAME, NAMESPACE, TARGET, MOST_REPLICAS, trigger,
        minReplicaCount=1, pollingInterval=30 // FASTER, cooldownPeriod=300 // FASTER,
        advanced={"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOR}},
    )  # fmt: skip
    system = Keda(plane, find_binaries(os.environ, PEERS))
    await asyncio.to_thread(system.__enter__)
    try:
        await asyncio.to_thread(plane.apply, scaler)
        yield
    finally:
        await asyncio.to_thread(system.__exit__, None, None, None)
        await runner.cleanup()


CONTROLLERS: Final = {"operator": ours, "hpa": hpa, "keda": keda}


class Watch:
    """Asks all replicas each second for their work, and keeps samples."""

    def __init__(self, own: Scaled) -> None:
        self.samples: list[Sample] = []
        self._own = own
        self._held = 0.0
        self._session = aiohttp.ClientSession(trust_env=False, timeout=aiohttp.ClientTimeout(total=0.5))

    def work(self) -> float:
        """Audio that is not decoded, in seconds, as the replicas told last, and what clients hold because nobody is ready."""
        return self._held

    async def run(self, began_at: float) -> None:
        """Sample until cancelled."""
        clock = asyncio.get_running_loop().time
        try:
            while True:
                told = await asyncio.gather(*(self._ask(address) for address in self._own.ready()))
                self._held = sum(told)
                nodes = len(self._own.owned("Node"))
                sample = Sample(clock() - began_at, self._own.wanted(), len(told), nodes, self._held)
                self.samples.append(sample)
                await asyncio.sleep(SAMPLE_SECONDS)
        finally:
            await self._session.close()

    async def _ask(self, address: str) -> float:
        try:
            async with self._session.get(f"http://{address}:{WORK_PORT}/load") as response:
                load = (await response.json())["load"] or {}
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0.0
        return float(load.get("queued_audio_seconds", 0.0) + load.get("in_flight_audio_seconds", 0.0))


async def run(controller: str) -> Run:
    """Play the trace under one controller, on a control plane of its own."""
    plane = ControlPlane(find_binaries(os.environ), HPA_SYNC)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, plane.close)
        await asyncio.to_thread(plane.start)
        await asyncio.to_thread(plane.apply_crds, *sorted((ROOT / "crds").glob("*.yaml")))
        await asyncio.to_thread(install_account, plane)
        configuration = Configuration()
        await load_kube_config(str(plane.kubeconfig), client_configuration=configuration)
        configuration.client_session_kwargs = {"trust_env": False}
        connection = await stack.enter_async_context(ApiClient(configuration))
        parts = Parts(plane, await DynamicClient(connection), await stack.enter_async_context(Api(plane.kubeconfig)))
        await prepare(parts)
        await make_namespace(parts, NAMESPACE)
        operator = await asyncio.to_thread(OperatorProcess, plane)
        stack.push_async_callback(asyncio.to_thread, operator.stop)
        await asyncio.to_thread(operator.start)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="transcriber-peers-")))
        own = await stack.enter_async_context(scaled(parts, NAMESPACE, folder))
        return await play(controller, own, plane)


async def play(controller: str, own: Scaled, plane: ControlPlane) -> Run:
    """Let the resource serve, start the controller, and send the trace."""
    scaling: dict[str, Any] = {"minReplicas": 1, "maxReplicas": MOST_REPLICAS, "targetWaitSeconds": TARGET_WAIT_SECONDS}
    if controller != "operator":
        scaling |= {"mode": "External", "replicas": 1}
    resource = document(scaling=scaling, capacity__pools=[spot_pool(maxNodes=MOST_REPLICAS)])
    await own.apply(resource)
    await own.serves(1)
    if controller != "operator":
        del resource["spec"]["scaling"]["replicas"]  # others write it from here on
    watch = Watch(own)
    async with CONTROLLERS[controller](own, plane, watch.work):
        began_at = asyncio.get_running_loop().time()
        watching = asyncio.create_task(watch.run(began_at))
        own.feeder.feed(trace(random.Random(SEED)))
        await own.feeder.finished()
        await asyncio.sleep(max(began_at + WATCHED_SECONDS - asyncio.get_running_loop().time(), 0.0))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return summary(controller, watch.samples, own.feeder.calls, own.feeder.lost())


def summary(controller: str, samples: Sequence[Sample], calls: Sequence[Call], lost: Sequence[Call]) -> Run:
    """Return the figures of a run. A file waits for as long as it takes longer than it would on an idle replica."""
    waits = [(max(call.seconds - alone(call.file), 0.0), call.file.audio_seconds) for call in calls if call.is_finished]
    audio = sum(seconds for _, seconds in waits)
    missed = sum(seconds for wait, seconds in waits if wait > TARGET_WAIT_SECONDS)
    gaps = [(later.at_seconds - sample.at_seconds) * sample.nodes for sample, later in itertools.pairwise(samples)]
    return Run(
        controller,
        tuple(samples),
        len(calls),
        len(lost),
        round(statistics.quantiles([wait for wait, _ in waits], n=20)[-1], 1),
        round(100 * missed / audio, 1),
        round(sum(gaps)),
        sum(sample.wanted != later.wanted for sample, later in itertools.pairwise(samples)),
        max(sample.wanted for sample in samples),
    )


def alone(file: File) -> float:
    """Return the seconds that a file takes on an idle replica: its windows share the slots."""
    windows = -(-file.audio_seconds // 30.0)
    return float(-(-windows // SLOTS) * 30.0 * SLOTS / THROUGHPUT)


def plot(runs: Sequence[Run], file: Path) -> None:
    """Draw the replicas of all over time, and the work that waits below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 6), height_ratios=(3, 2))
    for number, each in enumerate(runs):
        colour = f"C{number}"
        times = [sample.at_seconds for sample in each.samples]
        above.step(times, [sample.wanted for sample in each.samples], where="post", color=colour, label=TITLES[each.controller])
        above.step(times, [sample.ready for sample in each.samples], where="post", color=colour, linestyle=":", linewidth=1)
        below.plot(times, [sample.work_audio_seconds for sample in each.samples], color=colour)
    above.yaxis.get_major_locator().set_params(integer=True)
    above.set_ylabel("replicas: asked for (line), ready (dots)")
    above.legend()
    below.set_ylabel("audio not decoded, seconds")
    below.set_xlabel("seconds from the start of the trace")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def report(runs: Sequence[Run]) -> str:
    """Return the page."""
    rows = [
        f"| {TITLES[each.controller]} | {each.p95_wait_seconds:g} | {each.missed_percent:g} | {each.node_seconds:g} "
        f"| {each.peak_replicas} | {each.replica_changes} | {each.lost} |"
        for each in runs
    ]
    header = (
        f"| controller | p95 wait, s | audio that waited over {TARGET_WAIT_SECONDS} s, % | node-seconds | most replicas "
        "| changes | files lost |"
    )
    return "\n".join([*TEXT.splitlines(), "", header, "| --- | --- | --- | --- | --- | --- | --- |", *rows, ""])


TEXT: Final = f"""# The operator next to the real HPA controller and the real KEDA

`python -m benchmarks.peers_scaling` on one machine: a real API server, scheduler, controller manager and Karpenter, whose nodes
KWOK plays, and replicas that take {THROUGHPUT:g} audio seconds per second each but decode nothing. All get the same files at the
same times, from clients that ask the replica that has fewest of theirs: two thirds of a replica's work, that of three from 40 s to
100 s and of five from 130 s to 160 s, and none after {TRACE_SECONDS:g} s.

HPA and KEDA scale the same resource (mode External) on the audio that waits and is decoded, {PER_REPLICA:,.0f} s of it per replica:
what one decodes within the target of {TARGET_WAIT_SECONDS} s. With less per replica they would wait less and use more nodes. A node
and its replica take about twelve seconds here, a twentieth of what a GPU node takes; so the times of HPA and KEDA are a twentieth
of their defaults (scale-down window {DOWN_WINDOW_SECONDS} s, polling and sync 1 s). The operator's are not: it looks every 5 s.

![replicas and work over time](scaling-peers.png)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the controllers one after the other and write the report; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers_scaling", description=__doc__)
    parser.add_argument("controllers", nargs="*", default=list(CONTROLLERS), metavar="CONTROLLER", help=", ".join(CONTROLLERS))
    parser.add_argument("--output", type=Path, default=REPORT, help="where .md, .json and .png go")
    options = parser.parse_args(arguments)
    asked = list(options.controllers)
    try:
        find_binaries(os.environ, PEERS)
    except BuildError as error:
        print(f"without KEDA: {error}", file=sys.stderr)
        asked = [name for name in asked if name != "keda"]
    output: Path = options.output
    figures = output.with_suffix(".json")
    runs = read(figures) if figures.exists() else {}
    for name in asked:
        started_at = time.monotonic()
        runs[name] = asyncio.run(run(name))
        print(
            f"{name}: {time.monotonic() - started_at:.0f} s", {**asdict(runs[name]), "samples": len(runs[name].samples)}, flush=True
        )
    shown = [runs[name] for name in CONTROLLERS if name in runs]
    output.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps([asdict(each) for each in shown]) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(report(shown), encoding="utf-8")
    plot(shown, output.with_suffix(".png"))
    return 0


def read(file: Path) -> dict[str, Run]:
    """Return the runs of an earlier report: those that are not asked for again stay."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {
        entry["controller"]: Run(**{**entry, "samples": tuple(Sample(**sample) for sample in entry["samples"])})
        for entry in entries
    }


if __name__ == "__main__":
    raise SystemExit(main())
