"""Whether the operator still hears what happens: its own Lease renewals must come back through its own watch."""

from typing import Any, Final

from transcriber_operator.clock import Clock

DEAF_SECONDS: Final = 60.0


class Health:
    """Standing by, or leading with a heartbeat: the last renewal that was seen."""

    def __init__(self, clock: Clock, deaf_seconds: float = DEAF_SECONDS) -> None:
        self._clock = clock
        self._deaf_seconds = deaf_seconds
        self._heard_at: float | None = None  # None: standing by, with no watch to listen to

    def lead(self) -> None:
        """Note that the watches are about to begin."""
        self._heard_at = self._clock.monotonic()

    def hear(self) -> None:
        """Note that a renewal of ours has come back."""
        self._heard_at = self._clock.monotonic()

    def seconds_since_heartbeat(self) -> float:
        """Return the age of the last heartbeat; 0 while standing by."""
        return 0.0 if self._heard_at is None else self._clock.monotonic() - self._heard_at

    @property
    def is_healthy(self) -> bool:
        """False once nothing has been heard for a minute."""
        return self.seconds_since_heartbeat() < self._deaf_seconds

    def report(self, seconds_since_pass: float) -> dict[str, Any]:
        """Return the body of /healthz."""
        return {
            "healthy": self.is_healthy,
            "role": "Standby" if self._heard_at is None else "Leading",
            "secondsSinceHeartbeat": round(self.seconds_since_heartbeat(), 1),
            "secondsSincePass": round(seconds_since_pass, 1),
        }
