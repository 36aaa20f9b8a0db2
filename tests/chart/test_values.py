"""What values may be given: all are described, all are checked, and whoever mistypes one is told which."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart import values_table
from tests.chart.rendering import CHART, VALUES_FILES, HelmError, Values, helm, read_values, rendered, template
from transcriber_api.loading import parse
from transcriber_operator.settings import Settings

ROOT = CHART.parents[1]
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
CHART_FILE = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
DESCRIBED = {f"/{row.path.replace('.', '/')}" for row in values_table.rows((CHART / "values.yaml").read_text(encoding="utf-8"))}
MISTYPED = "mistyped"
# Objects of Kubernetes, whose fields the API server of the day knows better, and what a parent chart shares.
OPEN = {
    "/global",
    "/affinity",
    "/dnsConfig",
    "/podSecurityContext",
    "/securityContext",
    "/topologySpreadConstraints/0",
    "/extraVolumes/0",
    "/extraVolumeMounts/0",
    "/extraContainers/0",
    "/extraObjects/0",
}


def resolved(schema: Values) -> Values:
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def closed(schema: Values = SCHEMA, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every place where unknown keys are refused, and values with one there."""
    schema = resolved(schema)
    if schema.get("additionalProperties") is False:
        required = dict.fromkeys(schema.get("required", ()), "example.com")
        yield path or "''", {**required, MISTYPED: 1}
    for name, child in schema.get("properties", {}).items():
        for place, value in closed(child, f"{path}/{name}"):
            yield place, {name: value}
    if "items" in schema:
        for place, value in closed(schema["items"], f"{path}/0"):
            yield place, [value]
    if isinstance(schema.get("additionalProperties"), dict):
        for place, value in closed(schema["additionalProperties"], f"{path}/any"):
            yield place, {"any": value}


def objects(schema: Values = SCHEMA, path: str = "") -> Iterator[tuple[str, Values]]:
    """Every place that takes an object, and its schema."""
    schema = resolved(schema)
    if "object" in schema.get("type", ()):
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from objects(child, f"{path}/{name}")
    if "items" in schema:
        yield from objects(schema["items"], f"{path}/0")


def leaves(values: Values, path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{path}/{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{path}/{name}")


def refusal(values: Values) -> str:
    with pytest.raises(HelmError) as caught:
        template(values, only="deployment.yaml")
    return str(caught.value)


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("file", [CHART / "values.yaml", *VALUES_FILES], ids=lambda file: file.stem)
def test_the_schema_takes_the_values_that_there_are(file: Path) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(without_nulls(read_values(file)))


def without_nulls(values: Any) -> Any:
    """Values as helm checks them: null takes a default away."""
    return (
        {name: without_nulls(value) for name, value in values.items() if value is not None} if isinstance(values, dict) else values
    )


def test_an_unknown_key_is_refused_at_every_level() -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    places = dict(closed())
    assert len(places) > 35
    taken = [
        place for place, values in places.items() if not any(MISTYPED in error.message for error in validator.iter_errors(values))
    ]
    assert taken == []


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("''", {MISTYPED: 1}),
        ("'/image'", {"image": {MISTYPED: "1.0"}}),
        ("'/serving/image'", {"serving": {"image": {MISTYPED: "1.0"}}}),
        ("'/metrics/podMonitor'", {"metrics": {"podMonitor": {MISTYPED: True}}}),
        ("'/tolerations/0'", {"tolerations": [{MISTYPED: "x"}]}),
    ],
)
def test_helm_names_the_unknown_key_and_where_it_stands(place: str, values: Values) -> None:
    assert f"at {place}: additional properties '{MISTYPED}' not allowed" in refusal(values)


def test_only_objects_of_kubernetes_itself_are_open() -> None:
    unchecked = {path for path, schema in objects() if "additionalProperties" not in schema}
    assert {path for path in unchecked if not is_kubernetes_own(path)} == OPEN


def is_kubernetes_own(path: str) -> bool:
    """Below a place that is named for what it takes."""
    ends = ("relabelings/0", "metricRelabelings/0", "claims/0", "ports/0", "Selector", "ipBlock", "valueFrom")
    return path.endswith(ends)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": {"tag": 1.1}}, "at '/image/tag': got number, want string"),
        ({"image": {"digest": "sha256:12"}}, "at '/image/digest': 'sha256:12' does not match pattern"),
        (
            {"image": {"registry": "https://registry.example.com"}},
            "at '/image/registry': 'https://registry.example.com' does not match",
        ),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ({"watchNamespaces": "speech"}, "at '/watchNamespaces': got string, want array"),
        ({"watchNamespaces": ["Speech"]}, "at '/watchNamespaces/0': 'Speech' does not match pattern"),
        ({"config": {"logLevel": "debug"}}, "at '/config/logLevel': value must be one of 'Debug', 'Info', 'Warning', 'Error'"),
        ({"config": {"resyncSeconds": 1}}, "at '/config/resyncSeconds': minimum: got 1, want 10"),
        ({"config": {"httpsHosts": ["https://example.com"]}}, "at '/config/httpsHosts/0': 'https://example.com' does not match"),
        ({"commonLabels": {"team": "speech team"}}, "at '/commonLabels/team': 'speech team' does not match pattern"),
        ({"serviceAccount": {"annotations": {"on": True}}}, "at '/serviceAccount/annotations/on': got boolean, want string"),
        ({"resources": {"limits": {"memory": "1 GB"}}}, "at '/resources/limits/memory': '1 GB' does not match pattern"),
        ({"metrics": {"podMonitor": {"interval": "30"}}}, "at '/metrics/podMonitor/interval': '30' does not match pattern"),
        ({"pdb": {"minAvailable": "half"}}, "at '/pdb/minAvailable': 'half' does not match pattern"),
        ({"terminationGracePeriodSeconds": 5}, "at '/terminationGracePeriodSeconds': minimum: got 5, want 15"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_it_should_be(values: Values, said: str) -> None:
    assert said in refusal(values)


def test_a_parent_chart_may_share_globals_of_its_own_and_have_a_condition() -> None:
    assert rendered({"enabled": True, "global": {"storageClass": "fast"}}, only="deployment.yaml")


def test_the_schema_has_every_described_value_and_no_other() -> None:
    known = {f"{path}/{name}" for path, schema in objects() for name in schema.get("properties", {})}
    assert known >= DESCRIBED
    others = {
        path for path in known if not any(f"{path}/".startswith(f"{each}/") or each.startswith(f"{path}/") for each in DESCRIBED)
    }
    assert others == {"/enabled"}


def test_every_value_is_given_by_some_values_file() -> None:
    given = {path for file in VALUES_FILES for path in leaves(read_values(file))}
    assert DESCRIBED - given == set()


def test_bounds_of_the_operators_settings_are_the_operators_own() -> None:
    bounds = SCHEMA["properties"]["config"]["properties"]
    own = Settings.model_json_schema()["properties"]
    for name, field in (("resyncSeconds", "resync_seconds"), ("apiCallsPerSecond", "api_calls_per_second")):
        assert {key: bounds[name][key] for key in ("minimum", "maximum")} == {
            key: own[field][key] for key in ("minimum", "maximum")
        }
    for name, field in (("logFormat", "log_format"), ("logLevel", "log_level")):
        assert bounds[name]["enum"] == own[field]["enum"]


def test_the_table_of_values_is_up_to_date() -> None:
    assert values_table.main(["--check"]) == 0, "run `make crds`"


def test_a_table_that_is_not_up_to_date_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = tmp_path / "charts" / "transcriber-operator"
    chart.mkdir(parents=True)
    for name in ("README.md", "values.yaml"):
        (chart / name).write_text((CHART / name).read_text(encoding="utf-8").replace("Labels of the Service", "Labels of it"))
    (chart / "values.yaml").write_text((CHART / "values.yaml").read_text(encoding="utf-8"))
    monkeypatch.setattr(values_table, "CHART", chart)
    assert values_table.main(["--check"]) == 1
    assert "charts/transcriber-operator/README.md: not up to date" in capsys.readouterr().err
    assert values_table.main([]) == 0
    assert values_table.main(["--check"]) == 0


def test_a_value_without_description_is_told_with_its_line() -> None:
    with pytest.raises(values_table.UndescribedError, match=r"line 3: image\.tag has no comment"):
        values_table.rows('image:\n  # Not a description.\n  tag: ""\n')


def test_a_description_takes_all_lines_of_its_comment() -> None:
    [row] = values_table.rows("# Of another.\n\n# -- The first line\n# and the second\nkey: {a: 1}\n")
    assert row == ("key", {"a": 1}, "The first line and the second")


def test_the_chart_has_the_version_of_the_project_and_the_kubernetes_of_native_sidecars() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CHART_FILE["version"] == CHART_FILE["appVersion"] == project["version"]
    assert CHART_FILE["kubeVersion"] == ">=1.29.0-0"


@pytest.mark.parametrize(("version", "is_taken"), [("1.28.15", False), ("1.29.0", True), ("1.35.2-eks-1a2b3c4", True)])
def test_clusters_are_taken_by_their_version(version: str, is_taken: bool) -> None:
    arguments = ("template", "x", str(CHART), "--show-only=templates/service.yaml", f"--kube-version={version}")
    if is_taken:
        helm(*arguments)
    else:
        with pytest.raises(HelmError, match=r"incompatible with Kubernetes v1\.28\.15"):
            helm(*arguments)


def test_the_catalogue_entry_has_valid_examples_of_the_kind_that_the_chart_installs() -> None:
    annotations = CHART_FILE["annotations"]
    for example in yaml.safe_load(annotations["artifacthub.io/crdsExamples"]):
        parse(yaml.safe_dump(example), "Chart.yaml")
    [entry] = yaml.safe_load(annotations["artifacthub.io/crds"])
    [crd] = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in (CHART / "files" / "crds").glob("*.yaml"))
    [version] = crd["spec"]["versions"]
    assert (entry["name"], entry["kind"], entry["version"]) == (
        crd["metadata"]["name"],
        crd["spec"]["names"]["kind"],
        version["name"],
    )
