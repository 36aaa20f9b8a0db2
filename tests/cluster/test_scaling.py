"""The whole loop of scaling: work on stubs, the operator, the scheduler and the real Karpenter, whose nodes KWOK plays.

The scenarios run side by side, since they wait most of the time: each is a coroutine with a namespace and NodePools of its own,
and the test of its name waits for it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest
import pytest_asyncio

from tests.cluster import scaling_by_work as by_work
from tests.cluster import scaling_under_faults as under_faults
from tests.cluster.quick_pods import Parts
from tests.cluster.scaled import make_namespace, prepare
from tests.cluster.scaling_stage import Scenario, Stage
from tests.rig.cluster import OperatorProcess
from tests.thorough import THOROUGH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
Record = Callable[[str, object], None]
SAMPLE: Final[tuple[Scenario, ...]] = (
    by_work.a_burst_is_ordered_for_by_one_decision,
    by_work.short_files_add_no_node,
    by_work.idle_replicas_go_to_zero_and_a_schedule_brings_them_back,
    under_faults.spot_that_is_out_is_stood_in_for_and_returned_to,
    under_faults.an_interruption_under_load_loses_no_file,
    under_faults.an_operator_that_is_killed_while_it_scales_up_converges_and_its_node_pools_go_though_it_was_down,
    under_faults.figures_that_lie_change_nothing,
)
OTHERS: Final[tuple[Scenario, ...]] = (
    by_work.a_surge_waits_no_longer_than_the_target_once_its_nodes_are_there,
    by_work.kubectl_scale_decides_in_mode_external,
    by_work.a_budget_holds_whatever_waits,
    under_faults.a_node_that_goes_before_its_work_is_done_loses_no_file,
    under_faults.a_floor_on_demand_serves_while_all_spot_nodes_are_taken_back,
    under_faults.nodes_that_drive_pods_away_stay_bounded,
)
SCENARIOS: Final = (*SAMPLE, *OTHERS) if THOROUGH else SAMPLE
# Those whose operator is killed have one of their own.
WITH_OWN_OPERATOR: Final = frozenset(
    {under_faults.an_operator_that_is_killed_while_it_scales_up_converges_and_its_node_pools_go_though_it_was_down}
)


def name_of(scenario: Scenario) -> str:
    return str(getattr(scenario, "__name__", scenario))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stages(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> AsyncIterator[dict[Scenario, asyncio.Task[Stage]]]:
    """The scenarios that were asked for, all under way."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module]
    asked: list[Scenario] = [item.callspec.params["scenario"] for item in items]
    folder = tmp_path_factory.mktemp("scaling")
    played = {scenario: Stage(parts, f"scaling-{SCENARIOS.index(scenario)}", folder) for scenario in asked}
    await prepare(parts)
    await asyncio.gather(*(make_namespace(parts, stage.namespace) for stage in played.values()))
    served = ",".join(stage.namespace for scenario, stage in played.items() if scenario not in WITH_OWN_OPERATOR)
    operator = await asyncio.to_thread(OperatorProcess, parts.plane, {"TRANSCRIBER_NAMESPACES": served or "default"})
    try:
        await asyncio.to_thread(operator.start)
        running = {scenario: asyncio.create_task(play(scenario, stage)) for scenario, stage in played.items()}
        yield running
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
    finally:
        await asyncio.to_thread(operator.stop)


async def play(scenario: Scenario, stage: Stage) -> Stage:
    """Play a scenario; returns its stage, with the figures, which a failure tells too."""
    try:
        await scenario(stage)
    except Exception as error:
        error.add_note(f"figures: {stage.figures}")
        raise
    return stage


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
async def test_scaling(scenario: Scenario, stages: dict[Scenario, asyncio.Task[Stage]], record_property: Record) -> None:
    stage = await stages[scenario]
    for name, value in stage.figures.items():
        record_property(name, value)
