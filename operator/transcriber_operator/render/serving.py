"""The serving pods: a Deployment per pool, of Triton and the exporter that watches over it."""

from math import ceil
from typing import Final

from transcriber_api.capacity import Pool, Toleration
from transcriber_operator.render import names, pod
from transcriber_operator.render.build import build_container, build_volumes
from transcriber_operator.render.context import Context, Manifest

TRITON: Final = "triton"
EXPORTER: Final = "exporter"
STARTUP_PERIOD_SECONDS: Final = 5
DEADLINE_SLACK_SECONDS: Final = 60  # for a node's image pull, on top of what a replica may load
STOP_SECONDS: Final = 15  # of the grace period, left to Triton once the pod is drained
CAPACITY_TYPE_LABEL: Final = "karpenter.sh/capacity-type"
CAPACITY_TYPES: Final = {"Spot": "spot", "OnDemand": "on-demand"}
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
GPU_NAME_LABELS: Final = {"eks.amazonaws.com": "eks.amazonaws.com/instance-gpu-name"}  # by group of the node class; EKS Auto Mode
AWS_GPU_NAME_LABEL: Final = "karpenter.k8s.aws/instance-gpu-name"
GPU_TAINT: Final = Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")


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


def scaled(context: Context, pool: str, replicas: int) -> Manifest:
    """Return what the autoscaler applies: the replicas of a pool's Deployment and nothing else."""
    metadata = {"name": names.pool_name(context, pool), "namespace": context.namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {"replicas": replicas}}


def _template(context: Context, pool: Pool, digest: str | None) -> Manifest:
    runtime = context.spec.runtime
    affinity = _affinity(context, pool)
    selector = _node_selector(context, pool)
    tolerations = [
        toleration.model_dump(mode="json", by_alias=True, exclude_none=True)
        for toleration in (*((GPU_TAINT,) if runtime.device == "GPU" else ()), *pool.tolerations)
    ]
    builder = [] if context.claim else [build_container(context, pod.POD_PROGRESS_PORT)]
    # A change of the digest, or of what the pods build for themselves, is a rollout; any other revision is not.
    served = {names.DIGEST_ANNOTATION: digest} if digest else {names.REVISION_ANNOTATION: context.key}
    spec = {
        "terminationGracePeriodSeconds": runtime.termination_grace_period_seconds,
        "initContainers": [_exporter(context), *builder],
        "containers": [_triton(context, digest)],
        "volumes": _volumes(context),
        **({"priorityClassName": runtime.priority_class_name} if runtime.priority_class_name else {}),
        **({"nodeSelector": selector} if selector else {}),
        **({"affinity": affinity} if affinity else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }
    return pod.pod_template(context, names.SERVING, spec, pool.name, **served)


def _triton(context: Context, digest: str | None) -> Manifest:
    runtime = context.spec.runtime
    where = ["--repository", f"{pod.REPOSITORIES_DIR}/{digest}"] if digest else ["--root", pod.REPOSITORIES_DIR]
    listen = ["--address", "$(POD_IP)", "--grpc-port", str(pod.GRPC_PORT), "--metrics-port", str(pod.TRITON_METRICS_PORT)]
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


def _exporter(context: Context) -> Manifest:
    """A native sidecar: it starts before the others and stops after them, so that it can watch and drain them."""
    drain_seconds = max(context.spec.runtime.termination_grace_period_seconds - STOP_SECONDS, 0)
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
    """With Karpenter the capacity type is a label of every node; elsewhere the pool's own nodeSelector tells nodes apart."""
    karpenter = context.spec.capacity.provisioner == "Karpenter"
    return {**({CAPACITY_TYPE_LABEL: CAPACITY_TYPES[pool.capacity_type]} if karpenter else {}), **pool.node_selector}


def _affinity(context: Context, pool: Pool) -> Manifest:
    node_class = context.spec.capacity.node_class_ref
    wanted = [(ZONE_LABEL, pool.zones)]
    if node_class is not None:
        wanted.append((GPU_NAME_LABELS.get(node_class.group, AWS_GPU_NAME_LABEL), pool.gpus))
    expressions = [{"key": key, "operator": "In", "values": sorted(values)} for key, values in sorted(wanted) if values]
    if not expressions:
        return {}
    terms = [{"matchExpressions": expressions}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
