"""The chart's Prometheus rules: Prometheus' own promtool takes them, every alert fires and resolves, every runbook is there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import unavailable
from tests.monitoring.queries import ALERT_TESTS, ROOT, RULE_FILES, alerts, rules
from tests.rig.binaries import place
from tests.rig.recipes import RECIPES

SEVERITIES = {"critical", "warning", "info"}
RUNBOOKS = ROOT / "docs" / "runbooks"
RUNBOOK_HEADINGS = ["Meaning", "Impact", "Look at", "Fix"]


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' tool, from the cache of `make control-plane` or from PATH."""
    built = [place(recipe, os.environ) for recipe in RECIPES if recipe.name == "promtool"]
    found = [executable for executable in (*built, Path(shutil.which("promtool") or "")) if executable.is_file()]
    if not found:
        unavailable("promtool: not built on this machine and not on PATH; run `make control-plane`")
    return found[0]


def run(promtool: Path, *arguments: object) -> str:
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules_and_finds_nothing_to_complain_about(promtool: Path) -> None:
    said = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert said.count("SUCCESS") == len(RULE_FILES) == 2


@pytest.mark.parametrize("test_file", sorted(ALERT_TESTS.glob("*.yaml")), ids=lambda file: file.stem)
def test_rules_do_what_their_test_says(promtool: Path, test_file: Path) -> None:
    run(promtool, "test", "rules", test_file)


@pytest.mark.parametrize("name", sorted(alerts()))
def test_the_test_of_an_alert_has_it_silent_then_firing_then_resolved(name: str) -> None:
    story = yaml.safe_load((ALERT_TESTS / f"{name}.yaml").read_text())["tests"][0]
    checks = story["alert_rule_test"]
    assert {check["alertname"] for check in checks} == {name}
    assert [bool(check["exp_alerts"]) for check in checks] == [False, True, False]
    minutes = [int(check["eval_time"].removesuffix("m")) for check in checks]
    assert minutes == sorted(minutes)


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_what_it_is_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert name.startswith("Transcriber")
    assert set(alert["labels"]) == {"severity"}
    assert alert["labels"]["severity"] in SEVERITIES
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
    assert alert["annotations"]["summary"].endswith(".")
    text = (ROOT / alert["annotations"]["runbook_url"]).read_text()
    assert text.startswith(f"# {name}\n")
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == RUNBOOK_HEADINGS


def test_every_runbook_and_every_test_is_of_an_alert_and_every_recorded_series_is_read() -> None:
    assert {file.stem for file in RUNBOOKS.glob("*.md")} == set(alerts())
    assert {file.stem for file in ALERT_TESTS.glob("*.yaml")} == {*alerts(), "recording"}
    recorded = [rule["record"] for rule in rules() if "record" in rule]
    tested = (ALERT_TESTS / "recording.yaml").read_text()
    assert [name for name in recorded if name not in tested] == []


def test_only_what_users_feel_wakes_people() -> None:
    assert {name for name, alert in alerts().items() if alert["labels"]["severity"] == "critical"} == {
        "TranscriberNoReadyReplicas",
        "TranscriberOperatorDown",
    }
