"""What every test may ask for, and the rule that CI skips nothing for want of a part that it should have."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.rig.audit import AUDIT_VARIABLE
from tests.rig.audit_report import Report, report_of
from transcriber_repository.launch import LaunchError, Server, cache_dir, find_server

# Parts of the tests that run side by side, by the beginning of the node id.
SCOPES: Final = {
    "tests/engine/": "engine",
    "tests/triton/test_exporter": "exporter",
    "tests/triton/": "triton",
    "tests/cluster/test_scaling": "rest",  # waits for nodes, minutes of it
    "tests/api/": "operator",
    "tests/cluster/": "operator",
}
# Threads of torch that spin while they wait take the cores from the other processes; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A GPU's kernels are interpreted here; read when the package that compiles them is imported, which torch may do at any time.
os.environ.setdefault("TRITON_INTERPRET", "1")
TAKEN_LATE: Final = ("tests/triton/test_exporter", "tests/engine/")
AUDIT: Final = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew instead of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    """Have every control plane of this session, those of its worker processes too, say what the operator asked of it."""
    if not _is_worker(config):
        os.environ[AUDIT_VARIABLE] = tempfile.mkdtemp(prefix="transcriber-audit-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not _is_worker(config):
        shutil.rmtree(os.environ.pop(AUDIT_VARIABLE))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hold what the operator asked for against its rights; a right too many, or one too few, fails the session."""
    if _is_worker(session.config):
        return
    is_whole = _runs_all(session.config) and not session.testsfailed and not session.shouldstop
    found = report_of(Path(os.environ[AUDIT_VARIABLE]), is_whole=is_whole)
    if found is None:
        return
    session.config.stash[AUDIT] = found
    if found.failures and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _runs_all(config: pytest.Config) -> bool:
    """Whether no test is left out."""
    chosen = (config.getoption(name, None) for name in ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf"))
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not any(chosen)


class ByWork(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process a part of the tests at a time, so that it starts a control plane or server once."""

    def _split_scope(self, nodeid: str) -> str:
        return next((scope for part, scope in SCOPES.items() if nodeid.startswith(part)), "rest")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave some parts to the processes that are done first, so that all end at about the same time."""
    items.sort(key=lambda item: item.nodeid.startswith(TAKEN_LATE))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByWork:
    return ByWork(config, log)


def unavailable(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run this test: {reason}")
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures that tests recorded, under the names of the tests, and what became of the operator's rights."""
    measured = [report for report in terminalreporter.getreports("passed") if report.when == "call" and report.user_properties]
    if measured:
        terminalreporter.section("figures")
    for report in measured:
        terminalreporter.write_line(report.nodeid)
        for name, value in report.user_properties:
            terminalreporter.write_line(f"  {name}: {value}")
    if audit := config.stash.get(AUDIT, None):
        terminalreporter.section("audit of rights")
        for line in audit.lines():
            terminalreporter.write_line(line, red=line in audit.failures)


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
