"""Word error rate next to faster-whisper: the figures are right, and ours is not the worse.

On the short English recordings by default; `make thorough` takes the long one too.
"""

import json
import warnings
from pathlib import Path

import pytest
from benchmarks.recordings import recordings

from tests.engine.recordings import READING
from tests.thorough import THOROUGH
from transcriber_engine.result import Speculation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whisper-normalizer holds escapes that Python warns of when it compiles them
    from benchmarks.word_error_rate import (
        BOUND_POINTS,
        ENGINES,
        OURS,
        Errors,
        Line,
        Measurement,
        as_json,
        count_errors,
        markdown,
        measure,
        measured_recordings,
        table,
        verdict,
    )


@pytest.mark.timeout(600)
def test_on_the_english_recordings_ours_makes_no_more_errors_than_faster_whisper(whisper_base: Path, weights_dir: Path) -> None:
    english = [recording for recording in measured_recordings() if recording.language == "en"]
    english = [recording for recording in english if THOROUGH or recording.path != READING]
    measurement = measure(whisper_base, weights_dir, english)
    assert measurement.total(OURS).words >= (130 if THOROUGH else 10)
    assert measurement.worse_by_points <= BOUND_POINTS, markdown(measurement)
    assert measurement.speculation.accepted_tokens > (50 if THOROUGH else 5)  # the draft took part


@pytest.mark.parametrize(
    ("language", "said", "heard", "errors"),
    [
        pytest.param(
            "en", "The colour, I'm told: twenty-one.", "the color i am told 21", Errors(6, 0, 0, 0), id="English spelling"
        ),
        pytest.param("en", "one two", "", Errors(1, 0, 1, 0), id="nothing heard"),
        pytest.param("fr", "Portez ce vieux whisky!", "portez se vieux vieux whisky", Errors(4, 1, 0, 1), id="French"),
        pytest.param("hi", "नमस्ते दुनिया.", "नमस्ते दुनिये", Errors(2, 1, 0, 0), id="Devanagari keeps its vowels"),
        pytest.param("zh", "你好世界。", "你好 世", Errors(4, 0, 1, 0), id="Chinese by the letter"),
        pytest.param("ja", "こんにちは世界。", "こんにちわ世界", Errors(7, 1, 0, 0), id="Japanese by the letter"),
    ],
)
def test_errors_are_counted_after_normalising_as_the_language_is_written(
    language: str, said: str, heard: str, errors: Errors
) -> None:
    assert count_errors(said, heard, language) == errors


def measurement_of(*errors: tuple[int, int, int]) -> Measurement:
    """One recording of 100 words for each triple of substitutions: ours, theirs, theirs padded."""
    [recording, *_] = recordings()
    lines = [
        Line(
            recording,
            {engine: f"{engine} {count}" for engine, count in zip(ENGINES, counts, strict=True)},
            {engine: Errors(100, count, 0, 0) for engine, count in zip(ENGINES, counts, strict=True)},
        )
        for counts in errors
    ]
    return Measurement(tuple(lines), Speculation(cycles=10, output_tokens=30, draft_tokens=40, accepted_tokens=20))


@pytest.mark.parametrize(("ours", "holds"), [(10, True), (11, True), (12, False)])
def test_ours_is_held_against_the_better_of_theirs_over_all_recordings(ours: int, holds: bool) -> None:
    measurement = measurement_of((ours, 90, 5), (0, 0, 5))
    assert measurement.total(OURS) == Errors(200, ours, 0, 0)
    assert measurement.worse_by_points == pytest.approx((ours - 10) / 2)
    assert ("bound of +0.5 points holds" in verdict(measurement)) is holds


def test_report_tells_every_figure_and_every_text_that_differs() -> None:
    measurement = measurement_of((3, 7, 5))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table(measurement).splitlines()]
    assert rows[0] == ["recording", "words", "ours, %", "faster-whisper, %", "faster-whisper, padded, %"]
    assert rows[2] == ["a-tale-of-two-cities.flac", "100", "3.00", "7.00", "5.00"]
    assert rows[3] == ["**total**", "100", "3.00", "7.00", "5.00"]
    text = markdown(measurement)
    assert "- ours: ours 3\n- faster-whisper: faster-whisper 7\n" in text
    assert "50.0% of 40 drafted tokens" in text
    figures = json.loads(as_json(measurement))
    assert figures["worse_by_points"] == -2.0
    assert figures["recordings"][0]["faster-whisper"]["percent"] == 7.0


def test_every_recording_but_those_that_count_is_measured() -> None:
    left_out = {recording.path.name for recording in recordings()} - {recording.path.name for recording in measured_recordings()}
    assert len(measured_recordings()) >= 19
    assert len(left_out) == len({recording.language for recording in recordings()})  # one in each language
