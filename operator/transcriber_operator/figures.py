"""The figures of each resource: what its last look found, and counters that outlive the look; as Prometheus series on demand."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from transcriber_operator.decide.decision import Figures

PREFIX: Final = "transcriber_"
RESOURCE: Final = ("namespace", "name")
HOUR_SECONDS: Final = 3600.0
CONDITION_STATUSES: Final = ("True", "False", "Unknown")
# From a second, a scheduling, to half an hour, a large image on a node that is slow to come.
START_BUCKETS: Final = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1200.0, 1800.0)


@dataclass
class _Start:
    """Durations of one stage in one pool: how many fell into each bucket, the last one without an end, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(START_BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(START_BUCKETS, seconds)] += 1
        self.seconds += seconds


@dataclass
class _Entry:
    """One resource."""

    uid: str
    figures: Figures | None = None
    taken_at: float = 0.0
    conditions: Mapping[str, str] = field(default_factory=dict)  # status by type
    dollars: float = 0.0
    processed_audio_seconds: float = 0.0
    interruptions: Counter[str] = field(default_factory=Counter)  # by pool
    insufficient_capacity: Counter[str] = field(default_factory=Counter)  # by pool
    starts: dict[tuple[str, str], _Start] = field(default_factory=dict)  # by pool and stage

    def dollars_at(self, now: float) -> float:
        """What the nodes have cost until now: the rate of the last look goes on until the next one."""
        rate = self.figures.cost_per_hour if self.figures else 0.0
        return self.dollars + rate * max(0.0, now - self.taken_at) / HOUR_SECONDS


class FiguresBoard(Collector):
    """Keeps the figures of all resources by namespace and name; a resource made anew begins anew."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._entries: dict[tuple[str, str], _Entry] = {}

    def record(self, namespace: str, name: str, uid: str, figures: Figures) -> None:
        """Take in what a look found."""
        now, entry = self._monotonic(), self._entry(namespace, name, uid)
        entry.dollars = entry.dollars_at(now)
        entry.figures, entry.taken_at = figures, now
        entry.processed_audio_seconds += figures.processed_audio_seconds
        for pool in figures.pools:
            entry.interruptions[pool.name] += pool.interruptions
            entry.insufficient_capacity[pool.name] += pool.insufficient_capacity
        for start in figures.cold_starts:
            entry.starts.setdefault((start.pool, start.stage), _Start()).add(start.seconds)

    def record_conditions(self, namespace: str, name: str, uid: str, conditions: Mapping[str, str]) -> None:
        """Take in the status of each condition by type."""
        self._entry(namespace, name, uid).conditions = conditions

    def forget(self, namespace: str, name: str, uid: str) -> None:
        """Drop a resource that is gone."""
        entry = self._entries.get((namespace, name))
        if entry is not None and entry.uid == uid:
            del self._entries[namespace, name]

    def desired(self, namespace: str, name: str) -> int | None:
        """Return the replicas that the work calls for by the last look; None where there was none."""
        entry = self._entries.get((namespace, name))
        return entry.figures.desired if entry and entry.figures else None

    def collect(self) -> Iterator[Metric]:
        """Return all series."""
        now = self._monotonic()
        found = [((namespace, name), entry) for (namespace, name), entry in sorted(self._entries.items())]
        looked = [(labels, entry.figures, now - entry.taken_at) for labels, entry in found if entry.figures]
        yield from _resource_gauges(looked)
        yield from _pool_gauges([(labels, figures) for labels, figures, _ in looked])
        yield _conditions(found)
        yield from _counters(found, now)
        yield _starts(found)

    def _entry(self, namespace: str, name: str, uid: str) -> _Entry:
        entry = self._entries.get((namespace, name))
        if entry is None or entry.uid != uid:
            entry = self._entries[namespace, name] = _Entry(uid)
        return entry


Labels = tuple[str, ...]


def _resource_gauges(looked: Iterable[tuple[Labels, Figures, float]]) -> Iterator[Metric]:
    """Gauges of a resource; a figure that is not known has no series."""
    texts = {
        "desired_replicas": "Replicas decided on.",
        "ready_replicas": "Replicas that pass their canary.",
        "scaling_queued_audio_seconds": "Audio that waits, in seconds.",
        "scaling_in_flight_audio_seconds": "Audio being decoded, in seconds.",
        "scaling_arrival_rate": "Audio seconds that arrive per second.",
        "scaling_replica_throughput": "Audio seconds that one replica decodes per second, as learnt.",
        "scaling_metrics_age_seconds": "Age of the oldest figures that the last decision rests on.",
        "cost_dollars_per_hour": "What the nodes cost, US dollars per hour.",
        "budget_dollars_per_hour": "What the budget allows now, US dollars per hour; absent without one.",
    }
    families = {name: GaugeMetricFamily(PREFIX + name, text, labels=RESOURCE) for name, text in texts.items()}
    for labels, figures, elapsed in looked:
        age = None if figures.metrics_age_seconds is None else figures.metrics_age_seconds + elapsed
        values = (
            figures.desired,
            figures.ready,
            figures.queued_audio_seconds,
            figures.in_flight_audio_seconds,
            figures.arrival_rate,
            figures.replica_throughput,
            age,
            figures.cost_per_hour,
            figures.allowed_per_hour,
        )
        for family, value in zip(families.values(), values, strict=True):
            if value is not None:
                family.add_metric(labels, value)
    yield from families.values()


def _pool_gauges(looked: Iterable[tuple[Labels, Figures]]) -> Iterator[Metric]:
    replicas = GaugeMetricFamily(f"{PREFIX}pool_replicas", "Replicas of a pool, by state.", labels=(*RESOURCE, "pool", "state"))
    nodes = GaugeMetricFamily(f"{PREFIX}pool_nodes", "Nodes of a pool.", labels=(*RESOURCE, "pool"))
    lead = GaugeMetricFamily(
        f"{PREFIX}pool_lead_time_seconds", "From ordering a replica to its first result, as learnt.", labels=(*RESOURCE, "pool")
    )
    for labels, figures in looked:
        for pool in figures.pools:
            replicas.add_metric((*labels, pool.name, "desired"), pool.desired)
            replicas.add_metric((*labels, pool.name, "ready"), pool.ready)
            nodes.add_metric((*labels, pool.name), pool.nodes)
            lead.add_metric((*labels, pool.name), pool.lead_time_seconds)
    yield from (replicas, nodes, lead)


def _conditions(found: Iterable[tuple[Labels, _Entry]]) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}status_condition", "1 for the status that a condition has.", labels=(*RESOURCE, "condition", "status")
    )
    for labels, entry in found:
        for type_, status in entry.conditions.items():
            for possible in CONDITION_STATUSES:
                family.add_metric((*labels, type_, possible), float(status == possible))
    return family


def _counters(found: Iterable[tuple[Labels, _Entry]], now: float) -> Iterator[Metric]:
    dollars = CounterMetricFamily(f"{PREFIX}cost_dollars", "What the nodes have cost, US dollars.", labels=RESOURCE)
    processed = CounterMetricFamily(f"{PREFIX}processed_audio_seconds", "Audio decoded, in seconds.", labels=RESOURCE)
    interruptions = CounterMetricFamily(f"{PREFIX}interruptions", "Nodes taken back.", labels=(*RESOURCE, "pool"))
    refusals = CounterMetricFamily(
        f"{PREFIX}insufficient_capacity", "Orders that the cloud had no node for.", labels=(*RESOURCE, "pool")
    )
    for labels, entry in found:
        if entry.figures is None:
            continue
        dollars.add_metric(labels, entry.dollars_at(now))
        processed.add_metric(labels, entry.processed_audio_seconds)
        for family, by_pool in ((interruptions, entry.interruptions), (refusals, entry.insufficient_capacity)):
            for pool, count in by_pool.items():
                family.add_metric((*labels, pool), count)
    yield from (dollars, processed, interruptions, refusals)


def _starts(found: Iterable[tuple[Labels, _Entry]]) -> Metric:
    family = HistogramMetricFamily(
        f"{PREFIX}cold_start_seconds", "How long a stage of a replica's start took.", labels=(*RESOURCE, "pool", "stage")
    )
    ends = (*(str(end) for end in START_BUCKETS), "+Inf")
    for labels, entry in found:
        for key, start in entry.starts.items():
            buckets = [(end, float(count)) for end, count in zip(ends, accumulate(start.counts), strict=True)]
            family.add_metric((*labels, *key), buckets, start.seconds)
    return family
