"""The binaries of the control plane in the user's cache: what is there, and building what is not.

`python -m tests.rig.binaries` builds what is missing, about 11 minutes on two cores, once per version. Each binary is put in
place whole, so an interrupted run goes on where it stopped. KUBEBUILDER_ASSETS names a folder with etcd, kube-apiserver and
kubectl to use in place of our own (`setup-envtest use -p path` fetches one).
"""

import argparse
import fcntl
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.rig.go_build import BuildError, Say, build, find_go, module_folder
from tests.rig.recipes import NODE, PEERS, RECIPES, Recipe
from transcriber_repository.launch import cache_dir

ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"
FROM_ASSETS: Final = frozenset({"etcd", "kube-apiserver", "kubectl"})
BY_NAME: Final = (*PEERS, *NODE)  # no part of the control plane
KNOWN: Final = (*RECIPES, *BY_NAME)
LOCK_FILE: Final = ".lock"
BUILD_CACHE: Final = ".go-build"
MEBIBYTE: Final = 1 << 20
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True)
class Binaries:
    """Every binary of the control plane, on this machine: name to executable."""

    executables: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        return self.executables[name]

    def assets(self, name: str) -> list[Path]:
        """Return the files that came with a binary: KWOK's stages, Karpenter's CRDs."""
        return sorted((self.executables[name].parent / "assets").iterdir())


def binaries_root(environment: Mapping[str, str]) -> Path:
    """Return the folder of the binaries in the user's cache."""
    return cache_dir(environment) / "control-plane"


def find_binaries(environment: Mapping[str, str], recipes: Iterable[Recipe] = RECIPES) -> Binaries:
    """Return the binaries of some recipes, building none; raises BuildError that names the missing ones and the fix."""
    places = {recipe.name: place(recipe, environment) for recipe in recipes}
    missing = [name for name, executable in places.items() if not executable.is_file()]
    if missing:
        asked_for = " ".join(recipe.name for recipe in BY_NAME if recipe.name in missing)
        how = f"python -m tests.rig.binaries {asked_for}" if asked_for else "make control-plane"
        raise BuildError(f"{', '.join(missing)}: not built on this machine; run `{how}` (needs Go, takes minutes, once)")
    return Binaries(places)


def place(recipe: Recipe, environment: Mapping[str, str]) -> Path:
    """Return where a binary is, or will be once it is built; raises BuildError if KUBEBUILDER_ASSETS should have it and has not."""
    if recipe.name in FROM_ASSETS and environment.get(ASSETS_VARIABLE):
        given = Path(environment[ASSETS_VARIABLE]) / recipe.name
        if not given.is_file():
            raise BuildError(f"{ASSETS_VARIABLE}: {given.parent} has no {recipe.name}; unset it, or fetch one with setup-envtest")
        return given
    return binaries_root(environment) / recipe.folder_name / recipe.name


def build_missing(recipes: Iterable[Recipe], environment: Mapping[str, str], say: Say) -> None:
    """Build those that are not there. A second builder waits for the first and finds its work done; raises BuildError."""
    root = binaries_root(environment)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / LOCK_FILE, say):
        missing = [recipe for recipe in recipes if not place(recipe, environment).is_file()]
        if not missing:
            return
        go = find_go(environment, root / BUILD_CACHE, say)
        for module, group in itertools.groupby(missing, key=lambda recipe: recipe.module):
            wanted = list(group)
            siblings = [recipe for recipe in KNOWN if recipe.module == module]
            with module_folder(module, siblings, go) as folder:
                for recipe in wanted:
                    started_at = time.monotonic()
                    say(f"{recipe.name} {recipe.module.version}: building")
                    with _put_in_place(place(recipe, environment).parent) as target_folder:
                        build(recipe, go, folder, target_folder)
                    say(f"{recipe.name} {recipe.module.version}: built in {time.monotonic() - started_at:.0f} s")
        # Gigabytes that only another build of the same versions would read; an interrupted run does, and so keeps them.
        shutil.rmtree(root / BUILD_CACHE)


@contextmanager
def _locked(file: Path, say: Say) -> Iterator[None]:
    """Hold a lock that the kernel drops with the process, however it ends."""
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{file.parent}: another process builds here; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextmanager
def _put_in_place(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `folder` at once when that went well, and nothing otherwise."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as name:
        filled = Path(name) / "filled"
        filled.mkdir()
        yield filled
        filled.rename(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """List the binaries and build the missing ones; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - {recipe.name for recipe in KNOWN}:
        parser.error(f"{', '.join(sorted(unknown))}: known are {', '.join(recipe.name for recipe in KNOWN)}")
    recipes = [recipe for recipe in KNOWN if recipe.name in options.names] if options.names else RECIPES
    try:
        for recipe in recipes:
            _say(_describe(recipe, place(recipe, os.environ)))
        if not options.list:
            build_missing(recipes, os.environ, _say)
    except KeyboardInterrupt:
        _say("interrupted; run it again to go on")
        return EXIT_INTERRUPTED
    except BuildError as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}; set XDG_CACHE_HOME to a folder that can be written")
        return 1
    return 0


def _describe(recipe: Recipe, executable: Path) -> str:
    if not executable.is_file():
        return f"{recipe.name} {recipe.module.version}: missing"
    return f"{recipe.name} {recipe.module.version}: {executable} ({executable.stat().st_size / MEBIBYTE:.0f} MiB)"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rig.binaries", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: those of the control plane")
    parser.add_argument("--list", action="store_true", help="only say what is there")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
