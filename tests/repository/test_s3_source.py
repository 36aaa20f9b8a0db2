"""s3:// against moto's server."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from tests.repository import tiny
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.progress import silent
from transcriber_repository.request import Source, SourceFile
from transcriber_repository.sources.bucket import list_bucket
from transcriber_repository.sources.download import fetch
from transcriber_repository.sources.remote import Access


@pytest.fixture
def bucket(target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    client = boto3.client("s3")
    client.create_bucket(Bucket="weights")
    for path in target.iterdir():
        client.put_object(Bucket="weights", Key=f"whisper/tiny/{path.name}", Body=path.read_bytes())
    yield client
    client.close()
    server.stop()


def source(target: Path, uri: str = "s3://weights/whisper/tiny") -> Source:
    return Source(uri=uri, files=tuple(SourceFile(**file) for file in tiny.hashed(target)))


def test_objects_are_fetched_and_equal(bucket: Any, target: Path, tmp_path: Path) -> None:
    files = fetch("target", source(target), tmp_path / "into", silent, Access())
    assert all(file.path.read_bytes() == (target / file.path.name).read_bytes() for file in files)
    assert len(files) == len(list(target.iterdir()))


def test_transfer_starts_at_the_offset_and_is_empty_at_the_end(bucket: Any, target: Path) -> None:
    file = next(file for file in list_bucket("spec.model.target", source(target), {}) if file.path == "model.safetensors")
    content = (target / "model.safetensors").read_bytes()
    assert b"".join(file.read_from(1234)) == content[1234:]
    assert b"".join(file.read_from(len(content))) == b""


def test_partial_file_of_an_earlier_try_is_completed(bucket: Any, target: Path, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / "model.safetensors").write_bytes((target / "model.safetensors").read_bytes()[:777])
    fetch("target", source(target), into, silent, Access())
    assert (into / "model.safetensors").read_bytes() == (target / "model.safetensors").read_bytes()


def test_object_that_changed_is_a_checksum_mismatch(bucket: Any, target: Path, tmp_path: Path) -> None:
    expected = source(target)
    bucket.put_object(Bucket="weights", Key="whisper/tiny/config.json", Body=b"{}")
    with pytest.raises(RepositoryError, match=r"'config.json': has sha256") as error:
        fetch("target", expected, tmp_path / "into", silent, Access())
    assert error.value.reason is Reason.CHECKSUM_MISMATCH


@pytest.mark.parametrize("uri", ["s3://weights/elsewhere", "s3://other-bucket/whisper/tiny"])
def test_object_that_is_not_there_is_named(bucket: Any, target: Path, tmp_path: Path, uri: str) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.target.files 'config.json': s3://.*404") as error:
        fetch("target", source(target, uri), tmp_path / "into", silent, Access())
    assert error.value.reason is Reason.SOURCE_UNAVAILABLE


def test_source_without_hashes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.target.files: list each file .* with its sha256"):
        fetch("target", Source(uri="s3://weights/whisper"), tmp_path / "into", silent, Access())
