"""A build: fetch, check, convert, render, publish. Everything it needs comes in as arguments."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from transcriber_api.v1alpha1 import Spec
from transcriber_engine import ENGINE_VERSION
from transcriber_engine.model_config import ModelConfig
from transcriber_repository.adapters import adapter_files, adapters_dir, adapters_hash
from transcriber_repository.convert import WEIGHTS_DIR, convert
from transcriber_repository.disk import remove_tree, write_file
from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.formats.detect import read_model
from transcriber_repository.manifest import is_ready
from transcriber_repository.model_config import render_models
from transcriber_repository.progress import Reporter, silent
from transcriber_repository.publish import BUILDING_DIR, DOWNLOADS_DIR, clean, locked, publish, repository_path
from transcriber_repository.request import BuildRequest, Role, Source, SourceFile, build_request
from transcriber_repository.sources.download import fetch
from transcriber_repository.sources.remote import Access, local_name

SETTINGS_FILE: Final = "engine.json"
MODELS_DIR: Final = "models"
VERSION_DIR: Final = "1"
Hashes = Mapping[Role, Mapping[str, str]]  # role -> file name -> sha256
OnPinned = Callable[[Mapping[Role, tuple[SourceFile, ...]]], None]


def build(
    spec: Spec,
    root: Path,
    access: Access | None = None,
    report: Reporter = silent,
    adapters: Path | None = None,
    on_wait: Callable[[], None] = lambda: None,
    on_pinned: OnPinned = lambda _: None,
) -> Path:
    """Build the repository that a TranscriberDeployment's spec asks for below `root` and return its folder.

    Nothing is fetched where the spec gives every hash and its repository is already there. `adapters` is the folder of
    Triton models (default: this package's own); `on_wait` is called when another build holds the root, `on_pinned` with the
    sources' files as soon as all their hashes are known.
    Raises RepositoryError, whose reason says whether a retry may help.
    """
    request = build_request(spec)
    models = adapter_files(adapters or adapters_dir())
    published = _published(request, root, models)
    if _is_pinned(request):
        on_pinned({role: source.files for role, source in request.sources.items()})
    try:
        if published is not None:
            _tidy(request, root)
            return published
        with locked(root, on_wait):
            clean(root)
            return _build(request, root, access or Access(), report, models, on_pinned)
    except OSError as error:
        raise RepositoryError(
            Reason.STORAGE_FAILED, str(root), f"{error.strerror or error}: nothing was published; free or enlarge the volume"
        ) from error


def repository_digest(request: BuildRequest, hashes: Hashes, models: dict[str, bytes]) -> str:
    """Return the 64 hex digits that name a repository: a sha256 over all that decides its content."""
    content = {
        "engine": ENGINE_VERSION,
        "adapters": adapters_hash(models),
        "settings": request.settings.model_dump(mode="json"),
        "sources": {role: dict(files) for role, files in hashes.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_pinned(request: BuildRequest) -> bool:
    """Whether the spec gives the hash of every file."""
    return all(source.files for source in request.sources.values())


def _published(request: BuildRequest, root: Path, models: dict[str, bytes]) -> Path | None:
    """Return the repository of a spec that gives every hash, if it is there already."""
    if not _is_pinned(request):
        return None
    hashes = {role: {local_name(file.path): file.sha256 for file in source.files} for role, source in request.sources.items()}
    path = repository_path(root, repository_digest(request, hashes, models))
    return path if is_ready(path) else None


def _build(
    request: BuildRequest, root: Path, access: Access, report: Reporter, models: dict[str, bytes], on_pinned: OnPinned
) -> Path:
    """Build under the lock; another process may have published the same while this one waited for it."""
    try:
        path = _published(request, root, models) or _fetch_and_publish(request, root, access, report, models, on_pinned)
    except (RepositoryError, OSError) as error:
        # Only a source that broke off is worth resuming; whatever else was fetched would fail again, or fills a full disk.
        if not (isinstance(error, RepositoryError) and error.reason is Reason.SOURCE_UNAVAILABLE):
            _remove_downloads(request, root)
        raise
    finally:
        remove_tree(root / BUILDING_DIR)
    _remove_downloads(request, root)
    return path


def _fetch_and_publish(
    request: BuildRequest, root: Path, access: Access, report: Reporter, models: dict[str, bytes], on_pinned: OnPinned
) -> Path:
    downloads = _downloads(request, root)
    fetched = {role: fetch(role, source, downloads[role], report, access) for role, source in request.sources.items()}
    on_pinned(
        {role: tuple(SourceFile(path=file.source_path, sha256=file.sha256) for file in files) for role, files in fetched.items()}
    )
    hashes: Hashes = {role: {file.path.name: file.sha256 for file in files} for role, files in fetched.items()}
    digest = repository_digest(request, hashes, models)
    path = repository_path(root, digest)
    if is_ready(path):
        return path
    (root / BUILDING_DIR).mkdir()
    return publish(root, _assemble(request, downloads, root / BUILDING_DIR, report, models), digest, report)


def _downloads(request: BuildRequest, root: Path) -> dict[Role, Path]:
    return {role: root / DOWNLOADS_DIR / _key(source) for role, source in request.sources.items()}


def _remove_downloads(request: BuildRequest, root: Path) -> None:
    """Remove this build's own downloads: those of another, broken off, wait for its next try."""
    for folder in _downloads(request, root).values():
        remove_tree(folder)
    if (root / DOWNLOADS_DIR).is_dir() and not any((root / DOWNLOADS_DIR).iterdir()):
        (root / DOWNLOADS_DIR).rmdir()


def _tidy(request: BuildRequest, root: Path) -> None:
    """Remove what a builder left that died right after it published; where one is at work, leave it to that one."""

    def give_up() -> None:
        raise BlockingIOError

    if (root / BUILDING_DIR).exists() or (root / DOWNLOADS_DIR).exists():
        with suppress(BlockingIOError), locked(root, give_up):
            clean(root)
            _remove_downloads(request, root)


def _key(source: Source) -> str:
    """Return a folder name for a source, so that a try never resumes another source's bytes."""
    return hashlib.sha256(source.model_dump_json().encode()).hexdigest()[:16]


def _assemble(
    request: BuildRequest, downloads: Mapping[Role, Path], building: Path, report: Reporter, models: dict[str, bytes]
) -> Path:
    """Write a whole repository but for its manifest, and return its folder."""
    folder = building / "repository"
    target = read_model("spec.model.target", downloads["target"])
    draft = read_model("spec.model.draft", downloads["draft"]) if "draft" in downloads else None
    folder.mkdir()
    config = convert(target, draft, folder / WEIGHTS_DIR, report)
    write_file(folder / SETTINGS_FILE, [request.settings.model_dump_json(indent=1).encode()])
    _write_models(folder / MODELS_DIR, config, request.settings.device, models)
    return folder


def _write_models(folder: Path, config: ModelConfig, device: str, models: dict[str, bytes]) -> None:
    for name, text in render_models(config, device).items():
        # Triton wants a version folder even of an ensemble, which has nothing to put there.
        (folder / name / VERSION_DIR).mkdir(parents=True)
        write_file(folder / name / "config.pbtxt", [text.encode()])
    for path, content in models.items():
        write_file(folder / path, [content])
