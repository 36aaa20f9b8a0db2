"""Scenarios of capacity that is not there, nodes that are taken back, figures that lie, and an operator that dies."""

import asyncio
from datetime import UTC, datetime
from http import HTTPStatus

from tests.cluster.live import is_ready
from tests.cluster.scaled import (
    NAME,
    document,
    own_operator,
    scaled,
    spot_pool,
    start,
)
from tests.cluster.scaling_stage import Stage, clock, since, steadily
from tests.rig.feeder import File
from tests.rig.karpenter import NoCapacity

ORDER_SECONDS = 10.0
HEARING_SECONDS = 3.0  # until clients have heard that a pod is not ready
NOTICE_SECONDS = 30.0
SHORT_NOTICE_SECONDS = 2.0
DOWN_SECONDS = 10.0
LIE_SECONDS = 14.0  # longer than the age at which figures are stale
QUIET_SECONDS = 40.0
MOVED_SECONDS = 240.0
LIES = ("gone", "unknown", "nan", "negative", "absurd", "frozen")


async def spot_that_is_out_is_stood_in_for_and_returned_to(stage: Stage) -> None:
    """On-demand nodes come after fallback.afterSeconds, and go when spot has been whole for returnAfterSeconds."""
    pools = [spot_pool(gpus=["a10g"]), {"name": "on-demand", "gpus": ["a10g"], "weight": 10, "maxNodes": 4}]
    fallback = {"afterSeconds": 10, "returnAfterSeconds": 60}
    stage.parts.plane.fail_launches(NoCapacity("spot", instance_type="g5.xlarge"), cache_seconds=5)
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        began_at = clock()
        await own.apply(document(scaling__minReplicas=2, capacity__pools=pools, capacity__fallback=fallback))
        await own.objects.until("replicas on demand", lambda: (own.wanted("on-demand") == 2) or None)
        stage.record(fell_back_after_seconds=round(clock() - began_at, 1))
        await own.objects.until("two that serve", lambda: (len(own.ready()) == 2) or None)
        stage.record(served_after_seconds=round(clock() - began_at, 1), told=own.condition("CapacityAvailable").get("reason"))
        stage.parts.plane.fail_launches()
        back_at = clock()
        least = 2

        def has_returned() -> bool | None:
            nonlocal least
            least = min(least, len(own.ready()))
            return (own.wanted("on-demand") == 0 and len(own.pods()) == len(own.ready()) == 2) or None

        await own.objects.until("back on spot", has_returned, MOVED_SECONDS)
        stage.record(back_on_spot_after_seconds=round(clock() - back_at, 1), fewest_ready=least)
        assert least == 2, "what serves never became less"


async def an_interruption_under_load_loses_no_file(stage: Stage) -> None:
    """A replacement is ordered at once, nothing new comes to the node, and what does not fit is asked for elsewhere."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling={"minReplicas": 3, "maxReplicas": 3}, runtime__terminationGracePeriodSeconds=30))
        await own.serves(3)
        own.feeder.feed([File(0, 2700)] * 3)  # too long for any notice
        own.feeder.feed(steadily(60, 0.5, 40))
        await asyncio.sleep(5)
        victim = own.pods()[0]
        address, node = victim["status"]["podIP"], victim["spec"]["nodeName"]
        noticed_at, notice = clock(), datetime.now(UTC)
        taken = await own.spot.interrupt(own.claim_of(victim), NOTICE_SECONDS)
        replaced = await own.objects.until("a replacement", lambda: own.first_created("Pod", noticed_at))
        claimed_at = await own.objects.until("a node for it", lambda: own.first_seen("NodeClaim", noticed_at))
        ordered_after = (replaced - notice).total_seconds()
        had_to_be_taken = await taken
        await own.feeder.finished()
        tries = [tried for call in own.feeder.calls for tried in call.tries]
        last_sent_at = max(tried.began_at for tried in tries if tried.address == address)
        landed = [
            pod for pod in own.pods() if pod["spec"].get("nodeName") == node and pod["metadata"]["uid"] != victim["metadata"]["uid"]
        ]
        there = [tried for tried in tries if tried.address == address and tried.ended_at > noticed_at]
        finished_there = sum(tried.answer == HTTPStatus.OK for tried in there)
        stage.record(
            replacement_ordered_after_seconds=round(ordered_after, 1),
            node_ordered_by_karpenter_after_seconds=round(claimed_at - noticed_at, 1),
            node_had_to_be_taken=had_to_be_taken,
            last_file_sent_to_it_after_seconds=round(last_sent_at - noticed_at, 1),
            finished_on_the_node=finished_there,
            feeder=own.feeder.figures(),
        )
        assert ordered_after < ORDER_SECONDS
        assert last_sent_at - noticed_at < ORDER_SECONDS
        assert landed == []
        assert own.feeder.lost() == []
        assert finished_there > 0, "what fits is finished"
        await own.serves(3)


async def a_node_that_goes_before_its_work_is_done_loses_no_file(stage: Stage) -> None:
    """A notice that is shorter than any drain: connections break, and the files are sent again."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling={"minReplicas": 2, "maxReplicas": 2}, runtime__terminationGracePeriodSeconds=60))
        await own.serves(2)
        own.feeder.feed([File(0, 900)] * 4)
        await asyncio.sleep(HEARING_SECONDS)
        taken = await own.spot.interrupt(own.claim_of(own.pods()[0]), SHORT_NOTICE_SECONDS)
        assert await taken, "the node was taken while it worked"
        await own.feeder.finished()
        stage.record(feeder=own.feeder.figures())
        assert own.feeder.lost() == []
        assert own.feeder.figures()["retriable_failures"]["cut"] >= 1
        await own.serves(2)


async def a_floor_on_demand_serves_while_all_spot_nodes_are_taken_back(stage: Stage) -> None:
    """What spot has is replaced, and meanwhile the replica on demand takes the work."""
    pools = [spot_pool(), {"name": "on-demand", "gpus": ["l4"], "weight": 10, "minReplicas": 1}]
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling={"minReplicas": 3, "maxReplicas": 3}, capacity__pools=pools))
        await own.serves(3)
        own.feeder.feed(steadily(30, 0.5, 30))
        noticed_at = clock()
        on_spot = [pod for pod in own.pods() if pod["metadata"]["name"].startswith(f"{NAME}-spot")]
        taken = [await own.spot.interrupt(own.claim_of(pod), NOTICE_SECONDS) for pod in on_spot]
        fewest = len(own.ready())

        def is_whole() -> bool | None:
            nonlocal fewest
            fewest = min(fewest, len(own.ready()))
            gone = {pod["metadata"]["uid"] for pod in on_spot} - {pod["metadata"]["uid"] for pod in own.pods()}
            return (len(gone) == len(on_spot) == 2 and len(own.ready()) == 3) or None

        await own.objects.until("whole again", is_whole)
        stage.record(whole_after_seconds=round(clock() - noticed_at, 1), fewest_ready=fewest)
        await asyncio.gather(*taken)
        await own.feeder.finished()
        stage.record(feeder=own.feeder.figures())
        assert fewest >= 1
        assert own.feeder.lost() == []


async def an_operator_that_is_killed_while_it_scales_up_converges_and_its_node_pools_go_though_it_was_down(stage: Stage) -> None:
    """What was ordered is not ordered again; a resource deleted meanwhile is cleaned up after."""
    async with (
        own_operator(stage.parts, stage.namespace) as operator,
        scaled(stage.parts, stage.namespace, stage.folder) as own,
    ):
        await own.apply(document())
        await own.serves(1)
        began_at = clock()
        own.feeder.feed([File(0, 60)] * 120)
        await own.objects.until("an order", lambda: (own.wanted() > 1) or None)
        ordered = own.wanted()
        await asyncio.to_thread(operator.kill)
        await asyncio.sleep(DOWN_SECONDS)
        await start(operator)
        restarted_at = clock()
        await own.feeder.finished()
        stage.record(decisions=since(began_at, own.decisions(began_at)), feeder=own.feeder.figures())
        assert own.feeder.lost() == []
        assert max(replicas for _, replicas in own.decisions(began_at)) <= ordered + 1
        # Pods that were there already were not taken for lost.
        assert not any(replicas < 1 for _, replicas in own.decisions(restarted_at))
        await asyncio.to_thread(operator.kill)
        await own.delete()
        assert own.owned("NodePool")
        await start(operator)
        deleted_at = clock()
        await own.is_without_nodes()
        stage.record(node_pools_gone_after_seconds=round(clock() - deleted_at, 1))


async def figures_that_lie_change_nothing(stage: Stage) -> None:
    """Neither up nor down while replicas say nothing, or what cannot be."""
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        await own.apply(document(scaling__metricsStaleAfterSeconds=10))
        await own.serves(1)
        own.feeder.feed(steadily(120, 1.1, 240))  # more than one replica does
        await own.objects.until("two replicas", lambda: (len(own.ready()) == own.wanted() == 2) or None)
        await asyncio.sleep(LIE_SECONDS)  # the work of the start is done, and two stay
        began_at = clock()
        for lie in LIES:
            await own.control(figures=lie)
            await asyncio.sleep(LIE_SECONDS)
            assert own.decisions(began_at) == [], f"{lie}: {since(began_at, own.decisions(began_at))}"
            stage.record(**{lie: own.condition("ScalingActive").get("reason")})
            await own.control(figures="true")
            await asyncio.sleep(LIE_SECONDS / 2)
        wrong = own.decisions(began_at)
        stage.record(wrong_actions=len(wrong))
        assert wrong == []


async def nodes_that_drive_pods_away_stay_bounded(stage: Stage) -> None:
    """A taint that somebody puts on every new node costs no more than the pool's limit, and is got over."""
    pools = [spot_pool(maxNodes=2)]
    async with scaled(stage.parts, stage.namespace, stage.folder) as own:
        async with own.spot.taints_on_new_nodes(f"serving.transcriber.dev/namespace={stage.namespace}") as tainted:
            await own.apply(document(scaling__minReplicas=2, capacity__pools=pools))
            await own.objects.until("nodes", lambda: tainted or None)
            await asyncio.sleep(QUIET_SECONDS)
            stage.record(
                most_nodes=own.most_nodes(), nodes_tainted=len(tainted), told=own.condition("CapacityAvailable").get("reason")
            )
            assert own.most_nodes() <= 3, "maxNodes and one"
            assert not any(is_ready(pod) for pod in own.pods())
        untainted_at = clock()
        await own.serves(2, MOVED_SECONDS)
        stage.record(recovered_after_seconds=round(clock() - untainted_at, 1))
