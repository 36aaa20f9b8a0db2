import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import ValidationError

from tests.unit.api_rule_cases import CASES, patched
from tests.unit.test_api_rules import every_model, every_rule
from transcriber_api.conditions import ConditionType, Reason
from transcriber_api.quantities import LANGUAGES
from transcriber_api.schema import (
    COLUMNS,
    CRD_PATH,
    REFERENCE_PATH,
    custom_resource_definition,
    main,
    outputs,
    render_crd,
    root_schema,
)
from transcriber_api.v1alpha1 import TranscriberDeployment
from transcriber_engine.settings import EngineSettings

ROOT = Path(__file__).parents[2]
SCHEMA = root_schema()
STRUCTURAL_KEYWORDS = {
    "type", "description", "default", "enum", "format", "pattern", "minLength", "maxLength", "minimum", "maximum",
    "minItems", "maxItems", "maxProperties", "properties", "additionalProperties", "items", "required",
    "anyOf", "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-int-or-string",
}  # fmt: skip


def nodes(schema: dict[str, Any] = SCHEMA, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from nodes(schema[keyword], f"{path}[]")


NODES = dict(nodes())
OWN_NODES = {path: node for path, node in NODES.items() if path.startswith((".spec", ".status"))}


def test_the_written_files_are_up_to_date_with_the_models():
    for path, text in outputs().items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"run `python -m transcriber_api.schema` to update {path}"


def test_check_when_a_file_is_stale_or_missing_fails_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "crds").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    CRD_PATH.write_text(CRD_PATH.read_text().replace("maximum: 16", "maximum: 17"))
    capsys.readouterr()
    assert main(["--check"]) == 1
    assert capsys.readouterr().err.startswith(str(CRD_PATH))
    REFERENCE_PATH.unlink()
    assert main(["--docs"]) == 0
    assert main(["--check", "--docs"]) == 0


def test_the_tool_run_outside_of_the_repository_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([])
    assert "run this in the repository's root" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["1.33", "1.36"])
def test_the_crd_is_accepted_by_the_strict_schema_of_kubernetes(version: str):
    kubernetes_validate.validate(yaml.safe_load(render_crd()), version, strict=True)


def test_a_crd_with_a_misspelt_keyword_would_not_be_accepted():
    crd = custom_resource_definition()
    crd["spec"]["versions"][0]["scope"] = "Namespaced"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(crd, "1.36", strict=True)


@pytest.mark.parametrize("path", NODES)
def test_a_node_is_structural(path: str):
    node = NODES[path]
    assert set(node) <= STRUCTURAL_KEYWORDS
    assert "type" in node or node.get("x-kubernetes-int-or-string") is True
    assert not ("properties" in node and "additionalProperties" in node)
    assert set(node.get("required", ())) <= set(node.get("properties", ()))
    if node.get("x-kubernetes-list-type") == "map":
        items = node["items"]
        for key in node["x-kubernetes-list-map-keys"]:
            assert key in items["required"] or "default" in items["properties"][key]


@pytest.mark.parametrize("path", OWN_NODES)
def test_a_node_is_bounded_so_that_the_cost_of_cel_is(path: str):
    node = OWN_NODES[path]
    match node.get("type"):
        case "string":
            assert "enum" in node or node["maxLength"] <= 4096
        case "integer":
            assert {"minimum", "maximum", "format"} <= set(node)
        case "array":
            assert node["maxItems"] <= 128
            assert node["x-kubernetes-list-type"] in {"map", "set", "atomic"}
        case "object":
            assert "properties" in node or node["maxProperties"] <= 16
        case "number":
            pytest.fail("the API has no floats")


@pytest.mark.parametrize("path", [path for path in OWN_NODES if not path.endswith("[]")])
def test_a_field_is_described_with_default_and_example(path: str):
    node = OWN_NODES[path]
    assert len(node["description"]) > 10
    if node.get("type") not in ("object", None) and path.startswith(".spec"):
        assert "Example: " in node["description"]
        assert ("default" in node) == ("Default: " in node["description"])
    if path.endswith("Seconds"):
        assert "second" in node["description"]


def test_enum_values_are_pascal_case_but_for_languages_and_taints_of_the_core_api():
    for path, node in OWN_NODES.items():
        for value in node.get("enum", ()):
            assert re.fullmatch(r"[A-Z][A-Za-z0-9]*", value) or (path.endswith("language") and value in LANGUAGES), path


def test_defaults_keep_their_own_schema_as_the_api_server_demands():
    for path, node in OWN_NODES.items():
        if "default" in node:
            jsonschema.validate(node["default"], node)
            assert node["default"] is not None, path


def test_every_rule_stands_in_the_crd_with_message_and_an_existing_field():
    written = [(path, rule) for path, node in NODES.items() for rule in node.get("x-kubernetes-validations", ())]
    assert {rule["message"] for _, rule in written} == {rule.message for rule in every_rule()}
    for path, rule in written:
        assert f"{path}{rule['fieldPath']}" in NODES
        assert "\n" not in rule["rule"]


def test_a_rule_reads_only_fields_that_are_always_there_or_asked_for_with_has():
    for path, node in NODES.items():
        for rule in node.get("x-kubernetes-validations", ()):
            for field in set(re.findall(r"self((?:\.[a-zA-Z0-9]+)+)(?![a-zA-Z0-9(])", rule["rule"])):
                assert is_known(path, field.split(".")[1:], rule["rule"]), f"{path}: {rule['rule']}"


def is_known(path: str, parts: list[str], cel: str) -> bool:
    """Follow the parts of `self.a.b`; a method at the end is no field."""
    for index, part in enumerate(parts):
        parent, path = NODES[path], f"{path}.{part}"
        if path not in NODES:
            return index == len(parts) - 1 and f".{part}(" in cel
        is_optional = (
            part not in parent.get("required", ()) and "default" not in NODES[path] and path not in {".metadata", ".metadata.name"}
        )
        if is_optional and f"has(self.{'.'.join(parts[: index + 1])})" not in cel:
            return False
    return True


def test_columns_and_scale_read_fields_that_exist():
    version = custom_resource_definition()["spec"]["versions"][0]
    paths = [*version["subresources"]["scale"].values(), *(path for _, _, path, _ in COLUMNS)]
    for path in paths:
        plain = re.sub(r"\[\?\(.*?\)\]", "[]", path)
        assert plain in NODES or plain == ".metadata.creationTimestamp"


def test_columns_are_those_that_people_are_promised():
    assert [name for name, _, _, priority in COLUMNS if not priority] == ["Ready", "Reason", "Replicas", "Queue", "Model", "Age"]
    assert [name for name, _, _, priority in COLUMNS if priority] == ["Draft", "Acceptance", "Pools", "Message"]


def test_the_reference_lists_every_field_condition_and_reason():
    text = outputs()[REFERENCE_PATH]
    for path in OWN_NODES:
        if not path.endswith("[]") and path not in (".spec", ".status"):
            assert f"`{path.rpartition('.')[2]}`" in text
    for constant in (*ConditionType, *Reason):
        assert f"| `{constant.value}` | {constant.meaning}" in text


def test_bounds_do_not_exceed_those_of_the_engine():
    engine = EngineSettings.model_json_schema()["properties"]
    pairs = {
        "slots": ".spec.runtime.slots",
        "max_draft_tokens": ".spec.decoding.maxDraftTokens",
        "chunk_seconds": ".spec.decoding.chunkSeconds",
        "max_audio_seconds": ".spec.runtime.maxAudioSeconds",
        "max_audio_bytes": ".spec.runtime.maxAudioBytes",
        "max_queued_audio_seconds": ".spec.runtime.maxQueuedAudioSeconds",
    }
    for name, path in pairs.items():
        assert NODES[path]["minimum"] >= engine[name]["minimum"]
        assert NODES[path]["maximum"] <= engine[name].get("maximum", 2**63)


def document_errors(document: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the schema (without CEL) and the models (without rules) accept a document."""
    by_schema = jsonschema.Draft7Validator(SCHEMA).is_valid(document)
    try:
        TranscriberDeployment.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        return by_schema, all(problem["type"] == "rule" for problem in error.errors())
    return by_schema, True


def probes(node: dict[str, Any]) -> Iterator[Any]:
    """Values at and beyond every bound of a leaf, and values of other types."""
    yield from ([], {}, True, -1, 0, 1, "", "a", "x" * 5000, 2**63)
    if "maximum" in node:
        yield from (node["minimum"] - 1, node["minimum"], node["maximum"], node["maximum"] + 1)
    if "maxLength" in node:
        yield from ("a" * node["maxLength"], "a" * (node["maxLength"] + 1), "é", "a b", "-a", "A", "4Gi", "0.5", "a/b", "a\n")
    yield from node.get("enum", ())


def leaf_paths() -> list[str]:
    return [
        path for path, node in OWN_NODES.items() if path.startswith(".spec") and "properties" not in node and "items" not in node
    ]


def placed(path: str, value: Any) -> dict[str, Any]:
    """A document that is good but for `value` at `path`."""
    document = patched({})
    node, target = SCHEMA, document
    parts = re.findall(r"\.([^.\[]+)|(\[\])", path)
    keys: list[Any] = [name or 0 for name, _ in parts]
    for key, following in itertools.pairwise(keys):
        node = node["items"] if key == 0 and "items" in node else node.get("additionalProperties") or node["properties"][key]
        child: Any = [] if node.get("type") == "array" else {}
        if key == 0:
            target[:1] = [target[0] if target else child]
            target = target[0]
        else:
            target = target.setdefault(key, child)
        if following != 0:
            for required in set(node.get("required", ())) - set(target):
                target[required] = sample(node["properties"][required])
    if keys[-1] == 0:
        if isinstance(target, list):
            target[:1] = [value]
        else:
            target["key"] = value
    else:
        target[keys[-1]] = value
    return document


def sample(node: dict[str, Any]) -> Any:
    if "properties" in node:
        return {name: sample(node["properties"][name]) for name in node.get("required", ())}
    candidates = (*node.get("enum", ()), node.get("minimum"), "a", "Kind", "0" * 64, "0 8 * * *", [{"name": "main"}])
    return next(value for value in candidates if jsonschema.Draft7Validator(node).is_valid(value))


@pytest.mark.parametrize("path", leaf_paths())
def test_schema_and_models_judge_every_value_of_a_field_alike(path: str):
    verdicts = set()
    for value in probes(OWN_NODES[path]):
        by_schema, by_models = document_errors(placed(path, value))
        # jsonschema's `$` lets a final newline pass, which Go's does not; the models follow Go.
        if not (isinstance(value, str) and value.endswith("\n")):
            assert by_schema == by_models, f"{path}={value!r}: schema {by_schema}, models {by_models}"
        verdicts.add(by_models)
    assert False in verdicts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_a_case_of_the_rule_table_is_decided_by_the_rules_and_not_by_the_schema(case: Any):
    for patch in (case.accepted, case.refused):
        jsonschema.validate(patched(patch, case.name), SCHEMA)


def test_no_model_of_the_api_is_left_out_of_the_schema():
    described = {node.get("description") for node in NODES.values()}
    assert len(every_model()) > 25
    assert all(description for description in described if description is not None)
