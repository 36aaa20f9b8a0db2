"""The exporter's own Prometheus metrics; Triton's are scraped from Triton."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from transcriber_exporter.canary import Outcome, Result

DURATION_BUCKETS_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Series under `transcriber_`; every label set exists from the start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._success = Gauge("transcriber_canary_success", "1 where the last canary passed", registry=self.registry)
        self._duration = Histogram(
            "transcriber_canary_duration_seconds",
            "From the call of a canary to its end, however it ended",
            buckets=DURATION_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._canaries = Counter("transcriber_canaries", "Canaries by their outcome", ["outcome"], registry=self.registry)
        self._passed_at = Gauge(
            "transcriber_canary_last_success_timestamp_seconds", "When a canary passed last, 0: never", registry=self.registry
        )
        self._scrapes = Counter("transcriber_exporter_scrapes", "Looks at Triton's metrics", registry=self.registry)
        self._scrape_failures = Counter("transcriber_exporter_scrape_failures", "Those that failed", registry=self.registry)
        for outcome in Outcome:
            self._canaries.labels(outcome.value)

    def canary_ended(self, result: Result) -> None:
        """Count a canary."""
        passed = result.outcome is Outcome.PASSED
        self._success.set(passed)
        self._duration.observe(result.duration_seconds)
        self._canaries.labels(result.outcome.value).inc()
        if passed:
            self._passed_at.set_to_current_time()

    def scraped(self, *, succeeded: bool) -> None:
        """Count a look at Triton's metrics."""
        self._scrapes.inc()
        self._scrape_failures.inc(not succeeded)

    def show(self, name: str, documentation: str, holds: Callable[[], bool]) -> None:
        """Add a gauge of 0 or 1 that is asked when somebody scrapes."""
        Gauge(name, documentation, registry=self.registry).set_function(lambda: float(holds()))

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
