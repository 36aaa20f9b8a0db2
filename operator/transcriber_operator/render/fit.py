"""Whether a model fits a GPU: weights, caches of every slot and what the serving processes take, against the GPU's memory.

What is refused could not start: the sum holds what the engine allocates before it serves, and the least that CUDA takes. It is
arithmetic over Whisper models that are known by name; another model is not judged.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from transcriber_api.capacity import Pool
from transcriber_api.quantities import quantity_value
from transcriber_api.v1alpha1 import Spec
from transcriber_operator.render import gpus
from transcriber_operator.render.gpus import GPUS, Gpu, InstanceType

MEBIBYTE: Final = 1 << 20
GIBIBYTE: Final = 1 << 30
FRAMES: Final = 1500  # of a window, that the decoder attends to
POSITIONS: Final = 448 + 17  # of a window's text, and those that the engine drafts past its end
DRAFT_LAYERS: Final = 2  # of a distilled decoder
BYTES: Final = {"Float32": 4, "BFloat16": 2, "Float16": 2}
LOGITS_BYTES: Final = 2 * 4  # of a token of the vocabulary: its score as it was and masked, in Float32
# Encoder and decoder are a process each, with a CUDA context, cuBLAS workspaces and what the allocator cannot use again. A guess
# at the low end: it was not measured on a GPU.
PROCESSES_MEBIBYTES: Final = 768
NVIDIA_GPU: Final = "nvidia.com/gpu"  # the resource that is a whole GPU
BFLOAT16_CAPABILITY: Final = (8, 0)
# What requests CPU on every node of EKS: kube-proxy and the VPC CNI; and the exporter's share of a serving pod.
DAEMONS_MILLICORES: Final = 150
EXPORTER_MILLICORES: Final = 50
EXPORTER_MEBIBYTES: Final = 96
_SIZES: Final = r"large-v3-turbo|turbo|large-v3\.5|large-v3|large-v2|large-v1|large|medium|small|base|tiny"
_NAME: Final = re.compile(rf"(?P<distilled>distil-)?(?:whisper-)?(?P<size>{_SIZES})(?:\.en)?(?:-ct2)?$")


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a Whisper model."""

    name: str
    d_model: int
    encoder_layers: int
    decoder_layers: int
    mel_bins: int = 80
    vocabulary: int = 51_865

    @property
    def encoder_parameters(self) -> int:
        """Parameters of two convolutions, positions and layers of 12 d² each (attention 4, feed-forward 8)."""
        convolutions = 3 * self.d_model * (self.mel_bins + self.d_model)
        return convolutions + FRAMES * self.d_model + self.encoder_layers * 12 * self.d_model**2

    @property
    def decoder_parameters(self) -> int:
        """Parameters of embeddings and layers of 16 d² each: those of the encoder and cross-attention."""
        return (self.vocabulary + 448) * self.d_model + self.layers_parameters(self.decoder_layers)

    def layers_parameters(self, layers: int) -> int:
        """Parameters of decoder layers."""
        return layers * 16 * self.d_model**2


_LARGE_V3: Final = {"d_model": 1280, "encoder_layers": 32, "mel_bins": 128, "vocabulary": 51_866}
_WIDTHS: Final = {"tiny": (384, 4), "base": (512, 6), "small": (768, 12), "medium": (1024, 24), "large": (1280, 32)}
ARCHITECTURES: Final = {
    architecture.name: architecture
    for architecture in (
        *(Architecture(name, width, layers, layers) for name, (width, layers) in _WIDTHS.items()),
        *(Architecture(f"large-{version}", 1280, 32, 32) for version in ("v1", "v2")),
        Architecture("large-v3", decoder_layers=32, **_LARGE_V3),
        Architecture("large-v3-turbo", decoder_layers=4, **_LARGE_V3),
        Architecture("distil-small", 768, 12, 4),
        Architecture("distil-medium", 1024, 24, 2),
        Architecture("distil-large-v2", 1280, 32, 2),
        Architecture("distil-large-v3", decoder_layers=2, **_LARGE_V3),
        Architecture("distil-large-v3.5", decoder_layers=2, **_LARGE_V3),
    )
}


@dataclass(frozen=True)
class Need:
    """GPU memory that a replica needs at least."""

    model: str
    precision: str
    slots: int
    weights_bytes: int
    slot_bytes: int

    @property
    def fixed_bytes(self) -> int:
        """What is needed whatever the slots are."""
        return self.weights_bytes + PROCESSES_MEBIBYTES * MEBIBYTE

    @cached_property
    def total_bytes(self) -> int:
        """All of it."""
        return self.fixed_bytes + self.slots * self.slot_bytes

    @property
    def total_mebibytes(self) -> int:
        """All of it in MiB, rounded up."""
        return -(-self.total_bytes // MEBIBYTE)

    def slots_on(self, gpu: Gpu) -> int:
        """Most slots that fit a GPU."""
        return max((gpu.usable_mebibytes * MEBIBYTE - self.fixed_bytes) // self.slot_bytes, 0)

    def has_room_on(self, gpu: Gpu) -> bool:
        """Whether a GPU has the memory."""
        return self.total_mebibytes <= gpu.usable_mebibytes

    def fits(self, gpu: Gpu) -> bool:
        """Whether a GPU has the memory, and computes in the precision."""
        return self.computes_on(gpu) and self.has_room_on(gpu)

    def computes_on(self, gpu: Gpu) -> bool:
        """Whether a GPU computes in the precision."""
        return self.precision != "BFloat16" or gpu.compute_capability >= BFLOAT16_CAPABILITY

    @property
    def arithmetic(self) -> str:
        """The sum in words."""
        fixed = self.fixed_bytes - self.weights_bytes
        return (
            f"whisper-{self.model} in {self.precision} needs at least {_gib(self.weights_bytes)} GiB of weights + "
            f"{self.slots} slots x {self.slot_bytes / GIBIBYTE:.2f} GiB + {_gib(fixed)} GiB for two processes = "
            f"{_gib(self.total_bytes)} GiB"
        )


def architecture_of(uri: str) -> Architecture | None:
    """Return the architecture that a source's name tells; None for a name that is not known, such as a fine-tuned model's."""
    if "whisper" not in uri.lower() and "distil-" not in uri.lower():
        return None
    last = uri.rstrip("/").rsplit("/", 1)[-1].lower()
    found = _NAME.search(last)
    if found is None or last[: found.start()] not in ("", "faster-"):
        return None
    size = {"turbo": "large-v3-turbo"}.get(found["size"], found["size"])
    return ARCHITECTURES.get(f"{found['distilled'] or ''}{size}")


def need(spec: Spec) -> Need | None:
    """Return the GPU memory that a replica needs at least; None where the model or the share of a GPU is not known."""
    target = architecture_of(spec.model.target.uri)
    if target is None or spec.runtime.device != "GPU" or spec.runtime.gpu_resource_name != NVIDIA_GPU:
        return None
    size, draft = BYTES[spec.model.precision], _draft_layers(spec)
    parameters = target.encoder_parameters + target.decoder_parameters + target.layers_parameters(draft)
    caches = 2 * (target.decoder_layers + draft) * target.d_model * (FRAMES + POSITIONS) * size
    logits = (spec.decoding.max_draft_tokens + 1) * target.vocabulary * LOGITS_BYTES
    return Need(target.name, spec.model.precision, spec.runtime.slots, parameters * size, caches + logits)


def fitting_gpus(spec: Spec, pool: Pool) -> tuple[str, ...]:
    """Return the GPUs that a pool names and that the model fits, as well as those that cannot be judged."""
    wanted = need(spec)
    return tuple(name for name in pool.gpus if wanted is None or name not in GPUS or wanted.fits(GPUS[name]))


def labelled_mebibytes(spec: Spec, pool: Pool) -> int | None:
    """Return the memory that a pool's GPUs must be labelled with; None where that is not known.

    Some GPUs have less than their label says. A pool that names its GPUs goes without those; of one that takes all, the label
    has to be larger than any GPU's that has too little.
    """
    wanted = need(spec)
    if wanted is None:
        return None
    misleading = [gpu.memory_mebibytes + 1 for gpu in GPUS.values() if not pool.gpus and not wanted.has_room_on(gpu)]
    return max([wanted.total_mebibytes, *misleading])


def candidates(spec: Spec, pool: Pool) -> tuple[InstanceType, ...]:
    """Return the instance types of the table that can run a replica of a GPU pool; none where nothing of it is known."""
    if spec.runtime.device != "GPU":
        return ()
    wanted = need(spec)
    millicores, mebibytes = requested(spec)
    return tuple(
        entry
        for entry in gpus.instance_types(pool)
        if (wanted is None or wanted.fits(GPUS[entry.gpu]))
        and millicores + DAEMONS_MILLICORES <= entry.millicores
        and mebibytes <= entry.memory_mebibytes
    )


def requested(spec: Spec) -> tuple[int, int]:
    """Return the thousandths of a core and the MiB that a serving pod asks for; a limit stands in for a request."""
    resources = spec.runtime.resources
    cpu = resources.requests.cpu or resources.limits.cpu or "0"
    memory = resources.requests.memory or resources.limits.memory or "0"
    return (
        int(quantity_value(cpu) * 1000) + EXPORTER_MILLICORES,
        int(quantity_value(memory) / MEBIBYTE) + EXPORTER_MEBIBYTES,
    )


def unfit(spec: Spec) -> str | None:
    """Say why no GPU of some pool can hold the model, and what to change; None where each pool has one that may."""
    wanted = need(spec)
    if wanted is None or spec.capacity.provisioner != "Karpenter":
        return None
    return next((sentence for pool in spec.capacity.pools if (sentence := _unfit_pool(wanted, pool))), None)


def left_out(spec: Spec) -> tuple[str, ...]:
    """Say which GPUs are left out of their pools, since the model does not fit them."""
    wanted = need(spec)
    if wanted is None:
        return ()
    return tuple(
        f"Pool {pool.name} goes without {name}: {_why_not(wanted, GPUS[name])}."
        for pool in spec.capacity.pools
        if (chosen := fitting_gpus(spec, pool))
        for name in pool.gpus
        if name not in chosen
    )


def _unfit_pool(wanted: Need, pool: Pool) -> str | None:
    asked = [GPUS[name] for name in pool.gpus or {entry.gpu: None for entry in gpus.instance_types(pool)} if name in GPUS]
    if not asked or not gpus.is_known(pool) or any(wanted.fits(gpu) for gpu in asked):
        return None
    largest = max(asked, key=lambda gpu: (wanted.computes_on(gpu), gpu.memory_mebibytes))
    return f"The model fits no GPU of pool {pool.name}: {_why_not(wanted, largest)}; {_remedy(wanted, largest)}."


def _why_not(wanted: Need, gpu: Gpu) -> str:
    if not wanted.computes_on(gpu):
        return f"{gpu.name} does not compute in BFloat16"
    return f"{wanted.arithmetic}, and {gpu.name} has {gpu.usable_mebibytes / 1024:.1f} GiB"


def _remedy(wanted: Need, gpu: Gpu) -> str:
    if not wanted.computes_on(gpu):
        return "set model.precision to Float16"
    by_price = sorted(gpus.INSTANCE_TYPES.values(), key=lambda entry: entry.price_per_hour)
    larger = next((entry.gpu for entry in by_price if wanted.fits(GPUS[entry.gpu])), None)
    slots = wanted.slots_on(gpu)
    remedies = [f"lower runtime.slots to {slots}"] if slots else []
    return " or ".join([*remedies, f"take {larger}" if larger else "take a smaller model"])


def _draft_layers(spec: Spec) -> int:
    """Layers of the draft, which shares all else with the target; one that is not known is taken for a distilled decoder."""
    if spec.draft_source != "Model" or spec.model.draft is None:
        return 0
    known = architecture_of(spec.model.draft.uri)
    return known.decoder_layers if known else DRAFT_LAYERS


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIBIBYTE:.1f}"
