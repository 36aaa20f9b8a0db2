"""The launcher's pure parts, and what it refuses before it starts anything."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from transcriber_repository.errors import EXIT_CODES, Reason
from transcriber_repository.launch import (
    LaunchError,
    Listen,
    Secrets,
    Server,
    _parser,
    _wheel_server,
    assemble_backends,
    cache_dir,
    command,
    import_path,
    main,
    only_repository,
)
from transcriber_repository.manifest import ready_text

SERVER = Server(Path("/triton/bin/tritonserver"), Path("/triton/backends"), (Path("/python/lib"), Path("/wheel/libs")))
WORDS = Secrets("key", "prefix")
BASE = Path(sys.base_exec_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(autouse=True)
def signal_handler() -> Iterator[None]:
    """`main` takes SIGTERM for its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def flags(listen: Listen = Listen()) -> dict[str, str]:  # noqa: B008
    argv, _ = command(SERVER, Path("/repositories/sha256-0"), listen, WORDS, {}, [])
    return {name: value for name, _, value in (argument.partition("=") for argument in argv[1:])}


def test_command_serves_the_models_of_the_repository_and_never_loads_others() -> None:
    given = flags()
    assert given["--model-repository"] == "/repositories/sha256-0/models"
    assert given["--backend-directory"] == "/triton/backends"
    assert given["--model-control-mode"] == "none"
    assert given["--exit-on-error"] == given["--strict-readiness"] == "true"
    assert "--disable-auto-complete-config" in given


def test_command_never_enables_the_response_cache() -> None:
    assert not [name for name in flags() if "cache" in name]


def test_command_keeps_http_on_loopback_when_grpc_is_reachable_from_outside() -> None:
    given = flags(Listen(grpc_port=1, http_port=2, metrics_port=3, address="0.0.0.0"))
    assert (given["--grpc-address"], given["--metrics-address"], given["--http-address"]) == ("0.0.0.0", "0.0.0.0", "127.0.0.1")
    assert (given["--grpc-port"], given["--http-port"], given["--metrics-port"]) == ("1", "2", "3")
    assert given["--allow-http"] == "true"


def test_command_turns_http_off_where_it_has_no_port() -> None:
    assert {name: value for name, value in flags(Listen()).items() if "http" in name.split("-")} == {"--allow-http": "false"}


def test_command_writes_an_ipv6_address_as_each_of_tritons_servers_reads_it() -> None:
    given = flags(Listen(address="fd00::7"))
    assert (given["--grpc-address"], given["--metrics-address"]) == ("[fd00::7]", "ipv6:fd00::7")


@pytest.mark.parametrize("flag", ["--grpc-restricted-protocol", "--http-restricted-api"])
@pytest.mark.parametrize("protocol", ["shared-memory", "model-repository", "model-config", "statistics", "trace", "logging"])
def test_command_restricts_what_administers_the_server(flag: str, protocol: str) -> None:
    protocols, _, key = flags(Listen(http_port=8000))[flag].partition(":")
    assert protocol in protocols.split(",")
    assert key == "transcriber-key=key"


def test_grpc_may_listen_elsewhere_than_metrics() -> None:
    given = flags(Listen(address="10.1.2.3", grpc_address="0.0.0.0"))
    assert (given["--grpc-address"], given["--metrics-address"]) == ("0.0.0.0", "10.1.2.3")


def test_command_has_clients_connect_anew_well_within_the_time_that_a_spot_node_gives_to_drain() -> None:
    assert int(flags(Listen())["--grpc-max-connection-age"]) <= 30_000


def test_random_secrets_differ_from_each_other_and_between_starts() -> None:
    first, second = Secrets.random(), Secrets.random()
    assert len({first.api_key, first.shm_prefix, second.api_key, second.shm_prefix}) == 4
    assert first.api_key not in first.shm_prefix


def test_environment_lets_the_models_import_and_keeps_bytecode_out_of_the_repository() -> None:
    _, environment = command(SERVER, Path("/r"), Listen(), WORDS, {"LD_LIBRARY_PATH": "/own", "HOME": "/home"}, ["/a", "/b"])
    assert environment["PYTHONPATH"] == "/a:/b"
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment["TRANSCRIBER_PYTHON"] == sys.executable
    assert environment["LD_LIBRARY_PATH"] == "/python/lib:/wheel/libs:/own"
    assert environment["HOME"] == "/home"
    assert environment["GOMP_SPINCOUNT"] == "20000"
    assert environment["OPENBLAS_NUM_THREADS"] == "1"


def test_environment_puts_the_interpreter_of_the_models_first_on_path() -> None:
    wheel = Server(SERVER.executable, SERVER.backends_dir, python_dir=Path("/interpreter/bin"))
    assert command(wheel, Path("/r"), Listen(), WORDS, {"PATH": "/usr/bin"}, [])[1]["PATH"] == "/interpreter/bin:/usr/bin"
    assert command(SERVER, Path("/r"), Listen(), WORDS, {"PATH": "/usr/bin"}, [])[1]["PATH"] == "/usr/bin"


def test_environment_leaves_the_libraries_of_an_image_alone() -> None:
    image = Server(SERVER.executable, SERVER.backends_dir)
    assert command(image, Path("/r"), Listen(), WORDS, {"LD_LIBRARY_PATH": "/own"}, [])[1]["LD_LIBRARY_PATH"] == "/own"
    assert "LD_LIBRARY_PATH" not in command(image, Path("/r"), Listen(), WORDS, {}, [])[1]


def test_import_path_leaves_out_the_working_directory_and_what_is_no_folder(tmp_path: Path) -> None:
    packages, working = tmp_path / "packages", tmp_path / "working"
    packages.mkdir()
    working.mkdir()
    entries = ["", str(working), str(packages), str(tmp_path / "python311.zip"), str(packages)]
    assert import_path(entries, working) == [str(packages)]


def test_cache_dir_follows_xdg_and_falls_back_to_home() -> None:
    assert cache_dir({"XDG_CACHE_HOME": "/cache", "HOME": "/home"}) == Path("/cache/transcriber")
    assert cache_dir({"HOME": "/home"}) == Path("/home/.cache/transcriber")


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    backend, stub = tmp_path / "backend", tmp_path / "stub"
    backend.mkdir()
    stub.mkdir()
    (backend / "libtriton_python.so").write_text("library")
    (stub / "triton_python_backend_stub").write_text("stub")
    (stub / "triton_python_backend_stub").chmod(0o755)
    return backend, stub


def test_backends_hold_the_backend_and_an_executable_stub(parts: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "cache" / "backends"
    assemble_backends(*parts, BASE, target)
    assert {path.name for path in (target / "python").iterdir()} == {
        "libtriton_python.so",
        "triton_python_backend_stub",
    }
    assert os.access(target / "python" / "triton_python_backend_stub", os.X_OK)
    assert [path.name for path in target.parent.iterdir()] == ["backends"]


def test_the_isolated_interpreter_of_the_wheel_gets_the_import_path_and_writes_no_bytecode(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    assemble_backends(*parts, BASE, tmp_path / "backends")
    (tmp_path / "own.py").write_text("WORD = 'own'\n")
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [tmp_path / "backends" / "interpreter" / "bin" / "python3", "-I", "-c", "import own; print(own.WORD)"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("own\n", "")
    assert not (tmp_path / "__pycache__").exists()


def test_backends_assembled_by_many_at_once_are_whole_for_each(parts: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "cache" / "backends"
    barrier, counts = threading.Barrier(8), []

    def start() -> None:
        barrier.wait()
        assemble_backends(*parts, BASE, target)
        counts.append(len(list((target / "python").iterdir())))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2] * 8
    assert [path.name for path in target.parent.iterdir()] == ["backends"]


def test_backends_that_fail_half_way_leave_nothing_that_looks_whole(parts: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "cache" / "backends"
    with pytest.raises(OSError):
        assemble_backends(parts[0], tmp_path / "absent", BASE, target)
    assert list(target.parent.iterdir()) == []


def test_a_wheel_without_a_server_for_this_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"nvidia-pytriton 9\.9: has no server for Python 3"):
        _wheel_server(tmp_path, "9.9", tmp_path)


def test_main_refuses_a_repository_that_was_never_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repository", str(tmp_path)]) == EXIT_CODES[Reason.REPOSITORY_CORRUPT]
    assert capsys.readouterr().err.startswith("launch: READY: is missing")


def write_ready(repository_dir: Path) -> Path:
    repository_dir.mkdir(parents=True)
    manifest = b'{"digest": "' + repository_dir.name.removeprefix("sha256-").encode() + b'", "files": []}'
    (repository_dir / "MANIFEST.json").write_bytes(manifest)
    (repository_dir / "READY").write_bytes(ready_text(manifest))
    return repository_dir


def test_root_stands_for_the_one_ready_repository_in_it(tmp_path: Path) -> None:
    ready = write_ready(tmp_path / f"sha256-{'a' * 64}")
    (tmp_path / f"sha256-{'b' * 64}").mkdir()  # renamed, but its builder died before READY
    (tmp_path / ".downloads").mkdir()
    assert only_repository(tmp_path) == ready


@pytest.mark.parametrize("root", ["empty", "absent"])
def test_root_without_a_ready_repository_is_refused_with_the_command_that_builds_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], root: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["--root", str(tmp_path / root)]) == 1
    expected = "holds no ready repository; build one with `python -m transcriber_repository build`"
    assert capsys.readouterr().err == f"launch: --root {tmp_path / root}: {expected}\n"


def test_root_with_two_ready_repositories_is_refused_with_their_names(tmp_path: Path) -> None:
    names = [write_ready(tmp_path / f"sha256-{digit * 64}").name for digit in "ab"]
    expected = f"holds 2 ready repositories \\({names[0]}, {names[1]}\\); name the one to serve with --repository"
    with pytest.raises(LaunchError, match=expected):
        only_repository(tmp_path)


@pytest.mark.parametrize("given", [[], ["--repository", "/r", "--root", "/"]])
def test_main_wants_either_a_repository_or_a_root(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(given)
    assert ended.value.code == 2
    assert "--repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "address"), [("10.0.0.7", "10.0.0.7"), ("fd00::7", "fd00::7"), ("[fd00::7]", "fd00::7"), ("::", "::")]
)
def test_address_is_ipv4_or_ipv6(given: str, address: str) -> None:
    assert _parser().parse_args(["--root", "/", "--address", given]).address == address


def test_an_address_that_is_none_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--root", "/", "--address", "localhost"])
    assert "argument --address: 'localhost' is not an IPv4 or IPv6 address" in capsys.readouterr().err


def test_main_does_not_start_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "transcriber_repository.launch", "--repository", str(tmp_path), "--stop-with", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "launch: --stop-with: process 1 is not the parent of this one any more\n"


def test_a_signal_ends_it_while_it_verifies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel drops signals that a container's first process does not handle, so it must."""

    def be_told_to_end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("transcriber_repository.launch.verify", be_told_to_end)
    with pytest.raises(SystemExit) as ended:
        main(["--repository", str(tmp_path)])
    assert ended.value.code == 128 + signal.SIGTERM
