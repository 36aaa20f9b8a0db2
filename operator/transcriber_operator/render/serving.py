"""The serving pods: a Deployment per pool, of Triton and the exporter that watches over it."""

from math import ceil
from typing import Final

from transcriber_api.capacity import Pool, Toleration
from transcriber_operator.render import names, pod
from transcriber_operator.render.build import build_container, build_volumes
from transcriber_operator.render.context import Context, Manifest
from transcriber_operator.render.node_pool import GPU_TAINT, NODE_POOL_LABEL, POOL_TAINT, ZONE_LABEL

TRITON: Final = "triton"
EXPORTER: Final = "exporter"
STARTUP_PERIOD_SECONDS: Final = 5
DEADLINE_SLACK_SECONDS: Final = 60  # for a node's image pull, on top of what a replica may load
EVERY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - of both families, as gRPC reads it; `kubectl port-forward` comes by loopback
STOP_SECONDS: Final = 15  # of the grace period, left to Triton once the pod is drained
SPOT_GRACE_SECONDS: Final = 110  # of the 120 that a spot node is given


def deployment(context: Context, pool: Pool, digest: str | None, replicas: int | None) -> Manifest:
    """Return the Deployment of a pool.

    `digest` is the repository on the claim that it serves; None where pods build their own. `replicas` is None once they belong
    to another field manager; they are no part of the manifest hash.
    """
    runtime = context.spec.runtime
    build_seconds = context.spec.repository.build.timeout_seconds if context.claim is None else 0
    manifest = names.child(
        context,
        "apps/v1",
        "Deployment",
        names.pool_name(context, pool.name),
        names.SERVING,
        pool=pool.name,
        annotations={names.REVISION_ANNOTATION: context.key, **({names.DIGEST_ANNOTATION: digest} if digest else {})},
        spec={
            "selector": {"matchLabels": names.selector(context, names.SERVING, pool.name)},
            # A replica is taken away only once its successor passes its canary.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": runtime.startup_timeout_seconds + build_seconds + DEADLINE_SLACK_SECONDS,
            "revisionHistoryLimit": 2,
            "template": _template(context, pool, digest),
        },
    )
    if replicas is not None:
        manifest["spec"] = {"replicas": replicas, **manifest["spec"]}
    return manifest


def grace_seconds(context: Context, pool: Pool) -> int:
    """Return how long a pod of a pool may finish its windows: no longer than a spot node stays."""
    asked = context.spec.runtime.termination_grace_period_seconds
    return min(asked, SPOT_GRACE_SECONDS) if pool.capacity_type == "Spot" else asked


def scaled(context: Context, pool: str, replicas: int) -> Manifest:
    """Return what the autoscaler applies: the replicas of a pool's Deployment and nothing else."""
    metadata = {"name": names.pool_name(context, pool), "namespace": context.namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}


def _template(context: Context, pool: Pool, digest: str | None) -> Manifest:
    runtime = context.spec.runtime
    placement = {
        "nodeSelector": _node_selector(context, pool),
        "affinity": _affinity(context, pool),
        "tolerations": _tolerations(context, pool),
        "topologySpreadConstraints": _spread(context, pool),
    }
    builder = [] if context.claim else [build_container(context, pod.POD_PROGRESS_PORT)]
    # A change of the digest, or of what the pods build for themselves, is a rollout; any other revision is not.
    served = {names.DIGEST_ANNOTATION: digest} if digest else {names.REVISION_ANNOTATION: context.key}
    spec = {
        "terminationGracePeriodSeconds": grace_seconds(context, pool),
        "initContainers": [_exporter(context, pool), *builder],
        "containers": [_triton(context, digest)],
        "volumes": _volumes(context),
        **({"priorityClassName": runtime.priority_class_name} if runtime.priority_class_name else {}),
        **{field: value for field, value in placement.items() if value},
    }
    return pod.pod_template(context, names.SERVING, spec, pool.name, **served)


def _triton(context: Context, digest: str | None) -> Manifest:
    runtime = context.spec.runtime
    where = ["--repository", f"{pod.REPOSITORIES_DIR}/{digest}"] if digest else ["--root", pod.REPOSITORIES_DIR]
    addresses = ["--address", "$(POD_IP)", "--grpc-address", EVERY_ADDRESS]
    listen = [*addresses, "--grpc-port", str(pod.GRPC_PORT), "--metrics-port", str(pod.TRITON_METRICS_PORT)]
    return pod.container(
        TRITON,
        context.image,
        ["python3", "-m", "transcriber_repository.launch", *where, *listen],
        env=[pod.POD_IP],
        ports=[
            {"name": "grpc", "containerPort": pod.GRPC_PORT},
            {"name": "metrics", "containerPort": pod.TRITON_METRICS_PORT},
        ],
        resources=pod.resources(runtime.resources, {runtime.gpu_resource_name: 1} if runtime.device == "GPU" else None),
        # Triton reports itself ready over a dead model, so the exporter's canary speaks for it.
        startupProbe={
            "httpGet": {"path": "/triton/startup", "port": pod.EXPORTER_PORT},
            "periodSeconds": STARTUP_PERIOD_SECONDS,
            "failureThreshold": ceil(runtime.startup_timeout_seconds / STARTUP_PERIOD_SECONDS),
            "timeoutSeconds": 5,
        },
        # The exporter decides how many failed canaries count; the kubelet only repeats what it says.
        readinessProbe=_probe("/triton/ready", period=2, failures=1, timeout=2),
        livenessProbe=_probe("/triton/live", period=10, failures=3, timeout=5),
        lifecycle={"preStop": {"httpGet": {"path": "/drain", "port": pod.EXPORTER_PORT}}},
        volumeMounts=[
            pod.mount("repositories", pod.REPOSITORIES_DIR, sub_path=context.name if context.claim else None, read_only=True),
            pod.mount("tmp", "/tmp"),  # noqa: S108 - an emptyDir of the pod's own
            pod.mount("shared-memory", "/dev/shm"),  # noqa: S108
        ],
    )


def _exporter(context: Context, pool: Pool) -> Manifest:
    """A native sidecar: it starts before the others and stops after them, so that it can watch and drain them."""
    drain_seconds = max(grace_seconds(context, pool) - STOP_SECONDS, 0)
    triton = ["--triton", f"$(POD_IP):{pod.GRPC_PORT}"]
    metrics = ["--triton-metrics", f"http://$(POD_IP):{pod.TRITON_METRICS_PORT}/metrics"]
    listen = ["--listen", f"$(POD_IP):{pod.EXPORTER_PORT}", "--drain-seconds", str(drain_seconds)]
    return pod.container(
        EXPORTER,
        context.image,
        ["python3", "-m", "transcriber_exporter", *triton, *metrics, *listen],
        restartPolicy="Always",
        env=[pod.POD_IP],
        ports=[{"name": "exporter", "containerPort": pod.EXPORTER_PORT}],
        resources={"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "128Mi"}},
        startupProbe=_probe("/livez", period=2, failures=30, timeout=2),
        livenessProbe=_probe("/livez", period=10, failures=3, timeout=5),
        volumeMounts=[pod.mount("tmp", "/tmp")],  # noqa: S108
    )


def _probe(path: str, *, period: int, failures: int, timeout: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": pod.EXPORTER_PORT},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def _volumes(context: Context) -> list[Manifest]:
    ephemeral = context.spec.repository.volume.ephemeral
    if context.claim:
        repositories = [pod.claim_volume("repositories", context.claim)]
    else:
        assert ephemeral is not None, "the API sets one of claimName and ephemeral"
        repositories = [pod.empty_dir("repositories", size_limit=ephemeral.size_limit), *build_volumes(context)]
    shared_memory = pod.empty_dir("shared-memory", "Memory", context.spec.runtime.shared_memory_size)
    return [*repositories, pod.empty_dir("tmp"), shared_memory]


def _node_selector(context: Context, pool: Pool) -> dict[str, str]:
    """Karpenter's nodes are those of the pool's NodePool; elsewhere the pool's own nodeSelector tells nodes apart."""
    karpenter = _is_karpenter(context)
    return {**({NODE_POOL_LABEL: names.node_pool_name(context, pool.name)} if karpenter else {}), **pool.node_selector}


def _affinity(context: Context, pool: Pool) -> Manifest:
    """A NodePool has the zones among its requirements; other nodes are chosen by them."""
    if _is_karpenter(context) or not pool.zones:
        return {}
    terms = [{"matchExpressions": [{"key": ZONE_LABEL, "operator": "In", "values": sorted(pool.zones)}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _tolerations(context: Context, pool: Pool) -> list[Manifest]:
    own: tuple[Toleration, ...] = ()
    if context.spec.runtime.device == "GPU":
        own += (Toleration(key=GPU_TAINT, operator="Exists", effect="NoSchedule"),)
    if _is_karpenter(context):
        own += (Toleration(key=POOL_TAINT, value=names.node_pool_name(context, pool.name), effect="NoSchedule"),)
    return [each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in (*own, *pool.tolerations)]


def _spread(context: Context, pool: Pool) -> list[Manifest]:
    """Spot is reclaimed by zone and instance type, so replicas are spread over zones where that costs nothing."""
    if not _is_karpenter(context):
        return []
    chosen = {"matchLabels": names.selector(context, names.SERVING, pool.name)}
    return [{"maxSkew": 1, "topologyKey": ZONE_LABEL, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": chosen}]


def _is_karpenter(context: Context) -> bool:
    return context.spec.capacity.provisioner == "Karpenter"
