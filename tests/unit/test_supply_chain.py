"""Locks, licences, bills of materials, and the workflows that publish."""

import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.output.json import JsonV1Dot6

from tests.supply_chain import licences, sbom
from tests.supply_chain.locks import LOCKS, ROOT, NotInstalledError, Pin, installed, pins
from tests.unit.test_docs import MAKEFILE, TARGETS

ALL_LOCKS = sorted(path for path in ROOT.rglob("requirements*.lock") if ".venv" not in path.parts)
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((ROOT / ".github/workflows").glob("*"))}
EACH = pytest.mark.parametrize("name", WORKFLOWS)
LOCK = """\
# made by make lock
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{a}
    # via click
numpy==1.26.4 ; python_full_version < '3.13' \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
""".format(a="a" * 64, b="b" * 64)


def read(lock: Path) -> tuple[Pin, ...]:
    return pins(lock.read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", ALL_LOCKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_package_of_a_lock_is_pinned_by_hash(lock: Path):
    assert read(lock)
    assert [pin.name for pin in read(lock) if not pin.hashes] == []


def test_a_lock_is_read_with_its_markers_and_all_hashes():
    colorama, numpy = pins(LOCK)
    assert (numpy.name, numpy.version, numpy.hashes) == ("numpy", "1.26.4", {"a" * 64, "b" * 64})
    assert colorama.hashes == {"a" * 64}
    assert set(installed(pins(LOCK))) == {"numpy"}, "the images run Linux"


@pytest.mark.parametrize("entry", ["numpy>=1.26", "numpy==1.26.4,<2", "numpy"])
def test_an_entry_that_is_not_pinned_is_refused_by_name(entry: str):
    with pytest.raises(ValueError, match=r"numpy.* not pinned to one version"):
        pins(f"{entry} \\\n    --hash=sha256:{'a' * 64}\n")


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-only", False),
        ("MIT AND LGPL-3.0-or-later", False),
        ("MIT AND (GPL-2.0-only OR AGPL-3.0-only)", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("LicenseRef-Mine", False),
    ],
)
def test_every_part_of_a_licence_must_be_allowed_and_one_of_a_choice(expression: str, allowed: bool):
    assert licences.is_allowed(expression) == allowed


def test_every_dependency_has_a_licence_that_is_allowed():
    assert [line for pin in licences.locked() if (line := licences.refusal(pin))] == []


def test_an_exception_that_nothing_needs_is_not_kept():
    packages = {pin.name: pin for pin in licences.locked()}
    needed = {name for name, pin in packages.items() if not licences.is_allowed(licences.stated(pin) or "")}
    assert licences.EXCEPTIONS.keys() - needed == set()
    assert licences.UNSAID.keys() - packages.keys() == set()


def test_gpl_libraries_in_a_wheel_that_says_nothing_of_them_are_named():
    records = {name: distribution(name).read_text("RECORD") or "" for name in installed(read(LOCKS["serving"]))}
    assert {name for name, record in records.items() if re.search(r"libx26[45]|libgpl|libreadline", record)} == set(
        licences.BUNDLED
    )
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    assert [name for name in licences.BUNDLED if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("stated", "line"),
    [("GPL-3.0-only", "numpy: GPL-3.0-only is not among ALLOWED"), (None, "numpy: says no licence that is known")],
)
def test_a_licence_that_is_not_allowed_is_refused_with_what_to_do(stated: str | None, line: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(licences, "stated", lambda _: stated)
    assert licences.refusal(pins(LOCK)[1]).startswith(line)


@pytest.mark.parametrize(
    ("pin", "line"),
    [
        (Pin("no-such-package", "1", None, frozenset()), "no-such-package: is in a lock and not installed; run `make setup`"),
        (Pin("numpy", "1.0", None, frozenset()), "numpy: the lock has 1.0, installed is 1.26.4; run `make setup`"),
    ],
)
def test_a_package_that_is_not_the_installed_one_is_not_passed_over(pin: Pin, line: str):
    assert licences.refusal(pin) == line
    with pytest.raises(NotInstalledError, match=pin.name):
        sbom.needed({pin.name: pin}, [pin.name])


@pytest.mark.parametrize("image", ["operator", "serving"])
def test_the_bill_of_an_image_has_what_its_lock_installs_and_satisfies_the_schema(image: str):
    document = sbom.bill(image)
    packages = installed(read(LOCKS[image]))
    assert {component.purl.to_string() for component in document.components} == {
        f"pkg:pypi/{pin.name}@{pin.version}" for pin in packages.values()
    }
    assert [component.name for component in document.components if not component.licenses] == []
    hashes = {
        component.name: {each.content for file in component.external_references for each in file.hashes}
        for component in document.components
    }
    assert hashes == {name: set(pin.hashes) for name, pin in packages.items()}
    assert sbom.rendered(document)


def test_the_same_lock_gives_the_same_bill():
    first, second = (JsonV1Dot6(sbom.bill("operator")).output_as_string() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("image", ["operator", "serving"])
def test_a_bill_says_of_every_package_what_needs_it(image: str):
    packages = installed(read(LOCKS[image]))
    graph = sbom.needed(packages, list(sbom._direct(sbom.EXTRAS[image])))
    assert set(packages) - {name for names in graph.values() for name in names} == set()
    if image == "operator":
        assert "kopf" in graph[""]
        assert "kubernetes" not in graph["kopf"]


def test_what_an_extra_of_a_dependency_needs_counts_as_its_own():
    packages = installed(read(LOCKS["serving"]))
    assert "grpcio" in sbom.needed(packages, ["tritonclient[grpc]"])["tritonclient"]
    assert "grpcio" not in sbom.needed(packages, ["tritonclient"])["tritonclient"]


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[name]["jobs"].values() for step in job.get("steps", ())]


def lines_of(name: str) -> str:
    return (ROOT / f".github/workflows/{name}.yaml").read_text(encoding="utf-8")


@EACH
def test_an_action_of_others_is_pinned_by_commit_and_its_version_stands_beside_it(name: str):
    uses = re.findall(r"uses: (.+)", lines_of(name))
    assert uses
    pinned = r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    assert [each for each in uses if not re.fullmatch(pinned, each) and each != "./.github/workflows/ci.yaml"] == []


def test_one_action_has_one_commit_everywhere():
    found = {pin for name in WORKFLOWS for pin in re.findall(r"uses: (\S+@[0-9a-f]{40})", lines_of(name))}
    assert len({pin.partition("@")[0] for pin in found}) == len(found)


@EACH
def test_a_job_has_the_rights_that_it_names_and_no_others(name: str):
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        writes = {right for right, level in job["permissions"].items() if level != "read"}
        assert writes <= {"id-token", "attestations"} or (job["name"], writes) == ("Publish", {"contents"})


@EACH
def test_no_token_is_left_in_a_checkout_and_nothing_is_put_into_a_shell_unquoted(name: str):
    checkouts = [step for step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert [step for step in checkouts if step["with"].get("persist-credentials") is not False] == []
    assert [step["run"] for step in steps(name) if "${{" in step.get("run", "")] == [], "through env, so that it is no code"


@EACH
def test_a_workflow_calls_targets_of_the_makefile(name: str):
    said = {
        target for step in steps(name) for target in re.findall(r"\bmake \"?([a-z][a-z0-9-]*(?:\$IMAGE)?)", step.get("run", ""))
    }
    expanded = {target.replace("$IMAGE", image) for target in said for image in ("operator", "serving")}
    assert expanded - TARGETS == set()
    variables = {each for step in steps(name) if "make " in step.get("run", "") for each in re.findall(r" ([A-Z_]+)=", step["run"])}
    assert {each for each in variables if not re.search(rf"\b{each}\b", MAKEFILE)} == set()


def test_what_signs_has_an_environment_with_reviewers_and_nothing_is_signed_by_tag():
    for job in WORKFLOWS["release"]["jobs"].values():
        if job["permissions"].get("id-token") == "write":
            assert job["environment"] == "release"
    signed = re.findall(r"cosign (?:sign|attest) .*", lines_of("release"))
    assert signed
    assert [line for line in signed if '"$REFERENCE"' not in line and "@$digest" not in line] == []


def test_images_are_scanned_before_they_are_signed():
    uses = [step.get("uses", step.get("name", "")) for step in WORKFLOWS["release"]["jobs"]["image"]["steps"]]
    scan = next(number for number, each in enumerate(uses) if each.startswith("anchore/scan-action@"))
    assert uses.index("Build and push") < scan < uses.index("Sign, and attest the bill of materials")


def test_the_claim_on_artifact_hub_can_be_read():
    given = yaml.safe_load((ROOT / "artifacthub-repo.yaml").read_text(encoding="utf-8"))
    assert isinstance(given["owners"], list)
