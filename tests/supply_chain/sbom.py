"""`python -m tests.supply_chain.sbom FOLDER`: bills of materials in CycloneDX, one per lock, as FOLDER/NAME.cdx.json.

`operator` and `serving` are what the images add to their bases, `repository` all that developing takes. Each has the versions, the
sha256 of every file that an installer may take, licences, and who needs whom. The same locks give the same documents.
"""

import argparse
import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply_chain.licences import stated
from tests.supply_chain.locks import EXTRAS, LINUX, LOCKS, ROOT, NotInstalledError, Pin, described, field, installed, pins

PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION: Final = SchemaVersion.V1_6


def needed(packages: Mapping[str, Pin], direct: Sequence[str]) -> dict[str, set[str]]:
    """Return who needs whom among `packages`, by name; the root is the empty name and needs what `direct` lists.

    A package is asked for with extras, such as tritonclient[grpc]: what these need counts as its own. Raises NotInstalledError.
    """
    graph: dict[str, set[str]] = {"": set()}
    todo = [("", line, "") for line in direct]
    seen: set[tuple[str, str]] = set()
    while todo:
        needer, line, extra = todo.pop()
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name not in packages or not _applies(requirement, extra):
            continue
        graph.setdefault(needer, set()).add(name)
        graph.setdefault(name, set())
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                lines = described(packages[name]).get_all("Requires-Dist") or ()
                todo += [(name, inner, wanted) for inner in lines]
    return graph


def bill(name: str) -> Bom:
    """Return the bill of materials of a lock. Raises NotInstalledError."""
    text = LOCKS[name].read_text(encoding="utf-8")
    packages = installed(pins(text))
    components = {pin.name: _component(pin) for pin in packages.values()}
    root = Component(
        name=PROJECT["name"] if name == "repository" else f"transcriber-{name}",
        version=PROJECT["version"],
        type=ComponentType.APPLICATION if name == "repository" else ComponentType.CONTAINER,
        bom_ref=f"transcriber-{name}",
        description=PROJECT["description"],
        licenses=[_licence(PROJECT["license"])],
    )
    document = Bom(components=components.values(), serial_number=uuid5(NAMESPACE_URL, hashlib.sha256(text.encode()).hexdigest()))
    document.metadata.component = root
    document.metadata.timestamp = None
    for needer, names in needed(packages, list(_direct(EXTRAS[name]))).items():
        document.register_dependency(components.get(needer, root), [components[each] for each in sorted(names)])
    return document


def rendered(document: Bom) -> str:
    """Return a document as JSON; raises ValueError where it does not satisfy the schema of CycloneDX."""
    text = JsonV1Dot6(document).output_as_string(indent=2)
    if error := JsonStrictValidator(VERSION).validate_str(text):
        raise ValueError(f"not a CycloneDX document: {error}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.supply_chain.sbom", description=__doc__)
    parser.add_argument("folder", type=Path, help="where NAME.cdx.json go")
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in LOCKS:
        try:
            document = bill(name)
        except NotInstalledError as error:
            parser.error(str(error))
        target = folder / f"{name}.cdx.json"
        target.write_text(rendered(document) + "\n", encoding="utf-8")
        print(f"{target}: {len(document.components)} components")  # noqa: T201 - this is its output
    return 0


def _direct(extras: Sequence[str]) -> Iterator[str]:
    """Lines of pyproject.toml that some extras come to; an extra may ask for others of ours."""
    yield from PROJECT["dependencies"]
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(line)
            if canonicalize_name(requirement.name) == PROJECT["name"]:
                yield from _direct(sorted(requirement.extras))
            else:
                yield line


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether a line holds on Linux: those of an extra only where it is asked for."""
    return requirement.marker is None or requirement.marker.evaluate({**LINUX, "extra": extra})


def _component(pin: Pin) -> Component:
    address = PackageURL("pypi", name=pin.name, version=pin.version)
    expression = stated(pin)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(address.to_string()),
        comment="the sha256 of each file of this version",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in pin.hashes],
    )
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=address.to_string(),
        purl=address,
        description=field(described(pin), "Summary"),
        licenses=[_licence(expression)] if expression else [],
        external_references=[files],
    )


def _licence(expression: str) -> LicenseExpression:
    return LicenseExpression(expression, acknowledgement=LicenseAcknowledgement.DECLARED)


if __name__ == "__main__":
    raise SystemExit(main())
