"""Many resources at once: how long they take, what the operator needs for them, and that one which hangs holds up no other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.live import RESOURCE, Manifest, condition
from tests.cluster.quick_pods import Parts, QuickNamespace, operated, quick_namespace
from tests.cluster.transcriber_workload import document
from tests.rig.cluster import OperatorProcess
from tests.rig.faults import ANY, Rule, Silent
from tests.thorough import THOROUGH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900 if THOROUGH else 300)]
Record = Callable[[str, object], None]
RESOURCES: Final = 200 if THOROUGH else 20
# The operator's default is a limit of its own, which many resources are measured with.
API_CALLS_PER_SECOND: Final = "50" if THOROUGH else "1000"
SETTLE_SECONDS: Final = 60 + 3 * RESOURCES
QUIET_SECONDS: Final = 5.0
MEBIBYTE: Final = 1 << 20
PASS: Final = "transcriber_operator_pass_seconds"
NEIGHBOURS: Final = 3


class Figures:
    """The operator's own metrics at a moment."""

    def __init__(self, text: str) -> None:
        families = text_string_to_metric_families(text)
        self._samples = [sample for family in families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name that have these labels."""
        return sum(sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items())

    @property
    def writes(self) -> float:
        """Calls that change something, but those for the Lease."""
        calls = [sample for sample in self._samples if sample.name == "transcriber_operator_api_calls_total"]
        return sum(call.value for call in calls if call.labels["verb"] not in {"get", "list"} and call.labels["kind"] != "Lease")

    @property
    def longest_pass_but_one_in_a_hundred_seconds(self) -> float:
        """The bound of the bucket in which the 99th percentile lies."""
        buckets = {float(sample.labels["le"]): sample.value for sample in self._samples if sample.name == f"{PASS}_bucket"}
        return min(bound for bound, count in buckets.items() if count >= 0.99 * max(buckets.values()))


async def figures_of(operator: OperatorProcess) -> Figures:
    async with aiohttp.ClientSession() as session, session.get(operator.metrics_url) as response:
        return Figures(await response.text())


@asynccontextmanager
async def direct_operator(parts: Parts) -> AsyncIterator[OperatorProcess]:
    """An operator without a proxy, whose part of the time would be measured too."""
    operator = await asyncio.to_thread(OperatorProcess, parts.plane, {"TRANSCRIBER_API_CALLS_PER_SECOND": API_CALLS_PER_SECOND})
    try:
        await asyncio.to_thread(operator.start)
        yield operator
    finally:
        await asyncio.to_thread(operator.part.stop)


def named(name: str) -> Manifest:
    return {**document(scaling__replicas=1), "metadata": {"name": name}}


def ready(quick: QuickNamespace) -> set[str]:
    """The names of the resources that are ready and at rest."""
    return {
        item["metadata"]["name"]
        for item in quick.objects.all(RESOURCE)
        if condition(item, "Ready").get("status") == "True" and not condition(item, "Reconciling")
    }


async def figures_at_rest(operator: OperatorProcess) -> Figures:
    """Return the figures once nothing was written for a while; that nothing happens is an event of no kind."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while True:
            figures = await figures_of(operator)
            await asyncio.sleep(QUIET_SECONDS)
            if (await figures_of(operator)).writes == figures.writes:
                return figures


async def made_ready(quick: QuickNamespace, prefix: str) -> float:
    """Make some resources and return how many seconds they took to be ready."""
    names = {f"{prefix}-{number}" for number in range(NEIGHBOURS)}
    started_at = asyncio.get_running_loop().time()
    for name in sorted(names):
        await quick.apply(named(name))
    await quick.objects.until(f"{NEIGHBOURS} ready", lambda: names <= ready(quick))
    return asyncio.get_running_loop().time() - started_at


async def test_many_resources_settle_and_then_nothing_is_written(parts: Parts, unscheduled: None, record_property: Record) -> None:
    clock = asyncio.get_running_loop().time
    async with direct_operator(parts) as operator, quick_namespace(parts, kinds=[RESOURCE]) as quick:
        before = await figures_of(operator)
        started_at = clock()
        for number in range(RESOURCES):
            await quick.apply(named(f"td-{number:03d}"))
        applied_at = clock()
        await quick.objects.until("all ready", lambda: len(ready(quick)) == RESOURCES, SETTLE_SECONDS)
        settled_at = clock()
        figures = await figures_at_rest(operator)
        calls = "transcriber_operator_api_calls_total"
        record_property("resources", RESOURCES)
        record_property("api_calls_per_second_allowed", API_CALLS_PER_SECOND)
        record_property("applied_within_seconds", round(applied_at - started_at, 1))
        record_property("all_ready_after_seconds", round(settled_at - started_at, 1))
        record_property("operator_resident_mebibytes", round(figures.total("process_resident_memory_bytes") / MEBIBYTE))
        grown = figures.total("process_resident_memory_bytes") - before.total("process_resident_memory_bytes")
        record_property("operator_resident_kibibytes_per_resource", round(grown / 1024 / RESOURCES))
        record_property("api_calls_per_resource", round(figures.total(calls) / RESOURCES, 1))
        record_property("writes_per_resource", round(figures.writes / RESOURCES, 1))
        record_property("passes_per_resource", round(figures.total(f"{PASS}_count") / RESOURCES, 1))
        record_property("operator_cpu_seconds_per_resource", round(figures.total("process_cpu_seconds_total") / RESOURCES, 2))
        record_property("pass_seconds_p99_at_most", figures.longest_pass_but_one_in_a_hundred_seconds)
        assert figures.total("transcriber_operator_passes_total", outcome="Settled") >= RESOURCES
        assert figures.total("transcriber_operator_resources") == RESOURCES


async def test_a_resource_whose_calls_hang_holds_up_no_other(parts: Parts, unscheduled: None, record_property: Record) -> None:
    clock = asyncio.get_running_loop().time
    async with operated(parts) as running, quick_namespace(parts, kinds=[RESOURCE]) as quick:
        await quick.apply(named("first"))
        await quick.objects.until("the operator is at work", lambda: len(ready(quick)) == 1)
        alone_seconds = await made_ready(quick, "alone")
        armed = running.proxy.rules.add(Rule(ANY, "transcriberdeployments", name="stuck", namespace=quick.name, action=Silent()))
        await quick.apply(named("stuck"))
        async with asyncio.timeout(60):
            await armed.fired.wait()
        beside_seconds = await made_ready(quick, "beside")
        assert "stuck" not in ready(quick)
        running.proxy.rules.remove(armed)
        released_at = clock()
        await quick.objects.until("the one that hung is ready", lambda: "stuck" in ready(quick))
        record_property(
            "neighbours_ready_without_and_with_one_that_hangs_seconds", (round(alone_seconds, 1), round(beside_seconds, 1))
        )
        record_property("released_one_ready_after_seconds", round(clock() - released_at, 1))
        assert beside_seconds < 2 * alone_seconds + 2
