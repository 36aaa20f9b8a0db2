"""`transcriber doctor`: the command, and how findings are printed."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from textwrap import wrap
from typing import Annotated, Any, Final, Literal

import typer
from rich.text import Text

from transcriber_cli.cluster import AllNamespaces, Kubeconfig, KubeContext, Namespace, open_cluster, refuse_both
from transcriber_cli.console import expected_errors, stdout_console, waiting, write_result
from transcriber_cli.doctor.checks import examine
from transcriber_cli.doctor.findings import Finding, Severity
from transcriber_cli.doctor.look import look

SYSTEM_NAMESPACE: Final = "transcriber-system"
STYLES: Final = {Severity.PROBLEM: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan", Severity.OK: "green"}
INDENT: Final = max(map(len, Severity)) + 1
LEAST_COLUMNS: Final = 40
Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="json: for programs.")]
OperatorNamespace = Annotated[str, typer.Option(help="Namespace that the operator runs in.", metavar="NAMESPACE")]


def doctor_command(
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    operator_namespace: OperatorNamespace = SYSTEM_NAMESPACE,
    output: Output = "table",
    context: KubeContext = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Look at a cluster and say what it lacks to serve, with the fix of each finding.

    Looks only at what the TranscriberDeployments there ask for, of all namespaces unless one is named. Changes nothing; reads no
    Secret. What you may not read is said, and is no problem.

    Exit code 0: no problem, 1: problems, 2: the cluster cannot be looked at.

    Example: `transcriber doctor --context production`
    """
    refuse_both(namespace, all_namespaces)
    with expected_errors(), open_cluster(kubeconfig, context) as cluster:
        with waiting(f"looking at {cluster.context}"):
            seen = look(cluster, namespace, operator_namespace)
        found = examine(seen)
        if output == "json":
            write_result(json.dumps(as_document(cluster.context, cluster.address, seen.server.version, found), indent=2))
        else:
            console = stdout_console()
            for line in as_lines(cluster.context, cluster.address, found, console.width):
                console.print(line, soft_wrap=True)
        if any(finding.severity is Severity.PROBLEM for finding in found):
            raise typer.Exit(1)


def as_document(context: str, address: str, version: str, found: Sequence[Finding]) -> dict[str, Any]:
    """Return findings for programs."""
    counts = Counter(finding.severity for finding in found)
    return {
        "context": context,
        "server": address,
        "version": version,
        "counts": {severity.value: counts[severity] for severity in Severity},
        "findings": [asdict(finding) for finding in found],
    }


def as_lines(context: str, address: str, found: Sequence[Finding], columns: int) -> Iterator[Text]:
    """Return findings for people: by area, wrapped to columns; a fix is on a line of its own and whole, to be copied."""
    yield Text(f"{context}  {address}", style="dim")
    for area, findings in groupby(found, key=lambda finding: finding.area):
        yield Text(f"\n{area}", style="bold")
        for finding in findings:
            yield from _finding(finding, columns)
    yield Text(f"\n{_summary(found)}")


def _finding(finding: Finding, columns: int) -> Iterator[Text]:
    words = f"{finding.subject}: {finding.seen}"
    first, *rest = wrap(words, max(columns - INDENT, LEAST_COLUMNS), break_long_words=False, break_on_hyphens=False)
    yield Text.assemble((f"{finding.severity:{INDENT}}", STYLES[finding.severity]), first)
    yield from (Text(" " * INDENT + line) for line in rest)
    if finding.fix:
        yield Text.assemble(" " * INDENT, ("fix: ", "dim"), finding.fix)


def _summary(found: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in found)
    problems, warnings = counts[Severity.PROBLEM], counts[Severity.WARNING]
    parts = [f"{problems} problem{'' if problems == 1 else 's'}", f"{warnings} warning{'' if warnings == 1 else 's'}"]
    return f"{', '.join(parts)}, {counts[Severity.NOTE]} to note, {counts[Severity.OK]} as it should be."
