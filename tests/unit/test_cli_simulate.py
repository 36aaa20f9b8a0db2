"""`transcriber simulate`: what it prints, and what it refuses before it runs anything."""

import builtins
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from transcriber_cli.__main__ import app
from transcriber_operator.simulation.comparison import Comparison, Plan, Report, compare
from transcriber_operator.simulation.world import World

QUICK = ("--traces", "steady")


@pytest.fixture(scope="module")
def quick() -> Comparison:
    """An hour of the steady trace: what the tests of the output show."""
    return compare(World(), Plan(traces=("steady",), hours=1.0, fresh_seeds=1), lambda _: None)


@pytest.fixture
def compared(quick: Comparison, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    """Give every command that comparison, and have it tell of a hundred runs."""

    def told(world: World, plan: Plan, report: Report) -> Comparison:
        for number in range(100):
            report(f"run {number}")
        return quick

    monkeypatch.setattr("transcriber_cli.simulate.compare", told)
    return quick


def run(*arguments: str, columns: int = 100) -> Result:
    return CliRunner().invoke(app, ("simulate", *arguments), env={"COLUMNS": str(columns), "TERM": "dumb"})


def test_help_teaches_with_an_example() -> None:
    result = run("--help", columns=300)
    assert result.exit_code == 0
    assert "transcriber simulate --traces steady,spike --seeds 1" in result.output
    assert "transcriber simulate --trace monday.csv -f whisper.yaml --plot monday.png" in result.output


@pytest.mark.usefixtures("compared")
def test_a_table_shows_every_system_and_the_bounds_and_progress_goes_to_stderr() -> None:
    result = run(*QUICK)
    assert result.exit_code == 0
    for words in ("steady at 1x", "transcriber defaults", "HPA GPU util", "KEDA", "Knative", "KubeAI", "lost windows"):
        assert words in result.stdout
    assert "…" not in result.stdout
    assert "50 runs, run 49" in result.stderr


@pytest.mark.usefixtures("compared")
def test_json_has_results_tunings_and_bounds_and_nothing_else_is_on_stdout() -> None:
    result = run(*QUICK, "--json")
    document = json.loads(result.stdout)
    assert {line["system"] for line in document["results"]} >= {"transcriber", "HPA", "KEDA", "Knative", "KubeAI"}
    assert len(document["tuning"]) > len(document["results"])
    [lost] = [gate for gate in document["gates"] if gate["name"] == "lost windows"]
    assert lost["holds"] is True


def test_a_recorded_trace_and_a_deployment_are_compared(tmp_path: Path) -> None:
    trace, deployment = tmp_path / "monday.csv", tmp_path / "mine.yaml"
    trace.write_text("time_s,audio_s\n" + "".join(f"{10 * n},{45 + n}\n" for n in range(60)))
    deployment.write_text(
        "apiVersion: serving.transcriber.dev/v1alpha1\nkind: TranscriberDeployment\nmetadata: {name: mine}\n"
        f'spec: {{model: {{target: {{uri: "hf://openai/whisper-base", revision: {"a" * 40}}}}}, '
        "capacity: {provisioner: None, pools: [{name: here}]}}\n"
    )
    result = run("--trace", str(trace), "-f", str(deployment), "--seeds", "1", "--json")
    assert result.exit_code == 0, result.output
    results = json.loads(result.stdout)["results"]
    assert {line["trace"] for line in results} == {str(trace)}
    assert str(deployment) in {line["system"] for line in results}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--traces", "steady,stady"], "'stady' is not one of steady, diurnal, spike"),
        (["--load", "0"], "'0' is not a whole number from 1 to 100"),
        (["--load", "1,x"], "'x' is not a whole number"),
        (["--seeds", "0"], "'--seeds': Input should be greater than or equal to 1"),
        (["--hours", "0"], "'--hours': Input should be greater than or equal to 1"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_right(arguments: list[str], words: str) -> None:
    result = run(*arguments, columns=300)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"time_s,audio_s\n1,long\n", ":2: audio_s: 'long' is not a number of seconds"),
        (b"time_s,audio_s\n\xff,1\n", ": is not UTF-8 text"),
        (None, ": cannot be read: No such file"),
    ],
)
def test_a_bad_trace_is_refused_in_a_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "trace.csv"
    if content is not None:
        file.write_bytes(content)
    result = run("--trace", str(file))
    assert result.exit_code == 1
    assert f"error: {file}{words}" in result.stderr


def test_a_bad_deployment_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("kind: Pod\n")
    result = run("-f", str(file))
    assert result.exit_code == 1
    assert str(file) in result.stderr


@pytest.mark.usefixtures("compared")
def test_a_plot_without_matplotlib_names_the_extra_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without_matplotlib(name: str, *arguments: object) -> object:
        if name == "transcriber_cli.pareto":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    result = run(*QUICK, "--plot", str(tmp_path / "fronts.png"))
    assert result.exit_code == 1
    assert "--plot needs matplotlib: pip install 'transcriber-operator[plot]'" in result.stderr
    assert "runs" not in result.stderr


@pytest.mark.usefixtures("compared")
def test_a_plot_is_drawn_and_named(tmp_path: Path) -> None:
    file = tmp_path / "fronts.png"
    result = run(*QUICK, "--plot", str(file))
    assert result.exit_code == 0, result.output
    assert file.read_bytes().startswith(b"\x89PNG")
    assert f"drawn: {file}" in result.stderr


@pytest.mark.usefixtures("compared")
def test_a_plot_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    result = run(*QUICK, "--plot", str(tmp_path / "absent" / "fronts.png"))
    assert result.exit_code == 1
    assert "cannot be written: No such file" in result.stderr
