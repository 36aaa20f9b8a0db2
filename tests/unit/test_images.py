"""The images' Dockerfiles, their build context and their locks, as far as reading them can tell; docs/images.md has the rest."""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.unit.operator.specs import claim_spec, context, ephemeral_spec
from transcriber_operator.render import pod
from transcriber_operator.render.build import build_job
from transcriber_operator.render.serving import deployment
from transcriber_operator.settings import Settings
from transcriber_repository.launch import IMAGE_ROOT, WHEEL

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OPERATOR, SERVING = "operator/Dockerfile", "model_repository/Dockerfile"
CPU_BASE, CPU_BASE_LOCK = "model_repository/cpu-base/Dockerfile", "model_repository/cpu-base/requirements.lock"
EXTRAS = {OPERATOR: ("operator",), SERVING: ("engine", "repository", "exporter")}
BUILD_LOCK = "requirements-build.lock"
LOCKS = {OPERATOR: "operator/requirements.lock", SERVING: "model_repository/requirements.lock"}
IMAGES = pytest.mark.parametrize("image", EXTRAS)
MODULES = {Path(package).name for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
HOST = re.compile(r"(?<![\w.-])(?!registry\.example\.com/)([a-z0-9-]+\.)+(io|com|org|net|dev)(:\d+)?/\S")


class Instruction(NamedTuple):
    """`COPY`, its options `{"--from": "package"}`, and the words after them."""

    name: str
    options: dict[str, str]
    words: list[str]
    text: str


def stages(dockerfile: str) -> list[list[Instruction]]:
    """Return the instructions of each stage; those before the first FROM come first."""
    lines = [line for line in (ROOT / dockerfile).read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, text = line.strip().partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append(instruction(name, text))
    return found


def instruction(name: str, text: str) -> Instruction:
    words = shlex.split(text)
    options = [word for word in words if word.startswith("--")] if name == "COPY" else []
    rest = [word for word in words if word not in options]
    return Instruction(name, dict(option.split("=", 1) for option in options), rest, text)


def last(stage: list[Instruction], name: str) -> Instruction:
    return [each for each in stage if each.name == name][-1]


def named(stage: list[Instruction], name: str) -> Iterator[Instruction]:
    return (each for each in stage if each.name == name)


def environment(stage: list[Instruction]) -> dict[str, str]:
    return dict(word.split("=", 1) for each in named(stage, "ENV") for word in each.words)


def is_sent(path: str) -> bool:
    """Whether a build sees `path`: the last pattern of .dockerignore that matches it, or a folder above it, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        assert "/" not in pattern or line.startswith("#"), "this reader knows names alone, at the top or, after **/, anywhere"
        parts = Path(path).parts if line.startswith("**/") else Path(path).parts[:1]
        if any(fnmatchcase(part, pattern) for part in parts):
            sent = line.startswith("!")
    return sent


def starts(module: str) -> bool:
    """Whether `python3 -m` can start it: a module, or a package with a `__main__`."""
    found = find_spec(module)
    return found is not None and (found.submodule_search_locations is None or find_spec(f"{module}.__main__") is not None)


def copied(image: str) -> list[str]:
    """Return what is copied from the build context."""
    return [word for stage in stages(image) for each in named(stage, "COPY") if not each.options for word in each.words[:-1]]


def pins(lock: str) -> dict[str, frozenset[str]]:
    """Return the hashes of each `name==version ; marker` of a lock."""
    blocks = re.split(r"\n(?=[^\s#])", (ROOT / lock).read_text())
    return {
        block.partition(" \\\n")[0]: frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block))
        for block in blocks
        if "==" in block.partition("\n")[0]
    }


def names(lock: str) -> set[str]:
    return {pin.partition("==")[0] for pin in pins(lock)}


def containers() -> Iterator[dict[str, Any]]:
    for given in (claim_spec(), ephemeral_spec()):
        of = context(given)
        manifests = [deployment(of, of.spec.capacity.pools[0], None, 1), *([build_job(of)] if of.claim else [])]
        for manifest in manifests:
            spec = manifest["spec"]["template"]["spec"]
            yield from (*spec.get("initContainers", ()), *spec["containers"])


@IMAGES
def test_the_base_is_asked_for_and_nothing_is_pulled_by_a_name_of_ours(image: str):
    head, *built = stages(image)
    assert [each.text for each in head] == ["BASE", "BUILD_BASE=${BASE}"], "a default would be a registry's name, or go stale"
    assert [stage[0].words[0] for stage in built] == ["${BUILD_BASE}", "${BUILD_BASE}", "${BASE}"]
    assert not HOST.search((ROOT / image).read_text())


@IMAGES
def test_the_image_runs_as_the_user_that_its_pods_run_as(image: str):
    assert last(stages(image)[-1], "USER").words == [f"{pod.USER_ID}:{pod.USER_ID}"]


@IMAGES
def test_the_last_stage_runs_nothing_so_that_no_tool_is_left_in_it(image: str):
    final = stages(image)[-1]
    assert not [each for each in final if each.name in ("RUN", "ADD", "SHELL", "CMD", "ONBUILD", "VOLUME")]
    assert {each.options.get("--from") for each in named(final, "COPY")} == {"dependencies", "package"}


@IMAGES
def test_the_image_writes_to_tmp_alone(image: str):
    given = environment(stages(image)[-1])
    assert (given["HOME"], last(stages(image)[-1], "WORKDIR").words) == ("/tmp", ["/tmp"])
    assert given["PYTHONDONTWRITEBYTECODE"] == given["PYTHONNOUSERSITE"] == given["PYTHONSAFEPATH"] == "1"


@IMAGES
def test_bytecode_that_is_copied_between_stages_stays_valid(image: str):
    assert all(environment(stage)["SOURCE_DATE_EPOCH"] for stage in stages(image)[1:-1]), (
        "py_compile then writes a hash and no time"
    )


@IMAGES
def test_the_user_has_a_name_where_passwd_has_none(image: str):
    assert environment(stages(image)[-1])["USER"], "Kopf asks for it, and ends without one"


@IMAGES
def test_the_environment_comes_before_what_the_base_has_on_its_path(image: str):
    final = stages(image)[-1]
    folder = environment(final)["PATH"].partition(":")[0]
    folders = [each.words[1] for each in named(final, "COPY")]
    assert Path(folder).parent.as_posix() in folders
    assert re.findall(r"echo (\S+) >", " ".join(each.text for each in named(stages(image)[1], "RUN"))) == folders[1:]


@IMAGES
def test_the_entry_point_starts_a_module_without_a_shell(image: str):
    entry = json.loads(last(stages(image)[-1], "ENTRYPOINT").text)
    assert entry[:-1] == ["python3", "-m"]
    assert starts(entry[-1])
    assert last(stages(image)[-1], "STOPSIGNAL").words == ["SIGTERM"]


def test_the_ports_are_those_that_are_listened_on_without_a_setting():
    ports = {image: {int(word) for word in last(stages(image)[-1], "EXPOSE").words} for image in EXTRAS}
    addresses = [Settings.model_fields[field].default for field in ("metrics_address", "health_address")]
    assert ports[OPERATOR] == {address.port for address in addresses}
    assert ports[SERVING] == {pod.GRPC_PORT, pod.TRITON_METRICS_PORT, pod.EXPORTER_PORT, pod.PROGRESS_PORT, pod.POD_PROGRESS_PORT}


def test_the_operator_image_starts_the_operator():
    assert json.loads(last(stages(OPERATOR)[-1], "ENTRYPOINT").text)[-1] == "transcriber_operator"


def test_the_serving_image_starts_what_triton_s_container_does():
    commands = {each["name"]: each["command"] for each in containers()}
    assert json.loads(last(stages(SERVING)[-1], "ENTRYPOINT").text) == commands["triton"][:3]


def test_every_container_that_is_rendered_starts_a_module_of_the_serving_image():
    given = list(containers())
    assert {each["name"] for each in given} == {"exporter", "build", "triton"}
    assert {each["image"] for each in given} == {"images.example.com/serving:1"}
    for each in given:
        assert each["command"][:2] == ["python3", "-m"]
        module = each["command"][2].split(".")[0]
        assert module in MODULES
        assert starts(each["command"][2])


@IMAGES
def test_what_is_copied_is_there_and_sent_to_the_build(image: str):
    assert copied(image)
    assert [source for source in copied(image) if not (ROOT / source).exists() or not is_sent(source)] == []


@IMAGES
def test_everything_that_the_distribution_is_made_of_is_copied(image: str):
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    made_of = [*wheel["packages"], *wheel["force-include"], PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    assert [path for path in made_of if not {path, *map(str, Path(path).parents)} & set(copied(image))] == []
    assert [path for path in made_of if not is_sent(path)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".venv/bin/python", ".ruff_cache/x", "tests/unit/test_images.py", "repositories/sha256-0/READY",
        "dist/a.whl", "examples/models/whisper-base/model.bin", "docs/images.md", "requirements.lock", ".env", "Makefile",
        "operator/Dockerfile", "operator/transcriber_operator/__pycache__/log.cpython-311.pyc",
        "crds/transcriber_api/old.pyc", "cli/transcriber_cli/__pycache__/x",
    ],
)  # fmt: skip
def test_a_build_is_not_sent(path: str):
    assert not is_sent(path)


@IMAGES
def test_pip_takes_nothing_without_a_hash_and_runs_no_code_of_a_package(image: str):
    runs = [each.text for stage in stages(image) for each in named(stage, "RUN")]
    installs = [" ".join(part.split()) for run in runs for part in run.split("&&") if " install " in part]
    assert len(installs) == 3
    for install in installs:
        assert "--no-deps" in install
        hashed = "--require-hashes --only-binary :all:" in install
        assert hashed != ("--no-index" in install and "--no-build-isolation" in install), install


@IMAGES
def test_the_image_s_lock_is_the_part_of_the_whole_lock_that_its_extras_ask_for(image: str):
    whole, own = pins("requirements.lock"), pins(LOCKS[image])
    assert own
    assert {pin: hashes for pin, hashes in own.items() if whole.get(pin) != hashes} == {}, "run `make lock`"
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS[image] for line in project["optional-dependencies"][extra])]
    assert {re.match(r"[\w.-]+", line)[0].lower() for line in wanted} - names(LOCKS[image]) == set()


def test_the_operator_image_has_no_engine_and_neither_has_a_tool_of_development():
    assert not names(LOCKS[OPERATOR]) & {"torch", "onnxruntime", "av", "tokenizers", "tritonclient", "boto3"}
    for lock in LOCKS.values():
        assert not names(lock) & {"pip", "uv", "pytest", "hatchling", "nvidia-pytriton", "transformers"}


def test_what_builds_the_wheel_is_locked():
    whole, own = pins("requirements.lock"), pins(BUILD_LOCK)
    assert {re.match(r"[\w.-]+", line)[0] for line in PROJECT["build-system"]["requires"]} <= names(BUILD_LOCK)
    shared = names("requirements.lock")
    assert [pin for pin in own if pin.partition("==")[0] in shared and whole.get(pin) != own[pin]] == [], "run `make lock`"
    assert all(own.values())


@pytest.mark.parametrize("lock", [*LOCKS.values(), BUILD_LOCK, CPU_BASE_LOCK])
def test_a_lock_names_no_index_and_no_address(lock: str):
    assert not re.search(r"://|--(extra-)?index-url|--find-links", (ROOT / lock).read_text())


def recipe(image: str) -> list[tuple[str, str]]:
    """Return the instructions, less what an image is called, listens on and starts."""
    told = [each for stage in stages(image) for each in stage if each.name not in ("LABEL", "EXPOSE", "ENTRYPOINT")]
    return [(each.name, each.text.replace(LOCKS[image], "LOCK")) for each in told]


def test_both_images_are_built_in_one_way():
    assert recipe(OPERATOR) == recipe(SERVING)


@IMAGES
def test_the_image_says_what_it_is_and_under_which_licence(image: str):
    labels = dict(word.split("=", 1) for each in named(stages(image)[-1], "LABEL") for word in each.words)
    assert labels["org.opencontainers.image.licenses"] == PROJECT["project"]["license"]
    assert labels["org.opencontainers.image.title"] == {OPERATOR: "transcriber-operator", SERVING: "transcriber-serving"}[image]


def test_the_base_for_cpu_has_triton_where_the_launcher_looks_first():
    final = stages(CPU_BASE)[-1]
    [copy] = named(final, "COPY")
    assert (copy.options, copy.words) == ({"--from": "server"}, [str(IMAGE_ROOT), str(IMAGE_ROOT)])
    assert environment(final)["LD_LIBRARY_PATH"] == str(IMAGE_ROOT / "lib")
    assert not [each for each in final if each.name in ("RUN", "ADD", "USER", "ENTRYPOINT", "CMD")]


def test_the_base_for_cpu_is_built_of_a_base_that_is_asked_for_and_of_the_server_alone():
    head, *built = stages(CPU_BASE)
    assert [each.text for each in head] == ["BASE", "BUILD_BASE=${BASE}"]
    assert [stage[0].words[0] for stage in built] == ["${BUILD_BASE}", "${BASE}"]
    [install] = [each.text for each in named(built[0], "RUN") if " install " in each.text]
    assert "--require-hashes --only-binary :all: --no-deps" in " ".join(install.split())
    assert copied(CPU_BASE) == [CPU_BASE_LOCK]
    assert is_sent(CPU_BASE_LOCK)
    assert not HOST.search((ROOT / CPU_BASE).read_text())


def test_the_base_for_cpu_has_the_server_that_is_tested_here():
    whole, own = pins("requirements.lock"), pins(CPU_BASE_LOCK)
    assert names(CPU_BASE_LOCK) == {WHEEL}
    assert {pin: hashes for pin, hashes in own.items() if whole.get(pin) != hashes} == {}, "copy the lines of requirements.lock"


def test_the_page_on_images_names_no_registry():
    assert not HOST.search((ROOT / "docs/images.md").read_text())
