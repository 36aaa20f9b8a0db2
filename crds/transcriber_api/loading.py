"""Reads a TranscriberDeployment from YAML and tells every error at once, each with its line and its field."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from transcriber_api.v1alpha1 import TranscriberDeployment

MAX_BYTES = 1 << 20


class SpecError(ValueError):
    """A document that is not a TranscriberDeployment; the message has one line per error: `FILE:LINE: field: what to do`."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


def load(path: Path) -> TranscriberDeployment:
    """Read a file; raises SpecError, also where the file is missing or not text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([f"{path}: is larger than {MAX_BYTES} bytes; a TranscriberDeployment is a few kilobytes"])
        return parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise SpecError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SpecError([f"{path}: is not UTF-8 text"]) from None


def parse(document: str, origin: str) -> TranscriberDeployment:
    """Parse one YAML document; `origin` names it in messages. Raises SpecError."""
    try:
        nodes = list(yaml.compose_all(document, yaml.SafeLoader))
        if len(nodes) != 1 or not isinstance(nodes[0], yaml.MappingNode):
            raise SpecError([f"{origin}: must hold exactly one TranscriberDeployment, and holds {len(nodes)} documents"])
        duplicates = [f"{origin}:{line}: {'.'.join(path)}: is set twice" for path, line in _duplicates(nodes[0], ())]
        if duplicates:
            raise SpecError(duplicates)
        content = yaml.safe_load(document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{origin}:{mark.line + 1}" if mark else origin
        raise SpecError([f"{where}: is not YAML: {getattr(error, 'problem', None) or error}"]) from None
    try:
        return TranscriberDeployment.model_validate(content)
    except ValidationError as error:
        raise SpecError([_line(origin, nodes[0], problem) for problem in error.errors(include_url=False)]) from None


def _line(origin: str, root: yaml.Node, problem: Mapping[str, Any]) -> str:
    path = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    node, mark = root, root.start_mark
    for part in path:
        found = _child(node, part)
        if found is None:
            break
        mark, node = found
    field = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or "document"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = "unknown field" + _suggestion(path)
    elif problem["type"] == "missing":
        message = "is required"
    return f"{origin}:{mark.line + 1}: {field}: {message}"


def _child(node: yaml.Node, part: str | int) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def _suggestion(path: Sequence[str | int]) -> str:
    model: Any = TranscriberDeployment
    for part in path[:-1]:
        if isinstance(part, str):
            field = next((f for f in model.model_fields.values() if f.alias == part), None)
            if field is None:
                return ""
            options = [field.annotation, *getattr(field.annotation, "__args__", ())]
            model = next((option for option in options if hasattr(option, "model_fields")), None)
            if model is None:
                return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = get_close_matches(str(path[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _duplicates(node: yaml.Node, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], int]]:
    found: list[tuple[tuple[str, ...], int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*path, str(key.value))
            if key.value in seen:
                found.append((here, key.start_mark.line + 1))
            seen.add(key.value)
            found += _duplicates(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            found += _duplicates(value, path)
    return found
