"""A cluster as a person reads it: kubeconfig and context as kubectl takes them, plain dicts out, a value where reading failed."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeVar
from urllib.parse import quote

import typer

from transcriber_cli.console import CommandError
from transcriber_operator.cluster.resources import Resource
from transcriber_operator.decide.observed import Manifest

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

DEFAULT_KUBECONFIG: Final = "~/.kube/config"
IN_POD_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
DEFAULT_NAMESPACE: Final = "default"
CANNOT_LOOK_EXIT_CODE: Final = 2
CALL_SECONDS: Final = (5.0, 20.0)  # to connect, and between two bytes of an answer
PAGE_ITEMS: Final = 500
CALLS_AT_ONCE: Final = 16
NODE: Final = Resource("v1", "Node", "nodes", is_namespaced=False)
JSON: Final = "application/json"
TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"

Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="Kubeconfig; default: $KUBECONFIG, else ~/.kube/config.", metavar="FILE")
]
KubeContext = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig; default: its current one.")]
Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="Look at this namespace.", metavar="NAMESPACE")]
AllNamespaces = Annotated[bool, typer.Option("-A", "--all-namespaces", help="Look at all namespaces.")]

Result = TypeVar("Result")


class CannotLookError(CommandError):
    """The cluster cannot be reached, or not as this user."""

    exit_code: ClassVar[int] = CANNOT_LOOK_EXIT_CODE


class Why(StrEnum):
    """Why something was not read."""

    ABSENT = "Absent"
    FORBIDDEN = "Forbidden"
    FAILED = "Failed"


@dataclass(frozen=True)
class Unread:
    """In place of what was asked for; `message` is the server's, on one line."""

    why: Why
    message: str = ""


@dataclass(frozen=True)
class Server:
    """The API server as it presents itself."""

    version: str  # such as v1.33.5-eks-1234567
    now: datetime  # by its own clock, which the times of its objects are written by
    groups: Mapping[str, tuple[str, ...]]  # API groups and the versions they are served in, the preferred one first


class Cluster:
    """One API server, read as one user. Safe to call from several threads."""

    def __init__(self, client: "ApiClient", context: str, namespace: str) -> None:
        self.context = context
        self.namespace = namespace  # of the context
        self.address = str(client.configuration.host)
        self._client = client

    def server(self) -> Server:
        """Ask the server who it is; raises CannotLookError where it does not answer, or refuses the credentials."""
        status, headers, body = self._send("GET", "/version")
        if status == 401:
            raise CannotLookError(f"{self.address} refuses the credentials of context {self.context}; log in again")
        version = _parsed(body).get("gitVersion")
        if status != 200 or not version:
            raise CannotLookError(f"{self.address} is no Kubernetes API server: /version answered {status}")
        date = headers.get("Date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        listed = self.read("/apis")
        if isinstance(listed, Unread):
            raise CannotLookError(
                f"{self.address} does not tell context {self.context} what it serves: {listed.message}; log in again"
            )
        return Server(version, now, {group["name"]: _versions(group) for group in listed["groups"]})

    def get(self, resource: Resource, namespace: str | None, name: str) -> Manifest | Unread:
        """Return an object."""
        return self.read(resource.path(namespace, name))

    def has(self, resource: Resource, namespace: str | None, name: str) -> bool | Unread:
        """Whether an object exists, told by the columns that `kubectl get` prints: its content does not leave the server."""
        found = self.read(resource.path(namespace, name), accept=TABLE, includeObject="None")
        if isinstance(found, Unread):
            return False if found.why is Why.ABSENT else found
        return True

    def select(
        self, resource: Resource, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> tuple[Manifest, ...] | Unread:
        """Return all objects with these labels and fields, of all namespaces where none is given."""
        items: list[Manifest] = []
        query: dict[str, Any] = {"labelSelector": labels, "fieldSelector": fields, "limit": str(PAGE_ITEMS)}
        while True:
            page = self.read(resource.path(namespace), **query)
            if isinstance(page, Unread):
                return page
            # Items of a list do not say what they are.
            items += ({"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page["items"])
            query["continue"] = page["metadata"].get("continue")
            if not query["continue"]:
                return tuple(items)

    def look_up(self, group: str, kind: str, version: str) -> Resource | Unread:
        """Return how a kind is read that is not known beforehand."""
        listed = self.read(f"/apis/{quote(group, safe='')}/{quote(version, safe='')}")
        if isinstance(listed, Unread):
            return listed
        entries = (entry for entry in listed["resources"] if entry["kind"] == kind and "/" not in entry["name"])
        entry = next(entries, None)
        if entry is None:
            return Unread(Why.ABSENT, f"{group}/{version} has no kind {kind}")
        return Resource(f"{group}/{version}", kind, entry["name"], entry["namespaced"])

    def create(self, path: str, body: Mapping[str, Any]) -> Manifest | Unread:
        """Post a question that the server answers and does not keep, such as an access review."""
        return _answer(path, *self._attempt("POST", path, body=body))

    def read(self, path: str, *, accept: str = JSON, **query: str | None) -> Manifest | Unread:
        """Return what is at a path."""
        given = [(name, value) for name, value in query.items() if value is not None]
        return _answer(path, *self._attempt("GET", path, given, accept))

    def _attempt(self, *arguments: Any, **options: Any) -> tuple[int, bytes]:
        try:
            status, _, body = self._send(*arguments, **options)
        except CannotLookError as error:
            return 0, str(error).encode()
        return status, body

    def _send(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]] | None = None,
        accept: str = JSON,
        body: Mapping[str, Any] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        from urllib3.exceptions import HTTPError

        request = self._client.param_serialize(
            method, path, query_params=query or [], header_params={"Accept": accept}, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = self._client.call_api(*request, _request_timeout=CALL_SECONDS)
            return response.status, response.headers, response.read()  # type: ignore[no-untyped-call]
        except (HTTPError, OSError) as error:
            raise CannotLookError(
                f"{self.address} (context {self.context}) does not answer: {_cause(error)}; "
                "check the network, and the server in the kubeconfig"
            ) from None


def refuse_both(namespace: str | None, all_namespaces: bool) -> None:
    """Raise typer.BadParameter where one namespace and all are asked for."""
    if namespace is not None and all_namespaces:
        raise typer.BadParameter("give either --namespace or --all-namespaces")


@contextmanager
def open_cluster(kubeconfig: str | None, context: str | None) -> Iterator[Cluster]:
    """Read the kubeconfig as kubectl does, or in a pod its account; raises CannotLookError that names what is wrong with it."""
    # Imported only where a cluster is read: it takes a second, as long as all the rest.
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration()
    names = _configure(configuration, kubeconfig, context)
    configuration.retries = False
    configuration.connection_pool_maxsize = CALLS_AT_ONCE
    with ApiClient(configuration) as client:
        client.user_agent = "transcriber"
        yield Cluster(client, *names)


def at_once(*calls: Callable[[], Result]) -> list[Result]:
    """Do calls side by side; returns their results in order, raises what the first to fail raised."""
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def _configure(configuration: Any, kubeconfig: str | None, context: str | None) -> tuple[str, str]:
    """Fill in where the server is and as whom; returns the names of the context and its namespace."""
    import yaml
    from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config

    paths = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    there = [path for path in paths.split(os.pathsep) if path and Path(path).expanduser().exists()]
    try:
        if there:
            load_kube_config(paths, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]
            contexts, current = list_kube_config_contexts(paths)  # type: ignore[no-untyped-call]
            chosen = next((entry for entry in contexts if entry["name"] == context), current)
            return chosen["name"], chosen["context"].get("namespace") or DEFAULT_NAMESPACE
        if kubeconfig is None and IN_POD_VARIABLE in os.environ:
            load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            return "of this pod", DEFAULT_NAMESPACE
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CannotLookError(f"kubeconfig {paths}: {_config_problem(error, context)}") from None
    raise CannotLookError(f"kubeconfig {paths} does not exist; give one with --kubeconfig or in $KUBECONFIG")


def _config_problem(error: Exception, context: str | None) -> str:
    said = " ".join(str(error).split())
    if context is not None and f"name {context} in" in said:
        return f"has no context {context}; `kubectl config get-contexts` lists what it has"
    if "current-context" in said:
        return "has no current context; choose one with --context or `kubectl config use-context`"
    return f"cannot be used: {said}"


def _cause(error: BaseException) -> str:
    """Return what a failed connection comes down to, without the objects that urllib3 spells out."""
    said = str(getattr(error, "reason", None) or error)
    return " ".join(said.rpartition("object at 0x")[2].partition(">: ")[2].split()) or " ".join(said.split())


def _versions(group: Manifest) -> tuple[str, ...]:
    preferred = (group.get("preferredVersion") or {}).get("version")
    others = (entry["version"] for entry in group["versions"] if entry["version"] != preferred)
    return (*((preferred,) if preferred else ()), *others)


def _parsed(body: bytes) -> Manifest:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _answer(path: str, status: int, body: bytes) -> Manifest | Unread:
    document = _parsed(body)
    if status in (200, 201) and document:
        return document
    message = " ".join(str(document.get("message") or body[:300].decode(errors="replace")).split())
    match status:
        case 404:
            return Unread(Why.ABSENT, message)
        case 401 | 403:
            return Unread(Why.FORBIDDEN, message)
        case 0:
            return Unread(Why.FAILED, message)
        case _:
            return Unread(Why.FAILED, f"{path} answered {status}: {message}")
