"""Where code may lie: what would shadow the standard library once its folder is on the path is refused."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folders that are put on sys.path, so that each file and package in them is a top-level name.
PATH_ROOTS = ("crds", "model_repository", "cli", "operator", "gateway", "exporter")


def test_the_operator_folder_is_no_package():
    assert not (ROOT / "operator" / "__init__.py").exists(), "it would shadow the standard library's operator"


@pytest.mark.parametrize("folder", PATH_ROOTS)
def test_no_module_at_a_path_root_shadows_the_standard_library(folder: str):
    names = {path.stem for path in (ROOT / folder).glob("*.py")} | {
        path.parent.name for path in (ROOT / folder).glob("*/__init__.py")
    }
    assert not names & sys.stdlib_module_names


def test_the_repository_root_has_no_package_that_shadows_the_standard_library():
    names = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert not names & sys.stdlib_module_names


def test_every_package_of_ours_has_a_docstring_in_its_init():
    packages = [path for folder in PATH_ROOTS for path in (ROOT / folder).glob("transcriber_*/__init__.py")]
    assert packages
    assert [path for path in packages if not path.read_text(encoding="utf-8").startswith('"""')] == []
