"""Turns the models into the CRD: `python -m transcriber_api.schema` writes it, `--check` fails when the file is not up to date."""

import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from transcriber_api.rules import ApiModel
from transcriber_api.v1alpha1 import GROUP, KIND, VERSION, Spec, Status

PLURAL = "transcriberdeployments"
CRD_FILE = Path(__file__).parent.parent / f"{GROUP}_{PLURAL}.yaml"
READY = '.status.conditions[?(@.type=="Ready")]'

COLUMNS = (
    ("Ready", "string", f"{READY}.status", 0),
    ("Reason", "string", f"{READY}.reason", 0),
    ("Replicas", "string", ".status.ready", 0),
    ("Queue", "integer", ".status.scaling.queuedAudioSeconds", 0),
    ("Model", "string", ".spec.model.target.uri", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Draft", "string", ".spec.model.draft.uri", 1),
    ("Acceptance", "integer", ".status.speculation.acceptancePercent", 1),
    ("Pools", "string", ".status.pools[*].name", 1),
    ("Message", "string", f"{READY}.message", 1),
)


class _PlainDumper(yaml.SafeDumper):
    """YAML without anchors: people read the CRD."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every list out."""
        return True


def crd() -> dict[str, Any]:
    """Build the CustomResourceDefinition."""
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root_schema()},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.scaling.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "priority": priority} for name, kind, path, priority in COLUMNS
        ],
    }
    names = {"kind": KIND, "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["td"], "categories": ["transcriber"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def render() -> str:
    """Render the CRD as YAML."""
    text = yaml.dump(crd(), Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True)
    return "# Generated from transcriber_api by `make crds`; do not edit.\n" + text


def _root_schema() -> dict[str, Any]:
    spec, status = _object_schema(Spec), _object_schema(Status)
    # The API server fills in an object's defaults only where the object is there: a spec without them gets empty ones.
    return {
        "type": "object",
        "description": "A Whisper model served on Triton with exact speculative decoding, and the GPU capacity it scales on.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the API."},
            "kind": {"type": "string", "description": "Kind of the object."},
            "metadata": {
                "type": "object",
                "description": "Standard metadata.",
                "properties": {"name": {"type": "string", "maxLength": 52}},
            },
            "spec": {**spec, "description": "What is wanted."},
            "status": {**status, "description": "What the operator sees."},
        },
    }


def _object_schema(model: type[ApiModel]) -> dict[str, Any]:
    whole = model.model_json_schema(by_alias=True)
    return _structural(whole, whole.get("$defs", {}), model, {m.__name__: m for m in _models(model)})


def _models(model: type[BaseModel]) -> set[type[ApiModel]]:
    found: set[type[ApiModel]] = set()

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, ApiModel) and annotation not in found:
            found.add(annotation)
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in getattr(annotation, "__args__", ()):
            visit(argument)

    visit(model)
    return found


def _structural(
    node: dict[str, Any], definitions: dict[str, Any], model: type[ApiModel] | None, models: dict[str, type[ApiModel]]
) -> dict[str, Any]:
    """Resolve references, drop nulls and titles, add CEL rules: what Kubernetes calls a structural schema."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        outer = {key: value for key, value in node.items() if key != "$ref"}
        return _structural({**definitions[name], **outer}, definitions, models.get(name), models)
    if "anyOf" in node:
        [kept] = [option for option in node["anyOf"] if option.get("type") != "null"]
        outer = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _structural({**kept, **outer}, definitions, model, models)
    result = {
        key: value for key, value in node.items() if key not in ("title", "$defs", "additionalProperties", "const", "properties")
    }
    if result.get("default") is None:
        result.pop("default", None)
    if "const" in node:
        result["enum"] = [node["const"]]
    if node.get("type") == "integer":
        result["format"] = "int64"
    if "properties" in node:
        result["properties"] = {key: _structural(value, definitions, None, models) for key, value in node["properties"].items()}
        defaulted = [key for key, value in result["properties"].items() if _all_optional(value)]
        for key in defaulted:
            result["properties"][key].setdefault("default", {})
    if "items" in node:
        result["items"] = _structural(node["items"], definitions, None, models)
    if model is not None and model.rules:
        result["x-kubernetes-validations"] = [{"rule": rule.cel, "message": rule.message} for rule in model.rules]
    return result


def _all_optional(schema: dict[str, Any]) -> bool:
    """Whether an object has defaults to fill in and needs nothing said."""
    properties = schema.get("properties", {})
    return bool(properties) and not schema.get("required") and any("default" in value for value in properties.values())


def main(arguments: list[str]) -> int:
    """Write the CRD, or with --check compare it; returns the exit code."""
    if arguments == ["--check"]:
        if CRD_FILE.exists() and CRD_FILE.read_text() == render():
            return 0
        print(f"{CRD_FILE.name} does not match the models: run `make crds`", file=sys.stderr)  # noqa: T201
        return 1
    CRD_FILE.write_text(render())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
