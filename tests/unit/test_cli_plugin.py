"""`kubectl transcriber`: the program that kubectl looks for, and what it calls itself."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from transcriber_cli.plugin import main


def test_the_program_has_the_name_that_kubectl_looks_for(root_dir: Path) -> None:
    scripts = tomllib.loads((root_dir / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["kubectl-transcriber"].partition(":")
    assert getattr(import_module(module), function) is main


@pytest.mark.parametrize("command", [[], ["doctor"], ["status"], ["transcribe"], ["explain"]])
def test_usage_is_what_the_user_typed(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubectl-transcriber", *command, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert f"Usage: {' '.join(['kubectl transcriber', *command])} " in capsys.readouterr().out
