"""Int8 next to Float32 on CPU, word error rate and time: `python -m benchmarks.quantization`.

Both take the whole pipeline over the same recordings. Times are of one process, on cuts of the longest recording: in a repetition,
each precision encodes a window, then decodes one alone and sixteen together, from their encodings to so many tokens each, without
and with the draft; a factor is the median over the repetitions.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from benchmarks.pipeline import Pipeline
from benchmarks.recordings import ROOT, Recording, samples_of
from benchmarks.whisper_base import build_weights
from benchmarks.word_error_rate import SETTINGS, Errors, count_errors, measured_recordings
from examples.models.assemble import FOLDER, assemble
from torch import Tensor

from transcriber_engine.audio import SAMPLE_RATE_HZ
from transcriber_engine.decoding import DraftSource
from transcriber_engine.mel import WINDOW_SAMPLES, log_mel
from transcriber_engine.pair import DecoderPair
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.settings import Options
from transcriber_engine.weights import load_decoders, load_encoder
from transcriber_engine.window import Job, WindowRequest, WindowTokens

PRECISIONS: Final = ("float32", "int8")
ROWS: Final = (1, 16)
SOURCES: Final[tuple[DraftSource, ...]] = ("none", "model")
REPETITIONS: Final = 3
TOKENS: Final = 48  # of a window that is timed
CUTS: Final = 4  # of the longest recording, a second after each other; taken in turn until there are windows enough
REPORT: Final = ROOT / "docs" / "benchmarks" / "quantization"


@dataclass(frozen=True)
class Accuracy:
    """What a precision heard of each recording, and its errors in all of them."""

    heard: Mapping[str, str]
    errors: Errors


@dataclass(frozen=True)
class Speed:
    """Seconds of one kind of work in either precision, a figure for each repetition."""

    work: str
    unit: str
    seconds: Mapping[str, Sequence[float]]

    @property
    def ratio(self) -> float:
        """How many times faster int8 is: the median of the repetitions' ratios."""
        return median(full / rounded for full, rounded in zip(*(self.seconds[name] for name in PRECISIONS), strict=True))


def accuracy(weights: Path, precision: str, chosen: Sequence[Recording]) -> Accuracy:
    """Transcribe the recordings in a precision."""
    heard, errors = {}, []
    with Pipeline(weights, SETTINGS.model_copy(update={"precision": precision})) as pipeline:
        for recording in chosen:
            text = pipeline.transcribe(recording.path.read_bytes(), Options(language=recording.language)).text
            heard[recording.path.name] = text
            errors.append(count_errors(recording.text, text, recording.language))
    total = Errors(*(sum(getattr(each, name) for each in errors) for name in ("words", "substitutions", "deletions", "insertions")))
    return Accuracy(heard, total)


@torch.inference_mode()
def speeds(weights: Path, chosen: Sequence[Recording]) -> list[Speed]:
    """Time encoding, and decoding from the same float32 encodings."""
    longest = max((samples_of(each.path) for each in chosen), key=len)
    cuts = [longest[second * SAMPLE_RATE_HZ :][:WINDOW_SAMPLES] for second in range(CUTS)]
    mels = [torch.from_numpy(log_mel(cut, 80))[None] for cut in cuts]
    encoders = {precision: load_encoder(weights, precision, "cpu") for precision in PRECISIONS}
    pairs = {precision: load_decoders(weights, precision, "cpu") for precision in PRECISIONS}
    windows = list(islice(cycle([encoders["float32"](mel)[0] for mel in mels]), max(ROWS)))
    timed: dict[tuple[str, str], dict[str, Callable[[], float]]] = {
        ("encode a window", "s"): {name: _encoding(encoder, mels[0]) for name, encoder in encoders.items()}
    }
    for rows in ROWS:
        for source in SOURCES:
            work = f"decode {rows} window{'s' * (rows > 1)}, {'with' if source == 'model' else 'without'} the draft", "s/token"
            timed[work] = {name: _decoding(pair, windows[:rows], source) for name, pair in pairs.items()}
    for run in timed["encode a window", "s"].values():
        run()  # the decoders have warmed up already
    taken = [{work: {name: run() for name, run in runs.items()} for work, runs in timed.items()} for _ in range(REPETITIONS)]
    return [Speed(*work, {name: [each[work][name] for each in taken] for name in PRECISIONS}) for work in timed]


def _encoding(encoder: Callable[[Tensor], Tensor], mel: Tensor) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        encoder(mel)
        return time.perf_counter() - start

    return seconds


def _decoding(pair: DecoderPair, windows: Sequence[Tensor], source: DraftSource) -> Callable[[], float]:
    scheduler = Scheduler(pair, len(windows), source, SETTINGS.max_draft_tokens if source == "model" else 0)
    scheduler.calibrate()

    def seconds_of_a_token() -> float:
        outcomes: list[WindowTokens | BaseException] = []
        start = time.perf_counter()
        for hidden in windows:
            scheduler.submit(Job(WindowRequest(hidden, language="en", timestamps=True, max_new_tokens=TOKENS), outcomes.append))
        scheduler.run_until_idle()
        seconds = time.perf_counter() - start
        return seconds / sum(outcome.output_tokens for outcome in outcomes if isinstance(outcome, WindowTokens))

    return seconds_of_a_token


def markdown(accuracies: Mapping[str, Accuracy], measured: Sequence[Speed]) -> str:
    """Write the report."""
    full, rounded = (accuracies[precision] for precision in PRECISIONS)
    differing = [name for name in full.heard if full.heard[name] != rounded.heard[name]]
    lines = ["| | float32 | int8 | int8 is faster by |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| word error rate of {full.errors.words} words, % | {full.errors.percent:.2f} | {rounded.errors.percent:.2f} | |"]
    for speed in measured:
        before, after = (median(speed.seconds[name]) * 1000 for name in PRECISIONS)
        lines.append(f"| {speed.work}, m{speed.unit} | {before:.2f} | {after:.2f} | {speed.ratio:.2f}× |")
    texts = [f"`{name}`\n- float32: {full.heard[name]}\n- int8: {rounded.heard[name]}" for name in differing]
    parts = [
        "# Int8 next to Float32 on CPU",
        "Made by `python -m benchmarks.quantization`; the same figures are in `quantization.json`.",
        "\n".join(lines),
        f"Whisper-base and its draft, {torch.get_num_threads()} threads. Times are medians of {REPETITIONS} repetitions, those of "
        "both precisions taken in turn, and factors are medians of the repetitions' factors. Either precision is exact: its "
        "tokens are its own whatever is drafted or batched.",
        f"## Where the texts differ: {len(differing)} of {len(full.heard)} recordings",
        *texts,
    ]
    return "\n\n".join(parts) + "\n"


def as_json(accuracies: Mapping[str, Accuracy], measured: Sequence[Speed]) -> str:
    """Write the figures and texts."""
    content: dict[str, Any] = {
        "word_error_percent": {name: round(each.errors.percent, 2) for name, each in accuracies.items()},
        "seconds": {f"{speed.work}, {speed.unit}": {**speed.seconds, "ratio": round(speed.ratio, 3)} for speed in measured},
        "heard": {name: each.heard for name, each in accuracies.items()},
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Measure, print, write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write, without .json and .md")
    report = parser.parse_args().report
    assemble(FOLDER)
    chosen = measured_recordings()
    with tempfile.TemporaryDirectory() as folder:
        weights = build_weights(FOLDER, Path(folder) / "weights")
        measured = speeds(weights, chosen)
        accuracies = {precision: accuracy(weights, precision, chosen) for precision in PRECISIONS}
    report.parent.mkdir(parents=True, exist_ok=True)
    report.with_suffix(".json").write_text(as_json(accuracies, measured), encoding="utf-8")
    report.with_suffix(".md").write_text(markdown(accuracies, measured), encoding="utf-8")
    print(report.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
