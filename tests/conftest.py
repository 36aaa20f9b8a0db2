"""What every test may ask for, and the rule that CI skips nothing for want of a part that it should have."""

import os
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from xdist.scheduler import LoadScopeScheduling

from transcriber_repository.launch import LaunchError, Server, cache_dir, find_server

# Processes of the tests, by the beginning of the node id: what computes most of the time, what waits for the operator, all else.
SCOPES: Final = {
    "tests/engine/": "compute",
    "tests/triton/": "compute",
    "tests/cluster/test_scaling": "rest",  # waits for nodes, minutes of it
    "tests/api/": "operator",
    "tests/cluster/": "operator",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing with them")


class ByWork(LoadScopeScheduling):  # type: ignore[misc]
    """Divides the tests among three processes, of about the same length.

    Those that compute most of the time have nearly all cores to themselves, and each process starts a control plane or server once.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((scope for part, scope in SCOPES.items() if nodeid.startswith(part)), "rest")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWork:
    return ByWork(config, log)


def unavailable(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test: {reason}")
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded, under the names of the tests."""
    measured = [report for report in terminalreporter.getreports("passed") if report.when == "call" and report.user_properties]
    if measured:
        terminalreporter.section("figures")
    for report in measured:
        terminalreporter.write_line(report.nodeid)
        for name, value in report.user_properties:
            terminalreporter.write_line(f"  {name}: {value}")


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
