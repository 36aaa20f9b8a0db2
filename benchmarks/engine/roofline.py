"""The least time that a machine needs for what was computed: pure functions of a model's shape, counts and two measured rates.

A product of a weight [n, m] with a row costs 2nm FLOPs. Attention of a query to T keys costs 4·T·d_model. Work takes at least its
FLOPs over the GEMM rate and at least its bytes over the read rate; cycles are added one after another, since each needs the one
before it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

PROMPT_TOKENS: Final = 4  # start, language, task, no timestamps
BYTES: Final = {False: 4, True: 2}  # of a value, by whether it is kept in half precision


@dataclass(frozen=True)
class Machine:
    """What the machine was measured to do, a second."""

    flops: float  # of a float32 matrix product
    half_flops: float  # of one in bfloat16
    read_bytes: float


@dataclass(frozen=True)
class Stack:
    """A decoder: the target's, or its draft's with a smaller head. What is kept in bfloat16 is read and multiplied faster."""

    layers: int
    head: int
    half_layers: bool = False
    half_head: bool = False
    frame_bytes: int = 4  # of a component of a key or value of the audio
    frame_step: int = 1  # of so many frames it attends to one


@dataclass(frozen=True)
class Shape:
    """A pair's dimensions."""

    d_model: int
    ffn: int
    encoder_layers: int
    mel_bins: int
    frames: int
    target: Stack
    draft: Stack

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `asdict` made."""
        return cls(**{**value, "target": Stack(**value["target"]), "draft": Stack(**value["draft"])})


@dataclass(frozen=True)
class Counts:
    """What a run computed; the keys of the maps are (rows, tokens of all of them) of a step, their values how often it happened."""

    windows: int = 0
    drafted_windows: int = 0  # whose keys and values the draft laid out, too
    verified: Mapping[tuple[int, int], int] = field(default_factory=dict)
    drafted: Mapping[tuple[int, int], int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, windows: int, drafted_windows: int, verified: Iterable[tuple[int, int]], drafted: Iterable[tuple[int, int]]
    ) -> Self:
        """Count."""
        return cls(windows, drafted_windows, _counted(verified), _counted(drafted))

    def as_json(self) -> dict[str, object]:
        """Return it with lists for maps, whose keys JSON does not have."""
        maps = {name: [[*key, n] for key, n in sorted(getattr(self, name).items())] for name in ("verified", "drafted")}
        return {"windows": self.windows, "drafted_windows": self.drafted_windows, **maps}

    @classmethod
    def from_json(cls, value: Mapping[str, list[list[int]]]) -> Self:
        """Read what `as_json` wrote."""
        maps = {name: {(rows, tokens): n for rows, tokens, n in value[name]} for name in ("verified", "drafted")}
        return cls(value["windows"], value["drafted_windows"], **maps)  # type: ignore[arg-type]


def _counted(keys: Iterable[tuple[int, int]]) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return counts


def encoder_flops(s: Shape) -> float:
    """FLOPs of encoding one window: two convolutions, then layers over 1500 frames."""
    convolutions = 2 * 3 * s.mel_bins * s.d_model * 2 * s.frames + 2 * 3 * s.d_model**2 * s.frames
    linear = 2 * s.frames * (4 * s.d_model**2 + 2 * s.d_model * s.ffn)
    attention = 4 * s.frames**2 * s.d_model
    return convolutions + s.encoder_layers * (linear + attention)


def cross_key_flops(s: Shape, stack: Stack) -> float:
    """FLOPs of laying out a window's cross-attention keys and values."""
    return stack.layers * 2 * s.frames / stack.frame_step * 2 * s.d_model**2


def layer_weights(s: Shape) -> int:
    """Weights of a layer that a step reads: self-attention q, k, v, out; cross-attention q, out; feed-forward."""
    return 6 * s.d_model**2 + 2 * s.d_model * s.ffn


@dataclass(frozen=True)
class Work:
    """FLOPs over the rate they run at, and bytes over the rate they are read at, both in seconds."""

    compute_seconds: float
    read_seconds: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.compute_seconds + other.compute_seconds, self.read_seconds + other.read_seconds)

    @property
    def seconds(self) -> float:
        """Least seconds: computing and reading may overlap."""
        return max(self.compute_seconds, self.read_seconds)


def step_work(s: Shape, machine: Machine, stack: Stack, rows: int, tokens: int) -> dict[str, Work]:
    """Work by part of one step that runs so many tokens, over all of its rows."""

    def work(flops: float, read_bytes: float, *, half: bool) -> Work:
        return Work(flops / (machine.half_flops if half else machine.flops), read_bytes / machine.read_bytes)

    weights, head = stack.layers * layer_weights(s), stack.head * s.d_model
    keys = stack.layers * 2 * s.frames / stack.frame_step * s.d_model  # and values, of a row
    return {
        "linear layers": work(2 * tokens * weights, weights * BYTES[stack.half_layers], half=stack.half_layers),
        "heads": work(2 * tokens * head, head * BYTES[stack.half_head], half=stack.half_head),
        "cross-attention": work(2 * tokens * keys, rows * keys * stack.frame_bytes, half=stack.half_layers),
    }


def step_seconds(s: Shape, machine: Machine, stack: Stack, rows: int, tokens: int) -> float:
    """Least seconds of such a step."""
    parts = step_work(s, machine, stack, rows, tokens).values()
    return sum(parts, Work(0.0, 0.0)).seconds


def steps_of(s: Shape, counts: Counts) -> list[tuple[Stack, int, int, int]]:
    """Return (decoder, rows, tokens, how often) of all steps: prompts, verifications, drafting."""
    steps = [(s.target, 1, PROMPT_TOKENS, counts.windows)]
    steps += [(s.target, rows, tokens, n) for (rows, tokens), n in counts.verified.items()]
    return steps + [(s.draft, rows, tokens, n) for (rows, tokens), n in counts.drafted.items()]


def window_seconds(s: Shape, machine: Machine, counts: Counts) -> dict[str, float]:
    """Least seconds, by part, of what is done once for a window."""
    keys = counts.windows * cross_key_flops(s, s.target) / machine.flops
    draft_flops = machine.half_flops if s.draft.half_layers else machine.flops
    keys += counts.drafted_windows * cross_key_flops(s, s.draft) / draft_flops
    return {"log-mel and encoder": counts.windows * encoder_flops(s) / machine.flops, "cross-attention keys and values": keys}


def limit_seconds(s: Shape, machine: Machine, counts: Counts) -> float:
    """Least seconds of a run."""
    steps = sum(n * step_seconds(s, machine, stack, rows, tokens) for stack, rows, tokens, n in steps_of(s, counts))
    return sum(window_seconds(s, machine, counts).values()) + steps


def least_by_part(s: Shape, machine: Machine, counts: Counts) -> dict[str, float]:
    """Least seconds of each part of a run; together they are more than the limit, which lets parts of a step overlap."""
    least = window_seconds(s, machine, counts)
    for stack, rows, tokens, n in steps_of(s, counts):
        for part, work in step_work(s, machine, stack, rows, tokens).items():
            least[part] = least.get(part, 0.0) + n * work.seconds
    return least


FORMULA: Final = """\
Limit = windows × (encoder + cross-attention keys and values) FLOPs / F + Σ over the steps that really happened (prompts,
verifications by the target, the draft's steps) of max(T·f / F, bytes / R), for T tokens of B rows. A token takes
f = layers × (2 (6 d² + 2 d·ffn) + 4 · 1500 d) + 2 · head · d FLOPs; a step reads layers × (6 d² + 2 d·ffn) + head · d weights and
B × layers × 2 × 1500 d keys and values, 4 bytes each. What our engine keeps in bfloat16 (the draft, and the first look of the
target's head) counts with 2 bytes and the bfloat16 rate, the draft's keys and values, of every second frame in int8, with 1 byte.
Log-mel, norms, self-attention, rules and sampling count as nothing."""
