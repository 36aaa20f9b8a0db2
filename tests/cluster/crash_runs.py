"""Runs a workload against an operator that is killed on the way, and compares what is left with an undisturbed run.

All runs share one control plane; each has a namespace, an operator process that serves it alone, and a fault proxy before that
operator. See crash_points.py for what is killed where.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import NotFoundError

from tests.cluster.crash_points import Ending, KillPoint, Schedule, Verdict, ending, kill_points, problems, rule_at, sample
from tests.cluster.fake_pods import MERGE_PATCH, FakePods
from tests.rig.control_plane import ControlPlane
from tests.rig.fault_proxy import FaultProxy, Upstream
from tests.rig.faults import Armed, KillProcess
from tests.rig.oracle import end_state
from tests.rig.processes import Part, PartError, Program, Spawner
from tests.rig.write_log import Write

Manifest = Mapping[str, Any]
USER: Final = "crash-workload"  # field manager of the steps
QUIET_SECONDS: Final = 2.0  # longer than the operator's debounce and its first back-off
POD_REST_SECONDS: Final = 0.8  # longer than the debounce
STEP_SECONDS: Final = 90.0
CHECK_SECONDS: Final = 0.5  # how often a process is looked at that should do something else than end


@dataclass(frozen=True)
class Step:
    """What a user does: delete the resource and wait until it is gone, then apply it; either may be left out."""

    name: str
    deletes: bool = False
    applies: Manifest | None = None


@dataclass(frozen=True)
class Workload:
    """Steps on one resource of `kind`, whose plural the operator watches, and the kinds whose objects are compared at the end.

    `unsettled` says what the objects still wait for, empty if nothing. `operator` is the process that serves a namespace with a
    kubeconfig; `prepare` makes what it needs there, such as its account, and returns that kubeconfig for an API server at a URL.
    """

    api_version: str
    kind: str
    plural: str
    name: str
    steps: tuple[Step, ...]
    kinds: tuple[tuple[str, str], ...]
    unsettled: Callable[[Sequence[Manifest]], str]
    operator: Callable[[str, Path], Program]
    prepare: Callable[[ControlPlane, str, str], Path]
    lease: str = ""  # name of the Lease that a killed operator leaves held; empty: none
    quiet_seconds: float = QUIET_SECONDS
    step_seconds: float = STEP_SECONDS


@dataclass(frozen=True)
class StepReport:
    """How a step went; `ending` is None if it did not settle, and then `problem` says why. Times in seconds since the epoch."""

    step: str
    writes: tuple[Write, ...]
    ending: Ending | None
    problem: str = ""
    killed_at: float | None = None

    @property
    def recovery_seconds(self) -> float:
        """From the kill to the last write of the step."""
        after = [write.time for write in self.writes if self.killed_at and write.time > self.killed_at and not write.is_lease]
        return max(after) - self.killed_at if after and self.killed_at else 0.0


class Run:
    """One run in a namespace of its own."""

    def __init__(self, plane: ControlPlane, client: DynamicClient, workload: Workload, namespace: str) -> None:
        self._plane = plane
        self._client = client
        self._workload = workload
        self._namespace = namespace
        self._killed_at: float | None = None
        self._watches_at_kill = 0

    async def steps(self, plan: Mapping[str, KillPoint], expected: Mapping[str, Ending] | None) -> list[StepReport]:
        """Run the steps, each with the kill that `plan` has for it; stops after one that ends otherwise than `expected` says."""
        spawner = Spawner()
        log_file, writes_file = (self._plane.folder / f"{part}-{self._namespace}.log" for part in ("operator", "writes"))
        reports: list[StepReport] = []
        upstream = Upstream(self._plane.server, self._plane.authority.certificate)
        async with FaultProxy(upstream, writes_file) as self._proxy:
            await self._make_namespace()
            kubeconfig = await asyncio.to_thread(self._workload.prepare, self._plane, self._namespace, self._proxy.url)
            self._operator = Part(self._workload.operator(self._namespace, kubeconfig), log_file, spawner, self._plane.tls)
            self._pods = asyncio.create_task(FakePods(self._client, self._namespace, self._pods_rest).run())
            try:
                await self._start_operator()
                for step in self._workload.steps:
                    report = await self._run_step(step, plan.get(step.name))
                    reports.append(report)
                    if report.ending is None or (expected is not None and problems(expected[step.name], report.ending)):
                        break
            finally:
                self._pods.cancel()
                await asyncio.gather(self._pods, return_exceptions=True)
                await asyncio.to_thread(self._operator.kill)
                spawner.close()
                await self._remove_namespace()
        return reports

    async def _start_operator(self) -> None:
        """Start it, and again if it ends: what it may do is in force some moments after it was granted."""
        ended = PartError(f"the operator has opened no watch of {self._workload.plural}{self._operator.log_tail()}")
        try:
            async with asyncio.timeout(self._workload.step_seconds):
                while True:
                    self._operator.start()
                    try:
                        return await self._listening(1)
                    except PartError as error:
                        ended = error
                        self._operator.stop()
        except TimeoutError:
            raise ended from None

    async def _listening(self, times: int) -> None:
        """Wait until the operator has opened so many watches of its kind since the run began; raises PartError if it ends."""
        watching = asyncio.create_task(self._proxy.log.watching(self._workload.plural, times))
        try:
            while not (await asyncio.wait([watching], timeout=CHECK_SECONDS))[0]:
                self._operator.check()
        finally:
            watching.cancel()

    async def _run_step(self, step: Step, point: KillPoint | None) -> StepReport:
        self._killed_at = None
        begin = len(self._proxy.log.writes)
        armed = self._proxy.rules.add(rule_at(point, KillProcess(self._kill))) if point else None
        restart = asyncio.create_task(self._restart(armed)) if armed else None
        reached, problem = None, ""
        self._waits_for = "the step itself"
        try:
            async with asyncio.timeout(self._workload.step_seconds):
                await self._act(step)
                objects = await self._settle(armed)
            reached = end_state(objects, self._namespace)
        except TimeoutError:
            problem = f"not settled within {self._workload.step_seconds:.0f} s: {self._waits_for}{self._operator.log_tail()}"
        except PartError as error:
            problem = str(error)
        finally:
            if armed and restart:
                self._proxy.rules.remove(armed)
                restart.cancel()
                await asyncio.gather(restart, return_exceptions=True)
        writes = tuple(self._proxy.log.writes[begin:])
        return StepReport(step.name, writes, None if reached is None else ending(reached, writes), problem, self._killed_at)

    def _kill(self) -> None:
        self._operator.kill()
        self._killed_at = time.time()
        self._watches_at_kill = self._proxy.log.watches_opened[self._workload.plural]

    async def _restart(self, armed: Armed) -> None:
        await armed.fired.wait()
        if self._workload.lease:
            await self._free_lease()
        self._operator.start()

    async def _free_lease(self) -> None:
        """Clear the hold of the killed process, whose end would otherwise be waited for; that wait has tests of its own."""
        leases = await self._client.resources.get(api_version="coordination.k8s.io/v1", kind="Lease")
        body = {"spec": {"holderIdentity": None}}
        with suppress(NotFoundError):
            await leases.patch(name=self._workload.lease, namespace=self._namespace, body=body, content_type=MERGE_PATCH)

    async def _act(self, step: Step) -> None:
        resources = await self._resources()
        if step.deletes:
            await resources.delete(name=self._workload.name, namespace=self._namespace)
            while any(item["kind"] == self._workload.kind for item in await self._objects()):
                self._waits_for = f"{self._workload.kind} {self._workload.name} is not gone"
                await self._proxy.log.quiet(POD_REST_SECONDS)
        if step.applies is not None:
            document = {**step.applies, "metadata": {**step.applies["metadata"], "namespace": self._namespace}}
            await resources.server_side_apply(body=document, field_manager=USER, force_conflicts=True)

    async def _settle(self, armed: Armed | None) -> list[Manifest]:
        """Wait until nobody has anything to do any more; returns the objects."""
        log = self._proxy.log
        while True:
            self._waits_for = "writes go on"
            await log.quiet(self._workload.quiet_seconds)
            self._operator.check()
            if self._pods.done():
                self._pods.result()  # raises what ended it
            if armed and armed.fired.is_set() and log.watches_opened[self._workload.plural] <= self._watches_at_kill:
                self._waits_for = "the operator, killed and started again, has opened no watch"
                await self._listening(self._watches_at_kill + 1)
                continue
            writes = len(log.lasting_writes)
            objects = await self._objects()
            self._waits_for = self._workload.unsettled(objects)
            if not self._waits_for and len(log.lasting_writes) == writes:
                return objects

    async def _objects(self) -> list[Manifest]:
        """Return all objects of the namespace that are compared, but what every namespace has."""
        found: list[Manifest] = []
        for api_version, kind in self._workload.kinds:
            resource = await self._client.resources.get(api_version=api_version, kind=kind)
            listed = await resource.get(namespace=self._namespace)
            found += [{"apiVersion": api_version, "kind": kind, **item} for item in listed.to_dict()["items"]]
        return [item for item in found if item["metadata"]["name"] != "kube-root-ca.crt"]

    async def _pods_rest(self) -> None:
        await self._proxy.log.quiet(POD_REST_SECONDS)

    async def _resources(self) -> Any:
        return await self._client.resources.get(api_version=self._workload.api_version, kind=self._workload.kind)

    async def _make_namespace(self) -> None:
        def make() -> None:
            self._plane.kubectl("create", "namespace", self._namespace)
            self._plane.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={self._namespace}", "--timeout=30s")

        await asyncio.to_thread(make)

    async def _remove_namespace(self) -> None:
        """Begin to delete the namespace; nobody is left who would take the finalizer off."""
        resources = await self._resources()
        with suppress(NotFoundError):
            body = {"metadata": {"finalizers": None}}
            await resources.patch(name=self._workload.name, namespace=self._namespace, body=body, content_type=MERGE_PATCH)
        namespaces = await self._client.resources.get(api_version="v1", kind="Namespace")
        await namespaces.delete(name=self._namespace)


class CrashTest:
    """A workload, its kill points, and what became of them."""

    def __init__(self, plane: ControlPlane, client: DynamicClient, workload: Workload, runs_at_once: int | None = None) -> None:
        """`runs_at_once`: default as many as there are processors."""
        self._plane = plane
        self._client = client
        self._workload = workload
        self._runs_at_once = runs_at_once or os.cpu_count() or 1
        self._prefix = f"crash-{secrets.token_hex(3)}"
        self._runs = 0
        self.endings: dict[str, Ending] = {}
        self.points: list[KillPoint] = []

    async def record(self) -> None:
        """Run the workload twice without faults; raises AssertionError if that ends unlike: then nothing could be compared."""
        async with asyncio.TaskGroup() as group:
            first, second = group.create_task(self._run({}, None)), group.create_task(self._run({}, None))
        for report, again in zip(first.result(), second.result(), strict=False):
            assert report.ending, f"{report.step}: {report.problem}"
            assert again.ending, f"{again.step}: {again.problem}"
            apart = problems(report.ending, again.ending)
            assert not apart, f"{report.step}: two undisturbed runs differ:\n" + "\n".join(apart)
            self.endings[report.step] = report.ending
            self.points += kill_points(report.step, report.writes)

    async def kill(self, count: int | None = None, report: Callable[[Verdict], None] = lambda verdict: None) -> list[Verdict]:
        """Kill the operator at `count` points, or all; returns a verdict for each, and tells each to `report` as it falls."""
        schedule = Schedule(self.points if count is None else sample(self.points, count))
        verdicts: list[Verdict] = []

        async def work() -> None:
            while plan := schedule.deal():
                done = self._verdicts(plan, await self._run(plan, self.endings))
                verdicts.extend(done)
                for verdict in done:
                    report(verdict)
                judged = {verdict.point for verdict in done}
                schedule.give_back(point for point in plan.values() if point not in judged)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._runs_at_once):
                group.create_task(work())
        return verdicts

    def _verdicts(self, plan: Mapping[str, KillPoint], reports: Sequence[StepReport]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for report in reports:
            found = (report.problem,) if report.ending is None else problems(self.endings[report.step], report.ending)
            if point := plan.get(report.step):
                verdicts.append(Verdict(point, report.killed_at is not None, found, report.recovery_seconds))
            elif found:
                # The damage is of an earlier step, in what is not compared.
                assert verdicts, f"{report.step}: nothing was killed, and yet: {found}"
                verdicts[-1] = replace(verdicts[-1], problems=(f"seen only in step {report.step}:", *found))
        return verdicts

    async def _run(self, plan: Mapping[str, KillPoint], expected: Mapping[str, Ending] | None) -> list[StepReport]:
        self._runs += 1
        return await Run(self._plane, self._client, self._workload, f"{self._prefix}-{self._runs:03d}").steps(plan, expected)
