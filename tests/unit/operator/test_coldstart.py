"""The ledger of cold starts: stages read from real shapes of pods and NodeClaims, and the lead times learnt from them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_operator.decide.coldstart import MOST_SECONDS, REMEMBERED, Memory, PoolStarts, Stage, Start, lead_seconds, learn
from transcriber_operator.decide.scaling_memory import ScalingMemory
from transcriber_operator.decide.starts import starts
from transcriber_operator.render import names

Manifest = dict[str, Any]
BORN = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
PRIOR = {"spot": 240.0}


def time(seconds: float) -> str:
    return (BORN + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def conditions(**since: float | None) -> list[Manifest]:
    return [
        {"type": type_, "status": "False" if at is None else "True", "lastTransitionTime": time(at or 0)}
        for type_, at in since.items()
    ]


def container(name: str, started: float, **more: Any) -> Manifest:
    return {"name": name, "restartCount": 0, "state": {"running": {"startedAt": time(started)}}, **more}


def pod(name: str = "a", node: str | None = "n1", ready: float | None = 240, restarts: int = 0, **status: Any) -> Manifest:
    """A pod that was created at 0, bound at 100, whose sidecar ran at 160 and Triton at 170."""
    found = {
        "phase": "Running",
        "conditions": conditions(PodScheduled=100, Ready=ready),
        "initContainerStatuses": [container("exporter", 160)],
        "containerStatuses": [container("triton", 170, restartCount=restarts)],
    }
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "creationTimestamp": time(0), "labels": {names.POOL_LABEL: "spot"}},
        "spec": {"nodeName": node} if node else {},
        "status": found | status,
    }


def claim(node: str = "n1", created: float = 2, launched: float = 5, registered: float = 70, initialized: float = 95) -> Manifest:
    return {
        "metadata": {"name": f"claim-{node}", "creationTimestamp": time(created)},
        "status": {
            "nodeName": node,
            "conditions": conditions(Launched=launched, Registered=registered, Initialized=initialized),
        },
    }


def read(pod: Manifest, *claims: Manifest, now: float = 300) -> Start:
    (start,) = starts([pod], claims, BORN.timestamp() + now)
    return start


def learnt(*found: Start, memory: Memory | None = None) -> Memory:
    return learn(found, memory or Memory())[0]


def over(seconds: float, uid: str, *, is_node_new: bool | None = True) -> Start:
    return Start(uid, uid, "spot", (), True, seconds, seconds, is_node_new)


def test_a_start_on_a_new_node_has_every_stage_and_they_add_up():
    start = read(pod(), claim())
    assert start.stages == (
        (Stage.NODE_LAUNCH, 5),
        (Stage.NODE_REGISTRATION, 65),
        (Stage.NODE_INITIALIZATION, 25),
        (Stage.SCHEDULING, 5),
        (Stage.IMAGE_PULL, 60),
        (Stage.MODEL_LOAD, 80),
    )
    assert sum(seconds for _, seconds in start.stages) == start.seconds == 240
    assert (start.is_over, start.is_node_new, start.lead_seconds) == (True, True, 238)


def test_a_pod_that_builds_its_own_repository_has_that_stage_too():
    ended = {"name": "build", "restartCount": 0, "state": {"terminated": {"startedAt": time(161), "finishedAt": time(200)}}}
    start = read(pod(initContainerStatuses=[container("exporter", 160), ended]), claim())
    assert start.stages[-2:] == ((Stage.REPOSITORY_BUILD, 40), (Stage.MODEL_LOAD, 40))


def test_a_build_that_goes_on_is_the_stage_that_is_not_over():
    running = [container("exporter", 160), container("build", 161)]
    start = read(pod(ready=None, initContainerStatuses=running, containerStatuses=[]), claim())
    assert start.stages[-1] == (Stage.IMAGE_PULL, 60)
    assert not start.is_over


def test_a_node_that_was_there_takes_no_part_in_the_start():
    start = read(pod(), claim(created=-900, launched=-895, registered=-830, initialized=-800))
    assert [stage for stage, _ in start.stages] == [Stage.SCHEDULING, Stage.IMAGE_PULL, Stage.MODEL_LOAD]
    assert start.is_node_new is False


def test_a_node_that_was_on_its_way_counts_for_what_was_waited_and_its_lead_time_from_its_order():
    start = read(pod(), claim(created=-40, launched=-35, registered=30, initialized=95))
    assert start.stages[0] == (Stage.NODE_REGISTRATION, 30)
    assert sum(seconds for _, seconds in start.stages) == start.seconds == 240
    assert (start.is_node_new, start.lead_seconds) == (True, 280)


def test_without_karpenter_scheduling_begins_at_creation_and_the_node_s_age_is_not_known():
    start = read(pod())
    assert start.stages[0] == (Stage.SCHEDULING, 100)
    assert start.is_node_new is None


def test_a_pod_without_a_node_has_waited_until_now():
    start = read(pod(node=None, ready=None, conditions=conditions(PodScheduled=None), containerStatuses=[]), claim(), now=77)
    assert (start.stages, start.is_over, start.seconds) == ((), False, 77)


def test_pods_that_end_or_are_no_replica_have_no_start():
    ending, failed, stranger = pod("a"), pod("b", phase="Failed"), pod("c")
    ending["metadata"]["deletionTimestamp"] = time(200)
    stranger["metadata"]["labels"] = {}
    assert starts([ending, failed, stranger], [], BORN.timestamp()) == ()


def test_what_a_replica_waited_for_want_of_capacity_is_no_lead_time():
    late = claim(created=1000, launched=1004, registered=1070, initialized=1095)
    start = read(pod(ready=1240, conditions=conditions(PodScheduled=1100, Ready=1240)), late, now=2000)
    assert (start.seconds, start.lead_seconds) == (1240, 240)


def test_a_start_with_restarts_is_told_and_not_learnt_from():
    start = read(pod(restarts=3, ready=900), claim(), now=1000)
    memory, new = learn([start], Memory())
    assert new == (start,)
    assert lead_seconds("spot", memory, PRIOR) == 240.0


def test_before_any_start_the_prior_holds():
    assert lead_seconds("spot", Memory(), PRIOR) == 240.0


def test_each_start_is_taken_in_once_and_told_of_once():
    start = read(pod(), claim())
    memory, new = learn([start], Memory())
    again, nothing = learn([start], memory)
    assert (new, nothing) == ((start,), ())
    assert again == memory


def test_a_replica_that_turns_unready_and_ready_again_is_no_new_start():
    memory = learnt(read(pod(), claim()))
    memory = learnt(read(pod(ready=None), claim()), memory=memory)
    assert learn([read(pod(ready=900), claim(), now=1000)], memory)[1] == ()


def test_four_of_five_starts_are_no_longer_than_the_lead_time():
    memory = learnt(*(over(seconds, str(seconds)) for seconds in (100, 110, 120, 130, 600)))
    assert lead_seconds("spot", memory, PRIOR) == 130


def test_short_starts_on_old_nodes_do_not_make_an_order_look_short():
    memory = learnt(over(300, "first"), *(over(40, f"again-{index}", is_node_new=False) for index in range(50)))
    assert lead_seconds("spot", memory, PRIOR) == 300
    only_old = learnt(*(over(40, f"again-{index}", is_node_new=False) for index in range(50)))
    assert lead_seconds("spot", only_old, PRIOR) == 240


def test_a_start_on_an_old_node_that_took_longer_than_the_prior_counts():
    assert lead_seconds("spot", learnt(over(400, "slow", is_node_new=False)), PRIOR) == 400


def test_where_nobody_knows_nodes_every_start_counts():
    assert lead_seconds("spot", learnt(over(55, "a", is_node_new=None)), PRIOR) == 55


def test_a_lead_time_follows_what_changed():
    memory = learnt(*(over(300, f"old-{index}") for index in range(REMEMBERED)))
    memory = learnt(*(over(90, f"new-{index}") for index in range(REMEMBERED)), memory=memory)
    assert lead_seconds("spot", memory, PRIOR) == 90


def test_the_memory_does_not_grow_with_the_pods_that_came_and_went():
    memory = Memory()
    for index in range(200):
        memory = learnt(over(100, f"pod-{index}"), over(50, f"reused-{index}", is_node_new=False), memory=memory)
    (pool,) = memory.pools
    assert (len(memory.counted), len(pool.with_new_node), len(pool.with_old_node)) == (2, REMEMBERED, REMEMBERED)


def test_the_memory_comes_back_from_json():
    memory = ScalingMemory(coldstart=learnt(read(pod(), claim())))
    assert ScalingMemory.model_validate_json(memory.model_dump_json()) == memory


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=40))
def test_whatever_clocks_say_a_lead_time_stays_sane(found: list[float]):
    memory = learnt(*(over(seconds, str(index)) for index, seconds in enumerate(found)))
    assert 1 <= lead_seconds("spot", memory, PRIOR) <= MOST_SECONDS


@pytest.mark.parametrize("out_of_order", [claim(initialized=130), claim(registered=4), claim(launched=99)])
def test_stages_whose_clocks_disagree_are_never_negative(out_of_order: Manifest):
    start = read(pod(), out_of_order)
    assert all(seconds >= 0 for _, seconds in start.stages)
    assert sum(seconds for _, seconds in start.stages) == start.seconds


def test_a_pool_that_never_started_anything_is_taken_to_be_like_its_slowest_sibling():
    memory = Memory(pools=(PoolStarts("spot", with_new_node=(70.0,)), PoolStarts("other", with_new_node=(90.0,))))
    assert lead_seconds("steady", memory, {"steady": 240.0}) == 90.0
    assert lead_seconds("spot", memory, {"spot": 240.0}) == 70.0
