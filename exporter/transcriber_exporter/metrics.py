"""The exporter's own Prometheus metrics; Triton's are scraped from Triton."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from transcriber_exporter.canary import Outcome, Result

CANARY_BUCKETS_SECONDS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SCRAPE_BUCKETS_SECONDS: Final = (0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0)


class Metrics:
    """Series under `transcriber_`; every label set exists from the start."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._success = Gauge("transcriber_canary_success", "1 where the last canary passed", registry=self.registry)
        self._duration = Histogram(
            "transcriber_canary_duration_seconds",
            "From the call of a canary to its end, however it ended",
            buckets=CANARY_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._canaries = Counter("transcriber_canaries", "Canaries by their outcome", ["outcome"], registry=self.registry)
        self._passed_at = Gauge(
            "transcriber_canary_last_success_timestamp_seconds", "When a canary passed last, 0: never", registry=self.registry
        )
        self._scrapes = Counter("transcriber_exporter_scrapes", "Looks at Triton's metrics", registry=self.registry)
        self._scrape_failures = Counter("transcriber_exporter_scrape_failures", "Those that failed", registry=self.registry)
        self._scrape_duration = Histogram(
            "transcriber_exporter_scrape_duration_seconds",
            "How long looks at Triton's metrics took, however they ended",
            buckets=SCRAPE_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._restarts = Counter(
            "transcriber_server_restarts", "Times that Triton's counters were seen to have begun anew", registry=self.registry
        )
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

    def looked(self, duration_seconds: float, *, succeeded: bool, is_another: bool) -> None:
        """Count a look at Triton's metrics, and whether it met another server than the last one that succeeded."""
        self._scrapes.inc()
        self._scrape_failures.inc(not succeeded)
        self._scrape_duration.observe(duration_seconds)
        self._restarts.inc(is_another)

    def show(self, name: str, documentation: str, value: Callable[[], float]) -> None:
        """Add a gauge that is asked when somebody scrapes; a truth is 0 or 1."""
        Gauge(name, documentation, registry=self.registry).set_function(lambda: float(value()))

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
