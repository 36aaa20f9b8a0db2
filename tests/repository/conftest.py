"""A tiny pair on disk and the adapters that go with it."""

from pathlib import Path

import pytest

from tests.repository import tiny


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tiny.write_hf(tmp_path / "target")


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return tiny.write_draft(tmp_path / "draft")


@pytest.fixture
def adapters(tmp_path: Path) -> Path:
    return tiny.write_adapters(tmp_path / "adapters")
