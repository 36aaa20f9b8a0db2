"""Word error rate of this engine and of faster-whisper on the repository's recordings: `python -m benchmarks.word_error_rate`.

Both take the same files and the same whisper-base, in float32 on CPU: ours through the whole pipeline with the draft, theirs from
the CTranslate2 folder. Both are told the language, decode greedily and carry no text from one window to the next. faster-whisper is
measured twice: as it comes, with speech detection, where it fills a short window up with zeros in the log-mel; and with recordings
shorter than a window padded with silence to 30 s beforehand, as Whisper was trained on, without speech detection. Ours is held
against the better of the two.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import jiwer
import numpy as np
from benchmarks.pipeline import Pipeline
from benchmarks.recordings import ROOT, Recording, recordings, samples_of
from benchmarks.whisper_base import build_weights
from examples.models.assemble import FOLDER, assemble
from faster_whisper import WhisperModel
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from transcriber_engine.audio import Samples
from transcriber_engine.mel import WINDOW_SAMPLES
from transcriber_engine.result import Speculation
from transcriber_engine.settings import EngineSettings, Options

OURS: Final = "ours"
THEIRS: Final = ("faster-whisper", "faster-whisper, padded")
ENGINES: Final = (OURS, *THEIRS)
BOUND_POINTS: Final = 0.5  # how much worse in total ours may be, in percentage points
UNSPACED: Final = frozenset({"ja", "zh"})  # written without spaces: each letter counts as a word, as in the Whisper paper
UNCOUNTED: Final = "count to ten"  # digits are as right as words there, and no normaliser says so in every language
REPORT: Final = ROOT / "docs" / "benchmarks" / "word-error-rate"
SETTINGS: Final = EngineSettings(slots=4, draft="model", max_draft_tokens=8)
METHOD: Final = """\
Whisper-base in float32 on CPU, language given, greedy, no text carried from one window to the next. Ours: the whole pipeline with
Silero speech detection and the draft. faster-whisper: `beam_size=1`, `temperature=0.0`, `condition_on_previous_text=False`, the
rest as it comes; in its first column with `vad_filter=True`, where it fills a window shorter than 30 s up with zeros in the
log-mel, which is not what silence looks like there; in its second with `vad_filter=False` and recordings shorter than 30 s padded
with silence to 30 s beforehand. Ours is held against the better of the two.

Texts are normalised by whisper-normalizer: its English normaliser for English, its basic one, with marks kept, for the others.
Chinese and Japanese are split into letters (grapheme clusters): their figure is a character error rate, and a letter counts as a
word in the total. Recordings that count to ten are left out: digits are as right as words there."""


@dataclass(frozen=True)
class Errors:
    """Words of a reference, and the least changes that turn it into what was heard."""

    words: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def percent(self) -> float:
        """Word error rate: changes per hundred words of the reference; above 100 where more is heard than was said."""
        return 100 * (self.substitutions + self.deletions + self.insertions) / self.words


@dataclass(frozen=True)
class Line:
    """What each engine heard in one recording, and how it differs from what was said."""

    recording: Recording
    heard: Mapping[str, str]
    errors: Mapping[str, Errors]


@dataclass(frozen=True)
class Measurement:
    """All recordings, and what speculation did."""

    lines: tuple[Line, ...]
    speculation: Speculation

    def total(self, engine: str) -> Errors:
        """Add up: a long recording counts by its words."""
        counts = [list(asdict(line.errors[engine]).values()) for line in self.lines]
        return Errors(*(sum(column) for column in zip(*counts, strict=True)))

    @property
    def worse_by_points(self) -> float:
        """How many percentage points ours is in total above the better of theirs; negative where it is below both."""
        return self.total(OURS).percent - min(self.total(engine).percent for engine in THEIRS)


def normaliser(language: str) -> Callable[[str], str]:
    """Return Whisper's own text normaliser: English spelling and numbers, or case and punctuation alone.

    Marks are kept, since Devanagari writes vowels with them.
    """
    if language == "en":
        return EnglishTextNormalizer()  # type: ignore[no-any-return]
    return BasicTextNormalizer(split_letters=language in UNSPACED, preserve_marks=True)  # type: ignore[no-any-return]


def count_errors(said: str, heard: str, language: str) -> Errors:
    """Compare two texts word by word after normalising both; `said` must hold a word."""
    normalise = normaliser(language)
    found = jiwer.process_words(normalise(said), normalise(heard))
    words = found.hits + found.substitutions + found.deletions
    return Errors(words, found.substitutions, found.deletions, found.insertions)


def measured_recordings() -> list[Recording]:
    """Return the recordings whose text has one right form."""
    return [recording for recording in recordings() if recording.kind != UNCOUNTED]


def measure(source: Path, weights: Path, chosen: Sequence[Recording]) -> Measurement:
    """Transcribe each recording with every engine: `source` is whisper-base for CTranslate2, `weights` what a build makes of it."""
    theirs = WhisperModel(str(source), device="cpu", compute_type="float32")
    lines, speculation = [], Speculation()
    with Pipeline(weights, SETTINGS) as ours:
        for recording in chosen:
            transcript = ours.transcribe(recording.path.read_bytes(), Options(language=recording.language))
            speculation += transcript.speculation
            texts = (transcript.text, *transcribe_theirs(theirs, recording))
            heard = dict(zip(ENGINES, texts, strict=True))
            errors = {engine: count_errors(recording.text, text, recording.language) for engine, text in heard.items()}
            lines.append(Line(recording, heard, errors))
    return Measurement(tuple(lines), speculation)


def transcribe_theirs(model: WhisperModel, recording: Recording) -> tuple[str, str]:
    """Transcribe with faster-whisper as it comes, and with a short recording padded; all else as close to ours as it goes."""
    samples = samples_of(recording.path)
    silence = np.zeros(max(WINDOW_SAMPLES - samples.shape[0], 0), np.float32)
    padded = np.concatenate([samples, silence])

    def text(audio: str | Samples, *, vad_filter: bool) -> str:
        segments, _ = model.transcribe(
            audio,
            language=recording.language,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            vad_filter=vad_filter,
        )
        return " ".join(segment.text.strip() for segment in segments)

    return text(str(recording.path), vad_filter=True), text(padded, vad_filter=False)


def table(measurement: Measurement) -> str:
    """Return a Markdown table, one row for each recording and the total last."""
    rows = [(line.recording.path.name, line.errors) for line in measurement.lines]
    rows.append(("**total**", {engine: measurement.total(engine) for engine in ENGINES}))
    width = max(len(name) for name, _ in rows)
    heads = [f"{engine}, %" for engine in ENGINES]
    lines = [
        f"| {'recording':{width}} | words | {' | '.join(heads)} |",
        f"| {'-' * width} | ----: | {' | '.join('-' * (len(head) - 1) + ':' for head in heads)} |",
    ]
    for name, errors in rows:
        cells = [f"{errors[engine].percent:{len(head)}.2f}" for engine, head in zip(ENGINES, heads, strict=True)]
        lines.append(f"| {name:{width}} | {errors[OURS].words:5} | {' | '.join(cells)} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of what was measured."""
    names = ("transcriber-operator", "faster-whisper", "ctranslate2", "torch", "jiwer", "whisper-normalizer")
    return {name: version(name) for name in names}


def verdict(measurement: Measurement) -> str:
    """Say in a sentence whether the bound holds."""
    totals = ", ".join(f"{engine} {measurement.total(engine).percent:.2f} %" for engine in ENGINES)
    worse = measurement.worse_by_points
    held = f"the bound of +{BOUND_POINTS} points {'holds' if worse <= BOUND_POINTS else 'is broken'}"
    return f"In total: {totals}. Ours is {worse:+.2f} points from the better of theirs; {held}."


def markdown(measurement: Measurement) -> str:
    """Write the report."""
    speculation = measurement.speculation
    differing = [line for line in measurement.lines if len(set(line.heard.values())) > 1]
    parts = [
        "# Word error rate next to faster-whisper",
        "Made by `python -m benchmarks.word_error_rate`; the same figures are in `word-error-rate.json`.",
        verdict(measurement),
        table(measurement),
        METHOD,
        f"Speculation: {speculation.acceptance:.1%} of {speculation.draft_tokens} drafted tokens were accepted.",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()) + ".",
        f"## Where the texts differ: {len(differing)} of {len(measurement.lines)} recordings",
        *(_texts(line) for line in differing),
    ]
    return "\n\n".join(parts) + "\n"


def _texts(line: Line) -> str:
    heard = [f"- {engine}: {text}" for engine, text in line.heard.items()]
    return "\n".join([f"`{line.recording.path.name}`", f"- said: {line.recording.text}", *heard])


def as_json(measurement: Measurement) -> str:
    """Write the figures and texts."""

    def figures(errors: Errors) -> dict[str, float]:
        return {**asdict(errors), "percent": round(errors.percent, 2)}

    content = {
        "bound_points": BOUND_POINTS,
        "worse_by_points": round(measurement.worse_by_points, 2),
        "total": {engine: figures(measurement.total(engine)) for engine in ENGINES},
        "speculation": measurement.speculation.model_dump(),
        "versions": versions(),
        "recordings": [
            {
                "file": line.recording.path.name,
                "language": line.recording.language,
                "kind": line.recording.kind,
                "said": line.recording.text,
                **{engine: {"heard": line.heard[engine], **figures(line.errors[engine])} for engine in ENGINES},
            }
            for line in measurement.lines
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Measure, print, write the report; the exit code is 1 where the bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.word_error_rate", description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT, help="where to write, without .json and .md")
    report = parser.parse_args().report
    assemble(FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        measurement = measure(FOLDER, build_weights(FOLDER, Path(folder) / "weights"), measured_recordings())
    print(f"{table(measurement)}\n\n{verdict(measurement)}")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.with_suffix(".json").write_text(as_json(measurement), encoding="utf-8")
    report.with_suffix(".md").write_text(markdown(measurement), encoding="utf-8")
    sys.exit(measurement.worse_by_points > BOUND_POINTS)


if __name__ == "__main__":
    main()
