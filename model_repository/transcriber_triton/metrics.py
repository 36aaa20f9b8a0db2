"""Metrics of a model, on Triton's own metrics endpoint. Imported inside Triton alone."""

from typing import Any

import triton_python_backend_utils as pb_utils


class Metrics:
    """Makes the counters and gauges of one model, under the label `model`."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._families: list[Any] = []  # kept: a metric whose family is collected raises

    def counter(self, name: str, description: str) -> Any:
        """Make a counter; it shows as 0 from now on."""
        return self._metric(name, description, pb_utils.MetricFamily.COUNTER)

    def gauge(self, name: str, description: str) -> Any:
        """Make a gauge; it shows as 0 from now on."""
        return self._metric(name, description, pb_utils.MetricFamily.GAUGE)

    def _metric(self, name: str, description: str, kind: Any) -> Any:
        family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
        self._families.append(family)
        return family.Metric(labels={"model": self._model})
