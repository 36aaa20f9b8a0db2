"""How the commands speak: results on stdout, everything else on stderr, expected errors in a line or two and no traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

from transcriber_api.loading import SpecError
from transcriber_repository.errors import RepositoryError
from transcriber_repository.progress import LogLines, Reporter
from transcriber_repository.progress import Progress as BuildProgress

INTERRUPTED_EXIT_CODE = 130
PIPE_COLUMNS = 10_000
stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class CommandError(Exception):
    """A failure that is expected; the message says what to do about it."""

    exit_code: ClassVar[int] = 1


def say(message: str) -> None:
    """Write a line to stderr as it is."""
    stderr.print(message, markup=False)


def show_error(message: str) -> None:
    """Write an error to stderr."""
    stderr.print("error: ", style="bold red", end="")
    say(message)


@contextmanager
def expected_errors() -> Iterator[None]:
    """Turn expected errors into a line or two and exit code 1, or the error's own; Ctrl-C into exit code 130."""
    try:
        yield
    except (CommandError, SpecError, RepositoryError) as error:
        show_error(str(error))
        raise typer.Exit(error.exit_code if isinstance(error, CommandError) else 1) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED_EXIT_CODE) from None


@contextmanager
def build_progress() -> Iterator[Reporter]:
    """Give a reporter for builds: a bar per stage on a terminal, a line every 15 s elsewhere."""
    if not stderr.is_terminal:
        yield LogLines(say)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stderr) as bars:
        tasks: dict[str, TaskID] = {}

        def report(progress: BuildProgress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage)
            total = progress.bytes_done if progress.finished else progress.bytes_total
            bars.update(tasks[progress.stage], completed=progress.bytes_done, total=total)

        yield report


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on a terminal what is waited for, and for how long."""
    with _spinners() as spinners:
        spinners.add_task(what)
        yield


class FileSpinners:
    """A spinner with the elapsed time for each file on its way; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._spinners = _spinners()

    def __enter__(self) -> "FileSpinners":
        self._spinners.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._spinners.stop()

    @contextmanager
    def file(self, name: str) -> Iterator[None]:
        """Show that a file is being transcribed."""
        task = self._spinners.add_task(name)
        try:
            yield
        finally:
            self._spinners.remove_task(task)


def _spinners() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)


def parse_volumes(values: list[str]) -> dict[str, Path]:
    """Parse `--volume CLAIM=DIR`; raises typer.BadParameter."""
    volumes = {}
    for value in values:
        claim, separator, folder = value.partition("=")
        if not (claim and separator and folder):
            raise typer.BadParameter(f"{value!r} is not of the form CLAIM=DIR", param_hint="--volume")
        if not Path(folder).is_dir():
            raise typer.BadParameter(f"{folder} is not a folder", param_hint="--volume")
        volumes[claim] = Path(folder).absolute()
    return volumes


def stdout_console() -> Console:
    """Return a console for results that fits lines to a terminal, and leaves them whole for a pipe or file."""
    columns = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(highlight=False, width=columns)


def write_result(text: str) -> None:
    """Write a result to stdout, ending with a newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()
