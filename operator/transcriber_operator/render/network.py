"""Who may reach the pods, and what they may reach. Policies add up: open more ports with a policy of your own."""

from typing import Final

from transcriber_operator.render import names, pod
from transcriber_operator.render.context import Context, Manifest
from transcriber_operator.render.sources import remote_ports, uses_role

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
DNS_PORT: Final = 53
# Weights come from public addresses: nothing inside the cluster or its network may be reached by a model source.
PRIVATE_IPV4: Final = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")
PRIVATE_IPV6: Final = ("::1/128", "fc00::/7", "fe80::/10")
# The agent of EKS Pod Identity on the pod's own node, which hands out the role's credentials.
POD_IDENTITY: Final = ("169.254.170.23/32", "fd00:ec2::23/128")
POD_IDENTITY_PORT: Final = 80


def serving_policy(context: Context) -> Manifest:
    """Return the policy of the serving pods: gRPC from everywhere, figures for the operator and monitoring, and no way out.

    Pods that build their own repository have the builder's ways out.
    """
    ports = [pod.TRITON_METRICS_PORT, pod.EXPORTER_PORT, *([] if context.claim else [pod.POD_PROGRESS_PORT])]
    ingress = [{"ports": [_tcp(pod.GRPC_PORT)]}, _from_operator(context, ports), *_from_monitoring(context)]
    return _policy(context, names.SERVING, ingress, [] if context.claim else _builder_egress(context))


def build_policy(context: Context) -> Manifest:
    """Return the policy of the build's pods: progress for the operator, and out to the sources alone."""
    return _policy(context, names.BUILD, [_from_operator(context, [pod.PROGRESS_PORT])], _builder_egress(context))


def _policy(context: Context, component: str, ingress: list[Manifest], egress: list[Manifest]) -> Manifest:
    spec = {
        "podSelector": {"matchLabels": names.selector(context, component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        **({"egress": egress} if egress else {}),  # no rule for a named type is a refusal
    }
    name = f"{context.name}-{component}"
    return names.child(context, "networking.k8s.io/v1", "NetworkPolicy", name, component, spec=spec)


def _builder_egress(context: Context) -> list[Manifest]:
    ports = remote_ports(context.spec)
    if not ports:  # sources are mounted
        return []
    public = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(PRIVATE_IPV4)}},
        {"ipBlock": {"cidr": "::/0", "except": list(PRIVATE_IPV6)}},
    ]
    identity = {"to": [{"ipBlock": {"cidr": cidr}} for cidr in POD_IDENTITY], "ports": [_tcp(POD_IDENTITY_PORT)]}
    return [
        {"ports": [{"port": DNS_PORT, "protocol": "UDP"}, _tcp(DNS_PORT)]},
        {"to": public, "ports": [_tcp(port) for port in ports]},
        *([identity] if uses_role(context.spec) else []),
    ]


def _from_operator(context: Context, ports: list[int]) -> Manifest:
    return {"from": [_namespace(context.operator_namespace)], "ports": [_tcp(port) for port in ports]}


def _from_monitoring(context: Context) -> list[Manifest]:
    peers = [_namespace(name) for name in context.metrics_namespaces]
    return [{"from": peers, "ports": [_tcp(pod.TRITON_METRICS_PORT), _tcp(pod.EXPORTER_PORT)]}] if peers else []


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: name}}}


def _tcp(port: int) -> Manifest:
    return {"port": port, "protocol": "TCP"}
