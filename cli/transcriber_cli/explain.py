"""`transcriber explain`: what the operator last saw of a resource and what it decided, also replayed from a dump."""

import json
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from http.client import HTTPConnection, HTTPException, InvalidURL
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from transcriber_api.conditions import Condition
from transcriber_api.status import Status
from transcriber_cli.console import CommandError, expected_errors, write_result
from transcriber_operator.debug import Explanation
from transcriber_operator.decide.autoscale import Terms
from transcriber_operator.decide.decision import Decision
from transcriber_operator.decide.observed import Manifest, Observed
from transcriber_operator.decide.pipeline import decide
from transcriber_operator.decide.scaling_memory import Decided
from transcriber_operator.decide.starts import claim_stage

ANSWER_SECONDS: Final = 10.0
ADDRESS: Final = "127.0.0.1:8082"
FORWARD: Final = "kubectl port-forward --namespace NAMESPACE deployment/transcriber-operator 8082"

Name = Annotated[str | None, typer.Argument(help="Name of the TranscriberDeployment.", metavar="NAME")]
Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Its namespace.", metavar="NAMESPACE")]
DumpFile = Annotated[
    Path | None, typer.Option("-f", "--file", help="A dump (--json) to replay, in place of asking an operator.", metavar="FILE")
]
DebugAddress = Annotated[str, typer.Option(help="The operator's debug address, as forwarded here.", metavar="HOST:PORT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print all of it as JSON: the form of a bug report.")]


def explain_command(
    name: Name = None,
    namespace: Namespace = "default",
    file: DumpFile = None,
    address: DebugAddress = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show what the operator last saw of a resource, what it decided, and why.

    The operator listens on its own loopback, so forward the port first:

    `kubectl port-forward --namespace transcriber-system deployment/transcriber-operator 8082`

    `transcriber explain whisper --namespace speech`

    A dump replays anywhere, with the code that is installed here:

    `transcriber explain whisper --namespace speech --json > dump.json; transcriber explain --file dump.json`
    """
    if (name is None) == (file is None):
        raise typer.BadParameter("give either the NAME of a resource or a dump with --file")
    with expected_errors():
        recorded = _read(file) if file else _fetch(address, namespace, name or "")
        shown = recorded.model_copy(update={"decision": decide(recorded.observed, recorded.now)}) if file else recorded
        if as_json:
            write_result(shown.model_dump_json(by_alias=True, indent=2))
            return
        console = Console(highlight=False)
        _show(console, shown)
        if file:
            same = "The same as was recorded." if shown.decision == recorded.decision else "This is not what was recorded then."
            console.print(f"\nReplayed with the code installed here. {same}", markup=False)


def parse(document: bytes, origin: str) -> Explanation:
    """Read a dump; raises CommandError that names what is wrong with it."""
    try:
        return Explanation.model_validate_json(document)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise CommandError(f"{origin}: {field}: {problem['msg']}; a dump is what `transcriber explain --json` prints") from None


def _read(file: Path) -> Explanation:
    try:
        return parse(file.read_bytes(), str(file))
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}") from None


def _fetch(address: str, namespace: str, name: str) -> Explanation:
    try:
        connection = HTTPConnection(address, timeout=ANSWER_SECONDS)
    except InvalidURL:
        raise CommandError(f"{address}: is not HOST:PORT; forward the operator's port: {FORWARD}") from None
    try:
        connection.request("GET", f"/debug/{quote(namespace, safe='')}/{quote(name, safe='')}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as error:
        raise CommandError(f"no operator answers at {address} ({error}); forward its port: {FORWARD}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise CommandError(_refusal(body) or f"{address} answered {response.status}; is that the operator's debug address?")
    return parse(body, address)


def _refusal(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _show(console: Console, explanation: Explanation) -> None:
    resource, decision = explanation.observed.resource, explanation.decision
    metadata = resource["metadata"]
    console.print(
        f"{resource['kind']} {metadata['namespace']}/{metadata['name']}, generation {metadata.get('generation')}: "
        f"decided {explanation.now:%Y-%m-%d %H:%M:%S %Z}, {explanation.pass_seconds:.2f} s in all",
        markup=False,
    )
    console.print(_table("Seen", ("Kind", "Name", "State"), map(_seen, _objects(explanation.observed))))
    seen = explanation.observed
    if seen.loads or seen.load_failures:
        console.print(_table("Load", ("Source", "Queued s", "In flight s", "Slots", "As of"), _loads(seen, explanation.now)))
    memory = decision.memory
    if memory is not None and memory.decisions:
        console.print(_table("Terms of the scaling decision", ("Term", "Value"), _terms(memory.decisions[-1].terms)))
        console.print(_table("Scaling decisions", ("Since", "Replicas", "Cause", "Why"), map(_decided, memory.decisions)))
    console.print(_table("Conditions", ("Type", "Status", "Reason", "Message"), map(_condition, _conditions(resource, decision))))
    console.print(_table("Writes", ("Write", "Kind", "Name", "As"), _writes(decision)))
    if decision.announcements:
        told = ((event.type, event.reason.value, event.message) for event in decision.announcements)
        console.print(_table("Events", ("Type", "Reason", "Message"), told))
    for detail in decision.details:
        console.print(f"- {detail}", markup=False)
    following = decision.requeue_after_seconds
    console.print(f"Next look: {'on a change' if following is None else f'in {following:.0f} s, or on a change'}.", markup=False)


def _table(title: str, columns: Iterable[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(*columns, title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if not table.row_count:
        table.add_row(Text("none"))
    return table


def _objects(observed: Observed) -> tuple[Manifest, ...]:
    return (*observed.children, *observed.nodes.claims, *observed.pods)


def _seen(manifest: Manifest) -> tuple[str, str, str]:
    return manifest["kind"], manifest["metadata"]["name"], _state(manifest, manifest.get("status") or {})


def _state(manifest: Manifest, status: Manifest) -> str:
    ending = ", ending" if manifest["metadata"].get("deletionTimestamp") else ""
    match manifest["kind"]:
        case "Deployment":
            return f"{status.get('readyReplicas', 0)}/{(manifest.get('spec') or {}).get('replicas', 0)} ready{ending}"
        case "Job":
            counts = (f"{status[field]} {field}" for field in ("active", "succeeded", "failed") if status.get(field))
            return (", ".join(counts) or "waiting") + ending
        case "Pod":
            ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions") or ())
            node = (manifest.get("spec") or {}).get("nodeName")
            return f"{status.get('phase', 'Unknown')}{', ready' if ready else ''}{f' on {node}' if node else ''}{ending}"
        case "NodeClaim":
            node = status.get("nodeName")
            return f"{claim_stage(manifest).lower()}{f', node {node}' if node else ''}{ending}"
        case _:
            return f"exists{ending}"


def _loads(observed: Observed, now: datetime) -> Iterable[tuple[str, ...]]:
    for sample in observed.loads:
        figures = (f"{sample.queued_audio_seconds:.1f}", f"{sample.in_flight_audio_seconds:.1f}", f"{sample.active_slots:.0f}")
        yield sample.source, *figures, f"{(now - sample.at).total_seconds():.1f} s ago"
    for failure in observed.load_failures:
        yield failure.source, "", "", "", failure.message


def _terms(terms: Terms) -> Iterable[tuple[str, str]]:
    for field in fields(terms):
        value = getattr(terms, field.name)
        shown = (
            "not known" if value is None else f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        )
        yield field.name.replace("_", " "), shown


def _decided(decided: Decided) -> tuple[str, ...]:
    replicas = ", ".join(f"{pool} {count}" for pool, count in decided.replicas.items())
    return f"{decided.at:%m-%d %H:%M:%S}", replicas, decided.cause.value, decided.sentence


def _conditions(resource: Manifest, decision: Decision) -> tuple[Condition, ...]:
    """The conditions as decided, or as they are where that needs no write."""
    if decision.status is not None:
        return decision.status.conditions
    try:
        return Status.model_validate(resource.get("status") or {}).conditions
    except ValidationError as error:
        raise CommandError(f"status: {error.errors(include_url=False)[0]['msg']}; another version has written it") from None


def _condition(condition: Condition) -> tuple[str, ...]:
    return condition.type, condition.status, condition.reason, condition.message


def _writes(decision: Decision) -> Iterable[tuple[str, ...]]:
    for apply in decision.apply:
        yield "apply", apply.manifest["kind"], apply.manifest["metadata"]["name"], apply.manager
    for prune in decision.prune:
        yield "delete", prune.key.kind, prune.key.name, f"uid {prune.uid}"
    for pod in decision.pod_deletes:
        yield "delete", "Pod", pod.name, f"uid {pod.uid}, {pod.grace_seconds} s of grace"
    if decision.status is not None:
        yield "apply", "status", "", "transcriber-status"
