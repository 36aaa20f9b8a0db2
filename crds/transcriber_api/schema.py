"""Turns the models into the CRD and its reference: `python -m transcriber_api.schema` writes both, `--check` compares them."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from transcriber_api.reference import render_reference
from transcriber_api.v1alpha1 import GROUP, KIND, NAME_CHARACTERS, NAME_PATTERN, VERSION, TranscriberDeployment

PLURAL: Final = "transcriberdeployments"
SHORT_NAME: Final = "td"
CATEGORY: Final = "transcriber"
CRD_PATH: Final = Path("crds", f"{GROUP}_{PLURAL}.yaml")
CHART_CRD_PATH: Final = Path("charts", "transcriber-operator", "files", CRD_PATH)  # Helm reads nothing outside of the chart
REFERENCE_PATH: Final = Path("docs", "api.md")
_READY: Final = '.status.conditions[?(@.type=="Ready")]'
# name, type, JSON path, priority (1: only with `-o wide`)
COLUMNS: Final = (
    ("Ready", "string", f"{_READY}.status", 0),
    ("Reason", "string", f"{_READY}.reason", 0),
    ("Replicas", "string", ".status.replicaSummary", 0),
    ("Queue", "integer", ".status.scaling.queuedAudioSeconds", 0),
    ("Model", "string", ".spec.model.target.uri", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Draft", "string", ".spec.model.draft.uri", 1),
    ("Acceptance", "integer", ".status.speculation.acceptancePercent", 1),
    ("Pools", "string", ".status.poolSummary", 1),
    ("Message", "string", f"{_READY}.message", 1),
)
COLUMN_NOTES: Final[Mapping[str, str]] = {
    "Replicas": "ready/desired",
    "Queue": "seconds of audio that wait",
    "Acceptance": "percent of drafted tokens that the target kept",
}
# Of pydantic's JSON schema, what has no place in a structural schema: objects are closed by pruning, not by a keyword.
_DROPPED: Final = frozenset({"title", "$defs", "examples", "additionalProperties", "propertyNames", "patternProperties"})
_INT32_MAX: Final = 2**31 - 1


class _Structural(GenerateJsonSchema):
    """JSON schema without null unions, and with defaults as the API server must see them to evaluate CEL."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """An optional field is one that may be absent; null is never a value."""
        return self.generate_inner(schema["schema"])

    def encode_default(self, dft: Any) -> Any:
        """Write an object's default out in full: the API server checks it before it fills in nested defaults."""
        if isinstance(dft, BaseModel):
            return dft.model_dump(mode="json", by_alias=True, exclude_none=True)
        return super().encode_default(dft)


def _inline(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return `node` as a structural schema: references resolved, pydantic's own keywords dropped, integers with a format."""
    node = dict(node)
    while "$ref" in node:
        referenced = definitions[node.pop("$ref").rsplit("/", 1)[-1]]
        node = {**referenced, **node}
    result = {key: value for key, value in node.items() if key not in _DROPPED and not (key == "default" and value is None)}
    if isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _inline(node["additionalProperties"], definitions)
    if "properties" in node:
        result["properties"] = {name: _inline(child, definitions) for name, child in node["properties"].items()}
    if "items" in node:
        result["items"] = _inline(node["items"], definitions)
    if node.get("type") == "integer":
        result["format"] = "int32" if node["maximum"] <= _INT32_MAX else "int64"
    if "description" in node:
        result["description"] = _described(result, node)
    return result


def _described(schema: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """`kubectl explain` shows the description alone, so default and example are part of it."""
    parts = [" ".join(str(node["description"]).split())]
    if "default" in schema and not isinstance(schema["default"], dict):
        parts.append(f"Default: {_plain(schema['default'])}.")
    if node.get("examples") and node["examples"][0] not in ([], {}):
        parts.append(f"Example: {_plain(node['examples'][0])}.")
    return " ".join(parts)


def _plain(value: Any) -> str:
    """Write a value as YAML on one line."""
    if isinstance(value, str) and yaml.safe_load(value) == value:
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n").removesuffix("\n...")


def root_schema() -> dict[str, Any]:
    """Return the `openAPIV3Schema` of a TranscriberDeployment."""
    generated = TranscriberDeployment.model_json_schema(schema_generator=_Structural)
    definitions = generated["$defs"]
    spec, status = (_inline(generated["properties"][name], definitions) for name in ("spec", "status"))
    del status["default"]
    name = {"type": "string", "maxLength": NAME_CHARACTERS, "pattern": NAME_PATTERN}
    return {
        "type": "object",
        "description": generated["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Version of the schema: {GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"Kind of the object: {KIND}."},
            # Of metadata a CRD may restrict the name only; bounding it bounds the cost of the rules that read it.
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [rule.as_validation() for rule in TranscriberDeployment.rules],
    }


def custom_resource_definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    columns = [{"name": name, "type": kind, "jsonPath": path, "priority": priority} for name, kind, path, priority in COLUMNS]
    for column in columns:
        if column["name"] in COLUMN_NOTES:
            column["description"] = COLUMN_NOTES[str(column["name"])]
    scale = {
        "specReplicasPath": ".spec.scaling.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": columns,
        "subresources": {"status": {}, "scale": scale},
        "schema": {"openAPIV3Schema": root_schema()},
    }
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": [SHORT_NAME],
        "categories": [CATEGORY],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors: people read the CRD."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        return True


def render_crd() -> str:
    """Return the CRD as YAML."""
    text = yaml.dump(custom_resource_definition(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated by `python -m transcriber_api.schema` from the models in transcriber_api; do not edit.\n{text}"


def outputs(*, only_docs: bool = False) -> dict[Path, str]:
    """Return what is generated, by its path below the repository's root."""
    docs = {REFERENCE_PATH: render_reference(root_schema(), COLUMNS)}
    crds = {} if only_docs else dict.fromkeys((CRD_PATH, CHART_CRD_PATH), render_crd())
    return {**crds, **docs}


def main(arguments: list[str]) -> int:
    """Write or check the generated files below the current folder; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m transcriber_api.schema", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is not up to date")
    parser.add_argument("--docs", action="store_true", help="only docs/api.md")
    options = parser.parse_args(arguments)
    if not CRD_PATH.parent.is_dir():
        parser.error(f"{Path.cwd()} has no folder {CRD_PATH.parent}; run this in the repository's root")
    generated = outputs(only_docs=options.docs)
    if options.check:
        stale = [path for path, text in generated.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
        for path in stale:
            sys.stderr.write(f"{path}: not up to date with the models; run `python -m transcriber_api.schema`\n")
        return 1 if stale else 0
    for path, text in generated.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
