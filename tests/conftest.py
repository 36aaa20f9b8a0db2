"""What every test may ask for, and the rule that CI skips nothing for want of a part that it should have."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from transcriber_repository.launch import LaunchError, Server, cache_dir, find_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing with them")


def unavailable(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def triton() -> Server:
    """A real Triton server of this machine."""
    try:
        return find_server(cache_dir(os.environ))
    except LaunchError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """The root of the project."""
    return Path(__file__).parents[1]
