from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transcriber_api.conditions import PRESENT_ONLY_WHEN_TRUE, Condition, ConditionType, Observation, Reason, merge

NOW = datetime(2026, 1, 31, 12, 0, 0, 987_654, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
WAITING = Observation(ConditionType.READY, "False", Reason.DOWNLOADING_WEIGHTS, "3 of 9 GB")


def test_a_first_condition_gets_the_time_of_now_in_whole_seconds():
    [condition] = merge((), [WAITING], 1, NOW)
    assert condition.last_transition_time == NOW.replace(microsecond=0)


def test_a_condition_with_the_same_status_keeps_its_time_and_takes_the_new_reason_and_generation():
    before = merge((), [WAITING], 1, NOW)
    [after] = merge(before, [WAITING._replace(reason=Reason.STARTING, message="loading")], 2, LATER)
    assert after.last_transition_time == before[0].last_transition_time
    assert (after.reason, after.message, after.observed_generation) == ("Starting", "loading", 2)


def test_a_condition_whose_status_flips_gets_a_new_time():
    before = merge((), [WAITING], 1, NOW)
    [after] = merge(before, [WAITING._replace(status="True", reason=Reason.AS_EXPECTED)], 1, LATER)
    assert after.last_transition_time == LATER.replace(microsecond=0)


def test_equal_input_gives_an_equal_result_so_that_nothing_is_written():
    before = merge((), [WAITING], 1, NOW)
    assert merge(before, [WAITING], 1, LATER) == before


@pytest.mark.parametrize("type_", sorted(PRESENT_ONLY_WHEN_TRUE))
def test_reconciling_and_stalled_are_absent_unless_true(type_: ConditionType):
    true = Observation(type_, "True", Reason.BUILDING_REPOSITORY)
    before = merge((), [true], 1, NOW)
    assert [condition.type for condition in before] == [type_]
    assert merge(before, [true._replace(status="False")], 1, LATER) == ()
    assert merge(before, [true._replace(status="Unknown")], 1, LATER) == ()


def test_a_type_that_is_no_longer_stated_is_dropped():
    before = merge((), [WAITING, WAITING._replace(type=ConditionType.SPEC_VALID)], 1, NOW)
    assert [condition.type for condition in merge(before, [WAITING], 1, LATER)] == ["Ready"]


def test_a_type_stated_twice_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="Ready is stated twice"):
        merge((), [WAITING, WAITING], 1, NOW)


def test_a_message_longer_than_the_api_takes_is_cut():
    [condition] = merge((), [WAITING._replace(message="x" * 5000)], 1, NOW)
    assert len(condition.message) == 4096


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="timezone"):
        merge((), [WAITING], 1, NOW.replace(tzinfo=None))


def test_a_condition_is_written_in_the_shape_of_metav1():
    [condition] = merge((), [WAITING], 7, NOW)
    written = condition.model_dump(mode="json")
    assert written == {
        "type": "Ready",
        "status": "False",
        "reason": "DownloadingWeights",
        "message": "3 of 9 GB",
        "observedGeneration": 7,
        "lastTransitionTime": "2026-01-31T12:00:00Z",
    }
    assert Condition.model_validate(written) == condition


observations = st.lists(
    st.builds(Observation, st.sampled_from(ConditionType), st.sampled_from(["True", "False", "Unknown"]), st.sampled_from(Reason)),
    unique_by=lambda observation: observation.type,
)


@given(first=observations, second=observations)
def test_any_merge_is_in_canonical_order_and_moves_a_time_only_with_its_status(first: list[Observation], second: list[Observation]):
    before = {condition.type: condition for condition in merge((), first, 1, NOW)}
    after = merge(tuple(before.values()), second, 2, LATER)
    order = [type_.value for type_ in ConditionType]
    assert [condition.type for condition in after] == sorted((condition.type for condition in after), key=order.index)
    for condition in after:
        kept = condition.type in before and before[condition.type].status == condition.status
        assert condition.last_transition_time == (NOW if kept else LATER).replace(microsecond=0)


def test_every_constant_is_camel_case_and_says_what_it_means():
    for constant in (*ConditionType, *Reason):
        assert constant.value.isalpha()
        assert constant.value[0].isupper()
        assert constant.meaning.endswith(".")
