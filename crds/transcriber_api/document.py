"""One YAML document as plain data together with the line of every field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Location = tuple[str | int, ...]
MAX_NODES: Final = 100_000  # a document of 1 MiB whose aliases unfold to more is an attack
MAX_DEPTH: Final = 32


class SpecError(ValueError):
    """Why a document is refused: `errors` has one line for each reason, `FILE:LINE: field: message`."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


def field_path(location: Location) -> str:
    """Spell a location as in messages: `spec.capacity.pools[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


@dataclass
class ReadDocument:
    """The document `origin` as data, the line where each location begins, and what YAML itself lets pass but we do not."""

    origin: str
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[Location, int] = field(default_factory=dict)
    errors: list[tuple[int, str]] = field(default_factory=list)
    nodes: int = 0

    def error(self, location: Location, message: str) -> tuple[int, str]:
        """Return the line, for sorting, and the text of an error; a location that is not there has the line of its parent."""
        known = next(location[:end] for end in range(len(location), -1, -1) if location[:end] in self.lines)
        line = self.lines[known]
        return line, f"{self.origin}:{line}: {field_path(location) or 'document'}: {message}"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as kubectl reads it; timestamps stay text, as in JSON."""


_Loader.yaml_implicit_resolvers = {
    character: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_document(text: str, origin: str) -> ReadDocument:
    """Read the one document of `text`; raises SpecError when there is none or several, and yaml.YAMLError for bad YAML.

    Keys given twice and merge keys are put in `errors`, so that they are told together with all else.
    """
    loader = _Loader(text)
    try:
        roots = []
        while loader.check_node():
            root = loader.get_node()
            if root is not None and not (isinstance(root, yaml.ScalarNode) and not root.value):  # `---` alone holds nothing
                roots.append(root)
        read = ReadDocument(origin)
        if not roots:
            raise SpecError([f"{origin}: is empty; write one TranscriberDeployment"])
        if len(roots) > 1:
            line = roots[1].start_mark.line + 1
            raise SpecError([f"{origin}:{line}: holds {len(roots)} documents; give each TranscriberDeployment a file of its own"])
        if not isinstance(roots[0], yaml.MappingNode):
            raise SpecError(
                [f"{origin}:{roots[0].start_mark.line + 1}: must be an object with apiVersion, kind, metadata and spec"]
            )
        read.lines[()] = roots[0].start_mark.line + 1
        read.content = _plain(loader, read, roots[0], ())
        return read
    finally:
        loader.dispose()


def _plain(loader: _Loader, read: ReadDocument, node: yaml.Node, location: Location) -> Any:
    """Return `node` as plain data, noting the lines of all below it."""
    read.nodes += 1
    if read.nodes > MAX_NODES or len(location) > MAX_DEPTH:
        raise SpecError([f"{read.origin}:{node.start_mark.line + 1}: {field_path(location)}: nests too deep or repeats too much"])
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, read, node, location)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            read.lines[(*location, index)] = item.start_mark.line + 1
            items.append(_plain(loader, read, item, (*location, index)))
        return items
    return loader.construct_object(node)


def _mapping(loader: _Loader, read: ReadDocument, node: yaml.MappingNode, location: Location) -> Mapping[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
        here = (*location, name)
        line = key.start_mark.line + 1
        if name == "<<":
            read.errors.append((line, f"{read.origin}:{line}: {field_path(location)}: has a merge key (<<); write the fields out"))
            continue
        if name in result:
            first = read.lines[here]
            read.errors.append((line, f"{read.origin}:{line}: {field_path(here)}: is set twice, first in line {first}"))
            continue
        read.lines[here] = line
        result[name] = _plain(loader, read, value, here)
    return result
