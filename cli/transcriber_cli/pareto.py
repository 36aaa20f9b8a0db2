"""Draws Pareto fronts of a comparison; imports matplotlib, so only where a plot is asked for."""

from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transcriber_cli.console import CommandError
from transcriber_operator.simulation.comparison import Comparison
from transcriber_operator.simulation.contest import OWN
from transcriber_operator.simulation.gates import Outcomes, front, of_system

COLUMNS: Final = 3
COLORS: Final = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#7f7f7f")
SHOWN_TIMES_OURS: Final = 3.0  # GPU-hours beyond so many times our cheapest are left out, as more misses than this are:
MOST_MISSED_PERCENT: Final = 60.0  # nobody would choose them
LEAST_WIDTH_INCHES: Final = 6.0  # for the legend
LEGEND_COLUMNS: Final = 4


def draw(comparison: Comparison, path: Path) -> None:
    """Draw GPU-hours against missed waits, one panel per trace, a front per system; raises CommandError."""
    courses = list(comparison.tuned.items())
    columns = min(COLUMNS, len(courses))
    rows = ceil(len(courses) / columns)
    figure = Figure(figsize=(max(5 * columns, LEAST_WIDTH_INCHES), 4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, course in zip_longest(panels, courses):
        if course is None:
            panel.set_axis_off()
        else:
            (name, load), outcomes = course
            _panel(panel, f"{name} at {load}x", outcomes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(LEGEND_COLUMNS, len(labels)))
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{path}: {error}; name a .png, .svg or .pdf file") from None


def _panel(panel: Axes, title: str, outcomes: Outcomes) -> None:
    most = SHOWN_TIMES_OURS * min(outcome.gpu_hours for outcome in of_system(outcomes, OWN).values())
    panel.set(title=title, xlim=(0, most), ylim=(0, MOST_MISSED_PERCENT))
    panel.set(xlabel="GPU-hours", ylabel="audio that waited too long, %")
    for system, color in zip(dict.fromkeys(entrant.system for entrant in outcomes), COLORS, strict=False):
        points = of_system(outcomes, system).values()
        best = front(points)
        panel.scatter([p.gpu_hours for p in points], [p.missed_percent for p in points], s=8, color=color, alpha=0.3)
        panel.plot(
            [p.gpu_hours for p in best],
            [p.missed_percent for p in best],
            marker="o",
            markersize=4,
            linewidth=2.5 if system == OWN else 1.2,
            color=color,
            label=system,
        )
