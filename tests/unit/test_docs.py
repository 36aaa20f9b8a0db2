"""The pages: what they link to is there, and what they tell people to type and to write exists."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from jsonschema import validate

from tests.unit.operator.specs import claim_spec, context
from tests.unit.pages import ROOT, Block, Page, pages
from transcriber_api.loading import parse
from transcriber_api.schema import root_schema
from transcriber_cli.__main__ import app
from transcriber_operator.render import names

PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.path)
BY_PATH = {page.path: page for page in pages()}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VALUES = json.loads((ROOT / "charts/transcriber-operator/values.schema.json").read_text(encoding="utf-8"))
TARGETS = set(re.findall(r"^([a-z0-9][a-z0-9-]*):", MAKEFILE, re.MULTILINE))
# As git grep reads them.
REGISTRIES = (
    r"(docker|ghcr|quay|gcr|nvcr|azurecr)\.io|registry\.k8s\.io|ecr\.aws|\.dkr\.ecr\.|pypi\.org|pythonhosted|proxy\.golang"
    r"|mcr\.microsoft|npmjs\.org|crates\.io"
)
MACHINE = r"(^|[^[:alnum:]_./-])/(root|work/(main|shared|\.library)|tmp/brief)/"
FILES = {"bin", "json", "md", "pbtxt", "py", "safetensors", "toml", "yaml"}  # after the last dot of a file's name


def resolved(page: Page, target: str) -> tuple[str, str]:
    """Return path and anchor of a link of ours; the path is that of the page itself where there is only an anchor."""
    path, _, anchor = target.partition("#")
    whole = (ROOT / page.path).parent / path if path else ROOT / page.path
    return whole.resolve().relative_to(ROOT).as_posix(), anchor


def is_ours(target: str) -> bool:
    return not re.match(r"[a-z]+:", target)


@PAGES
def test_what_a_page_links_to_is_there(page: Page):
    missing = []
    for target in filter(is_ours, page.links):
        path, anchor = resolved(page, target)
        if not (ROOT / path).exists() or (anchor and path in BY_PATH and anchor not in BY_PATH[path].anchors):
            missing.append(target)
    assert missing == []


def test_the_index_leads_to_every_page_of_the_documentation():
    index = BY_PATH["docs/README.md"]
    linked = {resolved(index, target)[0] for target in filter(is_ours, index.links)}
    own = {path for path in BY_PATH if path.startswith("docs/") and path.count("/") == 1 and path != index.path}
    assert own - linked == set()


@PAGES
def test_a_target_that_a_page_says_to_make_is_there(page: Page):
    said = {name for line in page.commands for name in re.findall(r"(?<![\w./-])make ([a-z][a-z0-9-]*)", line)}
    assert said - TARGETS == set()


@PAGES
def test_a_variable_that_a_page_gives_to_make_is_one_of_the_makefile(page: Page):
    lines = [line for line in page.commands if re.match(r"make ", line)]
    given = {name for line in lines for name in re.findall(r"(?<=\s)([A-Z][A-Z_]+)=", line)}
    assert {name for name in given if not re.search(rf"\b{name}\b", MAKEFILE)} == set()


@cache
def cli() -> Any:
    return typer.main.get_command(app)


def unknown_options(line: str) -> Iterator[str]:
    """Yield what a command line has that the command does not: subcommands and long options."""
    command, words = cli(), line.split()
    while commands := getattr(command, "commands", None):
        if not words or words[0].startswith("-"):
            break
        name = words.pop(0)
        if name not in commands:
            yield name
            return
        command = commands[name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    yield from (word for word in (word.partition("=")[0] for word in words) if word.startswith("--") and word not in known)


@PAGES
def test_a_command_of_ours_that_a_page_has_is_one_with_its_options(page: Page):
    said = [re.match(r"(?:\.venv/bin/|kubectl )?transcriber ([^|&;>…]+)", line) for line in page.commands]
    lines = [found[1].strip() for found in said if found and not re.match(r"[=:]", found[1])]
    assert {line: unknown for line in lines for part in line.split(" | ") if (unknown := list(unknown_options(part)))} == {}


def has(schema: Mapping[str, Any], path: Sequence[str], definitions: Mapping[str, Any]) -> bool:
    """Whether a schema has a field, through lists and into maps of any key."""
    for name in path:
        schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        schema = schema.get("items", schema)
        if "properties" not in schema:
            return schema.get("type") == "object" or "additionalProperties" in schema
        if name not in schema["properties"]:
            return False
        schema = schema["properties"][name]
    return True


@cache
def api() -> dict[str, Any]:
    return root_schema()


def chart_has(path: Sequence[str]) -> bool:
    return has(VALUES, path, VALUES["definitions"])


@PAGES
def test_a_field_or_value_that_a_page_names_exists(page: Page):
    root = api()
    spec = root["properties"]["spec"]
    said = [re.fullmatch(r"([a-z]\w*(?:\.\w+(?:\[\])?)+)(?:[:=].*)?", span) for span in page.spans]
    set_ = [name for line in page.commands for name in re.findall(r"--set(?:-string)? ([\w.]+)=", line)]
    wrong = []
    for name in [*(found[1] for found in said if found), *set_]:
        path = name.replace("[]", "").split(".")
        if path[0] in ("spec", "status"):
            wrong += [] if has(root, path, {}) else [name]
        elif path[0] in spec["properties"] and path[-1] not in FILES:
            wrong += [] if has(spec, path, {}) else [name]
        elif path[0] in VALUES["properties"] and path[-1] not in FILES:
            wrong += [] if chart_has(path) else [name]
    assert wrong == []


def blocks(*languages: str) -> list[Any]:
    """Return the blocks in some languages; one with … in it is a sketch."""
    found = [(page, block) for page in pages() for block in page.blocks if block.language in languages and "…" not in block.text]
    return [pytest.param(block, id=f"{page.path}-{number}") for number, (page, block) in enumerate(found)]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_of_a_page_is_what_it_says_it_is(block: Block):
    for text in block.text.split("\n---\n"):
        given = yaml.safe_load(text)
        if given.get("kind") == "TranscriberDeployment":
            assert parse(text, "page").metadata.name
        elif "kind" not in given and given.keys() <= VALUES["properties"].keys():
            validate(given, VALUES)


@pytest.mark.parametrize("block", blocks("json", "toml"))
def test_json_and_toml_of_a_page_can_be_read(block: Block):
    assert json.loads(block.text) if block.language == "json" else tomllib.loads(block.text)


def test_the_policy_that_lets_builds_into_a_private_network_chooses_their_pods():
    (policy,) = [yaml.safe_load(block.text) for block in BY_PATH["docs/security.md"].blocks if "kind: NetworkPolicy" in block.text]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= names.labels(context(claim_spec()), names.BUILD).items()


def test_no_file_names_a_registry_or_a_path_of_one_machine():
    own = f":!{Path(__file__).relative_to(ROOT)}"
    command = [
        "git",
        "grep",
        "--untracked",
        "--extended-regexp",
        "-I",
        "--only-matching",
        "-e",
        REGISTRIES,
        "-e",
        MACHINE,
        "--",
        own,
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, ""), found.stderr
