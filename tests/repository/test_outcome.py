"""What a build tells whoever started it: its result, its progress, and what it removes afterwards."""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import unavailable
from tests.repository import tiny
from tests.repository.hub_server import COMMIT, REPOSITORY, Hub, serve
from transcriber_repository.build import build
from transcriber_repository.errors import EXIT_CODES, Reason, RepositoryError
from transcriber_repository.outcome import MAX_BYTES, failure, success
from transcriber_repository.progress import Progress
from transcriber_repository.progress_endpoint import progress_endpoint
from transcriber_repository.request import SourceFile
from transcriber_repository.verify import verify

END_SECONDS = 60
BUILD = [sys.executable, "-m", "transcriber_repository", "build"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
ALL_FIELDS = {"stage": "fetch target", "bytes_done": 1, "bytes_total": 2, "bytes_per_second": 0.5, "eta_seconds": 2.0}
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def run_build(target: Path, tmp_path: Path, root: Path) -> Run:
    def run(*options: str, volume: Path = tmp_path, **decoding: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "spec.yaml").write_text(
            yaml.safe_dump(tiny.document({**tiny.source(target), "uri": "pvc://models/target"}, **decoding))
        )
        arguments = ["--spec", str(tmp_path / "spec.yaml"), "--root", str(root), "--volume", f"models={volume}", *options]
        return subprocess.run([*BUILD, *arguments], capture_output=True, text=True, timeout=END_SECONDS, env=ENVIRONMENT)

    return run


def get(address: tuple[str, int], path: str = "/progress") -> Any:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    with urllib.request.urlopen(f"http://{host}:{address[1]}{path}", timeout=END_SECONDS) as answer:
        return json.loads(answer.read())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def test_result_of_a_build_names_the_digest_the_size_and_every_source_file(run_build: Run, target: Path, tmp_path: Path) -> None:
    done = run_build("--result", str(tmp_path / "result"))
    assert done.returncode == 0, done.stderr
    repository = Path(done.stdout.strip())
    manifest = verify(repository)
    files = [{"source": "Target", **file} for file in tiny.source(target)["files"]]
    assert json.loads((tmp_path / "result").read_text()) == {
        "digest": repository.name,
        "bytes": sum(file.size for file in manifest.files),
        "files": files,
    }


def test_result_is_the_same_when_the_repository_was_there_already(run_build: Run, tmp_path: Path) -> None:
    run_build("--result", str(tmp_path / "first"))
    run_build("--result", str(tmp_path / "second"))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_result_replaces_a_longer_one_of_an_earlier_try(run_build: Run, tmp_path: Path) -> None:
    (tmp_path / "result").write_text("x" * 2 * MAX_BYTES)
    assert run_build("--result", str(tmp_path / "result")).returncode == 0
    assert json.loads((tmp_path / "result").read_text())["digest"].startswith("sha256-")


def test_result_of_a_failure_is_its_reason_and_the_exit_code_stays(run_build: Run, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    done = run_build("--result", str(tmp_path / "result"), volume=tmp_path / "elsewhere")
    result = json.loads((tmp_path / "result").read_text())
    assert done.returncode == EXIT_CODES[Reason(result["reason"])]
    assert result["message"].startswith("spec.model.target")
    assert set(result) == {"reason", "message"}


def test_a_result_that_cannot_be_written_changes_no_exit_code(run_build: Run, tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "result"
    built = run_build("--result", str(absent))
    assert built.returncode == 0
    assert f"--result {absent}: No such file or directory; the outcome is not written" in built.stderr
    (tmp_path / "elsewhere").mkdir()
    failed = run_build("--result", str(absent), volume=tmp_path / "elsewhere", language="de")
    assert failed.returncode in EXIT_CODES.values()


def test_hashes_that_the_hub_published_are_in_the_result(
    target: Path, tmp_path: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: dict[str, tuple[SourceFile, ...]] = {}
    with serve(Hub({path.name: path.read_bytes() for path in sorted(target.iterdir())})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        path = build(
            tiny.spec({"uri": f"hf://{REPOSITORY}", "revision": COMMIT}),
            tmp_path / "root",
            adapters=adapters,
            on_pinned=pinned.update,
        )
    expected = {(file["path"], file["sha256"]) for file in tiny.source(target)["files"]}
    assert {(file["path"], file["sha256"]) for file in json.loads(success(path, pinned))["files"]} == expected


def test_files_that_would_not_fit_are_left_out_of_the_result(target: Path, root: Path, adapters: Path) -> None:
    path = build(tiny.spec(tiny.source(target)), root, adapters=adapters)
    shards = [SourceFile(path=f"model-{number:05}-of-00060.safetensors", sha256="0" * 64) for number in range(60)]
    assert len(success(path, {"target": shards[:24]})) <= MAX_BYTES
    assert "files" in json.loads(success(path, {"target": shards[:24]}))
    assert set(json.loads(success(path, {"target": shards}))) == {"digest", "bytes"}


@pytest.mark.parametrize("text", ["x" * 9000, "\N{PILE OF POO}" * 9000, '"\\' * 9000, "\udcff" * 9000])
def test_a_message_that_would_not_fit_is_cut(text: str) -> None:
    encoded = failure(RepositoryError(Reason.SOURCE_REFUSED, "spec.model", text))
    assert MAX_BYTES / 2 < len(encoded) <= MAX_BYTES
    assert json.loads(encoded)["message"].endswith("…")


def test_keep_removes_all_but_the_new_repository_and_the_ones_named(run_build: Run, root: Path) -> None:
    old, previous = (Path(run_build(language=language).stdout.strip()).name for language in ("en", "de"))
    done = run_build("--keep", previous)
    new = Path(done.stdout.strip()).name
    assert {path.name for path in root.iterdir()} == {".lock", previous, new}
    assert f"removed {old}" in done.stderr


def test_a_build_that_fails_removes_nothing(run_build: Run, root: Path, tmp_path: Path) -> None:
    old = Path(run_build(language="en").stdout.strip()).name
    (tmp_path / "elsewhere").mkdir()
    assert run_build("--keep", "0" * 64, volume=tmp_path / "elsewhere", language="de").returncode != 0
    assert old in {path.name for path in root.iterdir()}


def test_a_digest_to_keep_that_is_none_is_refused_before_anything_is_removed(run_build: Run, root: Path) -> None:
    run_build(language="en")
    done = run_build("--keep", "sha256-1234")
    assert done.returncode == 2
    assert "argument --keep: 'sha256-1234' is not a digest: sha256- and 64 hex digits" in done.stderr
    assert len(list(root.glob("sha256-*"))) == 1


def test_progress_answers_with_the_last_event() -> None:
    address = ("127.0.0.1", free_port())
    with progress_endpoint(address) as report:
        assert get(address) == dict.fromkeys(ALL_FIELDS) | {"stage": "starting", "bytes_done": 0}
        report(Progress("fetch target", 0))
        report(Progress("fetch target", 1, 2, 0.5, 2.0))
        assert get(address) == ALL_FIELDS
        with pytest.raises(urllib.request.HTTPError, match="404") as refused:
            get(address, "/")
        refused.value.close()
    with pytest.raises(OSError):
        get(address)


def test_progress_answers_on_ipv6() -> None:
    if not Path("/proc/net/if_inet6").is_file():
        unavailable("this machine has no IPv6 loopback")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as bound:
        address = ("::1", bound.getsockname()[1])
    with progress_endpoint(address):
        assert get(address)["stage"] == "starting"


def test_progress_of_a_running_build_can_be_asked_for(target: Path, tmp_path: Path, root: Path) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    class HeldFiles(dict[str, bytes]):
        """Gives the weights when it is told to."""

        def __getitem__(self, name: str) -> bytes:
            if name == "model.safetensors":
                arrived.set()
                go_on.wait(END_SECONDS)
            return super().__getitem__(name)

    files = HeldFiles({path.name: path.read_bytes() for path in sorted(target.iterdir())})
    address = ("127.0.0.1", free_port())
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tiny.document({"uri": f"hf://{REPOSITORY}", "revision": COMMIT})))
    with serve(Hub(files)) as hub:
        process = subprocess.Popen(
            [*BUILD, "--spec", tmp_path / "spec.yaml", "--root", root, "--progress-address", f"127.0.0.1:{address[1]}"],
            env=ENVIRONMENT | {"HF_ENDPOINT": hub.endpoint},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert arrived.wait(END_SECONDS)
            progress = get(address)
        finally:
            go_on.set()
            _, said = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 0, said
    assert (progress["stage"], progress["bytes_done"]) == ("fetch target", len(files["config.json"]))
    assert progress["bytes_total"] == sum(len(content) for content in files.values())


def test_a_progress_address_in_use_is_said_and_the_build_goes_on(run_build: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_build("--progress-address", f"127.0.0.1:{port}")
    assert done.returncode == 0
    assert f"--progress-address 127.0.0.1 port {port}: Address already in use" in done.stderr


@pytest.mark.parametrize("given", ["8003", ":8003", "host:", "host:http"])
def test_a_progress_address_that_is_none_is_refused_by_name(run_build: Run, given: str) -> None:
    done = run_build("--progress-address", given)
    assert done.returncode == 2
    assert f"argument --progress-address: {given!r} is not of the form HOST:PORT" in done.stderr
