"""The table of values in the chart's README, made of the comments in values.yaml.

`python -m tests.chart.values_table` writes it, `--check` compares. A comment above a key that begins with `# --` describes the key
and all that is below it; a mapping without one is described key by key.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

CHART: Final = Path(__file__).parents[2] / "charts" / "transcriber-operator"
MARK: Final = "# -- "
BEGIN: Final = "<!-- values: made by `make crds` of the comments in values.yaml -->"
END: Final = "<!-- end of values -->"
TYPES: Final = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object", type(None): "any"}


class Row(NamedTuple):
    """A value: its path such as `image.tag`, its default, and what it is for."""

    path: str
    default: Any
    description: str


class UndescribedError(Exception):
    """A value that no comment describes; the message names it and the line."""


def rows(text: str) -> list[Row]:
    """Return the rows of a values file; raises UndescribedError."""
    return list(_rows(yaml.compose(text, Loader=yaml.SafeLoader), text.splitlines(), ()))


def _rows(node: yaml.MappingNode, lines: Sequence[str], above: tuple[str, ...]) -> Iterator[Row]:
    for key, value in node.value:
        path = (*above, key.value)
        description = _description(lines, key.start_mark.line)
        if description:
            yield Row(".".join(path), yaml.safe_load(yaml.serialize(value)), description)
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _rows(value, lines, path)
        else:
            line = key.start_mark.line + 1
            raise UndescribedError(f"values.yaml, line {line}: {'.'.join(path)} has no comment that begins with `{MARK.strip()}`")


def _description(lines: Sequence[str], key_line: int) -> str:
    """Return the text of the comment right above a line; empty where it is no description."""
    first = key_line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    comment = [line.strip() for line in lines[first:key_line]]
    if not comment or not comment[0].startswith(MARK):
        return ""
    return " ".join(line.removeprefix(MARK).removeprefix("# ") for line in comment)


def table(of: Sequence[Row]) -> str:
    """Return rows as Markdown."""
    head = ["| Key | Type | Default | Description |", "| --- | --- | --- | --- |"]
    return "\n".join(
        [*head, *(f"| `{row.path}` | {TYPES[type(row.default)]} | `{_shown(row.default)}` | {row.description} |" for row in of)]
    )


def _shown(default: Any) -> str:
    return json.dumps(default, ensure_ascii=False).replace("|", r"\|")


def with_table(readme: str, values: str) -> str:
    """Return a README with the table of a values file between its marks; raises ValueError where it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md has no lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{table(rows(values))}\n\n{end}{after}"


def main(arguments: Sequence[str]) -> int:
    """Write or check the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chart.values_table", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the table is not up to date")
    options = parser.parse_args(arguments)
    readme = CHART / "README.md"
    present = readme.read_text(encoding="utf-8")
    wanted = with_table(present, (CHART / "values.yaml").read_text(encoding="utf-8"))
    if options.check and wanted != present:
        sys.stderr.write(f"{readme.relative_to(CHART.parents[1])}: not up to date with values.yaml; run `make crds`\n")
        return 1
    if not options.check:
        readme.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
