"""What the chart's rules and dashboards ask for, and what docs/metrics.md says that there is."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "transcriber-operator" / "files"
RULE_FILES = sorted((FILES / "rules").glob("*.yaml"))
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
ALERT_TESTS = Path(__file__).parent / "alerts"
METRICS_DOC = ROOT / "docs" / "metrics.md"
# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "5m", "$namespace": "speech", "$name": "large"}
LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")
HISTOGRAM_SUFFIXES = ("_bucket", "_sum", "_count")


@cache
def rules() -> list[dict[str, Any]]:
    return [rule for file in RULE_FILES for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries(dashboard: Path) -> dict[str, str]:
    """Title of a panel or name of a variable, and its query as Prometheus gets it."""
    asked = {
        f"{panel['title']} ({panel['id']}{target['refId']})": filled_in(target["expr"])
        for panel in panels(dashboard)
        for target in panel["targets"]
    }
    for variable in json.loads(dashboard.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["definition"])
            assert found, variable
            asked[variable["name"]] = filled_in(found["selector"])
    return asked


def filled_in(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def all_queries() -> dict[str, str]:
    """Where a query stands, and the query."""
    asked = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()}
    for dashboard in DASHBOARDS:
        asked |= {f"{dashboard.stem}: {place}": query for place, query in dashboard_queries(dashboard).items()}
    return asked


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every place where an expression reads a series; raises ValueError where it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def family(series: str) -> str:
    """The name under which a series is documented: a histogram's three have that of the histogram."""
    for suffix in HISTOGRAM_SUFFIXES:
        if series.endswith(suffix) and series.removesuffix(suffix) in documented():
            return series.removesuffix(suffix)
    return series


def sections() -> Iterator[tuple[str, str]]:
    """Heading and text of each section of docs/metrics.md."""
    for section in METRICS_DOC.read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        yield heading, text


@cache
def documented(source: str = "") -> dict[str, frozenset[str]]:
    """Series that docs/metrics.md lists, of one source or of all, and their labels."""
    return {
        cells[0].strip(" `"): frozenset(re.findall(r"`(\w+)`", cells[2])) if len(cells) == 4 else frozenset()
        for heading, text in sections()
        if heading.startswith(source)
        for line in text.splitlines()
        if line.startswith("| `")
        for cells in [line.strip("|").split("|")]
    }
