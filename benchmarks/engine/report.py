"""The report as Markdown, from the records alone."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Final

from benchmarks.engine.claims import ENGLISH, MEBIBYTE, claims, draft_ratios, machine_of
from benchmarks.engine.figures import Record, clips_of, distance, flatness, most_differing, of_kind, queued, ratios, share, speed
from benchmarks.engine.lineup import ENTRANTS, LIMITED
from benchmarks.engine.roofline import FORMULA, Counts, Machine, least_by_part

CONDITIONS: Final = """\
Every peer has a process of its own and all cores; they run the same audio in turn, round after round, and a ratio is the median of
the rounds' own ratios. All are told the language, decode greedily without timestamps, beams, temperature fallback or text of the
window before, and at most 224 tokens of a window. A time runs from samples to text: log-mel, encoder and decoder. Clients send
at once and each sends its next window when it has its answer; a peer that takes one window at a time lets them stand in line
(its rows at 4 and 16 follow from its run at 1). The windows at 16 are those at 1, twice. Weights are whisper-base's; Hugging Face
runs them in its own generation loop with SDPA; its assistant is our draft, as a decoder that shares the encoder.
faster-whisper's batched pipeline is told the windows as clips of one file."""
SPEED_HEADS: Final = (
    "peer", "takes windows", "windows/s", "tokens/s", "audio s/s", "p50, s", "p95, s", "time over ours", "peak MiB",
    "windows unlike Hugging Face", "unlike ours without draft",
)  # fmt: skip


def markdown(document: Mapping[str, Any]) -> str:
    """Write the report of a document, whose sections may be of different runs."""
    records = [record for section in document["sections"].values() for record in section["records"]]
    parts = [
        "# The engine next to its peers",
        "Made by `make bench` (`python -m benchmarks.engine`); the records are in `engine.json`. [How to read it](README.md).",
        header(document),
        "## What must be shown",
        claims_table(records),
        "![Windows a second by peer and concurrency](engine.png)",
        "## Speed on English windows of 30 s",
        CONDITIONS,
        *(part for at in (1, 4, 16) for part in (f"### {at} at once", speed_table(records, ENGLISH, at))),
        "## Distance to the machine",
        distance_text(records),
        "## The draft",
        draft_table(records),
        "## Short clips",
        *(part for at in (1, 16) for part in (f"{at} at once:", speed_table(records, "short clips", at))),
        "## Long files",
        file_table(records),
        "## Sounds without speech",
        noise_table(records),
        "## Where the time goes",
        *profile_tables(records),
    ]
    left_out = of_kind(records, "left out")
    if left_out:
        reasons = sorted({f"- {ENTRANTS[r['peer']].title}: {r['reason']}" for r in left_out})
        parts += ["## Left out", "\n".join(reasons)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table, its columns aligned."""
    if not rows:
        return "Not measured."
    widths = [max(len(line[i]) for line in (heads, *rows)) for i in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def header(document: Mapping[str, Any]) -> str:
    """Say on what and when."""
    about = document["about"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    runs = [
        (
            name,
            s["date"],
            f"{s['seconds']:.0f} s",
            str(s["rounds"]),
            f"`{s['command']}`" + (", interrupted" if s["interrupted"] else ""),
        )
        for name, s in document["sections"].items()
    ]
    machine = f"{about['cores']} cores of {about['cpu']}, Python {about['python']}; {versions}."
    return machine + "\n\n" + table(("section", "date", "took", "rounds", "command"), runs)


def claims_table(records: Sequence[Record]) -> str:
    """Table of what must be shown."""
    words = {True: "yes", False: "**no**", None: ""}
    return table(
        ("claim", "wanted", "measured", "met"), [(c.claim, c.wanted, c.measured, words[c.is_met]) for c in claims(records)]
    )


def speed_table(records: Sequence[Record], workload: str, at: int) -> str:
    """Table of every peer's speed; those that take one window at a time stand in it with their line of clients."""
    windows = max(
        (r["windows"] for r in of_kind(records, "clips") if (r["workload"], r["concurrency"]) == (workload, at)), default=0
    )
    memory = {r["peer"]: r["peak_bytes"] for r in of_kind(records, "memory")}
    ours = clips_of(records, workload, "ours", at)
    rows = []
    for name, entrant in ENTRANTS.items():
        runs = clips_of(records, workload, name, at)
        if not runs and windows and entrant.way == "one at a time":
            runs = [queued(run, at, windows) for run in clips_of(records, workload, name, 1)]
        if not runs:
            continue
        s, over = speed(runs), ratios(runs, ours)
        cells = [f"{s.windows_per_second:.3f}", f"{s.tokens_per_second:.1f}", f"{s.audio_seconds_per_second:.1f}"]
        cells += [f"{s.p50_seconds:.2f}", f"{s.p95_seconds:.2f}", f"{median(over):.2f}×" if over else ""]
        cells += [f"{memory[name] / MEBIBYTE:.0f}" if name in memory else ""]
        cells += [_count(most_differing(runs, other)) for other in ("hf", "ours-alone")]
        rows.append([entrant.title, entrant.way, *cells])
    return table(SPEED_HEADS, rows)


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def distance_text(records: Sequence[Record]) -> str:
    """Say how far our runs are from the least that the machine needs."""
    known = machine_of(records)
    shape = None if known is None else known[1]
    runs = {(name, at): clips_of(records, ENGLISH, name, at) for name in LIMITED for at in (1, 4, 16)}
    rows = [
        (ENTRANTS[name].title, str(at), f"{times:.2f}×")
        for (name, at), found in runs.items()
        if shape is not None and (times := distance(found, shape)) is not None
    ]
    if not rows:
        return "Not measured."
    machines = [Machine(**run["machine"]) for found in runs.values() for run in found if run.get("machine")]
    rates = f"Measured just before each of these runs: F = {span(each.flops for each in machines)} GFLOP/s in float32 products, "
    rates += (
        f"{span(each.half_flops for each in machines)} in bfloat16, R = {span(each.read_bytes for each in machines)} GB/s read."
    )
    return f"{table(('engine', 'at once', 'whole time over the limit'), rows)}\n\n{rates}\n\n{FORMULA}"


def span(rates: Iterable[float]) -> str:
    """Say from what to what some rates are, in billions a second."""
    billions = [rate / 1e9 for rate in rates]
    return f"{min(billions):.0f} to {max(billions):.0f}"


def draft_table(records: Sequence[Record]) -> str:
    """Table of what the draft does, on every workload that has it on and off."""
    whole, decode = draft_ratios(records), draft_ratios(records, "decode_seconds")
    rows = []
    for (workload, peer, at), times in whole.items():
        runs = clips_of(records, workload, peer, at)
        acceptance, tokens = share(runs, "accepted_tokens", "draft_tokens"), share(runs, "output_tokens", "row_cycles")
        windows = sum(run["windows"] for run in runs)
        seconds = [sum(run["figures"][name] for run in runs) / windows for name in ("encode_seconds", "decode_seconds")]
        cells = [f"{acceptance:.0%}", f"{tokens:.2f}", *(f"{value:.3f}" for value in seconds)]
        rows.append([workload, ENTRANTS[peer].title, str(at), f"{decode[workload, peer, at]:.2f}×", f"{times:.2f}×", *cells])
    heads = (
        "speech", "engine", "at once", "decoding alone, off over on", "whole time, off over on", "acceptance", "tokens a cycle",
        "encoding, s a window", "decoding, s a window",
    )  # fmt: skip
    return table(heads, rows)


def file_table(records: Sequence[Record]) -> str:
    """Table of the long files."""
    rows = []
    for kind in ("file", "hour"):
        runs = of_kind(records, kind)
        for name in dict.fromkeys(run["peer"] for run in runs):
            own = [run for run in runs if run["peer"] == name]
            speed_of = median(run["audio_seconds"] / run["seconds"] for run in own)
            errors, resident = own[-1]["errors"], own[-1]["resident_bytes"]
            memory = " → ".join(f"{value / MEBIBYTE:.0f}" for value in flatness(resident)) if resident else ""
            cuts = f"{errors['lost_at_cuts']}, {errors['doubled_at_cuts']}" if name.startswith("ours") else ""
            cells = [
                str(errors["said"]),
                str(own[-1]["pieces"]),
                cuts,
                f"{errors['lost_by_cuts']}, {errors['doubled_by_cuts']}" if "lost_by_cuts" in errors else "",
                f"{errors['lost_elsewhere']}, {errors['doubled_elsewhere']}",
            ]
            minutes = f"{own[-1]['audio_seconds'] / 60:.0f} min"
            title = ENTRANTS[name].title
            rows.append([title, minutes, f"{speed_of:.1f}", *cells, str(errors["misheard"]), memory])
    heads = (
        "peer", "audio", "audio s/s", "words said", "pieces", "lost, doubled at cuts", "… by cuts",
        "lost, doubled elsewhere", "misheard", "resident MiB, early → late",
    )  # fmt: skip
    note = """\
Synthetic sentences with pauses of 0.2 to 1.2 s, whose text is known. What was heard is aligned with it word by word; a word that is
missing or too many is at a cut when at most two heard words stand between them. It is so by the cut unless it is so without it:
where the sentence comes again away from cuts, in the sentences around the cut heard as one window, or in its own heard alone; that
is measured for the hour alone. Every peer detects speech by Silero and cuts in its own way; faster-whisper's pieces are its
segments, and say nothing of cuts."""
    return f"{note}\n\n{table(heads, rows)}"


def noise_table(records: Sequence[Record]) -> str:
    """Table of invented words a minute."""
    found = {(r["sound"], r["peer"], r["setting"]): r["words_per_minute"] for r in of_kind(records, "noise")}
    columns = list(dict.fromkeys((peer, setting) for _, peer, setting in found))
    heads = ["invented words a minute", *(f"{ENTRANTS[peer].title}: {setting}" for peer, setting in columns)]
    rows = [
        [sound, *(f"{found[sound, *column]:.0f}" if (sound, *column) in found else "" for column in columns)]
        for sound in dict.fromkeys(sound for sound, _, _ in found)
    ]
    return table(heads, rows)


def profile_tables(records: Sequence[Record]) -> list[str]:
    """Tables of where the time goes, and what the machine would allow to gain."""
    known, parts = machine_of(records), []
    for run in of_kind(records, "profile"):
        least = {} if known is None else least_by_part(known[1], known[0], Counts.from_json(run["counts"]))
        rows = []
        for part, seconds in sorted(run["parts"].items(), key=lambda item: -item[1]):
            floor = least.get(part, 0.0)
            each = [value / run["windows"] for value in (seconds, floor, seconds - floor)]
            cells = [f"{each[0] * 1000:.0f}", f"{seconds / run['seconds']:.0%}", f"{each[1] * 1000:.0f}", f"{each[2] * 1000:.0f}"]
            rows.append([part, *cells])
        parts += [f"{run['concurrency']} at once:", table(("part", "ms a window", "share", "least, ms", "left to gain, ms"), rows)]
    return parts or ["Not measured."]
