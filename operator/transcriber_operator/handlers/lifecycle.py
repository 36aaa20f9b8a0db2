"""Kopf, set up: how it logs in, what it watches, the one daemon per resource, and what is cleaned up when one goes.

All that Kopf writes here is its finalizer: no handler needs to know what a resource was like before, or how often it was tried.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import kopf
from kubernetes.aio.client import Configuration

from transcriber_api.v1alpha1 import GROUP
from transcriber_operator.cluster.credentials import load_configuration
from transcriber_operator.cluster.resources import CHILDREN, LEASE, NODE_CLAIM, NODE_POOL, POD, TRANSCRIBER_DEPLOYMENT, Resource
from transcriber_operator.execute.cleanup import Cleaner
from transcriber_operator.execute.lease import Lease
from transcriber_operator.handlers.health import Health
from transcriber_operator.handlers.reconcile import Reconciler
from transcriber_operator.handlers.storage import NoDiffBase, NoProgress
from transcriber_operator.handlers.wakes import Wakes
from transcriber_operator.render.names import DEPLOYMENT_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAMESPACE_LABEL, OURS
from transcriber_operator.settings import Settings

FINALIZER: Final = f"{GROUP}/operator"
REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 10.0
KARPENTER: Final = (NODE_POOL, NODE_CLAIM)  # watched where they exist: Kopf would warn of those that do not
SETTLE_SECONDS: Final = 0.5  # before the first pass: Kopf's finalizer is a change that it would run into


def operator_settings(lease: Lease) -> kopf.OperatorSettings:
    """Return Kopf's settings: nothing is discovered or posted, and watches ask only for what is ours."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.diffbase_storage = NoDiffBase(ignored_fields=["spec", "metadata"])
    settings.background.cancellation_polling = 1.0
    settings.background.instant_exit_timeout = 1.0  # a daemon ends at once: no need to write that it is ending
    for resource in (*CHILDREN, POD):
        settings.watching.label_selectors[resource.api_version, resource.plural] = OURS
    for resource in KARPENTER:
        settings.watching.label_selectors[resource.api_version, resource.plural] = DEPLOYMENT_LABEL
    # A role with resourceNames allows this: the one Lease, and not the heartbeats of all nodes.
    settings.watching.field_selectors[LEASE.api_version, LEASE.plural] = f"metadata.name={lease.name}"
    return settings


def handlers(
    settings: Settings,
    reconciler: Reconciler,
    cleaner: Cleaner,
    wakes: Wakes,
    health: Health,
    lease: Lease,
    *,
    watches_karpenter: bool,
) -> kopf.OperatorRegistry:
    """Return the registry of all handlers."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(id="login", registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection(settings.kubeconfig)

    def is_served(namespace: str | None, **_: Any) -> bool:
        return not settings.namespaces or namespace in settings.namespaces

    kind = (TRANSCRIBER_DEPLOYMENT.api_version, TRANSCRIBER_DEPLOYMENT.plural)

    @kopf.daemon(*kind, id="reconcile", when=is_served, initial_delay=SETTLE_SECONDS, registry=registry)
    async def reconcile(
        namespace: str | None, name: str | None, uid: str | None, meta: kopf.Meta, stopped: kopf.DaemonStopped, **_: Any
    ) -> None:
        async def stop() -> None:
            await stopped.wait()

        await reconciler.look_after(str(namespace), str(name), str(uid), meta["generation"], stop())

    # Runs beside the daemon's end, anew after a restart, and perhaps twice.
    @kopf.on.delete(*kind, id="clean-up", when=is_served, registry=registry)
    async def clean_up(uid: str | None, body: kopf.Body, **_: Any) -> None:
        await reconciler.ended(str(uid))
        await cleaner.clean_up(dict(body))

    @kopf.on.event(*kind, id="changed", when=is_served, registry=registry)
    async def changed(namespace: str | None, name: str | None, meta: kopf.Meta, **_: Any) -> None:
        wakes.tell(str(namespace), str(name), meta.get("generation"))

    _watch_children(registry, is_served, wakes, KARPENTER if watches_karpenter else ())

    @kopf.on.event(LEASE.api_version, LEASE.plural, id="heartbeat", registry=registry)
    async def heartbeat(namespace: str | None, name: str | None, spec: kopf.Spec, **_: Any) -> None:
        if (namespace, name, spec.get("holderIdentity")) == (lease.namespace, lease.name, lease.identity):
            health.hear()

    return registry


def _watch_children(
    registry: kopf.OperatorRegistry, is_served: Callable[..., bool], wakes: Wakes, of_nodes: tuple[Resource, ...]
) -> None:
    """Let changes of what belongs to a resource wake its loop."""

    async def child_changed(namespace: str | None, labels: Any, **_: Any) -> None:
        wakes.tell(str(namespace), labels.get(DEPLOYMENT_LABEL, ""))

    for child in (*CHILDREN, POD):
        kopf.on.event(
            child.api_version,
            child.plural,
            id=f"{child.kind.lower()}-changed",
            labels={MANAGED_BY_LABEL: MANAGED_BY},
            when=is_served,
            registry=registry,
        )(child_changed)

    async def node_changed(labels: Any, **_: Any) -> None:
        wakes.tell(labels.get(NAMESPACE_LABEL, ""), labels.get(DEPLOYMENT_LABEL, ""))

    for resource in of_nodes:
        kopf.on.event(
            resource.api_version,
            resource.plural,
            id=f"{resource.kind.lower()}-changed",
            labels={DEPLOYMENT_LABEL: kopf.PRESENT},
            registry=registry,
        )(node_changed)


async def connection(kubeconfig: Path | None) -> kopf.ConnectionInfo:
    """Read the credentials for Kopf, which asks again when they are refused."""
    configuration: Configuration = await load_configuration(kubeconfig)
    header = await configuration.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


def watched_namespaces(settings: Settings) -> list[str]:
    """Return the namespaces to watch, empty for all: those served, and the operator's own for the sake of its Lease."""
    return sorted({*settings.namespaces, settings.operator_namespace}) if settings.namespaces else []
