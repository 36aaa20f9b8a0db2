"""`hf://org/name`: a model repository on a Hugging Face hub, at a pinned commit, checked against the hub's own LFS hashes."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httpx2
from huggingface_hub import HfApi, get_session, hf_hub_url
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but not in its __all__

from transcriber_repository.errors import Reason, RepositoryError, SourceInterruptedError
from transcriber_repository.request import Source
from transcriber_repository.sources.remote import RemoteFile, refuse

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
REPOSITORY: Final = re.compile(r"hf://([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)/?")
METADATA_TIMEOUT_SECONDS: Final = 30.0
METADATA_FILES: Final = ("config.json", "generation_config.json", "tokenizer.json")
SAFETENSORS_FILES: Final = re.compile(r"model\.safetensors|model-\d{5}-of-\d{5}\.safetensors|model\.safetensors\.index\.json")
CTRANSLATE2_FILE: Final = "model.bin"


def list_hub(field_path: str, source: Source, credentials: Mapping[str, str]) -> list[RemoteFile]:
    """List the files of `hf://org/name` at its commit; the endpoint is HF_ENDPOINT's. Raises RepositoryError."""
    name = REPOSITORY.fullmatch(source.uri)
    if name is None:
        raise refuse(f"{field_path}.uri", f"{source.uri!r} is not of the form hf://organisation/model")
    if source.revision is None or COMMIT.fullmatch(source.revision) is None:
        raise refuse(f"{field_path}.revision", f"{source.revision!r} can move: give the 40 hex digits of a commit, which cannot")
    endpoint = os.environ.get("HF_ENDPOINT")
    token = credentials.get("token")
    published = _published(field_path, name[1], source.revision, endpoint, token)
    given = {file.path: file.sha256 for file in source.files}
    remote = []
    for path in given or _wanted(list(published)):
        if path not in published:
            raise RepositoryError(
                Reason.SOURCE_UNAVAILABLE, f"{field_path}.files {path!r}", f"{source.uri} has no such file at {source.revision}"
            )
        sibling = published[path]
        sha256 = given.get(path) or (sibling.lfs.sha256 if sibling.lfs is not None else None)
        url = hf_hub_url(name[1], path, revision=source.revision, endpoint=endpoint)
        remote.append(_file(url, path, sibling.size, sha256, token))
    return remote


def _published(field_path: str, name: str, revision: str, endpoint: str | None, token: str | None) -> dict[str, "RepoSibling"]:
    subject = f"{field_path}.uri"
    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(
            name, revision=revision, files_metadata=True, timeout=METADATA_TIMEOUT_SECONDS
        )
    except GatedRepoError:
        raise refuse(subject, f"{name} is gated: accept its terms and give a token in credentialsSecret (key `token`)") from None
    except RevisionNotFoundError:
        raise refuse(f"{field_path}.revision", f"{name} has no commit {revision}") from None
    except RepositoryNotFoundError:
        raise refuse(subject, f"the hub has no {name}, or its token may not see it") from None
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise RepositoryError(Reason.SOURCE_UNAVAILABLE, subject, f"the hub did not answer: {error}") from error
    if info.sha != revision:
        raise refuse(f"{field_path}.revision", f"the hub answered with commit {info.sha}, asked was {revision}")
    return {sibling.rfilename: sibling for sibling in info.siblings or ()}


def _wanted(names: Sequence[str]) -> list[str]:
    """Choose what a build reads of a whole hub repository: one format's weights, and the metadata."""
    weights = [name for name in names if SAFETENSORS_FILES.fullmatch(name)]
    if not weights and CTRANSLATE2_FILE in names:
        weights = [CTRANSLATE2_FILE]
    return sorted(weights + [name for name in names if name in METADATA_FILES])


def _file(url: str, path: str, size: int | None, sha256: str | None, token: str | None) -> RemoteFile:
    def read_from(offset: int) -> Iterator[bytes]:
        # Compressed transfers would make offsets and sizes mean something else.
        headers = build_hf_headers(token=token) | {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
        try:
            with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return
                if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                    raise SourceInterruptedError(f"the hub answered {response.status_code}")
                skip = offset if response.status_code == HTTPStatus.OK else 0
                # Chunks as they arrive: gathered ones would be lost where the transfer breaks off.
                for chunk in response.iter_raw():
                    kept, skip = chunk[skip:], max(skip - len(chunk), 0)
                    if kept:
                        yield kept
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise SourceInterruptedError(str(error) or type(error).__name__) from error

    return RemoteFile(path, read_from, size, sha256)
