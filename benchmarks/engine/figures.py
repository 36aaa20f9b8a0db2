"""From records to figures: pure functions, the same whether a run was just made or is read from a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

from benchmarks.engine.clips import closed_loop
from benchmarks.engine.roofline import Counts, Machine, Shape, limit_seconds

Record = Mapping[str, Any]


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    """Return the records of one kind."""
    return [record for record in records if record["kind"] == kind]


def clips_of(records: Sequence[Record], workload: str, peer: str, concurrency: int) -> list[Record]:
    """Return a peer's runs over a workload, by round."""
    wanted = {"workload": workload, "peer": peer, "concurrency": concurrency}
    found = [record for record in of_kind(records, "clips") if all(record[name] == value for name, value in wanted.items())]
    return sorted(found, key=lambda record: record["round"])


def queued(record: Record, concurrency: int, windows: int) -> Record:
    """Return what a peer that takes one window at a time does for more clients, from its run for one: they stand in line."""
    service = [record["latencies"][i % len(record["latencies"])] for i in range(windows)]
    done = [sum(service[: i + 1]) for i in range(windows)]
    times = windows / record["windows"]
    return {
        **record,
        "concurrency": concurrency,
        "windows": windows,
        "seconds": record["seconds"] * times,
        "audio_seconds": record["audio_seconds"] * times,
        "tokens": record["tokens"] * times,
        "latencies": closed_loop(done, concurrency),
    }


def ratios(theirs: Sequence[Record], ours: Sequence[Record], seconds: str = "seconds") -> list[float]:
    """Return, round by round, how many times longer theirs take for a window; `seconds` may be one of `figures`."""
    of_round = {record["round"]: _per_window(record, seconds) for record in ours}
    return [_per_window(record, seconds) / of_round[record["round"]] for record in theirs if record["round"] in of_round]


def _per_window(record: Record, seconds: str) -> float:
    value = record[seconds] if seconds in record else record["figures"][seconds]
    return float(value / record["windows"])


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(ceil(len(ordered) * percent / 100) - 1, 0)]


@dataclass(frozen=True)
class Speed:
    """A row of a table: medians over rounds."""

    windows_per_second: float
    tokens_per_second: float
    audio_seconds_per_second: float
    p50_seconds: float
    p95_seconds: float


def speed(runs: Sequence[Record]) -> Speed:
    """Summarise a peer's runs."""
    latencies = [seconds for run in runs for seconds in run["latencies"]]
    return Speed(
        median(run["windows"] / run["seconds"] for run in runs),
        median(run["tokens"] / run["seconds"] for run in runs),
        median(run["audio_seconds"] / run["seconds"] for run in runs),
        percentile(latencies, 50),
        percentile(latencies, 95),
    )


def most_differing(runs: Sequence[Record], other: str) -> int | None:
    """Return in how many windows a peer heard other tokens than another, in its worst round; None where that is not known."""
    counts = [len(names) for run in runs if (names := run["differing"].get(other)) is not None]
    return max(counts, default=None)


def distance(runs: Sequence[Record], shape: Shape) -> float | None:
    """Return the median over rounds of a run's seconds over the least that the machine, as measured just before, needs for it.

    None where it was not measured.
    """
    if not runs or any(run.get("machine") is None for run in runs):
        return None
    return median(run["seconds"] / limit_seconds(shape, Machine(**run["machine"]), Counts.from_json(run["counts"])) for run in runs)


def share(runs: Sequence[Record], part: str, whole: str) -> float:
    """Return the sum of one figure over that of another, 0 where there is nothing."""
    total = sum(run["figures"][whole] for run in runs)
    return sum(run["figures"][part] for run in runs) / total if total else 0.0


def flatness(resident: Sequence[int]) -> tuple[float, float]:
    """Return the memory of a long run after its first tenth and at its end, in bytes: medians of a tenth of the samples each."""
    tenth = max(len(resident) // 10, 1)
    return float(median(resident[tenth : 2 * tenth] or resident)), float(median(resident[-tenth:]))
