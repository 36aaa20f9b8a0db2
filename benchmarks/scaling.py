"""The operator's scaling next to HPA, KEDA, Knative and KubeAI, simulated: `python -m benchmarks.scaling`.

Every system in every tuning on six traces of a day, at single and at tenfold load; the best tunings are then judged on five draws
that no tuning was chosen on. About half an hour on one core.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.recordings import ROOT

from transcriber_cli.pareto import draw
from transcriber_cli.simulate import shown
from transcriber_operator.simulation.comparison import FIRST_FRESH_SEED, TUNING_SEEDS, Comparison, Plan, compare
from transcriber_operator.simulation.gates import Outcomes, level
from transcriber_operator.simulation.trace import TRACES
from transcriber_operator.simulation.world import World

REPORT: Final = ROOT / "docs" / "benchmarks" / "scaling"
SECONDS_BETWEEN_LINES: Final = 60.0
METHOD: Final = """\
A replica serves batches of up to 16 windows of 30 s in 0.6 + 0.35 b seconds (75 times real time), and takes 230 s (lognormal,
coefficient of variation 0.2) from its node to its first window. A spot node costs $0.43 an hour, an on-demand one $0.8048. 70 % of
files have 45 s, 25 % 8 minutes, 5 % 50 minutes. Audio is missed where it waits longer than 60 s. A run ends when the day is over
and all work is done.

- steady: Poisson, half a replica's worth of files (all loads are at 1x). diurnal: 0.1 replicas at night, 1.3 at noon.
- spike: 0.4 replicas, eight times that for ten minutes every two hours. on-off: 0.6 replicas for twenty minutes of every hour.
- bulk: 0.2 replicas, and 250 files at once every four hours.
- spot-storm: as diurnal, with three times of forty minutes without spot nodes; a spot node is taken back every 6.7 hours, with
  two minutes' notice or, each tenth time, without any.

The operator's functions `autoscale` and `allot_with_fallback` run as they are, every 5 s. The others are formulas written from the
sources of HPA (autoscaling/v2), KEDA 2.20, Knative serving 1.23 and KubeAI, with their defaults; they see the same figures, exact
and without delay, and Karpenter gives them on-demand nodes at once where there is no spot. HPA GPU takes the share of time in
which replicas decode. Every system starts with the fleet that the first hour calls for. Tunings are chosen on seed {tuning}; the
figures are means over seeds {first} to {last}."""


def document(comparison: Comparison) -> dict[str, Any]:
    """Return the figures, one object for each run."""

    def lines(results: Iterable[tuple[tuple[str, int], Outcomes]]) -> list[dict[str, Any]]:
        return [
            {
                "trace": name,
                "load": load,
                "system": entrant.system,
                "tuning": entrant.tuning,
                **{figure: round(value, 3) for figure, value in asdict(outcome).items()},
            }
            for (name, load), outcomes in results
            for entrant, outcome in outcomes.items()
        ]

    return {
        "gates": [{**asdict(gate), "figure": round(gate.figure, 4), "holds": gate.holds} for gate in comparison.gates],
        "results": lines(comparison.fresh.items()),
        "tuning": lines(comparison.tuned.items()),
    }


def as_json(comparison: Comparison) -> str:
    """Write the figures, a line for each run."""
    parts = []
    for key, lines in document(comparison).items():
        body = ",\n".join(f"  {json.dumps(line)}" for line in lines)
        parts.append(f' "{key}": [\n{body}\n ]')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def gates_table(comparison: Comparison) -> str:
    """Return the bounds as a Markdown table."""
    lines = ["| bound | is | at most | | |", "| :-- | --: | --: | :-- | :-- |"]
    for gate in comparison.gates:
        verdict = "holds" if gate.holds else "**fails**"
        lines.append(f"| {gate.name} | {gate.figure:.2f} | {gate.bound:.2f} | {verdict} | {gate.explanation} |")
    return "\n".join(lines)


def course_table(comparison: Comparison, outcomes: Outcomes) -> str:
    """Return the best of each system as a Markdown table."""
    heads = (
        "scaler",
        "missed, %",
        "GPU-h",
        "US$",
        "p50, s",
        "p95, s",
        "p99, s",
        "ups",
        "interrupted",
        "lost",
        "drain, s",
        "used, %",
    )
    lines = [f"| {' | '.join(heads)} |", "| :-- |" + " --: |" * (len(heads) - 1)]
    for entrant in shown(comparison.own, outcomes, level(outcomes)):
        outcome = outcomes[entrant]
        lines.append(
            f"| {entrant.name} | {outcome.missed_percent:.1f} | {outcome.gpu_hours:.1f} | {outcome.dollars:.2f} "
            f"| {outcome.wait_p50_seconds:.1f} | {outcome.wait_p95_seconds:.1f} | {outcome.wait_p99_seconds:.1f} "
            f"| {outcome.scale_ups:.0f} | {outcome.interruptions:.1f} | {outcome.lost_windows:.0f} "
            f"| {outcome.longest_backlog_seconds:.0f} | {outcome.utilization_percent:.0f} |"
        )
    return "\n".join(lines)


def markdown(comparison: Comparison, plan: Plan) -> str:
    """Write the report."""
    method = METHOD.format(tuning=TUNING_SEEDS[0], first=FIRST_FRESH_SEED, last=FIRST_FRESH_SEED + plan.fresh_seeds - 1)
    parts = [
        "# Scaling next to HPA, KEDA, Knative and KubeAI",
        "Made by `python -m benchmarks.scaling`; the same figures, and those of every tuning, are in `scaling.json`.",
        "## What is held",
        gates_table(comparison),
        "![Pareto fronts of GPU-hours and missed waits](scaling.png)",
        "## How",
        method,
        "## The best of each system",
        "In its tuning of fewest GPU-hours at no more missed audio than the heading says: 5 %, or what ours can hold.",
    ]
    for (name, load), outcomes in comparison.fresh.items():
        parts += [f"### {name} at {load}x, up to {level(outcomes):.1f} % missed", course_table(comparison, outcomes)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Simulate, print, write the report; the exit code is 1 where a bound fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write, without .json, .md and .png")
    parser.add_argument("--hours", type=float, default=24.0, help="how long each trace is")
    parser.add_argument("--seeds", type=int, default=5, help="draws that the figures are means of")
    parser.add_argument("--traces", default=",".join(TRACES), help="which traces, by comma")
    parser.add_argument("--load", default="1,10", help="times the files, by comma")
    options = parser.parse_args()
    loads = tuple(int(load) for load in options.load.split(","))
    plan = Plan(tuple(options.traces.split(",")), loads, options.hours, options.seeds)
    told_at = perf_counter()

    def report(run: str) -> None:
        nonlocal told_at
        if perf_counter() > told_at + SECONDS_BETWEEN_LINES:
            told_at = perf_counter()
            print(run, file=sys.stderr, flush=True)

    comparison = compare(World(), plan, report)
    print(gates_table(comparison))
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.with_suffix(".json").write_text(as_json(comparison), encoding="utf-8")
    options.report.with_suffix(".md").write_text(markdown(comparison, plan), encoding="utf-8")
    draw(comparison, options.report.with_suffix(".png"))
    sys.exit(not all(gate.holds for gate in comparison.gates))


if __name__ == "__main__":
    main()
