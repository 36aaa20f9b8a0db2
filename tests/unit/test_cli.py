"""What the command line refuses before it does anything, and the pure parts of `transcriber transcribe`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from transcriber_cli.__main__ import app
from transcriber_cli.transcribe import first_difference, summary
from transcriber_engine.result import Segment, Speculation, Transcript


def transcript(*tokens: int, drafted: int = 0, accepted: int = 0) -> Transcript:
    segment = Segment(
        id=0, start_seconds=0, end_seconds=2, text="", tokens=tokens, avg_logprob=0, no_speech_prob=0, compression_ratio=1
    )
    speculation = Speculation(cycles=4, output_tokens=10, draft_tokens=drafted, accepted_tokens=accepted)
    return Transcript(text="", language="en", duration_seconds=30, segments=(segment,), speculation=speculation)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "TERM": "dumb"})
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["transcribe"], ["doctor"], ["status"], ["repository", "build"], ["repository", "show"]]
)
def test_help_teaches_with_an_example(command: list[str]) -> None:
    status, text = run(*command, "--help")
    assert status == 0
    assert f"transcriber {' '.join(command)}".strip() in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve"], "give either -f FILE or --repository DIR"),
        (["serve", "-f", "a.yaml", "--volume", "weights"], "'weights' is not of the form CLAIM=DIR"),
        (["serve", "-f", "a.yaml", "--volume", "weights=/absent"], "/absent is not a folder"),
        (["transcribe", "-", "-"], "stdin can be read once"),
        (["transcribe", "a.wav", "b.wav", "--format", "srt"], "srt of several files would run together; add --output-dir DIR"),
        (["transcribe", "x/a.wav", "y/a.mp3", "--output-dir", "out"], "2 files would be written to a.txt"),
        (["transcribe", "a.wav", "--prompt", "x" * 2001], "has 2001 characters; at most 2000"),
        (["transcribe", "a.wav", "--hotwords", "x" * 1001], "has 1001 characters; at most 1000"),
        (["transcribe", "a.wav", "--format", "doc"], "'doc' is not one of"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(arguments: list[str], words: str) -> None:
    status, text = run(*arguments)
    assert status == 2
    assert words in text


def test_a_spec_with_errors_is_refused_with_a_line_for_each(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(
        "apiVersion: serving.transcriber.dev/v1alpha1\nkind: TranscriberDeployment\nmetadata: {name: a}\nspec: {modell: {}}\n"
    )
    status, text = run("repository", "build", "-f", str(file), "--root", str(tmp_path))
    assert status == 1
    assert f"{file}:4: spec.modell: " in text
    assert "Traceback" not in text


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    for command in ("show", "verify"):
        status, text = run("repository", command, str(tmp_path))
        assert status == 1
        assert "READY: is missing" in text


def test_first_difference_is_none_where_all_tokens_are_equal() -> None:
    assert first_difference(transcript(1, 2, 3), transcript(1, 2, 3)) is None


def test_first_difference_names_the_token_and_what_the_target_decodes() -> None:
    assert first_difference(transcript(1, 2, 3), transcript(1, 5, 3)) == "token 1 is 2; the target alone decodes 5"


def test_first_difference_names_a_missing_end() -> None:
    expected = "2 tokens; the target alone decodes 3, the same up to token 1"
    assert first_difference(transcript(1, 2), transcript(1, 2, 3)) == expected


def test_summary_adds_up_audio_and_speculation_over_all_files() -> None:
    line = summary([transcript(1, drafted=10, accepted=9), transcript(1, drafted=10, accepted=6)], elapsed_seconds=12)
    assert line == ("2 files: 60.0 s of audio in 12.0 s, 5.00 audio seconds per second; acceptance 75.0%, 2.50 tokens per cycle")


def test_summary_says_where_nothing_was_drafted() -> None:
    assert summary([transcript(1)], elapsed_seconds=10).endswith(
        "1 file: 30.0 s of audio in 10.0 s, 3.00 audio seconds per second; no drafts"
    )
