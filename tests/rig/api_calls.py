"""What a request to the Kubernetes API asks for, read off its method, path, query and content type; pure."""

import json
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

WRITE_VERBS: Final = frozenset({"create", "update", "patch", "apply", "delete", "deletecollection"})
READ_VERBS: Final = frozenset({"get", "list", "watch"})
APPLY_TYPES: Final = frozenset({"application/apply-patch+yaml", "application/apply-patch+cbor"})
# Paths below a namespace that belong to the namespace itself.
NAMESPACE_SUBRESOURCES: Final = frozenset({"status", "finalize"})
ONE_NAME: Final = "metadata.name="


@dataclass(frozen=True)
class Call:
    """A request as RBAC sees it.

    `resource` is the plural, with the subresource (`deployments/status`), and empty for what is no object (`/version`);
    `namespace` and `name` are empty where the request has none. `manager` is the field manager that it states.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    manager: str = ""
    is_dry_run: bool = False

    @property
    def is_write(self) -> bool:
        """Whether it changes an object."""
        return bool(self.resource) and self.verb in WRITE_VERBS and not self.is_dry_run


def parse_call(method: str, target: str, content_type: str = "") -> Call:
    """Return the call of an HTTP request; `target` is its path with the query, still percent-encoded."""
    url = urlsplit(target)
    query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
    segments = _below_version([unquote(segment) for segment in url.path.split("/") if segment])
    if not segments:
        return Call(method.lower(), "")
    namespace = ""
    if segments[0] == "namespaces" and len(segments) > 1:
        namespace = segments[1]
        if len(segments) > 2 and segments[2] not in NAMESPACE_SUBRESOURCES:
            segments = segments[2:]
    resource, name = segments[0], segments[1] if len(segments) > 1 else ""
    verb = _verb(method, name, query, content_type)
    if not name and verb in {"list", "watch"}:
        name = _one_name(query.get("fieldSelector", ""))
    return Call(
        verb,
        "/".join([resource, *segments[2:]]),
        namespace,
        name,
        query.get("fieldManager", ""),
        is_dry_run=bool(query.get("dryRun")),
    )


def with_name_of(call: Call, body: bytes) -> Call:
    """Return a create with the name that its body states; a name that the server makes up stays empty."""
    if call.verb != "create" or call.name:
        return call
    return replace(call, name=metadata_of(json_object(body)).get("name", ""))


def json_object(body: bytes) -> dict[str, Any]:
    """Return a body as an object, and an empty one for what is none (protobuf, YAML, a list)."""
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def metadata_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of an object, or, of the Status that answers a delete, the details: both name a uid."""
    part = document.get("details" if document.get("kind") == "Status" else "metadata")
    return part if isinstance(part, dict) else {}


def _below_version(segments: list[str]) -> list[str]:
    """Return what follows /api/v1 or /apis/GROUP/VERSION."""
    if segments[:1] == ["api"]:
        return segments[2:]
    return segments[3:] if segments[:1] == ["apis"] else []


def _verb(method: str, name: str, query: dict[str, str], content_type: str) -> str:
    match method:
        case "GET" | "HEAD" if name:
            return "get"
        case "GET" | "HEAD":
            return "watch" if query.get("watch") in {"1", "true", "True"} else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "apply" if content_type.partition(";")[0].strip() in APPLY_TYPES else "patch"
        case "DELETE":
            return "delete" if name else "deletecollection"
        case _:
            return method.lower()


def _one_name(field_selector: str) -> str:
    names = [term.removeprefix(ONE_NAME) for term in field_selector.split(",") if term.startswith(ONE_NAME)]
    return names[0] if names else ""
