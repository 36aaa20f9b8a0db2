"""The operator's settings: environment variables, read once, all errors told at once."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

PREFIX: Final = "TRANSCRIBER_"
NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
LABEL_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
HOST_PATTERN: Final = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"
URL_PATTERN: Final = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$"
SIMILARITY: Final = 0.85  # of an unknown variable to a known one, above which it is a slip of the pen
HELP_COLUMNS: Final = 100
# What Kubernetes puts into the environment for a Service called transcriber-…; no settings of ours.
SERVICE_LINK: Final = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)$")


class SettingsError(Exception):
    """The environment cannot be used; the message has a line per variable, with the fix."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return HOST:PORT, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _words(value: Any) -> Any:
    """Split a comma-separated text."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _address(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    host, separator, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ip_address(host)
    except ValueError:
        raise ValueError(f"must be IP:PORT such as 0.0.0.0:8080; got {value!r}") from None
    if not (separator and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"must end with a port below 65536, such as :8080; got {value!r}")
    return Address(host, int(port))


def _loopback(value: Any) -> Any:
    address = _address(value)
    if isinstance(address, Address) and not ip_address(address.host).is_loopback:
        raise ValueError(f"must be on loopback, for it shows whole specs to whoever asks: 127.0.0.1:PORT; got {value!r}")
    return address


Namespace = Annotated[str, Field(pattern=LABEL_PATTERN)]
MetricsUrl = Annotated[str, Field(pattern=URL_PATTERN, max_length=512), AfterValidator(lambda url: url.rstrip("/"))]
ServerAddress = Annotated[Address, BeforeValidator(_address)]
LoopbackAddress = Annotated[Address, BeforeValidator(_loopback)]


class Settings(BaseModel):
    """How this operator was installed. Every field is an environment variable: TRANSCRIBER_ and its name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serving_image: str = Field(min_length=1, max_length=512, description="Image of the serving pods of resources that name none.")
    operator_namespace: Namespace = Field(
        description="Namespace that the operator runs in; its Lease is there. In a pod it is known without being set."
    )
    namespaces: Annotated[tuple[Namespace, ...], BeforeValidator(_words)] = Field(
        default=(), description="Namespaces whose resources are served, comma-separated; empty: all of the cluster."
    )
    https_hosts: Annotated[tuple[Annotated[str, Field(pattern=HOST_PATTERN)], ...], BeforeValidator(_words)] = Field(
        default=(), description="Hosts that https:// model sources may name, comma-separated; empty: none."
    )
    lease_name: Namespace = Field(
        default="transcriber-operator", description="Name of the Lease; of operators that share it one works and the rest wait."
    )
    resync_seconds: int = Field(
        default=600, ge=10, le=86_400, description="Every resource is looked at at least so often, in seconds, give or take 10 %."
    )
    api_calls_per_second: int = Field(
        default=50, ge=1, le=1000, description="Calls to the API server per second, over all resources; twice as many at once."
    )
    metrics_address: ServerAddress = Field(default=Address("0.0.0.0", 8080), description="Where /metrics is.")  # noqa: S104
    metrics_namespaces: Annotated[tuple[Namespace, ...], BeforeValidator(_words)] = Field(
        default=(),
        description="Namespaces that may read the metrics of serving pods beside the operator's own, comma-separated: Prometheus'.",
    )
    metrics_url: MetricsUrl | None = Field(
        default=None,
        description="URL under which KEDA reaches the server of /metrics, for mode Keda; unset: that mode is refused.",
    )
    health_address: ServerAddress = Field(default=Address("0.0.0.0", 8081), description="Where /healthz is.")  # noqa: S104
    debug_address: LoopbackAddress = Field(
        default=Address("127.0.0.1", 8082),
        description="Where /debug/NAMESPACE/NAME is; on loopback only, so reach it with kubectl port-forward.",
    )
    kubeconfig: Path | None = Field(
        default=None, description="Kubeconfig whose current context is used; unset: the pod's service account."
    )
    log_format: Literal["Auto", "Json", "Text"] = Field(
        default="Auto", description="Form of the log: Json, Text, or Auto: Text on a terminal and else Json."
    )
    log_level: Literal["Debug", "Info", "Warning", "Error"] = Field(default="Info", description="Least level that is logged.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], namespace_file: Path = NAMESPACE_FILE) -> Self:
        """Read the settings; an empty variable is an unset one. Raises SettingsError."""
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value.strip()}
        values = {_field(name): value.strip() for name, value in given.items() if _field(name) in cls.model_fields}
        if "operator_namespace" not in values and namespace_file.is_file():
            values["operator_namespace"] = namespace_file.read_text(encoding="utf-8").strip()
        lines = [_slip(name) for name in sorted(given) if _field(name) not in cls.model_fields]
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            lines += [_message(problem, values) for problem in error.errors(include_url=False)]
        if any(lines):
            raise SettingsError("\n".join(line for line in lines if line))
        return settings


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + field.upper()


def describe() -> str:
    """Return all settings for `--help`."""
    entries = []
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"default: {_shown(field.default) or 'unset'}"
        text = fill(f"{field.description} ({default})", HELP_COLUMNS, initial_indent="    ", subsequent_indent="    ")
        entries.append(f"  {variable(name)}\n{text}")
    return "\n".join(entries)


def _field(name: str) -> str:
    return name.removeprefix(PREFIX).lower()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(value) if isinstance(value, tuple) and not isinstance(value, Address) else str(value)


def _slip(name: str) -> str:
    """Return an error for a variable that is all but one of ours, nothing for others."""
    known: Iterable[str] = (variable(field) for field in Settings.model_fields)
    nearest = [] if SERVICE_LINK.search(name) else get_close_matches(name, known, n=1, cutoff=SIMILARITY)
    return f"{name} is no setting; did you mean {nearest[0]}?" if nearest else ""


def _message(problem: Mapping[str, Any], values: Mapping[str, str]) -> str:
    field = str(problem["loc"][0])
    name, value = variable(field), values.get(field, "")
    context = problem.get("ctx", {})
    match problem["type"]:
        case "missing":
            return f"{name} is required: {Settings.model_fields[field].description}"
        case "value_error":
            return f"{name} {context['error']}"
        case "string_pattern_mismatch" if field == "https_hosts":
            return f"{name} must hold host names in lower case, comma-separated, without scheme; got {value!r}"
        case "string_pattern_mismatch" if field == "metrics_url":
            return f"{name} must be a URL such as http://transcriber-operator.transcriber-system.svc:8080; got {value!r}"
        case "string_pattern_mismatch":
            return f"{name} must hold lower-case letters, digits and '-', at most 63; got {value!r}"
        case "int_parsing":
            return f"{name} must be a whole number; got {value!r}"
        case "greater_than_equal":
            return f"{name} must be at least {context['ge']}; got {value}"
        case "less_than_equal":
            return f"{name} must be at most {context['le']}; got {value}"
        case "literal_error":
            return f"{name} must be {context['expected']}; got {value!r}"
        case _:
            return f"{name}: {problem['msg']}; got {value!r}"
