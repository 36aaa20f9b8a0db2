"""Events: one for each condition that turned, never for one that stayed."""

from collections.abc import Sequence
from typing import Final

from transcriber_api.conditions import Condition, ConditionType, Reason
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
    }
)


def announcements(previous: Sequence[Condition], current: Sequence[Condition]) -> tuple[Announcement, ...]:
    """Return an Event for each condition whose status or reason changed; what several conditions say alike is said once."""
    before = {condition.type: condition for condition in previous}
    news = [condition for condition in current if _is_news(before.get(condition.type), condition)]
    return tuple({(condition.reason, condition.message): _announcement(condition) for condition in news}.values())


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
