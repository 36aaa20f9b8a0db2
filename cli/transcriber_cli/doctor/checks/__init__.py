"""The checks: pure functions from a snapshot to findings, in one table."""

from collections.abc import Callable, Iterable
from typing import Final

from transcriber_cli.doctor.checks import gpus, karpenter, monitoring, operator, resources, server
from transcriber_cli.doctor.findings import Area, Finding, Severity
from transcriber_cli.doctor.seen import Seen

CHECKS: Final[tuple[Callable[[Seen], Iterable[Finding]], ...]] = (
    server.api_server,
    server.definition,
    operator.operator,
    operator.rights,
    resources.resources,
    resources.claims,
    resources.accounts,
    resources.secrets,
    resources.cloud_roles,
    gpus.gpu_nodes,
    gpus.device_plugin,
    karpenter.karpenter,
    karpenter.node_classes,
    karpenter.node_pools,
    monitoring.keda,
    monitoring.external_metrics,
    monitoring.scraping,
    monitoring.alerts,
    monitoring.gateway,
)
_AREAS: Final = {area: number for number, area in enumerate(Area)}
_SEVERITIES: Final = {severity: number for number, severity in enumerate(Severity)}


def examine(seen: Seen) -> tuple[Finding, ...]:
    """Return what all checks find, by area and the worst first."""
    found = [finding for check in CHECKS for finding in check(seen)]
    return tuple(sorted(found, key=lambda finding: (_AREAS[finding.area], _SEVERITIES[finding.severity])))
