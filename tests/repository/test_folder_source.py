"""file:// and pvc://, and the paths that must not lead anywhere else."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository import tiny
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.progress import silent
from transcriber_repository.request import Source, SourceFile
from transcriber_repository.sources.download import FetchedFile, fetch
from transcriber_repository.sources.remote import SAFE_NAME, Access, check_paths

ZEROS = "0" * 64


def fetched(into: Path, uri: str, files: list[dict[str, str]], **volumes: Path) -> list[FetchedFile]:
    source = Source(uri=uri, files=tuple(SourceFile(**file) for file in files))
    return fetch("draft", source, into, silent, Access(volumes=volumes))


def test_folder_is_copied_with_sizes_and_hashes(target: Path, tmp_path: Path) -> None:
    files = fetched(tmp_path / "into", f"file://{target}", tiny.hashed(target))
    assert [{"path": file.path.name, "sha256": file.sha256} for file in files] == tiny.hashed(target)
    assert all(file.size == file.path.stat().st_size for file in files)


def test_claim_is_read_where_it_is_mounted(target: Path, tmp_path: Path) -> None:
    files = fetched(tmp_path / "into", "pvc://models/target", tiny.hashed(target), models=target.parent)
    assert len(files) == len(list(target.iterdir()))


def test_claim_that_is_not_mounted_names_the_field_and_the_option(target: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.draft.uri: .*'models'.*`--volume models=DIR`"):
        fetched(tmp_path / "into", "pvc://models/target", tiny.hashed(target))


def test_wrong_hash_names_the_file_and_both_hashes(target: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RepositoryError, match=r"spec.model.draft.files 'config.json': has sha256 [0-9a-f]{64}, expected 0{64}"
    ) as error:
        fetched(tmp_path / "into", f"file://{target}", [{"path": "config.json", "sha256": ZEROS}])
    assert error.value.reason is Reason.CHECKSUM_MISMATCH


@pytest.mark.parametrize(
    "path",
    [
        "../config.json",
        "a/../../config.json",
        "/etc/passwd.json",
        "./config.json",
        "a//config.json",
        ".hidden.json",
        "config.json\0.txt",
        "%2e%2e%2fconfig.json",
        "a\\config.json",
        "\u2024\u2024/config.json",
        "c" * 300 + ".json",
        "config.json/",
        "",
    ],
)
def test_path_that_could_leave_the_folder_is_refused(target: Path, tmp_path: Path, path: str) -> None:
    with pytest.raises(RepositoryError, match="is not a plain relative path"):
        fetched(tmp_path / "into", f"file://{target}", [{"path": path, "sha256": ZEROS}])


@given(st.text(max_size=40))
def test_accepted_path_never_leaves_the_folder(path: str) -> None:
    try:
        check_paths("spec.model.target", [path])
    except RepositoryError:
        return
    assert all(SAFE_NAME.fullmatch(step) for step in path.split("/"))
    assert Path("/into", path).resolve().is_relative_to("/into")


@pytest.mark.parametrize("name", ["model.pt", "model.PTH", "pytorch_model.bin", "x.ckpt", "x.pkl", "w.npz"])
def test_pickle_by_name_is_refused(target: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match=f"'{name}': is a pickle format, which runs code"):
        fetched(tmp_path / "into", f"file://{target}", [{"path": name, "sha256": ZEROS}])


@pytest.mark.parametrize("name", ["model.py", "model.onnx", "config.json.gz", "weights"])
def test_other_kinds_are_refused(target: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match="is not a kind that a build reads"):
        fetched(tmp_path / "into", f"file://{target}", [{"path": name, "sha256": ZEROS}])


def test_names_that_differ_only_in_case_are_refused(target: Path, tmp_path: Path) -> None:
    files = [{"path": name, "sha256": ZEROS} for name in ("config.json", "Config.json")]
    with pytest.raises(RepositoryError, match=r"'Config.json': clashes with 'config.json'"):
        fetched(tmp_path / "into", f"file://{target}", files)


def test_symbolic_link_is_refused(target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (target / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(RepositoryError, match=r"'link.json': is a symbolic link: copy the file itself"):
        fetched(tmp_path / "into", f"file://{target}", tiny.hashed(target))


def test_hard_link_is_refused(target: Path, tmp_path: Path) -> None:
    os.link(target / "config.json", tmp_path / "elsewhere.json")
    with pytest.raises(RepositoryError, match=r"'config.json': is a hard link"):
        fetched(tmp_path / "into", f"file://{target}", tiny.hashed(target))


def test_pipe_is_refused_without_waiting_for_a_writer(target: Path, tmp_path: Path) -> None:
    os.mkfifo(target / "pipe.json")
    with pytest.raises(RepositoryError, match=r"'pipe.json': is not a plain file"):
        fetched(tmp_path / "into", f"file://{target}", [{"path": "pipe.json", "sha256": ZEROS}])


def test_link_on_the_way_into_a_claim_is_refused(target: Path, tmp_path: Path) -> None:
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "out").symlink_to(target)
    with pytest.raises(RepositoryError, match="leads through a symbolic link"):
        fetched(tmp_path / "into", "pvc://models/out", tiny.hashed(target), models=tmp_path / "claim")


@pytest.mark.parametrize(
    "uri", ["pvc://models/../etc", "pvc:///etc", "pvc://models/%2e%2e/etc", "file://host/etc", "file:relative"]
)
def test_uri_of_another_form_is_refused(target: Path, tmp_path: Path, uri: str) -> None:
    with pytest.raises(RepositoryError, match=r"spec.model.draft.uri: .* is not of the form"):
        fetched(tmp_path / "into", uri, tiny.hashed(target), models=target)


def test_file_that_is_not_there_is_named(target: Path, tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"'absent.json': is not in"):
        fetched(tmp_path / "into", f"file://{target}", [{"path": "absent.json", "sha256": ZEROS}])
