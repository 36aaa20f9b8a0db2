"""The external metrics API (external.metrics.k8s.io/v1beta1) on figures of a test, so that the real HPA controller can read them.

The API server reaches it as it reaches any server of an aggregated API: by an APIService, over a Service, which here is a name for
this machine.
"""

import asyncio
import base64
import datetime
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from tests.rig.control_plane import ControlPlane
from tests.rig.processes import LOOPBACK, free_ports

GROUP: Final = "external.metrics.k8s.io"
VERSION: Final = "v1beta1"
ROOT: Final = f"/apis/{GROUP}/{VERSION}"
SERVICE: Final = "external-metrics"
NAMESPACE: Final = "kube-system"
READER: Final = "horizontal-pod-autoscaler"  # the ServiceAccount of the HPA controller
Figure = Callable[[], float]


class ExternalMetrics:
    """Serves metrics by name while it is entered, as an async context manager; each is asked for when it is read."""

    def __init__(self, plane: ControlPlane, figures: Mapping[str, Figure]) -> None:
        self._plane = plane
        self._figures = figures
        [self._port] = free_ports(1)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.add_routes(
            [web.get(ROOT, self._resources), web.get(f"{ROOT}/namespaces/{{namespace}}/{{metric}}", self._values)]
        )
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        pair = self._plane.authority.server(SERVICE, (f"{SERVICE}.{NAMESPACE}.svc", "localhost"))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        await web.TCPSite(self._runner, LOOPBACK, self._port, ssl_context=context).start()
        await asyncio.to_thread(self._register)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._runner.cleanup()

    def _register(self) -> None:
        """Tell the API server, and wait until it passes calls on."""
        authority = base64.b64encode(self._plane.authority.certificate.read_bytes()).decode()
        self._plane.apply(*registration(self._port, authority), *reader())
        self._plane.kubectl("wait", "--for=condition=Available", f"apiservice/{VERSION}.{GROUP}", "--timeout=50s")

    async def _resources(self, _request: web.Request) -> web.Response:
        resources = [
            {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
            for name in self._figures
        ]
        return web.json_response(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": resources}
        )

    async def _values(self, request: web.Request) -> web.Response:
        name = request.match_info["metric"]
        if name not in self._figures:
            raise web.HTTPNotFound
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        item = {"metricName": name, "metricLabels": {}, "timestamp": now, "value": f"{round(self._figures[name]() * 1000)}m"}
        return web.json_response(
            {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": [item]}
        )


def registration(port: int, authority: str) -> list[dict[str, Any]]:
    """Return the APIService, and the Service that names this machine."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    reference = {"name": SERVICE, "namespace": NAMESPACE, "port": port}
    api_service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": reference,
            "caBundle": authority,
        },
    }
    return [service, api_service]


def reader() -> list[dict[str, Any]]:
    """Return what lets the HPA controller read external metrics, and scale resources of ours."""
    kind = "rbac.authorization.k8s.io"
    name = "test-autoscalers"
    rules = [
        {"apiGroups": [GROUP], "resources": ["*"], "verbs": ["get", "list"]},
        {
            "apiGroups": ["serving.transcriber.dev"],
            "resources": ["transcriberdeployments/scale"],
            "verbs": ["get", "update", "patch"],
        },
    ]
    role = {"apiVersion": f"{kind}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    binding = {
        "apiVersion": f"{kind}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": kind, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": READER, "namespace": NAMESPACE}],
    }
    return [role, binding]


def autoscaler(name: str, namespace: str, target: Mapping[str, str], metric: str, average: str, most: int) -> dict[str, Any]:
    """Return a HorizontalPodAutoscaler over an external metric that is shared out among replicas."""
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": dict(target),
            "minReplicas": 1,
            "maxReplicas": most,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": {"name": metric}, "target": {"type": "AverageValue", "averageValue": average}},
                }
            ],
        },
    }
