"""Reads a TranscriberDeployment from YAML without a cluster and tells every error at once, with its line and field."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import ValidationError

from transcriber_api.document import Location, ReadDocument, SpecError, read_document
from transcriber_api.rules import ApiModel
from transcriber_api.v1alpha1 import API_VERSION, KIND, TranscriberDeployment

__all__ = ["MAX_BYTES", "SpecError", "load", "parse"]

MAX_BYTES: Final = 1 << 20
SHOWN_CHARACTERS: Final = 60
_MUST_BE: Final[Mapping[str, str]] = {
    "missing": "is required",
    "string_type": "must be a string; quote it",
    "int_type": "must be a whole number, without quotes",
    "bool_type": "must be true or false, without quotes",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
}


def load(path: Path) -> TranscriberDeployment:
    """Read a YAML file of at most 1 MiB; raises SpecError, also when the file cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([f"{path}: cannot be read: {error.strerror}"]) from None
    _check_size(len(content), str(path))
    try:
        return parse(content.decode("utf-8"), str(path))
    except UnicodeDecodeError:
        raise SpecError([f"{path}: is not UTF-8 text; a TranscriberDeployment is written in YAML"]) from None


def parse(document: str, origin: str) -> TranscriberDeployment:
    """Read one YAML document; `origin` names it in messages. Raises SpecError with a line per error.

    As on the API server, rules of an object are checked once its fields are valid by themselves, and null is the same as absent.
    """
    _check_size(len(document.encode(errors="surrogatepass")), origin)
    try:
        read = read_document(document, origin)
    except RecursionError:
        raise SpecError([f"{origin}: nests too deep; a TranscriberDeployment has no more than ten levels"]) from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SpecError([f"{origin}{line}: is not YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise SpecError([f"{origin}: is not YAML: {error}"]) from None
    _check_kind(read)
    try:
        deployment = TranscriberDeployment.model_validate(read.content, by_alias=True, by_name=False)
    except ValidationError as error:
        lines = [*read.errors, *(_message(read, problem) for problem in error.errors(include_url=False))]
        raise SpecError([text for _, text in sorted(lines, key=lambda entry: entry[0])]) from None
    if read.errors:
        raise SpecError([text for _, text in read.errors])
    return deployment


def _check_size(size_bytes: int, origin: str) -> None:
    if size_bytes > MAX_BYTES:
        raise SpecError([f"{origin}: is larger than 1 MiB; a TranscriberDeployment takes a few kilobytes"])


def _check_kind(read: ReadDocument) -> None:
    """Another kind of object would be wrong in every field; say only that."""
    wanted = {"apiVersion": API_VERSION, "kind": KIND}
    wrong = [
        read.error((field,), f"must be {value}; got {_shown(read.content.get(field))}")
        for field, value in wanted.items()
        if read.content.get(field) != value
    ]
    if wrong:
        raise SpecError([text for _, text in wrong])


def _message(read: ReadDocument, problem: Mapping[str, Any]) -> tuple[int, str]:
    location: Location = tuple(problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            message = f"is no known field{_suggestion(str(location[-1]), _fields_at(location[:-1]))}"
        case "literal_error":
            allowed = str(problem["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
            message = f"must be one of {', '.join(allowed)}; got {_shown(problem['input'])}"
        case kind if kind in _MUST_BE:
            got = "" if kind == "missing" else f"; got {_shown(problem['input'])}"
            message = _MUST_BE[kind] + got
        case "greater_than_equal":
            message = f"must be at least {problem['ctx']['ge']}; got {_shown(problem['input'])}"
        case "less_than_equal":
            message = f"must be at most {problem['ctx']['le']}; got {_shown(problem['input'])}"
        case "too_long":  # of a map: lists check their own bounds
            message = f"must have at most {problem['ctx']['max_length']} entries; has {problem['ctx']['actual_length']}"
        case _:
            message = str(problem["msg"])
    return read.error(location, message)


def _shown(value: Any) -> str:
    """Name a refused value, cut short; collections by their size, since they may hold anything."""
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        return f"{kind} of {len(value)}"
    text = "nothing" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _suggestion(name: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(name, known, n=1)
    if nearest:
        return f"; did you mean {nearest[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


def _fields_at(location: Location) -> list[str]:
    """Return the fields of the object at `location`, in the spelling of the YAML."""
    model: type[ApiModel] = TranscriberDeployment
    for part in location:
        if isinstance(part, int):
            continue
        annotation = next(field.annotation for field in model.model_fields.values() if field.alias == part)
        model = next(_models_in(annotation))
    return [str(field.alias) for field in model.model_fields.values()]


def _models_in(annotation: Any) -> Iterator[type[ApiModel]]:
    if isinstance(annotation, type) and issubclass(annotation, ApiModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
