"""What must be shown, what was measured, and whether it is met."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.engine.figures import Record, clips_of, distance, flatness, most_differing, of_kind, ratios
from benchmarks.engine.roofline import Machine, Shape

ENGLISH: Final = "English windows"
DRAFT_WORKLOADS: Final = ("real English", "other languages")
MEBIBYTE: Final = 1 << 20
FLAT_BYTES: Final = 64 * MEBIBYTE  # what an hour may add: allocators keep what they were given once
CYCLES_BYTES: Final = 64 << 10  # what ten thousand cycles may add to Python's own memory


@dataclass(frozen=True)
class Claim:
    """A line of the table; `is_met` is None where a figure is only to be told, or was not measured."""

    claim: str
    wanted: str
    measured: str
    is_met: bool | None


def claims(records: Sequence[Record]) -> list[Claim]:
    """Return every claim in its order."""
    speeds = [
        _ratio(records, "Hugging Face greedy", 1, 2.0, ("hf", 1), ("ours", 1)),
        _ratio(records, "Hugging Face greedy, one at a time", 16, 3.5, ("hf", 1), ("ours", 16)),
        _ratio(records, "Hugging Face greedy, static batch of 16", 16, 1.4, ("hf-batch", 16), ("ours", 16)),
        _ratio(records, "Hugging Face assisted by our draft", 1, 1.3, ("hf-assisted", 1), ("ours", 1)),
        _ratio(records, "faster-whisper fp32", 1, 1.15, ("fw", 1), ("ours", 1)),
        _ratio(records, "faster-whisper fp32, batched pipeline", 16, 1.3, ("fw-batch", 16), ("ours", 16)),
        _ratio(records, "faster-whisper int8, ours int8", 1, None, ("fw-int8", 1), ("ours-int8", 1)),
        _ratio(records, "faster-whisper int8 batched, ours int8", 16, None, ("fw-int8-batch", 16), ("ours-int8", 16)),
    ]
    return [
        _exact(records, "E1: tokens with draft, at any concurrency, through Triton or not, are those without draft", "ours-alone"),
        _exact(records, "E2: tokens are those of Hugging Face greedy", "hf"),
        *speeds,
        _decode(records, 1, 1.5),
        _decode(records, 16, 1.15),
        _never_slower(records),
        _distance(records, 1),
        _distance(records, 16),
        _triton(records),
        *_hour(records),
        _noise(records),
        _cycles(records),
    ]


def _exact(records: Sequence[Record], claim: str, other: str) -> Claim:
    ours = [r for r in of_kind(records, "clips") if r["peer"].startswith("ours") and "int8" not in r["peer"]]
    differing = most_differing(ours, other)
    if differing is None:
        return _unmeasured(claim, "0 windows differ")
    runs = [r for r in ours if r["differing"].get(other) is not None]
    names = sorted({name for r in runs for name in r["differing"][other]})
    windows = sum(r["windows"] for r in runs)
    found = f"{len(names)} windows differ ({', '.join(names)})" if names else "0 windows differ"
    return Claim(claim, "0 windows differ", f"{found}; {windows} compared", not names)


def _ratio(
    records: Sequence[Record], what: str, at: int, wanted: float | None, theirs: tuple[str, int], ours: tuple[str, int]
) -> Claim:
    claim = f"Speed at {at} over {what}"
    found = ratios(clips_of(records, ENGLISH, *theirs), clips_of(records, ENGLISH, *ours))
    return _judged(claim, wanted, found)


def _judged(claim: str, wanted: float | None, found: Sequence[float]) -> Claim:
    sought = "reported" if wanted is None else f"≥ {wanted:g}×"
    if not found:
        return _unmeasured(claim, sought)
    middle = median(found)
    return Claim(
        claim, sought, f"{middle:.2f}× ({min(found):.2f} to {max(found):.2f})", None if wanted is None else middle >= wanted
    )


def _unmeasured(claim: str, wanted: str) -> Claim:
    return Claim(claim, wanted, "not measured", None)


def _decode(records: Sequence[Record], at: int, wanted: float) -> Claim:
    off, on = (clips_of(records, DRAFT_WORKLOADS[0], peer, at) for peer in ("ours-alone", "ours"))
    return _judged(f"Draft on over off, decoding alone, real English, at {at}", wanted, ratios(off, on, "decode_seconds"))


def draft_ratios(records: Sequence[Record], seconds: str = "seconds") -> dict[tuple[str, str, int], float]:
    """Return by (workload, peer, concurrency) how many times faster our engine is with a draft than without: medians."""
    found = {}
    for workload in DRAFT_WORKLOADS:
        for peer in ("ours", "ours-wrong"):
            for at in (1, 16):
                each = ratios(clips_of(records, workload, "ours-alone", at), clips_of(records, workload, peer, at), seconds)
                if each:
                    found[workload, peer, at] = median(each)
    return found


def _never_slower(records: Sequence[Record]) -> Claim:
    claim = "Whole time with a draft, at its worst: another language, a draft that is always wrong"
    found = draft_ratios(records)
    if not found:
        return _unmeasured(claim, "≥ 0.95×")
    (workload, peer, at), worst = min(found.items(), key=lambda item: item[1])
    what = "a draft that is always wrong" if peer == "ours-wrong" else "our draft"
    return Claim(claim, "≥ 0.95×", f"{worst:.2f}× ({workload}, {what}, at {at})", worst >= 0.95)


def machine_of(records: Sequence[Record]) -> tuple[Machine, Shape] | None:
    """Return what was measured of the machine and the model's shape, if it was."""
    machines, shapes = of_kind(records, "machine"), of_kind(records, "shape")
    if not machines or not shapes:
        return None
    values = [{name: value for name, value in found[-1].items() if name != "kind"} for found in (machines, shapes)]
    return Machine(**values[0]), Shape.from_json(values[1])


def _distance(records: Sequence[Record], at: int) -> Claim:
    claim, known = f"Whole time at {at} over the machine's limit", machine_of(records)
    times = None if known is None else distance(clips_of(records, ENGLISH, "ours", at), known[1])
    if times is None:
        return _unmeasured(claim, "≤ 1.6×")
    return Claim(claim, "≤ 1.6×", f"{times:.2f}×", times <= 1.6)


def _triton(records: Sequence[Record]) -> Claim:
    claim = "Time that Triton adds at 16"
    found = ratios(clips_of(records, ENGLISH, "ours-triton", 16), clips_of(records, ENGLISH, "ours", 16))
    if not found:
        return _unmeasured(claim, "< 10 %")
    added = median(found) - 1
    return Claim(claim, "< 10 %", f"{added:+.0%}", added < 0.1)


def _hour(records: Sequence[Record]) -> list[Claim]:
    runs = of_kind(records, "hour")
    flat, cut = (
        "A file of an hour: memory after the first tenth and at the end",
        "A file of an hour: words lost and doubled by cuts",
    )
    if not runs:
        return [_unmeasured(flat, "flat"), _unmeasured(cut, "0")]
    run = runs[-1]
    early, late = flatness(run["resident_bytes"])
    errors = run["errors"]
    at_cuts = f"{errors['lost_at_cuts']}, {errors['doubled_at_cuts']}"
    # Where nothing was heard again without its cuts, all that is wrong at cuts is held against them.
    lost, doubled = (errors.get(f"{kind}_by_cuts", errors[f"{kind}_at_cuts"]) for kind in ("lost", "doubled"))
    return [
        Claim(flat, "flat", f"{early / MEBIBYTE:.0f} MiB, {late / MEBIBYTE:.0f} MiB", late - early < FLAT_BYTES),
        Claim(
            cut, "0",
            f"{lost} lost, {doubled} doubled (at cuts, with what is so without the cut: {at_cuts}); {errors['cuts']} cuts, "
            f"{errors['said']} words of {run['speech']}",
            lost + doubled == 0,
        ),
    ]  # fmt: skip


def _noise(records: Sequence[Record]) -> Claim:
    claim = "Invented words a minute, worst sound: guards and VAD on; faster-whisper with VAD"

    def worst(peer: str, setting: str) -> float | None:
        found = [r for r in of_kind(records, "noise") if (r["peer"], r["setting"]) == (peer, setting)]
        return max((r["words_per_minute"] for r in found), default=None)

    ours, theirs = worst("ours-files", "guards on, VAD"), worst("fw", "VAD")
    if ours is None or theirs is None:
        return _unmeasured(claim, "reported")
    return Claim(claim, "reported", f"{ours:.0f}; {theirs:.0f}", None)


def _cycles(records: Sequence[Record]) -> Claim:
    claim, runs = "Memory that ten thousand cycles add", of_kind(records, "cycles")
    if not runs:
        return _unmeasured(claim, "none")
    run = runs[-1]
    python, resident = run["python_bytes_grown"], run["resident_bytes_grown"]
    measured = f"{run['cycles']} cycles: {python / 1024:+.0f} KiB of Python objects, {run['tensors_grown']:+.0f} tensors, "
    measured += f"{resident / MEBIBYTE:+.1f} MiB resident"
    return Claim(claim, "none", measured, python < CYCLES_BYTES and run["tensors_grown"] <= 0)
