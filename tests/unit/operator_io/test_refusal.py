"""The status of a resource whose children the API server refuses."""

from datetime import timedelta
from typing import Any

import pytest

from tests.unit.operator_io.parts import START, resource
from transcriber_api.conditions import Condition, ConditionType, Observation, Reason, merge
from transcriber_api.status import Status
from transcriber_operator.errors import ForbiddenError, KindMissingError, TerminalError
from transcriber_operator.execute.refusal import refused_status

MESSAGE = "apply of Deployment whisper-gpu: 422 invalid"
REFUSAL = TerminalError(MESSAGE)
WELL = (
    Observation(ConditionType.READY, "True", Reason.AS_EXPECTED, "all is well"),
    Observation(ConditionType.SPEC_VALID, "True", Reason.AS_EXPECTED, "fine"),
    Observation(ConditionType.REPOSITORY_BUILT, "True", Reason.AS_EXPECTED, "built"),
    Observation(ConditionType.RECONCILING, "True", Reason.ROLLING_OUT, "rolling"),
)


def by_type(status: Status | None) -> dict[str, Condition]:
    assert status is not None
    return {condition.type: condition for condition in status.conditions}


def live(status: Status | None) -> dict[str, Any]:
    assert status is not None
    return resource(generation=3, status=status.model_dump(mode="json", by_alias=True, exclude_none=True))


def decided() -> Status:
    return Status(replicas=2, conditions=merge((), WELL, 3, START))


def test_the_message_of_the_api_server_becomes_a_condition_and_nothing_is_said_to_be_under_way() -> None:
    conditions = by_type(refused_status(live(decided()), None, REFUSAL, START))
    for type_, truth in (("Ready", "False"), ("SpecValid", "False"), ("Stalled", "True")):
        assert (conditions[type_].status, conditions[type_].reason, conditions[type_].message) == (truth, "SpecInvalid", MESSAGE)
    assert "Reconciling" not in conditions
    assert list(conditions) == ["Ready", "SpecValid", "RepositoryBuilt", "Stalled"]


def test_a_ban_is_not_called_the_specs_fault_and_says_that_it_is_tried_again() -> None:
    ban = ForbiddenError("apply of Deployment whisper-gpu: 403 exceeded quota: pods")
    conditions = by_type(refused_status(live(decided()), None, ban, START))
    assert list(conditions) == ["Ready", "SpecValid", "RepositoryBuilt", "Stalled"]
    assert conditions["SpecValid"].status == "True"
    for type_, truth in (("Ready", "False"), ("Stalled", "True")):
        assert (conditions[type_].status, conditions[type_].reason) == (truth, "ApiRefused")
        assert conditions[type_].message.startswith("apply of Deployment whisper-gpu: 403 exceeded quota: pods; ")
        assert conditions[type_].message.endswith("It is tried again.")


def test_a_kind_that_is_not_installed_is_told_with_what_to_do() -> None:
    missing = KindMissingError("apply of ScaledObject whisper: the cluster has no such kind")
    conditions = by_type(refused_status(live(decided()), None, missing, START))
    assert (conditions["SpecValid"].status, conditions["Ready"].status, conditions["Ready"].reason) == (
        "True",
        "False",
        "ApiRefused",
    )
    assert "; install what brings this kind, or change the spec so that it is not needed." in conditions["Ready"].message


def test_the_rest_is_as_decided() -> None:
    status = refused_status(resource(generation=3), decided(), REFUSAL, START)
    assert by_type(status)["RepositoryBuilt"].message == "built"
    assert status is not None
    assert (status.replicas, status.observed_generation) == (2, 3)


def test_told_once_it_is_not_written_again() -> None:
    told = refused_status(live(decided()), decided(), REFUSAL, START)
    later = START + timedelta(minutes=10)
    assert refused_status(live(told), decided(), REFUSAL, later) is None


def test_another_message_is_written_and_keeps_the_time_of_the_transition() -> None:
    told = refused_status(live(decided()), decided(), REFUSAL, START)
    again = by_type(refused_status(live(told), decided(), TerminalError("another"), START + timedelta(minutes=10)))
    assert again["SpecValid"].message == "another"
    assert again["SpecValid"].last_transition_time == START


@pytest.mark.parametrize("forged", [{}, {"status": {"conditions": "none"}}, {"status": {"unheardOf": 1}}])
def test_a_status_that_is_none_is_written_anew(forged: dict[str, Any]) -> None:
    assert by_type(refused_status(resource(**forged), None, REFUSAL, START))["SpecValid"].message == MESSAGE


def test_a_condition_of_another_version_is_kept_at_the_end() -> None:
    condition = Condition(type="FromTheFuture", status="True", reason="Unheard", last_transition_time=START)
    status = refused_status(live(Status(conditions=(condition,))), None, REFUSAL, START)
    assert list(by_type(status)) == ["Ready", "SpecValid", "Stalled", "FromTheFuture"]
