"""hf:// against a server that speaks the hub's endpoints."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repository import tiny
from tests.repository.hub_server import COMMIT, REPOSITORY, Hub, serve
from transcriber_repository.build import build
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.progress import silent
from transcriber_repository.request import Source, SourceFile
from transcriber_repository.sources.download import FetchedFile, fetch
from transcriber_repository.sources.remote import Access

URI = f"hf://{REPOSITORY}"


@pytest.fixture
def hub(target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub({path.name: path.read_bytes() for path in sorted(target.iterdir())})) as server:
        server.files |= {"pytorch_model.bin": b"\x80\x02", "README.md": b"hello", "model.fp32.safetensors": b"other"}
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def fetched(into: Path, source: Source, access: Access | None = None) -> list[FetchedFile]:
    return fetch("target", source, into, silent, access or Access(), pause=lambda seconds: None)


def test_fetch_of_a_pinned_commit_without_files_takes_one_format_and_its_metadata(hub: Hub, tmp_path: Path) -> None:
    files = fetched(tmp_path / "into", Source(uri=URI, revision=COMMIT))
    assert [file.path.name for file in files] == ["config.json", "model.safetensors", "tokenizer.json"]
    assert all(file.path.read_bytes() == hub.files[file.path.name] for file in files)


def test_interrupted_download_resumes_where_it_broke_off(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [1000, 500]
    source = Source(uri=URI, revision=COMMIT, files=(pinned(hub, "model.safetensors"),))
    fetched(tmp_path / "into", source)
    assert [wanted for path, wanted in hub.requests if path.endswith("model.safetensors")] == [
        "bytes=0-",
        "bytes=1000-",
        "bytes=1500-",
    ]


def test_download_that_never_ends_is_given_up_and_the_next_build_resumes_it(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = [700, 0, 0, 0, 0]
    source = Source(uri=URI, revision=COMMIT, files=(pinned(hub, "model.safetensors"),))
    with pytest.raises(RepositoryError, match=r"resumes at 700 bytes") as error:
        fetched(tmp_path / "into", source)
    assert error.value.reason is Reason.SOURCE_UNAVAILABLE
    hub.requests.clear()
    fetched(tmp_path / "into", source)
    assert hub.requests[-1][1] == "bytes=700-"


def test_bytes_that_differ_from_the_hubs_own_hash_are_refused_and_removed(hub: Hub, tmp_path: Path) -> None:
    hub.lfs_hashes["model.safetensors"] = "0" * 64
    with pytest.raises(RepositoryError, match=r"spec.model.target.files 'model.safetensors': has sha256 .* expected 0000") as error:
        fetched(tmp_path / "into", Source(uri=URI, revision=COMMIT))
    assert error.value.reason is Reason.CHECKSUM_MISMATCH
    assert not (tmp_path / "into" / "model.safetensors").exists()


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:12], COMMIT.upper(), None])
def test_moving_revision_is_refused_before_anything_is_asked(hub: Hub, tmp_path: Path, revision: str | None) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.target.revision: .* can move: give the 40 hex digits"):
        fetched(tmp_path / "into", Source(uri=URI, revision=revision))
    assert hub.requests == []


def test_repository_that_the_hub_does_not_show_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.target.uri: the hub has no acme/other"):
        fetched(tmp_path / "into", Source(uri="hf://acme/other", revision=COMMIT))


def test_hub_that_is_down_is_a_reason_to_retry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RepositoryError, match="the hub did not answer") as error:
        fetched(tmp_path / "into", Source(uri=URI, revision=COMMIT))
    assert error.value.reason is Reason.SOURCE_UNAVAILABLE


def test_file_that_the_commit_lacks_is_named(hub: Hub, tmp_path: Path) -> None:
    source = Source(uri=URI, revision=COMMIT, files=(SourceFile(path="absent.safetensors", sha256="0" * 64),))
    with pytest.raises(RepositoryError, match=r"files 'absent.safetensors': .* has no such file at"):
        fetched(tmp_path / "into", source)


def test_pickle_listed_by_the_spec_is_refused_before_it_is_fetched(hub: Hub, tmp_path: Path) -> None:
    source = Source(uri=URI, revision=COMMIT, files=(SourceFile(path="pytorch_model.bin", sha256="0" * 64),))
    with pytest.raises(RepositoryError, match=r"files 'pytorch_model.bin': is a pickle format, which runs code"):
        fetched(tmp_path / "into", source)
    assert hub.requests == []


def test_token_of_the_secret_is_sent(hub: Hub, tmp_path: Path) -> None:
    fetched(tmp_path / "into", Source(uri=URI, revision=COMMIT), Access(credentials={"target": {"token": "hf_canary"}}))
    assert set(hub.tokens) == {"Bearer hf_canary"}


def test_build_from_a_hub_equals_the_build_from_a_folder(hub: Hub, target: Path, adapters: Path, tmp_path: Path) -> None:
    files = [file for file in tiny.hashed(target) if file["path"] in hub.files]
    from_folder = build(tiny.spec({"uri": f"file://{target}", "files": files}), tmp_path / "one", adapters=adapters)
    from_hub = build(tiny.spec({"uri": URI, "revision": COMMIT}), tmp_path / "two", adapters=adapters)
    assert from_hub.name == from_folder.name
    assert (from_hub / "MANIFEST.json").read_bytes() == (from_folder / "MANIFEST.json").read_bytes()


def pinned(hub: Hub, name: str) -> SourceFile:
    return SourceFile(path=name, sha256=hashlib.sha256(hub.files[name]).hexdigest())
