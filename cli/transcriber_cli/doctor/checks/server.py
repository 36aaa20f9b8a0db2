"""The API server and the CustomResourceDefinition."""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from typing import Final

from transcriber_api.schema import CRD_PATH, PLURAL, custom_resource_definition
from transcriber_api.v1alpha1 import GROUP, VERSION
from transcriber_cli.cluster import Unread
from transcriber_cli.doctor.findings import Area, Finding, not_checked, note, ok, problem, warning
from transcriber_cli.doctor.seen import Seen
from transcriber_operator.decide.observed import Manifest

LEAST_MINOR: Final = 29  # native sidecars
VERSION_PATTERN: Final = re.compile(r"^v?(\d+)\.(\d+)")
DEFINITION: Final = f"CustomResourceDefinition {PLURAL}.{GROUP}"
DIGEST_CHARACTERS: Final = 12


def api_server(seen: Seen) -> Iterator[Finding]:
    """The server is there, or nothing could have been seen; its version has to have what serving pods need."""
    found = VERSION_PATTERN.match(seen.server.version)
    subject = f"Kubernetes {seen.server.version}"
    if found is None:
        yield note(Area.SERVER, "version-unknown", subject, f"cannot be compared with the least version, 1.{LEAST_MINOR}")
    elif (int(found[1]), int(found[2])) < (1, LEAST_MINOR):
        seen_text = "has no native sidecars, which serving pods need"
        yield problem(Area.SERVER, "version-too-old", subject, seen_text, f"upgrade the cluster to 1.{LEAST_MINOR} or newer")
    else:
        yield ok(Area.SERVER, "version", subject, "answers")


def definition(seen: Seen) -> Iterator[Finding]:
    """The kind is served, in our version, by the schema that is installed here."""
    served = seen.server.groups.get(GROUP, ())
    apply = f"kubectl apply --server-side --force-conflicts -f {CRD_PATH}"
    if not served:
        is_there = not isinstance(seen.definition, Unread)
        said = "is there and not served; see its conditions" if is_there else "is not there"
        yield problem(
            Area.DEFINITION, "definition-missing", DEFINITION, said, f"{apply}   # or install the chart with crds.enabled=true"
        )
        return
    if VERSION not in served:
        yield problem(Area.DEFINITION, "version-not-served", DEFINITION, f"serves {', '.join(served)} and not {VERSION}", apply)
        return
    if isinstance(seen.definition, Unread):
        yield ok(Area.DEFINITION, "definition", DEFINITION, f"serves {VERSION}")
        right = "get customresourcedefinitions"
        yield not_checked(Area.DEFINITION, "whether its schema is the one installed here", seen.definition, right)
        return
    theirs, ours = digest(seen.definition), digest_here()
    if theirs == ours:
        yield ok(Area.DEFINITION, "definition", DEFINITION, f"serves {VERSION}, schema and columns {ours} as installed here")
        return
    said = (
        f"its schema or columns ({theirs}) are not those of transcriber {version('transcriber-operator')} installed here ({ours})"
    )
    yield warning(
        Area.DEFINITION,
        "definition-differs",
        DEFINITION,
        said,
        f"{apply}   # if what is here is newer, else install its version here",
    )


@cache
def digest_here() -> str:
    """Return the hash of the definition that is installed here."""
    return digest(custom_resource_definition())


def digest(manifest: Manifest) -> str:
    """Return a hash of what a definition serves in our version: its schema, the printer's columns, the subresources."""
    entry: Manifest = next((entry for entry in manifest["spec"]["versions"] if entry["name"] == VERSION), {})
    columns = [{name: value for name, value in column.items() if value} for column in entry.get("additionalPrinterColumns") or ()]
    parts = [entry.get("schema"), columns, entry.get("subresources")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGEST_CHARACTERS]
