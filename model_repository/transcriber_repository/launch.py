"""Starts Triton on a published repository: the one way it is started, in the serving image, by `transcriber serve` and by tests.

`python -m transcriber_repository.launch --repository DIR` checks every byte of the repository, finds the server (the serving
image's, one on PATH, or the nvidia-pytriton wheel's) and becomes it by exec: signals and the exit status are Triton's own. With
`--root DIR` in place of `--repository` it serves the one repository in that folder.
"""

import argparse
import ctypes
import hashlib
import os
import secrets
import shutil
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from transcriber_engine.turns import offer_turns
from transcriber_repository.errors import EXIT_CODES, SIGNAL_EXIT_BASE, RepositoryError
from transcriber_repository.manifest import is_ready
from transcriber_repository.progress import LogLines
from transcriber_repository.publish import repositories
from transcriber_repository.verify import verify

IMAGE_ROOT: Final = Path("/opt/tritonserver")
WHEEL: Final = "nvidia-pytriton"
LOOPBACK: Final = "127.0.0.1"
RESTRICTED: Final = "shared-memory,model-repository,model-config,statistics,trace,logging"
PING_INTERVAL_MILLISECONDS: Final = 10_000
# A client keeps its connection, and would call a pod that drains until that ends. Asked now and then to connect anew, it looks
# again where to; calls on their way are finished on the old connection.
CONNECTION_AGE_MILLISECONDS: Final = 20_000
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
INTERPRETER_DIR: Final = "interpreter"
# Encoder and decoder are processes of their own on the same cores, and take turns (turns.py). A thread that waits for the next step
# of a turn must not sleep at once, since steps are ten millionths of a second apart; nor spin for milliseconds, as is the default,
# when the turn is over. This is about a tenth of a millisecond. numpy's own threads, which spin as well, are not needed at all.
THREADS_WAIT: Final[Mapping[str, str]] = {"GOMP_SPINCOUNT": "20000", "OPENBLAS_NUM_THREADS": "1"}
# The wheel's interpreter is isolated: it ignores PYTHONPATH and PYTHONDONTWRITEBYTECODE, but takes the virtual environment of the
# first python3 on PATH. It gets one that holds this alone; otherwise models would import from elsewhere, or leave a __pycache__.
SITE_CUSTOMIZE: Final = """\
import os
import sys

sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
"""


class LaunchError(Exception):
    """Triton cannot be started here; the message says what is missing and the fix."""


@dataclass(frozen=True)
class Server:
    """A Triton server on this machine: its executable, its folder of backends, and where its shared libraries lie."""

    executable: Path
    backends_dir: Path
    library_dirs: tuple[Path, ...] = ()
    python_dir: Path | None = None  # holds the python3 whose environment the models run in, where Triton does not bring its own


@dataclass(frozen=True)
class Listen:
    """Where Triton listens: `address`, IPv4 or IPv6, is that of metrics, and of gRPC unless `grpc_address` says otherwise.

    HTTP is off unless it has a port, and stays on loopback whatever `address` says: nothing outside the machine needs it.
    """

    grpc_port: int = 8001
    http_port: int | None = None
    metrics_port: int = 8002
    address: str = LOOPBACK
    grpc_address: str | None = None


@dataclass(frozen=True)
class Secrets:
    """Two random words: the key of the restricted protocols, and the prefix that keeps shared-memory names from being guessed."""

    api_key: str
    shm_prefix: str

    @classmethod
    def random(cls) -> "Secrets":
        """Draw new ones."""
        return cls(secrets.token_hex(16), f"transcriber-{secrets.token_hex(8)}")


def cache_dir(environment: Mapping[str, str]) -> Path:
    """Return the project's folder in the user's cache."""
    base = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or tempfile.gettempdir()) / ".cache")
    return Path(base) / "transcriber"


def command(
    server: Server,
    repository_dir: Path,
    listen: Listen,
    words: Secrets,
    environment: Mapping[str, str],
    python_path: Sequence[str],
    log_verbose: int = 0,
) -> tuple[list[str], dict[str, str]]:
    """Return Triton's arguments and environment; pure.

    `python_path` is what the models' interpreters import from. No response cache: its key ignores parameters and shapes.
    """
    arguments = [
        str(server.executable),
        f"--model-repository={repository_dir / 'models'}",
        f"--backend-directory={server.backends_dir}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--grpc-address={_grpc_address(listen.grpc_address or listen.address)}",
        f"--grpc-port={listen.grpc_port}",
        f"--grpc-restricted-protocol={RESTRICTED}:transcriber-key={words.api_key}",
        # A long file is one call without data for minutes: let clients ping meanwhile.
        f"--grpc-http2-min-recv-ping-interval-without-data={PING_INTERVAL_MILLISECONDS}",
        "--grpc-keepalive-permit-without-calls=1",
        f"--grpc-max-connection-age={CONNECTION_AGE_MILLISECONDS}",
        *_http_arguments(listen, words),
        f"--metrics-address={_metrics_address(listen.address)}",
        f"--metrics-port={listen.metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={words.shm_prefix}",
        f"--log-verbose={log_verbose}",
    ]
    variables = {
        "PYTHONPATH": os.pathsep.join(python_path),
        "PYTHONDONTWRITEBYTECODE": "1",  # a __pycache__ beside a model.py would break the repository's manifest
        "TRANSCRIBER_PYTHON": sys.executable,  # inside Triton's interpreter sys.executable is not Python
    }
    for name, folders in (("LD_LIBRARY_PATH", server.library_dirs), ("PATH", (server.python_dir,) if server.python_dir else ())):
        if folders:
            inherited = [environment[name]] if environment.get(name) else []
            variables[name] = os.pathsep.join([*map(str, folders), *inherited])
    return arguments, {**THREADS_WAIT, **environment, **variables}


def _grpc_address(address: str) -> str:
    """Triton's gRPC joins address and port by a colon: one that has colons itself needs brackets."""
    return f"[{address}]" if ":" in address else address


def _metrics_address(address: str) -> str:
    """Triton's HTTP library takes an IPv6 address under this prefix alone."""
    return f"ipv6:{address}" if ":" in address else address


def _http_arguments(listen: Listen, words: Secrets) -> list[str]:
    if listen.http_port is None:
        return ["--allow-http=false"]
    return [
        "--allow-http=true",
        f"--http-address={LOOPBACK}",
        f"--http-port={listen.http_port}",
        f"--http-restricted-api={RESTRICTED}:transcriber-key={words.api_key}",
    ]


def import_path(entries: Sequence[str], working_dir: Path) -> list[str]:
    """Return the folders of `sys.path` that the models' interpreters need: all but the working directory.

    `python -m` puts the working directory first; a stray `json.py` there must not reach the models.
    """
    folders = (str(Path(entry).absolute()) for entry in entries if entry)
    return list(dict.fromkeys(folder for folder in folders if folder != str(working_dir) and Path(folder).is_dir()))


def find_server(cache: Path) -> Server:
    """Find Triton: the image's, one on PATH, the wheel's (its backends are assembled below `cache`); raises LaunchError."""
    on_path = shutil.which("tritonserver")
    found = [IMAGE_ROOT / "bin" / "tritonserver", *([Path(on_path).resolve()] if on_path else [])]
    for executable in found:
        if executable.is_file():
            return Server(executable, executable.parent.parent / "backends")
    try:
        wheel_version = version(WHEEL)
    except PackageNotFoundError:
        raise LaunchError(
            f"tritonserver: found neither in {IMAGE_ROOT} nor on PATH; install the wheel with "
            "`pip install 'transcriber-operator[demo]'`, or run in Triton's image"
        ) from None
    return _wheel_server(Path(sysconfig.get_path("purelib")), wheel_version, cache)


def _wheel_server(site_packages: Path, wheel_version: str, cache: Path) -> Server:
    root = site_packages / "pytriton" / "tritonserver"
    python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub_dir = root / "python_backend_stubs" / python_version
    executable = root / "bin" / "tritonserver"
    if not (executable.is_file() and stub_dir.is_dir()):
        raise LaunchError(
            f"{WHEEL} {wheel_version}: has no server for Python {python_version} on {sysconfig.get_platform()}; "
            "use a Python version that the wheel supports, on Linux"
        )
    base_python = Path(sys.base_exec_prefix) / "bin" / f"python{python_version}"
    key = hashlib.sha256(f"{SITE_CUSTOMIZE}{base_python}".encode()).hexdigest()[:8]
    backends_dir = cache / "triton-backends" / f"{wheel_version}-{python_version}-{key}"
    try:
        assemble_backends(root / "backends" / "python", stub_dir, base_python, backends_dir)
    except OSError as error:
        raise LaunchError(f"{backends_dir}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written") from error
    libraries = (Path(sysconfig.get_config_var("LIBDIR")), site_packages / "nvidia_pytriton.libs")
    return Server(executable, backends_dir, libraries, backends_dir / INTERPRETER_DIR / "bin")


def assemble_backends(backend_dir: Path, stub_dir: Path, base_python: Path, backends_dir: Path) -> None:
    """Make `backends_dir` hold the backend `python` with the stub of this Python version, and its interpreter; raises OSError.

    It is built aside and renamed, so that processes that start at once, or die half-way, never see half of it.
    """
    if backends_dir.is_dir():
        return
    backends_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=backends_dir.parent, prefix=".assembling-") as folder:
        assembled = Path(folder) / "backends"
        for source in (backend_dir, stub_dir):
            shutil.copytree(source, assembled / "python", dirs_exist_ok=True)
        _write_interpreter(assembled / INTERPRETER_DIR, base_python)
        try:
            assembled.rename(backends_dir)
        except OSError:
            if not backends_dir.is_dir():  # otherwise another process was first, with the same files
                raise


def _write_interpreter(folder: Path, base_python: Path) -> None:
    site_packages = folder / "lib" / base_python.name / "site-packages"
    site_packages.mkdir(parents=True)
    (site_packages / "sitecustomize.py").write_text(SITE_CUSTOMIZE, encoding="utf-8")
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(base_python)
    (folder / "pyvenv.cfg").write_text(f"home = {base_python.parent}\ninclude-system-site-packages = false\n", encoding="utf-8")


def only_repository(root: Path) -> Path:
    """Return the one ready repository in a folder of repositories; raises LaunchError where there is none or more than one."""
    ready = [path for path in repositories(root) if is_ready(path)] if root.is_dir() else []
    if not ready:
        raise LaunchError(f"--root {root}: holds no ready repository; build one with `python -m transcriber_repository build`")
    if len(ready) > 1:
        names = ", ".join(path.name for path in ready)
        raise LaunchError(
            f"--root {root}: holds {len(ready)} ready repositories ({names}); name the one to serve with --repository"
        )
    return ready[0]


def stop_with(parent_pid: int) -> None:
    """Have the kernel send this process, and what it execs, SIGTERM when its parent dies; raises LaunchError if it has already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:
        raise LaunchError(f"--stop-with: process {parent_pid} is not the parent of this one any more")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the repository and become Triton; returns an exit code only where that fails, with one line on stderr."""
    options = _parser().parse_args(arguments)
    # A first process of a container ignores what it does not handle; Triton, which it becomes, has its own handlers.
    signal.signal(signal.SIGTERM, _end)
    try:
        if options.stop_with is not None:
            stop_with(options.stop_with)
        repository_dir = options.repository.absolute() if options.repository else only_repository(options.root.absolute())
        verify(repository_dir, LogLines(_say))
        server = find_server(cache_dir(os.environ))
    except RepositoryError as error:
        _say(str(error))
        return EXIT_CODES[error.reason]
    except LaunchError as error:
        _say(str(error))
        return 1
    listen = Listen(options.grpc_port, options.http_port, options.metrics_port, options.address, options.grpc_address)
    python_path = import_path(sys.path, Path.cwd())
    argv, environment = command(
        server, repository_dir, listen, Secrets.random(), os.environ, python_path, log_verbose=options.log_verbose
    )
    return _become(argv, {**environment, **offer_turns()})


def _address(text: str) -> str:
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 or IPv6 address, such as 10.0.0.7, fd00::7 or 0.0.0.0") from None


def _become(argv: list[str], environment: Mapping[str, str]) -> NoReturn:
    os.execve(argv[0], argv, environment)  # noqa: S606  # no shell is meant


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(SIGNAL_EXIT_BASE + number)


def _say(line: str) -> None:
    sys.stderr.write(f"launch: {line}\n")
    sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    listen = Listen()
    parser = argparse.ArgumentParser(prog="python -m transcriber_repository.launch", description=__doc__)
    served = parser.add_mutually_exclusive_group(required=True)
    served.add_argument("--repository", type=Path, metavar="DIR", help="a published repository: <root>/sha256-…")
    served.add_argument("--root", type=Path, metavar="DIR", help="a folder that holds one published repository")
    parser.add_argument("--grpc-port", type=int, default=listen.grpc_port, metavar="PORT", help="default %(default)s")
    parser.add_argument("--http-port", type=int, metavar="PORT", help="turns HTTP on, on loopback only")
    parser.add_argument("--metrics-port", type=int, default=listen.metrics_port, metavar="PORT", help="default %(default)s")
    parser.add_argument(
        "--address", type=_address, default=listen.address, help="of gRPC and metrics, IPv4 or IPv6; default %(default)s"
    )
    parser.add_argument("--grpc-address", type=_address, help="of gRPC alone; 0.0.0.0: all of the machine's; default: --address")
    parser.add_argument("--log-verbose", type=int, default=0, metavar="LEVEL", help="Triton's log level; default %(default)s")
    parser.add_argument("--stop-with", type=int, metavar="PID", help="stop when the parent process, PID, dies")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
