"""The report on Int8 next to Float32: its factors are those of the figures, and what is heard differently is shown."""

import json
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whisper-normalizer holds escapes that Python warns of when it compiles them
    from benchmarks.quantization import Accuracy, Speed, as_json, markdown
    from benchmarks.word_error_rate import Errors

SPEED = Speed("encode a window", "s", {"float32": [0.6, 0.9, 0.8], "int8": [0.3, 0.3, 0.2]})
ACCURACIES = {
    "float32": Accuracy({"a.flac": "one two", "b.flac": "three"}, Errors(10, 1, 0, 0)),
    "int8": Accuracy({"a.flac": "one too", "b.flac": "three"}, Errors(10, 2, 0, 0)),
}


def test_the_factor_is_the_median_of_the_repetitions_factors() -> None:
    assert SPEED.ratio == 3.0


def test_the_report_has_errors_times_and_the_texts_that_differ() -> None:
    report = markdown(ACCURACIES, [SPEED])
    assert "| word error rate of 10 words, % | 10.00 | 20.00 | |" in report
    assert "| encode a window, ms | 800.00 | 300.00 | 3.00× |" in report
    assert "1 of 2 recordings\n\n`a.flac`\n- float32: one two\n- int8: one too" in report
    assert "b.flac" not in report


def test_the_figures_can_be_read_again() -> None:
    figures = json.loads(as_json(ACCURACIES, [SPEED]))
    assert figures["word_error_percent"] == {"float32": 10.0, "int8": 20.0}
    assert figures["seconds"]["encode a window, s"] == {"float32": [0.6, 0.9, 0.8], "int8": [0.3, 0.3, 0.2], "ratio": 3.0}
