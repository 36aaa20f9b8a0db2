"""Building and finding the binaries, with a stand-in for the Go tool: what it is asked for, and what happens when it fails."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from tests.rig import recipes
from tests.rig.binaries import BUILD_CACHE, build_missing, find_binaries, main, place
from tests.rig.go_build import BuildError, find_go, go_mod, go_version, module_folder
from tests.rig.recipes import ETCD, KARPENTER, KUBERNETES, PEERS, RECIPES, Recipe

END_SECONDS = 30
INTERRUPT_SECONDS = 10  # less than the stand-in waits for its gate
# Writes what it is asked for into $CALLS; fails on a package named in $BROKEN; waits for $GATE to vanish while it builds.
STAND_IN = """\
#!{python}
import json, os, pathlib, sys, time
arguments = sys.argv[1:]
if arguments[:2] == ["env", "-json"]:
    print(json.dumps({{"GOVERSION": os.environ.get("TOLD", "go1.26.8"), "GOTOOLCHAIN": os.environ.get("GOTOOLCHAIN", "auto")}}))
    raise SystemExit
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if os.environ.get("BROKEN", "nothing") in arguments[-1]:
    print("module lookup: connection refused", file=sys.stderr)
    raise SystemExit(1)
if arguments[0] == "mod":
    print(json.dumps({{"Dir": os.environ["MODULE"]}}))
    raise SystemExit
deadline = time.monotonic() + 20
while os.environ.get("GATE") and pathlib.Path(os.environ["GATE"]).exists():
    time.sleep(0.01)
    if time.monotonic() > deadline:
        raise SystemExit("the gate stayed shut")
pathlib.Path(os.environ["GOCACHE"]).mkdir(exist_ok=True)
if arguments[0] == "build":
    target = pathlib.Path(arguments[arguments.index("-o") + 1])
else:
    target = pathlib.Path(os.environ["GOBIN"], arguments[-1].partition("@")[0].rpartition("/")[2])
target.write_text("binary")
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An empty cache, and a `go` on PATH that compiles nothing."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "go"
    tool.write_text(STAND_IN.format(python=sys.executable))
    tool.chmod(0o755)
    module = tmp_path / "module"
    for path in (path for recipe in RECIPES for path in recipe.assets):
        (module / path).parent.mkdir(parents=True, exist_ok=True)
        (module / path).write_text("kind: Stage\n")
    return {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": str(tmp_path / "bin"),
        "CALLS": str(tmp_path / "calls"),
        "MODULE": str(module),
    }


def silent(line: str) -> None:
    """Say nothing."""


def calls(environment: dict[str, str]) -> list[list[str]]:
    file = Path(environment["CALLS"])
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def recipe(name: str) -> Recipe:
    [found] = [recipe for recipe in RECIPES if recipe.name == name]
    return found


def test_every_binary_is_built_once_and_then_found(environment: dict[str, str]):
    said: list[str] = []
    build_missing(RECIPES, environment, said.append)
    built = [call for call in calls(environment) if call[0] in ("build", "install")]
    assert len(built) == len(RECIPES)
    found = find_binaries(environment)
    assert [found[recipe.name].read_text() for recipe in RECIPES] == ["binary"] * len(RECIPES)
    assert {path.name for path in found.assets("kwok")} > {"pod-ready.yaml", "node-initialize.yaml"}
    assert len(found.assets("karpenter")) == 5
    assert said[0] == "etcd v3.6.14: building"
    assert said[-1].startswith("promtool v0.316.0: built in ")
    build_missing(RECIPES, environment, said.append)
    assert [call for call in calls(environment) if call[0] in ("build", "install")] == built


def test_what_the_compiler_kept_is_removed_when_all_is_built(environment: dict[str, str], tmp_path: Path):
    build_missing([recipe("etcd")], environment, silent)
    assert [path.name for path in (tmp_path / "cache/transcriber/control-plane").iterdir() if path.name == BUILD_CACHE] == []


def test_the_servers_are_stamped_with_the_version_that_kubectl_and_charts_read(environment: dict[str, str]):
    build_missing([recipe("kube-apiserver"), recipe("helm")], environment, silent)
    [build, install] = [call for call in calls(environment) if call[0] in ("build", "install")]
    for stamp in ("gitVersion=v1.36.2", "gitMajor=1", "gitMinor=36"):
        assert f"-X k8s.io/component-base/version.{stamp}" in build[2]
    assert "-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=36" in install[2]


def test_a_build_that_fails_names_the_binary_with_the_tool_s_words_and_leaves_nothing_half_done(environment: dict[str, str]):
    with pytest.raises(BuildError) as caught:
        build_missing(RECIPES, environment | {"BROKEN": "karpenter"}, silent)
    assert str(caught.value).startswith("karpenter: `")
    assert "failed with exit code 1:\n  module lookup: connection refused" in str(caught.value)
    assert place(recipe("kwok"), environment).is_file()
    assert not place(recipe("karpenter"), environment).parent.exists()


def test_a_build_that_was_broken_off_goes_on_with_what_is_missing(environment: dict[str, str]):
    with pytest.raises(BuildError):
        build_missing(RECIPES, environment | {"BROKEN": "cmd/kubectl"}, silent)
    before = len(calls(environment))
    build_missing(RECIPES, environment, silent)
    again = [call[-1].partition("@")[0] for call in calls(environment)[before:] if call[0] in ("build", "install")]
    assert again == [recipe(name).package for name in ("kubectl", "kwok", "karpenter", "helm", "promtool")]


def read_until(stream: IO[str] | None, word: str) -> None:
    assert stream is not None
    assert any(word in line for line in stream), f"never said {word!r}"


def processes_of(executable: Path) -> list[str]:
    """Return the living processes that have this file on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            words = entry.read_bytes().split(b"\0")
            found += [entry.parent.name] if str(executable).encode() in words else []
    return found


def test_two_builders_at_once_build_each_binary_once(environment: dict[str, str], tmp_path: Path):
    gate = tmp_path / "gate"
    gate.touch()
    argv = [sys.executable, "-m", "tests.rig.binaries", "etcd", "helm"]
    variables = os.environ | environment | {"GATE": str(gate)}
    with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True) as first:
        read_until(first.stdout, "building")
        with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True) as second:
            read_until(second.stdout, "waiting for it")
            gate.unlink()
            assert (first.communicate(timeout=END_SECONDS)[0].count("built in"), first.returncode) == (2, 0)
            assert (second.communicate(timeout=END_SECONDS)[0], second.returncode) == ("", 0)
    assert len([call for call in calls(environment) if call[0] in ("build", "install")]) == 2


def test_an_interrupt_ends_the_tool_and_leaves_nothing_half_done(environment: dict[str, str], tmp_path: Path):
    gate = tmp_path / "gate"
    gate.touch()
    argv = [sys.executable, "-m", "tests.rig.binaries", "helm"]
    with subprocess.Popen(
        argv,
        env=os.environ | environment | {"GATE": str(gate)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in what a shell started with `&`
    ) as builder:
        read_until(builder.stdout, "building")
        deadline = time.monotonic() + END_SECONDS
        while not calls(environment):  # the builder says nothing when the tool itself has begun
            assert time.monotonic() < deadline
            time.sleep(0.01)
        builder.send_signal(signal.SIGINT)
        builder.communicate(timeout=INTERRUPT_SECONDS)
    assert builder.returncode == 130
    assert processes_of(tmp_path / "bin" / "go") == []
    assert [path.name for path in (tmp_path / "cache/transcriber/control-plane").iterdir()] == [".lock"]


def test_without_go_the_error_says_what_to_install(environment: dict[str, str], tmp_path: Path):
    (tmp_path / "bin" / "go").unlink()
    with pytest.raises(BuildError, match=r"go: not on PATH; install Go 1\.26\.7 or newer"):
        build_missing(RECIPES, environment, silent)


def test_a_go_that_is_too_old_and_may_not_fetch_another_is_refused(environment: dict[str, str]):
    with pytest.raises(BuildError, match=r"go1\.25\.3 is too old; install Go 1\.26\.7"):
        build_missing(RECIPES, environment | {"TOLD": "go1.25.3", "GOTOOLCHAIN": "local"}, silent)
    build_missing(RECIPES, environment | {"TOLD": "go1.25.3", "GOTOOLCHAIN": "auto"}, silent)


@pytest.mark.parametrize(("text", "numbers"), [("go1.26.8", (1, 26, 8)), ("go1.27rc1", (1, 27)), ("devel go1.28-abc", (1, 28))])
def test_versions_of_go_are_read_as_numbers(text: str, numbers: tuple[int, ...]):
    assert go_version(text) == numbers


def test_finding_without_building_names_what_is_missing_and_the_fix(environment: dict[str, str]):
    build_missing([recipe for recipe in RECIPES if recipe.name not in ("kwok", "helm")], environment, silent)
    with pytest.raises(BuildError, match=r"^kwok, helm: not built on this machine; run `make control-plane`"):
        find_binaries(environment)


def test_given_binaries_are_taken_and_a_folder_that_lacks_one_is_an_error(environment: dict[str, str], tmp_path: Path):
    given = tmp_path / "assets"
    given.mkdir()
    environment["KUBEBUILDER_ASSETS"] = str(given)
    with pytest.raises(BuildError, match=r"KUBEBUILDER_ASSETS: .*assets has no etcd"):
        find_binaries(environment)
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (given / name).touch()
    build_missing(RECIPES, environment, silent)
    assert find_binaries(environment)["etcd"] == given / "etcd"
    assert len([call for call in calls(environment) if call[0] in ("build", "install")]) == len(RECIPES) - 3


def test_the_command_lists_what_is_there_and_an_unknown_name_is_refused(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["etcd"]) == 0
    assert capsys.readouterr().out.startswith("etcd v3.6.14: missing\netcd v3.6.14: building\n")
    assert main(["--list", "etcd", "kwok"]) == 0
    there, missing = capsys.readouterr().out.splitlines()
    assert there.endswith("/etcd (0 MiB)")
    assert missing == "kwok v0.8.0: missing"
    with pytest.raises(SystemExit):
        main(["crio"])
    assert "crio: known are etcd, " in capsys.readouterr().err


def test_a_wrapper_module_replaces_every_staging_module_at_the_matching_version():
    text = go_mod(KUBERNETES, ["k8s.io/kubernetes/cmd/kubectl"])
    assert "replace k8s.io/api => k8s.io/api v0.36.2\n" in text
    assert "godebug default=go1.26\n" in text
    assert text.count("replace ") == 33
    assert "replace" not in go_mod(ETCD, [ETCD.path])


def test_another_version_or_stamp_is_another_folder():
    kubectl = recipe("kubectl")
    stamped = dataclasses.replace(kubectl, stamps=(*kubectl.stamps, ("a.b", "c")))
    newer = dataclasses.replace(kubectl, module=dataclasses.replace(KUBERNETES, version="v1.36.3"))
    assert len({kubectl.folder_name, stamped.folder_name, newer.folder_name}) == 3


def test_a_main_package_of_ours_is_built_around_its_module(environment: dict[str, str], tmp_path: Path):
    karpenter = recipe("karpenter")
    with module_folder(KARPENTER, [karpenter], find_go(environment, tmp_path / "cache", silent)) as folder:
        assert "package main" in (folder / karpenter.package / "main.go").read_text()
        go_mod_lines = (folder / "go.mod").read_text().splitlines()
    assert f"require {KARPENTER.path} {KARPENTER.version}" in go_mod_lines
    assert not any(line.startswith("tool ") for line in go_mod_lines)
    build_missing([karpenter], environment, silent)
    [build] = [call for call in calls(environment) if call[0] in ("build", "install")]
    assert build[-1] == karpenter.package


def test_a_change_of_a_main_package_of_ours_is_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    karpenter = recipe("karpenter")
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "recipes.py"))
    source = tmp_path / karpenter.package / "main.go"
    source.parent.mkdir()
    names = []
    for content in ("package main", "package main // changed"):
        source.write_text(content)
        names.append(karpenter.folder_name)
    assert len(set(names)) == 2


def test_peers_are_built_by_name_alone(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["--list"]) == 0
    assert "keda" not in capsys.readouterr().out
    with pytest.raises(
        BuildError, match=r"keda-operator, keda-adapter: .* `python -m tests.rig.binaries keda-operator keda-adapter`"
    ):
        find_binaries(environment, PEERS)
    assert main(["keda-adapter"]) == 0
    [build] = [call for call in calls(environment) if call[0] in ("build", "install")]
    assert build[-1] == "github.com/kedacore/keda/v2/cmd/adapter"
