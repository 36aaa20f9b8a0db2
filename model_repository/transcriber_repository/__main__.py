"""`python -m transcriber_repository build|verify|collect`: what the build Job runs, and the check before Triton starts."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from transcriber_api.loading import SpecError, load
from transcriber_repository.errors import EXIT_CODES, Reason, RepositoryError
from transcriber_repository.progress import LogLines
from transcriber_repository.publish import collect
from transcriber_repository.verify import verify

SIGNAL_EXIT_BASE: Final = 128
log = logging.getLogger("transcriber_repository")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or `errors.EXIT_CODES` of the reason with one line on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        return int(options.run(options))
    except RepositoryError as error:
        log.error("%s: %s", error.reason, " ".join(str(error).split()))
        return EXIT_CODES[error.reason]


def _build(options: argparse.Namespace) -> int:
    from transcriber_repository.build import build
    from transcriber_repository.sources.remote import Access, HttpsPolicy
    from transcriber_repository.sources.web import HOSTS_VARIABLE

    hosts = frozenset(host.strip() for host in os.environ.get(HOSTS_VARIABLE, "").split(",") if host.strip())
    access = Access(
        volumes={name: Path(folder) for name, folder in options.volume},
        credentials={role: _secret(Path(folder)) for role, folder in options.credentials},
        https=HttpsPolicy(hosts=hosts),
    )
    try:
        spec = load(options.spec).spec
    except SpecError as error:
        raise RepositoryError(Reason.INVALID_SPEC, str(options.spec), "; ".join(error.errors)) from None
    path = build(spec, options.root, access, LogLines(log.info), on_wait=_say_waiting)
    sys.stdout.write(f"{path}\n")
    return 0


def _verify(options: argparse.Namespace) -> int:
    manifest = verify(options.directory, LogLines(log.info))
    sys.stdout.write(f"{options.directory}: {len(manifest.files)} files as published\n")
    return 0


def _collect(options: argparse.Namespace) -> int:
    for digest in collect(options.root, frozenset(options.keep), _say_waiting):
        sys.stdout.write(f"removed sha256-{digest}\n")
    return 0


def _secret(folder: Path) -> dict[str, str]:
    """Read a mounted Secret: a file per key; Kubernetes' own `..data` links are not keys."""
    return {path.name: path.read_text().strip() for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}


def _say_waiting() -> None:
    log.info("another build holds the folder; waiting for it to end")


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    # SystemExit runs every `finally` on its way out, so no half repository stays; downloads do, for the next try.
    log.info("stopped by %s; nothing was published", signal.Signals(number).name)
    raise SystemExit(SIGNAL_EXIT_BASE + number)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=DIR")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transcriber_repository", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build|verify|collect")
    builder = commands.add_parser("build", help="build the repository of a TranscriberDeployment and print its folder")
    builder.add_argument("--spec", type=Path, required=True, metavar="FILE", help="TranscriberDeployment in YAML or JSON")
    builder.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder that holds repositories")
    builder.add_argument("--volume", type=_pair, action="append", default=[], metavar="CLAIM=DIR", help="where a claim is mounted")
    builder.add_argument(
        "--credentials", type=_pair, action="append", default=[], metavar="ROLE=DIR", help="mounted Secret of `target` or `draft`"
    )
    builder.set_defaults(run=_build)
    verifier = commands.add_parser("verify", help="check every byte of a published repository")
    verifier.add_argument("directory", type=Path, metavar="DIR", help="<root>/sha256-…")
    verifier.set_defaults(run=_verify)
    collector = commands.add_parser("collect", help="remove all repositories but those to keep")
    collector.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder that holds repositories")
    collector.add_argument("--keep", action="append", required=True, metavar="DIGEST", help="digest to keep; repeat it")
    collector.set_defaults(run=_collect)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
