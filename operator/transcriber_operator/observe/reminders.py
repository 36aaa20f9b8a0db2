"""Warnings about what the operator may not see: worth repeating, but not with every pass."""

import logging
from typing import Final

from transcriber_operator.clock import Clock
from transcriber_operator.errors import ForbiddenError

REMIND_SECONDS: Final = 600.0

logger = logging.getLogger(__name__)


class Reminders:
    """Logs each missing right once, and again only after a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}

    def missing(self, consequence: str, error: ForbiddenError) -> None:
        """Tell what follows from a missing right."""
        now = self._clock.monotonic()
        if now >= self._silent_until.get(consequence, float("-inf")):
            self._silent_until[consequence] = now + REMIND_SECONDS
            logger.warning("%s: %s; give the operator the right", consequence, error)
