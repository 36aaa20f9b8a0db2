"""Scenarios of work that comes and goes, of schedules, budgets and other hands."""

import datetime
import math
import statistics

from tests.cluster.scaled import (
    CAPACITY_LABEL,
    NAME,
    THROUGHPUT,
    document,
    scaled,
    spot_pool,
)
from tests.cluster.scaling_stage import Stage, clock, since, steadily
from tests.rig.feeder import File

START_SECONDS = 60.0  # of a replica on a new node, on a busy machine
TARGET_WAIT_SECONDS = 20
SURGE_SECONDS = 80.0
LOOK_SECONDS = 5.0  # between looks at the load
MOST_REPLICAS = 8
MOST_FOR_A_SURGE = 7  # three at 80 % of a replica's rate, and what the work that waited meanwhile calls for


async def a_burst_is_ordered_for_by_one_decision(stage: Stage) -> None:
    """What comes at once is ordered for at once, on spot nodes, which are gone again some time after the last work.

    It all waits at the replica that was there: clients cannot take it back, so its own rate says when it is done.
    """
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling__targetWaitSeconds=TARGET_WAIT_SECONDS))
        await own.serves(1)
        began_at = clock()
        burst = [File(0, 60)] * 120
        own.feeder.feed(burst)
        await own.feeder.finished()
        decisions = own.decisions(began_at)
        lead = own.resource["status"]["scaling"]["leadTimeSeconds"]
        stage.record(decisions=since(began_at, decisions), lead_seconds=lead, feeder=own.feeder.figures())
        replicas = [replicas for _, replicas in decisions]
        assert replicas == sorted(replicas, reverse=True), "all of it is ordered by the first decision, and then it only goes down"
        alone_seconds = sum(file.audio_seconds for file in burst) / THROUGHPUT
        fewest = math.ceil(alone_seconds / (TARGET_WAIT_SECONDS + lead))  # as if all had until then
        most = math.ceil(alone_seconds / max(TARGET_WAIT_SECONDS - lead, LOOK_SECONDS)) + 1  # as if none did anything before
        assert min(fewest, MOST_REPLICAS) <= replicas[0] <= min(most, MOST_REPLICAS)
        assert own.feeder.lost() == []
        assert {node["metadata"]["labels"][CAPACITY_LABEL] for node in own.owned("Node")} == {"spot"}
        await own.objects.until("the floor again", lambda: (own.wanted() == len(own.owned("Node")) == 1) or None, 240)
        stage.record(back_at_floor_after_seconds=round(clock() - began_at, 1))


async def a_surge_waits_no_longer_than_the_target_once_its_nodes_are_there(stage: Stage) -> None:
    """Three times what one replica does, for a while: what comes once the nodes are there waits within the target."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling__targetWaitSeconds=TARGET_WAIT_SECONDS))
        await own.serves(1)
        began_at = clock()
        own.feeder.feed(steadily(60, 60 / (3 * THROUGHPUT), SURGE_SECONDS))
        await own.feeder.finished()
        lead = own.resource["status"]["scaling"]["leadTimeSeconds"]
        decisions = own.decisions(began_at)
        stage.record(decisions=since(began_at, decisions), lead_seconds=lead, feeder=own.feeder.figures())
        peak = max(replicas for _, replicas in decisions)
        served_at = own.serving_since(peak, began_at)
        waits = [call.seconds - 60 / THROUGHPUT for call in own.feeder.calls if call.sent_at > served_at]
        p95 = statistics.quantiles(waits, n=20)[-1]
        stage.record(all_serve_after_seconds=round(served_at - began_at, 1))
        stage.record(p95_wait_of_later_files_seconds=round(p95, 1))
        assert own.feeder.lost() == []
        assert peak <= MOST_FOR_A_SURGE
        assert p95 < TARGET_WAIT_SECONDS + LOOK_SECONDS


async def short_files_add_no_node(stage: Stage) -> None:
    """Two hundred files of a second are ten seconds of work: requests do not count, audio does."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document())
        await own.serves(1)
        began_at = clock()
        own.feeder.feed([File(0, 1)] * 200)
        await own.feeder.finished()
        stage.record(feeder=own.feeder.figures())
        assert own.feeder.lost() == []
        assert own.decisions(began_at) == []
        assert own.most_nodes() == 1


async def idle_replicas_go_to_zero_and_a_schedule_brings_them_back(stage: Stage) -> None:
    """Work gives them time; without any the last one goes, and a schedule orders one ahead of its start."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document())
        await own.serves(1)
        began_at = clock()
        await own.apply(document(scaling__minReplicas=0))
        await own.serves(0)
        stage.record(zero_after_seconds=round(clock() - began_at, 1))
        starts_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=90)
        starts_at = starts_at.replace(second=0, microsecond=0)
        schedule = {"name": "soon", "cron": f"{starts_at.minute} {starts_at.hour} * * *", "durationSeconds": 300, "minReplicas": 1}
        await own.apply(document(scaling__minReplicas=0, scaling__schedules=[schedule]))
        await own.serves(1, 180)
        late = (datetime.datetime.now(datetime.UTC) - starts_at).total_seconds()
        stage.record(ready_after_the_start_of_the_schedule_seconds=round(late, 1))
        assert late < START_SECONDS / 2, "nodes are ordered a lead time ahead"


async def kubectl_scale_decides_in_mode_external(stage: Stage) -> None:
    """The scale subresource of the resource is what people and other scalers write."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling={"mode": "External", "replicas": 1, "maxReplicas": 4}))
        await own.serves(1)
        for replicas in (3, 0):
            began_at = clock()
            await own.kubectl("scale", f"td/{NAME}", f"--replicas={replicas}")
            await own.serves(replicas)
            stage.record(**{f"scaled_to_{replicas}_after_seconds": round(clock() - began_at, 1)})
        await own.objects.until("the count of replicas", lambda: own.resource["status"]["replicas"] == 0 or None)


async def a_budget_holds_whatever_waits(stage: Stage) -> None:
    """A dollar an hour pays for three nodes at 0.30, however long the queue is."""
    price, per_hour = 0.30, 1.00
    pools = [spot_pool(pricePerHour=f"{price:.2f}")]
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(capacity__pools=pools, budget={"perHour": f"{per_hour:.2f}"}))
        await own.serves(1)
        own.feeder.feed([File(0, 120)] * 90)
        told = await own.told("ScalingActive", "BudgetLimited")
        await own.serves(3)
        await own.feeder.finished()
        stage.record(message=told["message"], most_nodes=own.most_nodes(), feeder=own.feeder.figures())
        assert own.most_nodes() * price <= per_hour
        assert own.feeder.lost() == []
