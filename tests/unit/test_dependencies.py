"""Each part of ours imports what its own extra installs, so that the part runs where no other is."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest
from packaging.utils import canonicalize_name

from tests.supply_chain import sbom
from tests.supply_chain.locks import LOCKS, REPOSITORY, ROOT, installed, pins

EXTRAS = {
    "crds/transcriber_api": (),
    "model_repository/transcriber_engine": ("engine",),
    "model_repository/transcriber_repository": ("repository",),
    "model_repository/transcriber_triton": ("engine",),
    "operator/transcriber_operator": ("operator",),
    "exporter/transcriber_exporter": ("exporter",),
    "cli/transcriber_cli": ("cli", "plot"),
}
OF_TRITON = {"triton_python_backend_utils"}  # the server gives it to its models


def imported(source: str) -> Iterator[str]:
    """Top-level names that a module imports when it runs, wherever in it."""
    todo: list[ast.AST] = [ast.parse(source)]
    for node in todo:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


@pytest.mark.parametrize("package", EXTRAS)
def test_a_package_imports_nothing_that_its_extra_does_not_install(package: str):
    names = {name for path in (ROOT / package).rglob("*.py") for name in imported(path.read_text(encoding="utf-8"))}
    foreign = {name for name in names - sys.stdlib_module_names - OF_TRITON if not name.startswith("transcriber_")}
    there = sbom.needed(installed(pins(LOCKS[REPOSITORY].read_text(encoding="utf-8"))), list(sbom._direct(EXTRAS[package])))
    distributions = packages_distributions()
    missing = {name for name in foreign if there.keys().isdisjoint(map(canonicalize_name, distributions.get(name, ())))}
    assert missing == set(), f"name them in the extra {' or '.join(EXTRAS[package])} of pyproject.toml"


def test_imports_are_found_wherever_they_stand_but_for_those_of_type_checkers_alone():
    source = """
import a.b, c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from d import e
else:
    import f
def later():
    from g.h import i
"""
    assert sorted(imported(source)) == ["a", "c", "f", "g", "typing"]
