"""`transcriber simulate`: what a scaling would have cost and how long audio would have waited, next to other scalers."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from transcriber_api.loading import load as load_deployment
from transcriber_cli.console import CommandError, expected_errors, say, stderr, write_result
from transcriber_operator.simulation.comparison import Comparison, Plan, Report, compare
from transcriber_operator.simulation.configured import entrant_of
from transcriber_operator.simulation.contest import OWN, Entrant
from transcriber_operator.simulation.gates import Gate, Outcomes, cheapest, level, of_system
from transcriber_operator.simulation.outcome import Outcome
from transcriber_operator.simulation.recorded import TraceError, read_trace
from transcriber_operator.simulation.trace import TRACES, Trace
from transcriber_operator.simulation.world import World

REPORT_EVERY_RUNS: Final = 50  # where stderr is no terminal
MAX_LOAD: Final = 100
ALL_TRACES: Final = ",".join(TRACES)

TraceFile = Annotated[
    Path | None, typer.Option("--trace", help="A recorded trace: CSV with the columns time_s and audio_s.", metavar="FILE.csv")
]
Traces = Annotated[str, typer.Option(help="Which of the made-up traces, by comma.", metavar="NAMES")]
Loads = Annotated[str, typer.Option("--load", help="Times the files of a trace, by comma.", metavar="N,…")]
Seeds = Annotated[int, typer.Option(help="How many draws of each trace the results are means of.", min=1, max=100)]
Hours = Annotated[float, typer.Option(help="How long a made-up trace is.", min=1, max=168)]
Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--file", help="A TranscriberDeployment to compare; can be given again.", metavar="FILE.yaml"),
]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Draw GPU-hours against missed waits.", metavar="FILE.png")]
AsJson = Annotated[bool, typer.Option("--json", help="Print all results as JSON.")]


def simulate_command(
    trace: TraceFile = None,
    traces: Traces = ALL_TRACES,
    load: Loads = "1",
    seeds: Seeds = 3,
    hours: Hours = 24.0,
    file: Files = None,
    plot: PlotFile = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a day of work under this operator's scaling and under HPA, KEDA, Knative and KubeAI.

    The operator's own decisions run, not a model of them. How often does audio wait too long, and for how many GPU-hours?

    `transcriber simulate --traces steady,spike --seeds 1`

    With the files that you had (a line each: when it came and how long it is, in seconds) and the scaling that you plan:

    `transcriber simulate --trace monday.csv -f whisper.yaml --plot monday.png`

    Tunings of every system are tried on one draw of a trace; the best of them, and yours, are judged on others.
    """
    with expected_errors():
        plan = Plan(
            traces=tuple(_names(traces)),
            loads=tuple(_loads(load)),
            hours=hours,
            fresh_seeds=seeds,
            recorded=None if trace is None else _read(trace),
            more=tuple(entrant_of(load_deployment(path), str(path), World().service) for path in file or ()),
        )
        draw = None if plot is None else _plotter()
        with _progress() as report:
            comparison = compare(World(), plan, report)
        if draw is not None and plot is not None:
            draw(comparison, plot)
            say(f"drawn: {plot}")
        if as_json:
            write_result(json.dumps(as_document(comparison), indent=2))
            return
        show(Console(highlight=False), comparison)


def as_document(comparison: Comparison) -> dict[str, Any]:
    """Return all results, for JSON."""

    def lines(results: Iterable[tuple[tuple[str, int], Outcomes]]) -> list[dict[str, Any]]:
        return [
            {"trace": name, "load": load, "system": entrant.system, "tuning": entrant.tuning, **asdict(outcome)}
            for (name, load), outcomes in results
            for entrant, outcome in outcomes.items()
        ]

    return {
        "results": lines(comparison.fresh.items()),
        "tuning": lines(comparison.tuned.items()),
        "gates": [{**asdict(gate), "holds": gate.holds} for gate in comparison.gates],
    }


def show(console: Console, comparison: Comparison) -> None:
    """Print a table for each trace, then the bounds."""
    for (name, load), outcomes in comparison.fresh.items():
        console.print(_table(f"{name} at {load}x", comparison.own, outcomes))
        console.print()
    console.print(_gates(comparison.gates))


def shown(own: Entrant, outcomes: Outcomes, most_missed_percent: float) -> list[Entrant]:
    """Return ours with its defaults, and the best tuning of every system (a deployment that was given is a system)."""
    systems = dict.fromkeys(entrant.system for entrant in outcomes)
    best = (entrant for system in systems for entrant in cheapest(of_system(outcomes, system), most_missed_percent))
    return list(dict.fromkeys((own, *best)))


def _names(traces: str) -> Iterator[str]:
    for name in traces.split(","):
        if name not in TRACES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(TRACES)}", param_hint="--traces")
        yield name


def _loads(loads: str) -> Iterator[int]:
    for text in loads.split(","):
        if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_LOAD):
            raise typer.BadParameter(f"{text!r} is not a whole number from 1 to {MAX_LOAD}", param_hint="--load")
        yield int(text)


def _read(path: Path) -> Trace:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            return read_trace(lines, str(path))
    except OSError as error:
        raise CommandError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: is not UTF-8 text; a trace is CSV with the columns time_s and audio_s") from None
    except TraceError as error:
        raise CommandError(str(error)) from None


@contextmanager
def _progress() -> Iterator[Report]:
    """Show which run is on, with the elapsed time; a line now and then where stderr is no terminal."""
    runs = 0
    columns = (SpinnerColumn(), TextColumn("{task.completed} runs, {task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as spinner:
        task = spinner.add_task("", total=None)

        def report(run: str) -> None:
            nonlocal runs
            runs += 1
            spinner.update(task, description=run, completed=runs)
            if not stderr.is_terminal and runs % REPORT_EVERY_RUNS == 0:
                say(f"{runs} runs, {run}")

        yield report


def _table(title: str, own: Entrant, outcomes: Outcomes) -> Table:
    """The default of ours, what was given with -f, and the best tuning of every system."""
    most = level(outcomes)
    table = Table(title=f"{title}: the best of each at up to {most:.1f} % of audio missed", title_justify="left", box=None)
    table.add_column("Scaler", min_width=12)
    for column in ("Missed\n%", "GPU-h", "US$", "Wait p50/\n95/99, s", "Ups", "Lost", "Drain\ns", "Used\n%"):
        table.add_column(column, justify="right", no_wrap=True)
    for entrant in shown(own, outcomes, most):
        style = "bold" if entrant.system == OWN else None
        table.add_row(Text(entrant.name), *_figures(outcomes[entrant]), style=style)
    return table


def _figures(outcome: Outcome) -> tuple[str, ...]:
    waits = (outcome.wait_p50_seconds, outcome.wait_p95_seconds, outcome.wait_p99_seconds)
    return (
        f"{outcome.missed_percent:.1f}",
        f"{outcome.gpu_hours:.1f}",
        f"{outcome.dollars:.2f}",
        "/".join(f"{wait:.0f}" for wait in waits),
        f"{outcome.scale_ups:.0f}",
        f"{outcome.lost_windows:.0f}",
        f"{outcome.longest_backlog_seconds:.0f}",
        f"{outcome.utilization_percent:.0f}",
    )


def _gates(gates: Iterable[Gate]) -> Table:
    table = Table("What is held", "Is", "At most", "", "", box=None)
    for gate in gates:
        verdict = Text("holds", style="green") if gate.holds else Text("fails", style="red")
        table.add_row(Text(gate.name), f"{gate.figure:.2f}", f"{gate.bound:.2f}", verdict, Text(gate.explanation))
    return table


def _plotter() -> Callable[[Comparison, Path], None]:
    """Return the function that draws; raises CommandError before any run where matplotlib is missing."""
    try:
        from transcriber_cli.pareto import draw
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise CommandError("--plot needs matplotlib: pip install 'transcriber-operator[plot]'") from None
    return draw
