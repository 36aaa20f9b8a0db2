"""How the serving pods are reached: one address for all, one for clients that balance by themselves, one for metrics."""

from transcriber_operator.render import names, pod
from transcriber_operator.render.context import Context, Manifest


def services(context: Context) -> tuple[Manifest, ...]:
    """Return the Services of the serving pods."""
    grpc = _port("grpc", pod.GRPC_PORT)
    metrics = [_port("triton", pod.TRITON_METRICS_PORT), _port("exporter", pod.EXPORTER_PORT)]
    return (
        _service(context, context.name, {"ports": [grpc]}),
        _service(context, names.pods_service_name(context), {"clusterIP": "None", "ports": [grpc]}),
        # A pod that is not ready is the one whose metrics are wanted most.
        _service(
            context,
            names.metrics_service_name(context),
            {"clusterIP": "None", "publishNotReadyAddresses": True, "ports": metrics},
        ),
    )


def grpc_endpoint(context: Context) -> str:
    """HOST:PORT of the gRPC service inside the cluster."""
    return f"{context.name}.{context.namespace}.svc:{pod.GRPC_PORT}"


def metrics_endpoint(context: Context) -> str:
    """URL of Triton's metrics inside the cluster; the host resolves to every replica."""
    return f"http://{names.metrics_service_name(context)}.{context.namespace}.svc:{pod.TRITON_METRICS_PORT}/metrics"


def _service(context: Context, name: str, spec: Manifest) -> Manifest:
    chosen = {"selector": names.selector(context, names.SERVING), **spec}
    return names.child(context, "v1", "Service", name, names.SERVING, spec=chosen)


def _port(name: str, number: int) -> Manifest:
    return {"name": name, "port": number, "targetPort": number, "protocol": "TCP"}
