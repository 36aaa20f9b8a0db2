"""Rules and dashboards ask for series and labels that there are: those that docs/metrics.md lists, which are those of the code."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.monitoring.queries import DASHBOARDS, ROOT, all_queries, dashboard_queries, documented, family, panels, rules, selectors
from tests.unit.exporter.fakes import Clock, FakeTriton
from transcriber_exporter.app import Sidecar
from transcriber_exporter.canary import Timing
from transcriber_exporter.drain import Drain
from transcriber_exporter.load import SERIES
from transcriber_exporter.looks import Looks
from transcriber_exporter.metrics import Metrics as ExporterMetrics
from transcriber_exporter.watch import Watch
from transcriber_operator.decide.decision import ColdStart, Figures, PoolFigures
from transcriber_operator.metrics import Metrics as OperatorMetrics

TARGET_LABELS = {"namespace", "name", "pod"}  # that scraping adds, see docs/metrics.md
PROCESS = re.compile(r"process_\w+")
MODELS = (ROOT / "model_repository" / "triton").glob("*/1/model.py")
OF_THE_RUNNING_OPERATOR = {"transcriber_operator_pass_age_seconds", "transcriber_operator_heartbeat_age_seconds"}
POOL = PoolFigures(name="spot", desired=2, ready=1, nodes=2, lead_time_seconds=240, interruptions=1, insufficient_capacity=1)
FIGURES = Figures(
    desired=2,
    ready=1,
    queued_audio_seconds=60,
    in_flight_audio_seconds=30,
    arrival_rate=2,
    replica_throughput=50,
    metrics_age_seconds=1,
    cost_per_hour=1,
    allowed_per_hour=20,
    processed_audio_seconds=10,
    pools=(POOL,),
    cold_starts=(ColdStart(pool="spot", stage="ModelLoad", seconds=30),),
)


@pytest.mark.parametrize("place", sorted(all_queries()))
def test_a_query_is_promql_over_series_and_labels_that_there_are(place: str) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    found = selectors(all_queries()[place])
    assert found
    for selector in found:
        name = selector.name
        assert name in recorded or PROCESS.fullmatch(name) or family(name) in documented(), name
        labels = documented().get(family(name), frozenset()) | TARGET_LABELS
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels, name


def test_a_typo_would_be_seen() -> None:
    assert family("transcriber_cold_start_seconds_bucket") in documented()
    assert family("transcriber_ready_replica") not in documented()
    with pytest.raises(ValueError):
        selectors("sum by (name (up)")


def families(text: str) -> dict[str, set[str]]:
    """Names of series as docs/metrics.md has them, and their labels."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): {
            label for sample in family.samples for label in sample.labels if label != "le"
        }
        for family in text_string_to_metric_families(text)
        if family.name.startswith("transcriber_") and not family.name.endswith("_created")
    }


def test_the_operators_series_are_those_that_are_documented() -> None:
    metrics = OperatorMetrics()
    metrics.figures.record("speech", "large", "uid", FIGURES)
    metrics.figures.record_conditions("speech", "large", "uid", {"Ready": "True"})
    for counter, labels in ((metrics.passes, ("Settled",)), (metrics.looks, ("Same",)), (metrics.api_calls, ("get", "Pod", "200"))):
        counter.labels(*labels)
    metrics.applied.labels("Deployment", "Changed")
    metrics.pruned.labels("Deployment")
    told = families(metrics.render().decode())
    listed = {name: set(labels) for name, labels in documented("Operator").items() if name not in OF_THE_RUNNING_OPERATOR}
    assert told == listed


def test_the_exporters_series_are_those_that_are_documented() -> None:
    metrics, triton, clock = ExporterMetrics(), FakeTriton(), Clock()
    looks = Looks(triton, metrics, clock)
    Sidecar(Watch(triton, looks, Timing(), metrics, clock), looks, Drain(looks, 30, clock), metrics, clock)
    assert families(metrics.text().decode()) == {name: set(labels) for name, labels in documented("Exporter").items()}


def test_what_the_exporter_reads_is_documented_and_written_in_the_models() -> None:
    assert {name for name in SERIES if name.startswith("transcriber_")} <= set(documented("Triton"))
    source = "".join(model.read_text() for model in MODELS)
    for name in documented("Triton"):
        stem = name.removeprefix("transcriber_")
        written = (f'"{name}"', f'"{stem}"', f'"{stem.removesuffix("_total")}"')
        assert any(text in source for text in written), name


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_can_be_imported_anywhere_and_read(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text())
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables[:2] == ["datasource", "namespace"]
    assert set(re.findall(r'"uid": "([^"]*)"', dashboard.read_text())) == {"${datasource}", board["uid"]}
    assert board["uid"] == dashboard.stem
    assert "id" not in board
    asked = {name for panel in panels(dashboard) for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}
    assert asked <= {*variables, "__rate_interval"}
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
    assert len(dashboard_queries(dashboard)) == sum(len(panel["targets"]) for panel in panels(dashboard)) + len(variables) - 1


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda file: file.stem)
def test_no_two_panels_lie_over_each_other_or_beyond_the_edge(dashboard: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    ids = set()
    for panel in json.loads(dashboard.read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
        ids.add(panel["id"])
    assert len(ids) == len(json.loads(dashboard.read_text())["panels"])
