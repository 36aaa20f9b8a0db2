"""GPUs that a replica may run on: their memory, the EC2 instance types with one of them, and what those cost.

Names are those of Karpenter's label `instance-gpu-name`. Memory in MiB is what EC2 reports, and allocatable CPU and memory are
those of the instance-type reference of Karpenter's AWS provider (v1.14; t4, a10g, l4 and l40s were read there, the others come
from data sheets). Prices are US dollars per hour, on demand in us-east-1: those of g4dn.xlarge, g5g.xlarge, g5, g6, gr6.4xlarge,
g6e up to 2xlarge, g7, g7e.2xlarge and p5 from the provider's pricing file of 2026-07-20, the others from public price lists.
Spot savings and interruption classes are one reading of EC2's spot advisor in us-east-1 on 2026-09-20; class 0 is less than 5 %
of instances taken back per month, then 5-10, 10-15, 15-20 and more. All of these move: a pool's own `pricePerHour` wins.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from transcriber_api.capacity import Pool

INSTANCE_TYPE_LABEL: Final = "node.kubernetes.io/instance-type"
SPOT: Final = "spot"
ON_DEMAND: Final = "on-demand"
CAPACITY_TYPES: Final = {"Spot": SPOT, "OnDemand": ON_DEMAND}  # of a pool, as Karpenter's label has it
ASSUMED_SAVING_PERCENT: Final = 40  # of spot, where the advisor was not read
ASSUMED_INTERRUPTIONS: Final = 2
VISIBLE_SHARE: Final = 0.985  # of the memory that EC2 reports, as CUDA sees it: a10g, l4, l40s and h100 lie within 1 % of it
T4_MEBIBYTES: Final = 15_104  # that CUDA sees of a t4: EC2 reports it by its name plate, and ECC keeps a share
# A step of whisper-large-v3 in Float16 reads 1.8 GB of decoder weights and, for each of 32 slots, 0.25 GB of cross-attention:
# 9.7 GB for 32 tokens. Speech has about 3.5 tokens per second, so a GB that is read decodes 0.94 s of audio. A third of that is
# left when the encoder shares the GPU and memory is not read at its full rate.
AUDIO_SECONDS_PER_GIGABYTE: Final = 0.3
CPU_THROUGHPUT: Final = 8.0  # audio seconds per second of whisper-base on two cores, as the README measures it


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU."""

    name: str
    memory_mebibytes: int
    gigabytes_per_second: int  # that its memory can be read at
    compute_capability: tuple[int, int]  # as NVIDIA numbers it; from (8, 0) on there is BFloat16
    spot_saving_percent: int = ASSUMED_SAVING_PERCENT
    interruption_class: int = ASSUMED_INTERRUPTIONS
    architecture: str = "amd64"  # of its instance types
    seen_mebibytes: int | None = None  # by CUDA, where that is not VISIBLE_SHARE

    @property
    def usable_mebibytes(self) -> int:
        """Memory that processes can have of it."""
        return self.seen_mebibytes or int(self.memory_mebibytes * VISIBLE_SHARE)


@dataclass(frozen=True, slots=True)
class InstanceType:
    """An EC2 instance type with one GPU, and what of it is left to pods."""

    name: str
    gpu: str
    millicores: int
    memory_mebibytes: int
    price_per_hour: float  # on demand


GPUS: Final = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4", 16_384, 320, (7, 5), seen_mebibytes=T4_MEBIBYTES),
        Gpu("t4g", 16_384, 320, (7, 5), architecture="arm64", seen_mebibytes=T4_MEBIBYTES),
        Gpu("v100", 16_384, 900, (7, 0)),
        Gpu("a10g", 22_888, 600, (8, 6), spot_saving_percent=62, interruption_class=3),
        Gpu("l4", 22_888, 300, (8, 9), spot_saving_percent=46, interruption_class=2),
        Gpu("l40s", 45_776, 864, (8, 9), spot_saving_percent=54, interruption_class=1),
        Gpu("rtx-pro-4500", 32_623, 800, (12, 0)),
        Gpu("rtx-pro-server-6000", 97_887, 1597, (12, 0)),
        Gpu("a100", 40_960, 1555, (8, 0)),
        Gpu("h100", 81_920, 3350, (9, 0), spot_saving_percent=57, interruption_class=0),
        Gpu("h200", 144_384, 4800, (9, 0)),
        Gpu("b200", 183_359, 8000, (10, 0)),
        Gpu("b300", 274_878, 8000, (10, 3)),
    )
}
INSTANCE_TYPES: Final = {
    entry.name: entry
    for entry in (
        InstanceType("g4dn.xlarge", "t4", 3_920, 14_481, 0.526),
        InstanceType("g4dn.2xlarge", "t4", 7_910, 29_636, 0.752),
        InstanceType("g4dn.4xlarge", "t4", 15_890, 59_946, 1.204),
        InstanceType("g4dn.8xlarge", "t4", 31_850, 120_248, 2.176),
        InstanceType("g4dn.16xlarge", "t4", 63_770, 241_490, 4.352),
        InstanceType("g5g.xlarge", "t4g", 3_920, 6_584, 0.42),
        InstanceType("g5g.2xlarge", "t4g", 7_910, 14_162, 0.556),
        InstanceType("g5g.4xlarge", "t4g", 15_890, 27_381, 0.828),
        InstanceType("g5g.8xlarge", "t4g", 31_850, 57_691, 1.372),
        InstanceType("p3.2xlarge", "v100", 7_910, 56_786, 3.06),
        InstanceType("g5.xlarge", "a10g", 3_920, 14_162, 1.006),
        InstanceType("g5.2xlarge", "a10g", 7_910, 29_317, 1.212),
        InstanceType("g5.4xlarge", "a10g", 15_890, 57_691, 1.624),
        InstanceType("g5.8xlarge", "a10g", 31_850, 118_312, 2.448),
        InstanceType("g5.16xlarge", "a10g", 63_770, 234_021, 4.096),
        InstanceType("g6.xlarge", "l4", 3_920, 14_162, 0.8048),
        InstanceType("g6.2xlarge", "l4", 7_910, 29_317, 0.9776),
        InstanceType("g6.4xlarge", "l4", 15_890, 57_691, 1.3232),
        InstanceType("gr6.4xlarge", "l4", 15_890, 118_312, 1.5392),
        InstanceType("g6.8xlarge", "l4", 31_850, 118_312, 2.0144),
        InstanceType("gr6.8xlarge", "l4", 31_850, 239_554, 2.446),
        InstanceType("g6.16xlarge", "l4", 63_770, 234_021, 3.3968),
        InstanceType("g6e.xlarge", "l40s", 3_920, 29_317, 1.861),
        InstanceType("g6e.2xlarge", "l40s", 7_910, 59_627, 2.2421),
        InstanceType("g6e.4xlarge", "l40s", 15_890, 118_312, 3.0042),
        InstanceType("g6e.8xlarge", "l40s", 31_850, 239_554, 4.5286),
        InstanceType("g6e.16xlarge", "l40s", 63_770, 476_504, 7.5772),
        InstanceType("g7.2xlarge", "rtx-pro-4500", 7_910, 29_317, 2.52),
        InstanceType("g7e.2xlarge", "rtx-pro-server-6000", 7_910, 59_627, 3.363),
        InstanceType("g7e.4xlarge", "rtx-pro-server-6000", 15_890, 118_312, 3.9982),
        InstanceType("g7e.8xlarge", "rtx-pro-server-6000", 31_850, 239_554, 5.2682),
        InstanceType("p5.4xlarge", "h100", 15_890, 239_554, 6.88),
    )
}


def is_known(pool: Pool) -> bool:
    """Whether the table has every GPU that a pool names."""
    return set(pool.gpus) <= set(GPUS)


def architecture(pool: Pool) -> str:
    """Return the processor architecture of a pool's nodes: amd64, unless all its GPUs come with arm64 alone."""
    kinds = {GPUS[name].architecture for name in pool.gpus if name in GPUS}
    return "arm64" if kinds == {"arm64"} and is_known(pool) else "amd64"


def instance_types(pool: Pool) -> tuple[InstanceType, ...]:
    """Return the instance types of the table that a GPU pool may use: by GPU, architecture and the instance type it selects."""
    wanted = pool.node_selector.get(INSTANCE_TYPE_LABEL)
    return tuple(
        entry
        for entry in INSTANCE_TYPES.values()
        if (not pool.gpus or entry.gpu in pool.gpus)
        and GPUS[entry.gpu].architecture == architecture(pool)
        and wanted in (None, entry.name)
    )


def price_per_hour(instance_type: str, capacity_type: str) -> float | None:
    """Return the price of an instance type, US dollars per hour; None where the table has none.

    `capacity_type` is spot or on-demand, as in Karpenter's label.
    """
    known = INSTANCE_TYPES.get(instance_type)
    if known is None:
        return None
    saving = GPUS[known.gpu].spot_saving_percent if capacity_type == SPOT else 0
    return known.price_per_hour * (1 - saving / 100)


def pool_price_per_hour(pool: Pool, candidates: Iterable[InstanceType] | None = None) -> float | None:
    """Return the price of one more node of a pool, US dollars per hour: its own, else that of the cheapest candidate; None where
    the table has none. `candidates` are the instance types that may come; None: all that have the pool's GPUs.
    """
    if pool.price_per_hour is not None:
        return float(pool.price_per_hour)
    capacity_type = CAPACITY_TYPES[pool.capacity_type]
    names = [entry.name for entry in (instance_types(pool) if candidates is None else candidates)]
    return min((price for name in names if (price := price_per_hour(name, capacity_type)) is not None), default=None)


def prior_throughput(pool: Pool) -> float:
    """Return the audio seconds per second that a replica is taken to decode until it is measured.

    Decoding is bound by reading memory, so the prior is the rate of the pool's slowest GPU times AUDIO_SECONDS_PER_GIGABYTE. It
    is meant for whisper-large-v3, so that smaller models are underestimated: the first replica that works corrects it.
    """
    names = pool.gpus or tuple(entry.gpu for entry in instance_types(pool))
    rates = [GPUS[name].gigabytes_per_second for name in names if name in GPUS]
    slowest = min(rates, default=min(gpu.gigabytes_per_second for gpu in GPUS.values()))
    return slowest * AUDIO_SECONDS_PER_GIGABYTE
