"""Events: one for each condition that turned, never for one that stayed."""

from typing import Final

from transcriber_api.conditions import Condition, ConditionType, Reason
from transcriber_api.status import ScalingStatus, Status
from transcriber_operator.decide.decision import Announcement

BY_VALUE: Final = {reason.value: reason for reason in Reason}
# Ready and kstatus repeat what other conditions say; of Ready only its coming true is news.
REPEATING: Final = frozenset({ConditionType.READY, ConditionType.RECONCILING, ConditionType.STALLED})
# Reasons that are no cause for concern, whatever the condition's status.
NORMAL: Final = frozenset(
    {
        Reason.AS_EXPECTED,
        Reason.NOT_OBSERVED_YET,
        Reason.SUSPENDED,
        Reason.DOWNLOADING_WEIGHTS,
        Reason.BUILDING_REPOSITORY,
        Reason.STARTING,
        Reason.WAITING_FOR_SPOT_CAPACITY,
        Reason.SCALED_TO_ZERO,
        Reason.ROLLING_OUT,
        Reason.EXTERNALLY_SCALED,
        Reason.SCALED,
    }
)


def announcements(previous: Status, current: Status) -> tuple[Announcement, ...]:
    """Return an Event for each condition whose status or reason changed, and for a new number of replicas.

    What several conditions say alike is said once.
    """
    before = {condition.type: condition for condition in previous.conditions}
    news = [condition for condition in current.conditions if _is_news(before.get(condition.type), condition)]
    told = {(condition.reason, condition.message): _announcement(condition) for condition in news}
    return (*told.values(), *_scaled(previous.scaling, current.scaling))


def _scaled(previous: ScalingStatus | None, current: ScalingStatus | None) -> tuple[Announcement, ...]:
    before, now = previous.desired if previous else None, current.desired if current else None
    if now is None or current is None or now == (before or 0):
        return ()
    return (Announcement(type="Normal", reason=Reason.SCALED, message=f"Replicas: {now}, {before or 0} before. {current.reason}"),)


def _announcement(condition: Condition) -> Announcement:
    reason = BY_VALUE[condition.reason]
    return Announcement(type="Normal" if reason in NORMAL else "Warning", reason=reason, message=condition.message)


def _is_news(before: Condition | None, now: Condition) -> bool:
    if now.type in REPEATING:
        return now.type == ConditionType.READY and now.status == "True" and (before is None or before.status != "True")
    if now.reason == Reason.NOT_OBSERVED_YET:
        return False
    if before is None or before.status == "Unknown":
        return now.reason != Reason.AS_EXPECTED
    return (before.status, before.reason) != (now.status, now.reason)
