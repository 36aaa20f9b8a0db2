"""What is compared, and the bounds that results are held against."""

from dataclasses import replace

import pytest

from transcriber_api.loading import parse
from transcriber_operator.decide.pools import FallbackRule
from transcriber_operator.simulation.comparison import Plan, compare
from transcriber_operator.simulation.configured import entrant_of
from transcriber_operator.simulation.contest import OWN, Entrant, entrants, own_default
from transcriber_operator.simulation.gates import Gate, cheapest, front, gates, level, our_single, singles
from transcriber_operator.simulation.outcome import Outcome, mean
from transcriber_operator.simulation.scalers.hpa import Utilization
from transcriber_operator.simulation.scalers.own import Own
from transcriber_operator.simulation.world import Service, World

DEFAULT = own_default(16)
TUNED = replace(DEFAULT, tuning="tuned")


def other(tuning: str) -> Entrant:
    return Entrant("HPA", tuning, Utilization(0.9))


def went(gpu_hours: float, missed_percent: float, lost_windows: float = 0.0) -> Outcome:
    zeros = dict.fromkeys(Outcome.__dataclass_fields__, 0.0)
    return Outcome(**{**zeros, "gpu_hours": gpu_hours, "missed_percent": missed_percent, "lost_windows": lost_windows})


def gate(found: list[Gate], name: str) -> Gate:
    [gate] = [gate for gate in found if gate.name.startswith(name)]
    return gate


def test_tunings_are_compared_at_what_is_promised_or_else_at_what_ours_can_hold() -> None:
    assert level({DEFAULT: went(10, 30.0), TUNED: went(20, 1.0), other("a"): went(20, 0.0)}) == 5.0
    assert level({DEFAULT: went(10, 30.0), TUNED: went(20, 19.0), other("a"): went(20, 0.0)}) == 20.0


def test_the_cheapest_of_those_that_miss_little_enough_or_else_the_one_that_misses_least() -> None:
    outcomes = {other("a"): went(10, 9.0), other("b"): went(30, 1.0), other("c"): went(20, 4.0)}
    assert cheapest(outcomes, 5.0) == [other("c")]
    assert cheapest(outcomes, 5.0, 3) == [other("c"), other("b")]
    assert cheapest(outcomes, 0.5) == [other("b")]


def test_a_front_keeps_what_no_other_beats_in_both() -> None:
    outcomes = [went(10, 9.0), went(30, 1.0), went(20, 4.0), went(25, 6.0), went(30, 2.0)]
    assert front(outcomes) == [went(10, 9.0), went(20, 4.0), went(30, 1.0)]


def test_ours_is_held_against_the_cheapest_that_waits_as_little_on_every_trace() -> None:
    quiet = {DEFAULT: went(70, 1.0), other("a"): went(100, 2.0), other("b"): went(90, 1.0), other("c"): went(60, 0.5)}
    rough = {DEFAULT: went(80, 10.0), other("a"): went(100, 12.0), other("b"): went(95, 13.0), other("c"): went(60, 60.0)}
    compared = singles(DEFAULT, [quiet, rough])
    assert [single.entrant.tuning for single in compared] == ["b", "a", "c"]
    assert compared[0].gpu_hours_ratio == pytest.approx((70 / 90 + 80 / 95) / 2)
    found = gates(DEFAULT, DEFAULT, {("quiet", 10): quiet, ("rough", 10): rough})
    assert not gate(found, "one configuration, GPU-hours").holds
    assert gate(found, "one configuration, misses").figure == 0.0


def test_the_configuration_of_ours_that_is_kept_is_the_one_that_does_best_everywhere() -> None:
    cheap, even = TUNED, replace(DEFAULT, tuning="even")
    quiet = {cheap: went(40, 1.0), even: went(60, 1.0), other("a"): went(100, 1.0)}
    rough = {cheap: went(40, 30.0), even: went(60, 6.0), other("a"): went(100, 5.0)}
    assert our_single([quiet, rough]) == even
    assert our_single([quiet]) == cheap


def test_the_bound_of_one_configuration_is_not_for_single_load() -> None:
    found = gates(DEFAULT, None, {("quiet", 1): {DEFAULT: went(70, 1.0), other("a"): went(100, 1.0)}})
    assert not [gate for gate in found if gate.name.startswith("one configuration")]


def test_our_best_tuning_is_held_against_the_best_tuning_of_any_other() -> None:
    mine = replace(DEFAULT, system="mine.yaml")
    outcomes = {
        DEFAULT: went(120, 1.0),
        TUNED: went(105, 4.9),
        mine: went(9, 0.0),
        other("a"): went(100, 6.0),
        other("b"): went(50, 6.1),
    }
    tuned = gate(gates(DEFAULT, None, {("steady", 1): outcomes}), "tuned for steady at 1x")
    assert (tuned.figure, tuned.holds) == (1.05, True)
    assert "defaults: 1.20 (1.0 %)" in tuned.explanation
    del outcomes[TUNED]
    assert not gate(gates(DEFAULT, None, {("steady", 1): outcomes}), "tuned for steady at 1x").holds


def test_a_single_lost_window_fails() -> None:
    outcomes = {DEFAULT: went(70, 1.0), other("a"): went(100, 1.0, lost_windows=0.2)}
    assert not gate(gates(DEFAULT, None, {("steady", 1): outcomes}), "lost").holds


def test_means_are_taken_of_every_figure() -> None:
    assert mean([went(10, 1.0), went(20, 2.0)]) == went(15, 1.5)


@pytest.mark.parametrize("load", [1, 10])
def test_every_system_enters_in_several_tunings_of_distinct_names(load: int) -> None:
    field = entrants(load, 16)
    assert field[0] == DEFAULT
    assert len({entrant.name for entrant in field}) == len(field)
    for system in (OWN, "HPA", "HPA GPU", "KEDA", "Knative", "KubeAI"):
        assert sum(entrant.system == system for entrant in field) >= 2


def test_a_comparison_judges_the_best_tunings_and_what_was_given_on_fresh_draws() -> None:
    given = replace(DEFAULT, system="mine", tuning="as given")
    told: list[str] = []
    comparison = compare(World(), Plan(traces=("steady",), hours=1.0, fresh_seeds=2, more=(given,)), told.append)
    tuned, fresh = comparison.tuned["steady", 1], comparison.fresh["steady", 1]
    assert len(tuned) + len(fresh) == len(told)
    assert {DEFAULT, given} <= set(fresh) < set(tuned)
    assert {entrant.system for entrant in fresh} == {entrant.system for entrant in tuned}
    assert fresh[given] == fresh[DEFAULT]
    assert fresh[given] != tuned[given]
    assert gate(list(comparison.gates), "lost").holds


def deployment(scaling: str = "{}", extra: str = "") -> Entrant:
    document = f"""
apiVersion: serving.transcriber.dev/v1alpha1
kind: TranscriberDeployment
metadata: {{name: mine}}
spec:
  model: {{target: {{uri: "hf://openai/whisper-base", revision: {"a" * 40}}}}}
  scaling: {scaling}
  capacity:
    nodeClassRef: {{group: karpenter.k8s.aws, kind: EC2NodeClass, name: gpu}}
    pools:
    - {{name: cheap, capacityType: Spot, weight: 100, maxNodes: 7, pricePerHour: "0.2"}}
    - {{name: sure, minReplicas: 1}}
    {extra}
"""
    return entrant_of(parse(document, "mine.yaml"), "mine.yaml", Service())


def test_a_deployment_enters_with_its_scaling_pools_and_prices() -> None:
    scaling = "{minReplicas: 2, maxReplicas: 9, targetWaitSeconds: 30, targetWaitPercentile: 90, targetUtilizationPercent: 70}"
    entrant = deployment(scaling, "fallback: {afterSeconds: 30}\n  budget: {perHour: '20', perMonth: '7300'}")
    assert isinstance(entrant.scaler, Own)
    policy = entrant.scaler.policy
    assert (entrant.name, policy.min_replicas, policy.max_replicas, policy.slots) == ("mine.yaml as given", 2, 9, 16)
    assert (policy.target_wait_seconds, policy.miss_share, policy.utilization) == (30, pytest.approx(0.1), 0.7)
    assert entrant.scaler.fallback == FallbackRule(after_seconds=30, return_after_seconds=600)
    assert entrant.scaler.dollars_per_hour == 10.0
    assert entrant.offers is not None
    cheap, sure = entrant.offers
    assert (cheap.name, cheap.is_spot, cheap.price_per_hour, cheap.weight, cheap.max_nodes, cheap.floor) == (
        "cheap",
        True,
        0.2,
        100,
        7,
        0,
    )
    assert (sure.is_spot, sure.price_per_hour, sure.floor) == (False, 0.8048, 1)


def test_a_deployment_without_budget_and_fallback_has_neither() -> None:
    entrant = deployment()
    assert isinstance(entrant.scaler, Own)
    assert entrant.scaler.fallback is None
    assert entrant.scaler.dollars_per_hour is None
