"""The picture: windows a second of every peer, at 1, 4 and 16."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.engine.claims import ENGLISH
from benchmarks.engine.figures import Record, clips_of, speed
from benchmarks.engine.lineup import ENTRANTS

COLOURS: Final = {"ours": "#0b6e4f", "fw": "#b35c00", "hf": "#4a5fa5", "openai": "#777777"}
CONCURRENCIES: Final = (1, 4, 16)


def bars(records: Sequence[Record]) -> dict[int, list[tuple[str, float]]]:
    """Return by concurrency (name, windows a second), the fastest last; who takes one at a time is as fast for many clients."""
    found: dict[int, list[tuple[str, float]]] = {}
    for at in CONCURRENCIES:
        runs = {
            name: clips_of(records, ENGLISH, name, at) or (clips_of(records, ENGLISH, name, 1) if e.way == "one at a time" else [])
            for name, e in ENTRANTS.items()
        }
        speeds = [(name, speed(own).windows_per_second) for name, own in runs.items() if own]
        found[at] = sorted(speeds, key=lambda pair: pair[1])
    return found


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    records = [record for section in document["sections"].values() for record in section["records"]]
    drawn = bars(records)
    figure, axes = pyplot.subplots(1, len(drawn), figsize=(15, 4.8), sharex=True, layout="constrained")
    for axis, (at, found) in zip(axes, drawn.items(), strict=True):
        colours = [COLOURS[name.split("-")[0]] for name, _ in found]
        shown = axis.barh([ENTRANTS[name].title for name, _ in found], [value for _, value in found], color=colours)
        axis.bar_label(shown, fmt="%.2f", padding=3, fontsize=8)
        axis.set_title(f"{at} at once")
        axis.set_xlabel("windows of 30 s a second")
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.15)
    figure.suptitle(f"whisper-base on {document['about']['cores']} cores of {document['about']['cpu']}, medians of rounds")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
