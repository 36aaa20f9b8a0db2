"""`transcriber repository build|verify|show`: model repositories without a server."""

import os
from pathlib import Path
from typing import Annotated

import typer

from transcriber_api.loading import load
from transcriber_cli.console import build_progress, expected_errors, parse_volumes, say, write_result
from transcriber_engine.settings import EngineSettings
from transcriber_repository.build import SETTINGS_FILE, build
from transcriber_repository.launch import cache_dir
from transcriber_repository.manifest import read_manifest
from transcriber_repository.sources.remote import Access, HttpsPolicy
from transcriber_repository.sources.web import HOSTS_VARIABLE
from transcriber_repository.verify import verify

SpecFile = Annotated[Path, typer.Option("-f", "--file", help="TranscriberDeployment in YAML.", metavar="FILE")]
Root = Annotated[Path | None, typer.Option(help="Folder of repositories; default: in your cache folder.", metavar="DIR")]
Volumes = Annotated[
    list[str] | None, typer.Option("--volume", help="Where a pvc:// claim lies here; repeat it.", metavar="CLAIM=DIR")
]
RepositoryDir = Annotated[Path, typer.Argument(help="A published repository: ROOT/sha256-…", metavar="DIR")]

app = typer.Typer(no_args_is_help=True, help="Build, check and show model repositories.", rich_markup_mode="markdown")


def repositories_root(root: Path | None) -> Path:
    """Return the folder of repositories: the one given, or the default in the user's cache."""
    return (root or cache_dir(os.environ) / "repositories").absolute()


def build_repository(file: Path, root: Path, volumes: dict[str, Path]) -> Path:
    """Build what a file asks for, with progress on stderr; raises SpecError and RepositoryError."""
    hosts = frozenset(host.strip() for host in os.environ.get(HOSTS_VARIABLE, "").split(",") if host.strip())
    spec = load(file).spec
    with build_progress() as report:
        access = Access(volumes=volumes, https=HttpsPolicy(hosts=hosts))
        return build(spec, root, access, report, on_wait=lambda: say(f"another build holds {root}; waiting for it to end"))


@app.command("build")
def build_command(file: SpecFile, root: Root = None, volume: Volumes = None) -> None:
    """Build the repository of a TranscriberDeployment and print its folder.

    A repository is named by the hash of all that decides its content: building the same again is done at once.

    Example: `transcriber repository build -f whisper.yaml --volume weights=/srv/weights`
    """
    volumes = parse_volumes(volume or [])
    with expected_errors():
        write_result(str(build_repository(file, repositories_root(root), volumes)))


@app.command("verify")
def verify_command(directory: RepositoryDir) -> None:
    """Read every byte of a repository and compare it with the manifest.

    Example: `transcriber repository verify ~/.cache/transcriber/repositories/sha256-…`
    """
    with expected_errors():
        with build_progress() as report:
            manifest = verify(directory.absolute(), report)
        write_result(f"{directory}: {len(manifest.files)} files as published")


@app.command("show")
def show_command(directory: RepositoryDir) -> None:
    """Show what a repository holds: its digest, the settings it serves with, its files. Reads no weights.

    Example: `transcriber repository show ~/.cache/transcriber/repositories/sha256-…`
    """
    with expected_errors():
        manifest = read_manifest(directory)
        settings = directory / SETTINGS_FILE
        lines = [f"digest    {manifest.digest}", f"bytes     {sum(file.size for file in manifest.files)}", "", "settings"]
        if settings.is_file():
            lines += [f"  {name}: {value}" for name, value in EngineSettings.read(settings).model_dump(mode="json").items()]
        lines += ["", "files"] + [f"  {file.sha256[:12]}  {file.size:>12}  {file.path}" for file in manifest.files]
        write_result("\n".join(lines))
