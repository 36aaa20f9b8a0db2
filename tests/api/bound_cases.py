"""For every bound of the schema a value at it and one beyond it, made from the schema itself."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Final

import jsonschema

from tests.unit.api_rule_cases import COMMIT, FILES, KARPENTER, merged, patched
from tests.unit.test_api_schema import NODES

Node = Mapping[str, Any]

# How the API server says that a keyword is broken.
WORDS: Final = {
    "enum": "Unsupported value",
    "format": "must be of type date-time",
    "minimum": "should be greater than or equal to",
    "maximum": "should be less than or equal to",
    "minLength": "should be at least",
    "maxLength": "Too long",
    "pattern": "should match",
    "minItems": "should have at least",
    "maxItems": "must have at most",
    "maxProperties": "must have at most",
    "required": "Required value",
    "x-kubernetes-list-type": "Duplicate value",
    "type": "must be of type",
}
# The first that a field bears is as short as it can be; with the field's limit in characters, as long as it can be.
SHORTEST: Final = ("a", "A", "0", "* * * * *", "0" * 64, f"sha256-{'0' * 64}")
GOOD_TIME, LONG_TIME = "2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456789+01:00"
# By the end of the path, the shortest and the longest value of fields that rules (CEL) bind tighter than the schema does.
RULED: Final[Mapping[str, tuple[Any, Any]]] = {
    ".uri": ("pvc://a", f"pvc://{'a' * 506}"),
    ".revision": (COMMIT, COMMIT),
    ".tolerations[]": ({"operator": "Exists"}, {}),
}
DRAFT: Final = {"uri": "hf://distil-whisper/small", "revision": COMMIT}
PINNED: Final = {"revision": None, "files": FILES}
MOST_REPLICAS: Final = {"scaling": {"maxReplicas": 1000}}
# What rules across fields (CEL) ask for, so that the values at a path stand: patches of the spec, by the path's longest beginning.
COMPANIONS: Final[Mapping[str, dict[str, Any]]] = {
    "": {},
    ".spec.model.target.uri": {"model": {"target": PINNED}},
    ".spec.model.precision": {"runtime": {"device": "CPU"}},
    ".spec.model.draft": {"model": {"draft": DRAFT}},
    ".spec.model.draft.uri": {"model": {"draft": {**DRAFT, **PINNED}}},
    ".spec.runtime.device": {"model": {"precision": "Float32"}},
    ".spec.runtime.maxQueuedAudioSeconds": {"runtime": {"maxAudioSeconds": 1}},
    ".spec.runtime.maxAudioSeconds": {"runtime": {"maxQueuedAudioSeconds": 2592000}},
    ".spec.repository.volume": {"repository": {"volume": {"ephemeral": {}}}},
    ".spec.repository.volume.claimName": {},
    ".spec.scaling.replicas": {"scaling": {"mode": "External"}},
    ".spec.scaling.minReplicas": MOST_REPLICAS,
    ".spec.scaling.schedules": MOST_REPLICAS,
    ".spec.capacity.nodeClassRef": {"capacity": KARPENTER},
    ".spec.capacity.pools[].gpus": {"capacity": KARPENTER},
    ".spec.capacity.pools[].minReplicas": MOST_REPLICAS | {"capacity": {"pools": [{"name": "main", "maxNodes": 1000}]}},
    ".spec.capacity.pools[].tolerations[]": {"capacity": {"pools": [{"name": "main", "tolerations": [{"key": "a"}]}]}},
    ".spec.capacity.fallback": {"capacity": {"pools": [{"name": "a", "capacityType": "Spot"}, {"name": "b"}]}},
    ".spec.budget": {"budget": {"perHour": "1"}},
}


@dataclass(frozen=True)
class BoundCase:
    """A path and keyword of the schema, a good object at the bound, an object beyond it, and the field that the server names."""

    path: str
    keyword: str
    accepted: dict[str, Any]
    refused: dict[str, Any]
    field: str

    def __str__(self) -> str:
        return f"{self.field or 'object'}-{self.keyword}"


def bounds() -> list[tuple[str, str]]:
    """Return every (path, keyword) of the schema that refuses something; apiVersion and kind are the API server's own."""
    paths = [path for path in NODES if path.startswith((".spec", ".status", ".metadata.name")) or path == ""]
    return [(path, keyword) for path in paths for keyword in NODES[path] if keyword in WORDS and _refuses(path, keyword)]


def bound_cases() -> list[BoundCase]:
    """Return a case for each bound; for `required` one per name."""
    cases = []
    for path, keyword in bounds():
        base = patched(COMPANIONS[max((start for start in COMPANIONS if path.startswith(start)), key=len)])
        for accepted, refused, field in _values(path, keyword, base):
            good, bad = (_document(path, value, base) for value in (accepted, refused))
            cases.append(BoundCase(path, keyword, good, bad, field))
    return cases


def _refuses(path: str, keyword: str) -> bool:
    node = NODES[path]
    match keyword:
        case "x-kubernetes-list-type":
            return bool(node[keyword] != "atomic")
        case "format":
            return bool(node["format"] == "date-time")  # minimum and maximum say more than int32 and int64 do
        case "maxLength":
            return "enum" not in node
        case "type":
            return path not in ("", ".metadata.name")  # the API server reads these before it looks at a schema
        case _:
            return True


def _values(path: str, keyword: str, base: Mapping[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """Yield a value at the bound, one beyond, and the field that breaks it; in an object None stands for absence."""
    node, field = NODES[path], _field(path)
    match keyword:
        case "required":
            whole = _whole(path, node, base)
            for name in node["required"]:
                yield whole, {**whole, name: None}, f"{field}.{name}".removeprefix(".")
        case "type":
            yield _whole(path, node, base), "seven" if node["type"] in ("integer", "boolean") else 7, field
        case "x-kubernetes-list-type":
            yield _items(path, node, 1), _items(path, node, 1) * 2, f"{field}[1]"
        case "minItems" | "maxItems" | "maxProperties":
            yield *_sizes(path, node, keyword), field
        case _:
            yield *_leaves(path, node, keyword), field


def _sizes(path: str, node: Node, keyword: str) -> tuple[Any, Any]:
    limit = node[keyword]
    beyond = limit - 1 if keyword == "minItems" else limit + 1
    if keyword == "maxProperties":
        return dict.fromkeys(_names(limit), "a"), dict.fromkeys(_names(beyond), "a")
    return _items(path, node, limit), _items(path, node, beyond)


def _leaves(path: str, node: Node, keyword: str) -> tuple[Any, Any]:
    limit = node[keyword]
    match keyword:
        case "enum":
            return limit[-1], "-"
        case "format":
            return GOOD_TIME, "yesterday"
        case "minimum":
            return limit, limit - 1
        case "maximum":
            return limit, limit + 1
        case "minLength":
            return _good(path, node), _good(path, node)[: limit - 1]
        case "maxLength":
            longest = _longest(path, node)
            return longest, longest.ljust(limit + 1, longest[-1])
        case "pattern":
            return _good(path, node), "-" * node.get("minLength", 1)
    raise AssertionError(f"{path}: no values are known for {keyword}")


def _field(path: str) -> str:
    """Return the path as the API server writes it, for the first item of lists and the key `key` of maps."""
    steps = path.split("[]")
    starts = ["[]".join(steps[: count + 1]) for count in range(len(steps) - 1)]
    return steps[0].removeprefix(".") + "".join(
        ("[0]" if "items" in NODES[start] else ".key") + step for start, step in zip(starts, steps[1:], strict=True)
    )


def _document(path: str, value: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    parts = re.findall(r"\[\]|[^.\[\]]+", path)
    return merged(base, _wrapped(parts, "", base, value))  # type: ignore[no-any-return]


def _wrapped(parts: Sequence[str], path: str, base: Any, value: Any) -> Any:
    """Return `value` inside of the objects and lists that lead from `path` to it, each with the fields that it needs."""
    if not parts:
        return value
    node, (part, *rest) = NODES[path], parts
    if part != "[]":
        known = base if isinstance(base, dict) else {}
        others = {
            name: known.get(name, _good(f"{path}.{name}", node["properties"][name]))
            for name in node.get("required", ())
            if name != part
        }
        return others | {part: _wrapped(rest, f"{path}.{part}", known.get(part), value)}
    first = base[0] if isinstance(base, list) and base else {}
    inner = _wrapped(rest, f"{path}[]", first, value)
    inner = merged(first, inner) if isinstance(inner, dict) else inner  # a merge patch replaces lists as a whole
    return [inner] if "items" in node else {"key": inner}


def _whole(path: str, node: Node, base: Any) -> Any:
    """Return a value of the right type; of an object that the base has, no change to it."""
    for name in path.split(".")[1:]:
        base = base.get(name) if isinstance(base, dict) else None
    return {} if isinstance(base, dict) else _good(path, node)


def _good(path: str, node: Node) -> Any:
    """Return a value that a node of the schema bears, as small as it can be."""
    if ruled := [values for end, values in RULED.items() if path.endswith(end)]:
        return ruled[0][0]
    if "enum" in node:
        return node["enum"][-1]
    match node.get("type"):
        case "object":
            return {name: _good(f"{path}.{name}", node["properties"][name]) for name in node.get("required", ())}
        case "array":
            return _items(path, node, max(1, node.get("minItems", 0)))
        case "boolean":
            return True
        case "integer":
            return node["minimum"]
        case _:
            return GOOD_TIME if node.get("format") == "date-time" else next(text for text in SHORTEST if _bears(node, text))


def _longest(path: str, node: Node) -> str:
    limit = node["maxLength"]
    if ruled := [values for end, values in RULED.items() if path.endswith(end)]:
        return str(ruled[0][1])
    if node.get("format") == "date-time":
        return LONG_TIME
    decimals, quantity = (f"{'1' * digits}.1234" for digits in (12, 9)), f"{'1' * 15}.123Ki"
    candidates: tuple[str, ...] = ("a" * limit, "A" * limit, "* * * * ".ljust(limit, "1"), *decimals, quantity, SHORTEST[-1])
    return next(text for text in candidates if _bears(node, text))


def _items(path: str, node: Node, count: int) -> list[Any]:
    """Return so many items that differ in what has to differ."""
    items = node["items"]
    if "properties" not in items:
        return list(_names(count))
    keys = node.get("x-kubernetes-list-map-keys", ())
    free = [key for key in keys if "enum" not in items["properties"][key]]
    if keys and not free:  # as long as the values of the key at most; what is beyond names one twice
        [key] = keys
        return [_good(f"{path}[]", items) | {key: name} for name in islice(cycle(items["properties"][key]["enum"]), count)]
    return [_good(f"{path}[]", items) | dict.fromkeys(free, name) for name in _names(count)]


def _names(count: int) -> list[str]:
    return ["a" * length for length in range(1, count + 1)]


def _bears(node: Node, text: str) -> bool:
    return bool(jsonschema.Draft7Validator(dict(node)).is_valid(text))
