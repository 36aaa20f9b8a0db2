"""Karpenter's NodePools, one per pool: which nodes it may make, how many, and when they go.

The node class that `capacity.nodeClassRef` names (image, subnets, instance role) is the cluster's own and is not rendered.
What would drift nodes when it changes (labels, taints, expireAfter, terminationGracePeriod) depends on names and the device alone;
a requirement that changes drifts the nodes that do not meet it.
"""

from typing import Final

from transcriber_api.capacity import Pool
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.render import fit, gpus, names
from transcriber_operator.render.context import Context, Manifest

API_VERSION: Final = "karpenter.sh/v1"
KIND: Final = "NodePool"
NODE_POOL_LABEL: Final = "karpenter.sh/nodepool"  # that Karpenter gives to the nodes of a NodePool
CAPACITY_TYPE_LABEL: Final = "karpenter.sh/capacity-type"
ARCHITECTURE_LABEL: Final = "kubernetes.io/arch"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
GPU_TAINT: Final = "nvidia.com/gpu"
POOL_TAINT: Final = names.POOL_LABEL
# Domain of the labels of instance types, by API group of the node class. Karpenter's KWOK provider takes AWS's.
AWS: Final = "karpenter.k8s.aws"
EKS_AUTO_MODE: Final = "eks.amazonaws.com"
KWOK: Final = "karpenter.kwok.sh"
CPU_CATEGORIES: Final = ("c", "m", "r")  # those that do not run on CPU credits
CONSOLIDATE_AFTER: Final = "60s"  # a node that was just left may be taken again
EXPIRE_AFTER: Final = "720h"
TERMINATION_GRACE_PERIOD: Final = "75m"  # longer than the longest grace of a pod, so that none is cut short


def node_pools(context: Context) -> tuple[Manifest, ...]:
    """Return a NodePool per pool, where Karpenter provides the nodes."""
    if context.spec.capacity.provisioner != "Karpenter":
        return ()
    return tuple(node_pool(context, pool) for pool in context.spec.capacity.pools)


def node_pool(context: Context, pool: Pool) -> Manifest:
    """Return the NodePool of a pool."""
    reference = context.spec.capacity.node_class_ref
    assert reference is not None, "the API asks for nodeClassRef with provisioner Karpenter"
    name = names.node_pool_name(context, pool.name)
    return names.cluster_child(
        context,
        API_VERSION,
        KIND,
        name,
        pool.name,
        spec={
            "weight": pool.weight,
            "limits": _limits(context.spec, pool),
            "disruption": {
                "consolidationPolicy": "WhenEmpty",
                "consolidateAfter": CONSOLIDATE_AFTER,
                "budgets": [
                    # Karpenter's default of 10 % would let twelve idle nodes go two by two.
                    {"nodes": "100%", "reasons": ["Empty"]},
                    {"nodes": "1", "reasons": ["Drifted", "Underutilized"]},
                ],
            },
            "template": {
                "metadata": {"labels": names.node_labels(context, pool.name)},
                "spec": {
                    "nodeClassRef": reference.model_dump(mode="json", by_alias=True),
                    "expireAfter": EXPIRE_AFTER,
                    "terminationGracePeriod": TERMINATION_GRACE_PERIOD,
                    "taints": taints(context, pool),
                    "requirements": requirements(context.spec, pool),
                },
            },
        },
    )


def taints(context: Context, pool: Pool) -> list[Manifest]:
    """Return the taints of a pool's nodes: no other workload may keep them from being empty."""
    own = {"key": POOL_TAINT, "value": names.node_pool_name(context, pool.name), "effect": "NoSchedule"}
    gpu = {"key": GPU_TAINT, "value": "true", "effect": "NoSchedule"}
    return [gpu, own] if context.spec.runtime.device == "GPU" else [own]


def requirements(spec: Spec, pool: Pool) -> list[Manifest]:
    """Return what the nodes of a pool must be."""
    return [
        _is_in(CAPACITY_TYPE_LABEL, gpus.CAPACITY_TYPES[pool.capacity_type]),
        _is_in(ARCHITECTURE_LABEL, gpus.architecture(pool)),
        *(_gpu_requirements(spec, pool) if spec.runtime.device == "GPU" else _cpu_requirements(spec)),
        *([_is_in(ZONE_LABEL, *pool.zones)] if pool.zones else []),
        # A label that Karpenter does not know is given to the nodes.
        *(_is_in(label, value) for label, value in sorted(pool.node_selector.items())),
    ]


def preflight(pool: Pool, spec: Spec) -> str | None:
    """Say why no instance type of the table can be a node of a pool, and what to change.

    None where one can, and where the table does not tell: other clouds, GPUs and instance types that it does not have, nodes
    without a GPU.
    """
    selected = pool.node_selector.get(gpus.INSTANCE_TYPE_LABEL)
    if spec.capacity.provisioner != "Karpenter" or spec.runtime.device != "GPU" or not _is_aws(spec) or not gpus.is_known(pool):
        return None
    if fit.unfit(spec) or fit.candidates(spec, pool) or (selected and selected not in gpus.INSTANCE_TYPES):
        return None
    kinds = " or ".join(pool.gpus) or "GPU"
    of_gpus = gpus.instance_types(pool)
    if not of_gpus:
        if selected:
            return f"Pool {pool.name} selects {selected}, which has no single {kinds}; correct its nodeSelector or gpus."
        return f"No EC2 instance type has a single {kinds}, as pool {pool.name} asks for; take l4, a10g or l40s."
    largest = max(of_gpus, key=lambda entry: (entry.millicores, entry.memory_mebibytes))
    millicores, mebibytes = fit.requested(spec)
    return (
        f"No instance type with one {kinds} has room for a replica of pool {pool.name}: it asks for {millicores / 1000:g} cores "
        f"and {mebibytes / 1024:.1f} GiB with its exporter, and {largest.name}, the largest, has "
        f"{(largest.millicores - fit.DAEMONS_MILLICORES) / 1000:g} cores and {largest.memory_mebibytes / 1024:.1f} GiB to give; "
        "lower runtime.resources.requests."
    )


def _limits(spec: Spec, pool: Pool) -> Manifest:
    """One more than maxNodes: while a replica takes over from another, both have a node."""
    most = str(pool.max_nodes + 1)
    is_whole_gpu = spec.runtime.device == "GPU" and spec.runtime.gpu_resource_name == fit.NVIDIA_GPU
    return {"nodes": most, **({fit.NVIDIA_GPU: most} if is_whole_gpu else {})}


def _gpu_requirements(spec: Spec, pool: Pool) -> list[Manifest]:
    domain, mebibytes = _domain(spec), fit.labelled_mebibytes(spec, pool)
    # Where nothing fits, the pool is as it was asked for: the condition says so, and its GPUs are not swapped for others.
    chosen = fit.fitting_gpus(spec, pool) or pool.gpus
    return [
        _is_in(f"{domain}/instance-gpu-count", "1"),
        *([_is_in(f"{domain}/instance-gpu-name", *chosen)] if chosen else []),
        *([_at_least(f"{domain}/instance-gpu-memory", mebibytes)] if mebibytes is not None else []),
    ]


def _cpu_requirements(spec: Spec) -> list[Manifest]:
    """KWOK's instance types have no category."""
    is_simulated = _group(spec) == KWOK
    return [] if is_simulated or not _is_aws(spec) else [_is_in(f"{_domain(spec)}/instance-category", *CPU_CATEGORIES)]


def _domain(spec: Spec) -> str:
    return EKS_AUTO_MODE if _group(spec) == EKS_AUTO_MODE else AWS


def _is_aws(spec: Spec) -> bool:
    return _group(spec) in (AWS, EKS_AUTO_MODE, KWOK)


def _group(spec: Spec) -> str | None:
    reference = spec.capacity.node_class_ref
    return reference.group if reference else None


def _is_in(label: str, *values: str) -> Manifest:
    return {"key": label, "operator": "In", "values": sorted(values)}


def _at_least(label: str, number: int) -> Manifest:
    return {"key": label, "operator": "Gte", "values": [str(number)]}
