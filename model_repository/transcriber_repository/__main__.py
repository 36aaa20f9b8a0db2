"""`python -m transcriber_repository build|verify|collect`: what the build Job runs, and the check before Triton starts."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from transcriber_api.loading import SpecError, load
from transcriber_repository.errors import EXIT_CODES, SIGNAL_EXIT_BASE, Reason, RepositoryError
from transcriber_repository.manifest import DIGEST_DIR
from transcriber_repository.outcome import Pinned, failure, success
from transcriber_repository.progress import LogLines, Progress, Reporter
from transcriber_repository.progress_endpoint import Address, progress_endpoint
from transcriber_repository.publish import collect
from transcriber_repository.request import Role, SourceFile
from transcriber_repository.verify import verify

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
    try:
        with _reporter(options.progress_address) as report:
            path, pinned = _publish(options, report)
    except RepositoryError as error:
        if options.result:
            _write_result(options.result, failure(error))
        raise
    sys.stdout.write(f"{path}\n")
    if options.result:
        _write_result(options.result, success(path, pinned))
    if options.keep:
        _remove_all_but({path.name, *options.keep}, options.root)
    return 0


def _publish(options: argparse.Namespace, report: Reporter) -> tuple[Path, Pinned]:
    """Build what the spec asks for; return its folder, and the sources' files with their hashes."""
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
    pinned: dict[Role, tuple[SourceFile, ...]] = {}
    path = build(spec, options.root, access, report, on_wait=_say_waiting, on_pinned=pinned.update)
    return path, pinned


@contextmanager
def _reporter(address: Address | None) -> Iterator[Reporter]:
    """Report to the log, and to whoever asks at `address`; without the latter a build is as good, so it goes on."""
    reporters: list[Reporter] = [LogLines(log.info)]
    with ExitStack() as stack:
        if address is not None:
            try:
                reporters.append(stack.enter_context(progress_endpoint(address)))
            except OSError as error:
                log.warning("--progress-address %s port %d: %s; nobody can ask for progress", *address, error.strerror)

        def report(progress: Progress) -> None:
            for each in reporters:
                each(progress)

        yield report


def _write_result(file: Path, content: bytes) -> None:
    """Write the outcome in place: a termination log is a mount, which cannot be renamed over. What the build did stands."""
    try:
        file.write_bytes(content)
    except OSError as error:
        log.error("--result %s: %s; the outcome is not written", file, error.strerror)


def _remove_all_but(digests: set[str], root: Path) -> None:
    """Collect after a build. What was published serves whether or not the rest could be removed; the next build tries again."""
    try:
        for digest in collect(root, digests, _say_waiting):
            log.info("removed sha256-%s", digest)
    except OSError as error:
        log.error("%s: %s; old repositories were not removed", root, error.strerror)


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


def _digest(text: str) -> str:
    digest = f"sha256-{text.removeprefix('sha256-').removeprefix('sha256:')}"
    if not DIGEST_DIR.fullmatch(digest):
        raise argparse.ArgumentTypeError(f"{text!r} is not a digest: sha256- and 64 hex digits")
    return digest


def _address(text: str) -> Address:
    host, separator, port = text.rpartition(":")
    if not (host and separator and port.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT, such as 10.0.0.7:8003 or [fd00::7]:8003")
    return host.removeprefix("[").removesuffix("]"), int(port)


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
    builder.add_argument("--result", type=Path, metavar="FILE", help="write the outcome there as JSON, at most 4096 bytes")
    builder.add_argument(
        "--keep", type=_digest, action="append", metavar="DIGEST", help="remove all but the new one and these afterwards; repeat it"
    )
    builder.add_argument(
        "--progress-address", type=_address, metavar="HOST:PORT", help="answer GET /progress there while the build runs"
    )
    builder.set_defaults(run=_build)
    verifier = commands.add_parser("verify", help="check every byte of a published repository")
    verifier.add_argument("directory", type=Path, metavar="DIR", help="<root>/sha256-…")
    verifier.set_defaults(run=_verify)
    collector = commands.add_parser("collect", help="remove all repositories but those to keep")
    collector.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder that holds repositories")
    collector.add_argument(
        "--keep", type=_digest, action="append", required=True, metavar="DIGEST", help="digest to keep; repeat it"
    )
    collector.set_defaults(run=_collect)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
