"""The nodes that replicas run on: pools of one capacity type each, and when one stands in for another."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict

from transcriber_api.quantities import (
    Dollars,
    LabelValue,
    ListType,
    ObjectName,
    QualifiedName,
    Replicas,
    Text,
)
from transcriber_api.rules import ApiModel, Rule

Gpu = Annotated[str, Text("a GPU name such as l4, a10g or l40s", 40, r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Zone = Annotated[str, Text("an availability zone such as us-east-1a", 63, r"^[a-z0-9]+(-[a-z0-9]+)*$")]
PoolName = Annotated[str, Text("a DNS label (lower-case letters, digits and -)", 20, r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class NodeClassRef(ApiModel):
    """The Karpenter node class (image, subnets, instance role) of every NodePool that is rendered; it is not rendered itself."""

    group: ObjectName = Field(
        description="API group of the node class; Karpenter fixes it and kind for a NodePool: rename the pools with it.",
        examples=["karpenter.k8s.aws"],
    )
    kind: Annotated[str, Text("a kind such as EC2NodeClass", 63, r"^[A-Z][A-Za-z0-9]*$")] = Field(
        description="Kind of the node class; see group.", examples=["EC2NodeClass"]
    )
    name: ObjectName = Field(description="Name of the node class; it must exist.", examples=["gpu"])


class Toleration(ApiModel):
    """A taint that the pods of a pool accept, as in a pod's `tolerations`."""

    key: QualifiedName | None = Field(
        default=None, description="Key of the taint; absent with operator Exists: every taint.", examples=["dedicated"]
    )
    operator: Literal["Exists", "Equal"] = Field(
        default="Equal", description="Exists accepts any value, Equal only `value`.", examples=["Equal"]
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint, for operator Equal.", examples=["speech"])
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent: every effect.", examples=["NoSchedule"]
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="toleration-key",
            field="key",
            message="a toleration without key needs operator Exists",
            cel="has(self.key) || self.operator == 'Exists'",
            holds=lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            name="toleration-value",
            field="value",
            message="operator Exists takes no value",
            cel="!has(self.value) || self.operator == 'Equal'",
            holds=lambda toleration: toleration.value is None or toleration.operator == "Equal",
        ),
    )


class Pool(ApiModel):
    """Nodes of one capacity type: one Deployment, and with Karpenter one NodePool. A replica takes a node of its own."""

    name: PoolName = Field(description="Name of the pool, part of its children's names.", examples=["spot"])
    capacity_type: Literal["Spot", "OnDemand"] = Field(
        default="OnDemand", description="Spot is cheap and can be taken back within two minutes.", examples=["Spot"]
    )
    gpus: Annotated[tuple[Gpu, ...], ListType("set", 16)] = Field(
        default=(),
        description="GPU names that may serve, as Karpenter names them; empty: every GPU with enough memory.",
        examples=[["l4", "a10g"]],
    )
    zones: Annotated[tuple[Zone, ...], ListType("set", 16)] = Field(
        default=(), description="Zones that may serve; empty: every zone of the node class.", examples=[["us-east-1a"]]
    )
    weight: Annotated[int, Strict(), Field(ge=1, le=100)] = Field(
        default=10, description="Pools of higher weight are filled first, once every pool has its minReplicas.", examples=[100]
    )
    min_replicas: Replicas = Field(
        default=0, description="Replicas that always stay in this pool: a floor that spot cannot take away.", examples=[1]
    )
    max_nodes: Annotated[int, Strict(), Field(ge=1, le=1000)] = Field(
        default=20,
        description="Most nodes, and so replicas, of this pool. Its NodePool may have one more, for a replica that takes over.",
        examples=[20],
    )
    price_per_hour: Dollars | None = Field(
        default=None,
        description="Price of one node, US dollars per hour, for budget and cost; absent: the operator's price table.",
        examples=["0.35"],
    )
    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] = Field(
        default_factory=dict,
        description="Labels that a node must have, beside those that the operator asks for; Karpenter's nodes are given them.",
        examples=[{"node.kubernetes.io/instance-type": "g6.xlarge"}],
    )
    tolerations: Annotated[tuple[Toleration, ...], ListType("atomic", 16)] = Field(
        default=(),
        description="Taints that the pods accept, beside the GPU's own.",
        examples=[[{"key": "dedicated", "operator": "Exists"}]],
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="pool-floor-fits",
            field="minReplicas",
            message="minReplicas must not exceed maxNodes of the pool",
            cel="self.minReplicas <= self.maxNodes",
            holds=lambda pool: pool.min_replicas <= pool.max_nodes,
        ),
    )


class Fallback(ApiModel):
    """When on-demand nodes stand in for spot nodes that do not come."""

    after_seconds: Annotated[int, Strict(), Field(ge=10, le=3600)] = Field(
        default=60, description="How long a replica may wait for a spot node, in seconds.", examples=[60]
    )
    return_after_seconds: Annotated[int, Strict(), Field(ge=60, le=86_400)] = Field(
        default=600,
        description="How long spot must have been whole before on-demand nodes are given back, in seconds.",
        examples=[600],
    )


def _has_types(capacity: "Capacity", *types: str) -> bool:
    return set(types) <= {pool.capacity_type for pool in capacity.pools}


class Capacity(ApiModel):
    """Which nodes may serve, and who provides them."""

    provisioner: Literal["Karpenter", "None"] = Field(
        default="Karpenter",
        description="Karpenter: each pool gets a NodePool. None: nodes come from elsewhere, and pools choose them by nodeSelector.",
        examples=["Karpenter"],
    )
    node_class_ref: NodeClassRef | None = Field(
        default=None, description="Node class of the rendered NodePools; needed with, and only with, provisioner Karpenter."
    )
    pools: Annotated[tuple[Pool, ...], ListType("map", 16, ("name",), min_items=1)] = Field(
        description="The pools, at least one.", examples=[[{"name": "spot", "capacityType": "Spot"}]]
    )
    fallback: Fallback | None = Field(
        default=None, description="Let OnDemand pools stand in for Spot pools that starve; absent: wait for spot."
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="node-class-given",
            field="nodeClassRef",
            message="provisioner Karpenter needs nodeClassRef, the node class of its nodes",
            cel="self.provisioner != 'Karpenter' || has(self.nodeClassRef)",
            holds=lambda capacity: capacity.provisioner != "Karpenter" or capacity.node_class_ref is not None,
        ),
        Rule(
            name="node-class-used",
            field="nodeClassRef",
            message="nodeClassRef has no effect unless provisioner is Karpenter; remove one or set the other",
            cel="!has(self.nodeClassRef) || self.provisioner == 'Karpenter'",
            holds=lambda capacity: capacity.node_class_ref is None or capacity.provisioner == "Karpenter",
        ),
        Rule(
            name="gpus-used",
            field="pools",
            message="gpus has no effect unless provisioner is Karpenter; choose the nodes by nodeSelector",
            cel="self.provisioner == 'Karpenter' || self.pools.all(p, size(p.gpus) == 0)",
            holds=lambda capacity: capacity.provisioner == "Karpenter" or not any(pool.gpus for pool in capacity.pools),
        ),
        Rule(
            name="fallback-between-types",
            field="fallback",
            message="fallback needs a pool of capacityType Spot and one of OnDemand",
            cel=(
                "!has(self.fallback) || (self.pools.exists(p, p.capacityType == 'Spot')"
                " && self.pools.exists(p, p.capacityType == 'OnDemand'))"
            ),
            holds=lambda capacity: capacity.fallback is None or _has_types(capacity, "Spot", "OnDemand"),
        ),
    )
