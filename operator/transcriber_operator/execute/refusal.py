"""The status of a resource whose children the API server refuses or forbids; pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from transcriber_api.conditions import ConditionType, Observation, Reason, merge
from transcriber_api.status import Status
from transcriber_operator.decide.observed import Manifest
from transcriber_operator.errors import ForbiddenError, KindMissingError, TerminalError

Refusal = TerminalError | ForbiddenError | KindMissingError
_ORDER: Final[Mapping[str, int]] = {type_.value: place for place, type_ in enumerate(ConditionType)}


def refused_status(resource: Manifest, decided: Status | None, error: Refusal, now: datetime) -> Status | None:
    """Return the status that tells of a refusal, which is the spec's fault, or of a ban or a missing kind, which is not.

    None if it reads so already. Everything else is as decided, or, where nothing was to be written, as it is: what serves goes on
    serving.
    """
    live = _live_status(resource)
    basis = decided or live or Status()
    generation = int(resource["metadata"]["generation"])
    told = merge(live.conditions if live else (), _observations(error), generation, now)
    replaced = {ConditionType.RECONCILING, *(condition.type for condition in told)}
    kept = [condition for condition in basis.conditions if condition.type not in replaced]
    conditions = tuple(sorted((*kept, *told), key=lambda condition: _ORDER.get(condition.type, len(_ORDER))))
    status = basis.model_copy(update={"observed_generation": generation, "conditions": conditions})
    return None if status == live else status


def _observations(error: Refusal) -> list[Observation]:
    reason, denied = Reason.API_REFUSED, [ConditionType.READY]
    match error:
        case TerminalError():
            reason, message = Reason.SPEC_INVALID, str(error)
            denied = [ConditionType.READY, ConditionType.SPEC_VALID]
        case KindMissingError():
            message = f"{error}; install what brings this kind, or change the spec so that it is not needed. It is tried again."
        case _:
            message = f"{error}; give the operator the right, or lift the quota or policy. It is tried again."
    stalled = Observation(ConditionType.STALLED, "True", reason, message)
    return [*(Observation(type_, "False", reason, message) for type_ in denied), stalled]


def _live_status(resource: Manifest) -> Status | None:
    """Return the status as it is; None if there is none, or if another wrote what is no status of ours."""
    try:
        return Status.model_validate(resource["status"])
    except (KeyError, ValidationError):
        return None
