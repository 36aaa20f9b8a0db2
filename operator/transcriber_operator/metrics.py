"""The operator's own metrics, in a registry of its own: one per process, and one per test."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from transcriber_operator.figures import FiguresBoard

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PASS_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What is counted; labels have few values, and names of resources are none of them, except in the figures of each resource."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.figures = FiguresBoard()
        self.registry.register(self.figures)
        self.looks = self._counter("looks", "Looks at the load between passes, by what came of them.", "outcome")
        self.passes = self._counter("passes", "Passes, by how they ended.", "outcome")
        self.pass_seconds = Histogram(
            "transcriber_operator_pass_seconds",
            "Duration of passes in seconds, from observing to the last write.",
            buckets=PASS_BUCKETS,
            registry=self.registry,
        )
        self.api_calls = self._counter(
            "api_calls", "Calls to the API server; code is empty where none came.", "verb", "kind", "code"
        )
        self.applied = self._counter("applied", "Server-side applies of children, by what they did.", "kind", "result")
        self.pruned = self._counter("pruned", "Deletes of children.", "kind")
        self.pods_deleted = self._counter("pods_deleted", "Pods that were told to end because their node goes.")
        self.resources = Gauge("transcriber_operator_resources", "Resources that are looked after.", registry=self.registry)
        self.is_leading = Gauge("transcriber_operator_leading", "1 while this process holds the Lease.", registry=self.registry)

    def show_age(self, name: str, text: str, age_seconds: Callable[[], float]) -> None:
        """Add a gauge in seconds that is asked whenever the metrics are read."""
        Gauge(f"transcriber_operator_{name}", text, registry=self.registry).set_function(age_seconds)

    def render(self) -> bytes:
        """Return the Prometheus text."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"transcriber_operator_{name}", text, labels, registry=self.registry)
