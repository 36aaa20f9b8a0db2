"""The engine on a GPU against its roofline: `python -m benchmarks.gpu`.

Weights are random and of large-v3's shape; torch and numpy are all that is needed. What a target says does not matter for how
long it takes, and a draft that knows what the target will say, and errs as often as it is told to, makes acceptance a setting.
The draft's own decoder (two layers, the whole vocabulary) runs all the same, so that drafting costs what it costs.

For each batch B and draft length K: windows and tokens a second of decoding, with the share of the roofline, and milliseconds of a
verification (t_v) and of a draft step (t_d) beside what the formula gives from the measured rates of this device: a step takes at
least its FLOPs over the rate of products and its bytes over the rate of reading. Whether tokens with a draft are those without is
checked in every line.

  python -m benchmarks.gpu                                  on the GPU: B of 1, 16 and 64, K of 0, 4 and 8
  python -m benchmarks.gpu --batches 128 --drafts 0,6 --acceptance 0.95
  python -m benchmarks.gpu --device cpu --shape tiny        whether it works, in seconds; says nothing of speed
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from benchmarks.engine.roofline import Counts, Machine, Shape, Stack, encoder_flops, step_seconds, steps_of
from benchmarks.gpu_check import DTYPES, SHAPES, decode, random_pair
from benchmarks.gpu_parts import best_seconds, torch_s_attention
from torch import Tensor

from transcriber_engine.encoder import Encoder
from transcriber_engine.graphs import GraphedDecoder
from transcriber_engine.graphs import Shape as GraphShape
from transcriber_engine.pair import DecoderPair
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.speculation import Row, Verified
from transcriber_engine.window import WindowRequest

PROMPT_TOKENS: Final = 4
CHECKED_ALONE: Final = 4  # windows of each batch


@dataclass(frozen=True)
class Line:
    """What was measured for one batch and one draft length; seconds are of one step."""

    batch: int
    draft_tokens: int
    windows_per_second: float  # of decoding
    tokens_per_second: float
    acceptance: float
    tokens_per_cycle: float
    over_roofline: float  # of the whole decoding
    verify_seconds: float
    verify_least_seconds: float
    draft_seconds: float
    draft_least_seconds: float
    opening_seconds: float  # of laying out a window's encoding and reading its prompt
    differing: int  # windows whose tokens are not those of the target alone


def shape_of(config: Any, dtype: torch.dtype) -> Shape:
    """Return the dimensions that the roofline follows from."""
    half = dtype != torch.float32
    frame_bytes = dtype.itemsize
    stacks = [Stack(n, config.vocab_size, half, half, frame_bytes) for n in (config.decoder_layers, config.draft_decoder_layers)]
    return Shape(
        config.d_model, config.decoder_ffn_dim, config.encoder_layers, config.num_mel_bins, config.max_source_positions, *stacks
    )


class Oracle:
    """Stands before a scheduler's draft: runs it, and gives in place of its guesses the target's tokens, wrong as often as told."""

    def __init__(self, scheduler: Scheduler, said: Sequence[Sequence[int]], hidden: Sequence[Tensor], acceptance: float) -> None:
        self.steps: list[tuple[int, int]] = []  # (rows, tokens) of each draft step
        self.verified: list[tuple[int, int]] = []
        self._said, self._acceptance, self._random = said, acceptance, random.Random(1)
        self._numbers = {each.data_ptr(): i for i, each in enumerate(hidden)}
        self._window_of_slot: dict[int, int] = {}
        decoder = scheduler.decoder
        self._admit, self._propose, self._verify = decoder.admit, decoder.propose, decoder.verify
        decoder.admit, decoder.propose, decoder.verify = self.admit, self.propose, self.verify  # type: ignore[method-assign]
        if isinstance(decoder, GraphedDecoder):  # one graph does both
            self._cycle, decoder.cycle = decoder.cycle, self.cycle  # type: ignore[method-assign,assignment]

    def admit(self, slot: int, hidden: Tensor, *, with_draft: bool) -> None:
        """Note which window a slot gets."""
        self._window_of_slot[slot] = self._numbers[hidden.data_ptr()]
        self._admit(slot, hidden, with_draft=with_draft)

    def propose(self, rows: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
        """Draft."""
        self._propose(rows, counts)
        self.steps += [(left, left) for step in range(max(counts)) if (left := sum(count > step for count in counts))]
        return [self._guess(row, count) for row, count in zip(rows, counts, strict=True)]

    def verify(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]]) -> list:
        """Verify."""
        self.verified.append((len(rows), sum(len(draft) + 1 for draft in drafts)))
        return self._verify(rows, drafts)

    def cycle(self, rows: Sequence[Row], counts: Sequence[int]) -> tuple[list[list[int]], list[Verified]]:
        """Draft and verify."""
        self.steps += [(left, left) for step in range(max(counts)) if (left := sum(count > step for count in counts))]
        self.verified.append((len(rows), sum(count + 1 for count in counts)))
        return self._cycle(rows, counts, given=[self._guess(row, count) for row, count in zip(rows, counts, strict=True)])

    def _guess(self, row: Row, count: int) -> list[int]:
        said = self._said[self._window_of_slot[row.slot]]
        start = len(row.tokens) - row.prompt_length
        right = [*said[start : start + count], *[0] * count][:count]
        return [token if self._random.random() < self._acceptance else token ^ 1 for token in right]


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure the best rate of a product in this type, and of reading."""
    size, values = (8192, 1 << 30) if device.type == "cuda" else (512, 1 << 20)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    flops = 2 * size**3 / best_seconds(lambda: a @ b)
    vector = torch.ones(values, device=device, dtype=dtype)
    return Machine(flops, flops, vector.nbytes / best_seconds(lambda: vector.sum()))


def windows_of(hidden: Sequence[Tensor], draft_tokens: int, tokens: int) -> list[WindowRequest]:
    """Return requests for windows, of so many drafts a cycle and tokens in all."""
    return [WindowRequest(each, language="en", max_draft_tokens=draft_tokens, max_new_tokens=tokens) for each in hidden]


def measure_line(
    pair: DecoderPair,
    machine: Machine,
    hidden: Sequence[Tensor],
    alone: Sequence[Sequence[int]],
    draft_tokens: int,
    acceptance: float,
    tokens: int,
) -> Line:
    """Decode a batch with drafts of a fixed length, and time single steps of it."""
    batch, shape = len(hidden), shape_of(pair.config, pair.target.embed_tokens.dtype)
    scheduler = Scheduler(pair, batch, "model" if draft_tokens else "none", draft_tokens)  # no costs: drafts as long as allowed
    requests = windows_of(hidden, draft_tokens, tokens)
    decode(scheduler, requests)  # warms up
    capture_all(scheduler, draft_tokens)
    oracle = Oracle(scheduler, alone, hidden, acceptance)
    seconds, outcomes = decode(scheduler, requests)
    counts = Counts.of(batch, 0, oracle.verified, oracle.steps)
    least = sum(n * step_seconds(shape, machine, stack, rows, width) for stack, rows, width, n in steps_of(shape, counts))
    verify, draft, opening = step_times(scheduler, batch, draft_tokens)
    drafted = sum(o.draft_tokens for o in outcomes)
    return Line(
        batch=batch,
        draft_tokens=draft_tokens,
        windows_per_second=batch / seconds,
        tokens_per_second=sum(len(o.tokens) for o in outcomes) / seconds,
        acceptance=sum(o.accepted_tokens for o in outcomes) / drafted if drafted else 0.0,
        tokens_per_cycle=sum(o.output_tokens for o in outcomes) / sum(o.cycles for o in outcomes),
        over_roofline=seconds / least,
        verify_seconds=verify,
        verify_least_seconds=step_seconds(shape, machine, shape.target, batch, batch * (draft_tokens + 1)),
        draft_seconds=draft,
        draft_least_seconds=step_seconds(shape, machine, shape.draft, batch, batch) if draft_tokens else 0.0,
        opening_seconds=opening,
        differing=sum(tuple(o.tokens) != tuple(said) for o, said in zip(outcomes, alone, strict=True)),
    )


def capture_all(scheduler: Scheduler, draft_tokens: int) -> None:
    """Capture what rows that end one after another will need."""
    if isinstance(decoder := scheduler.decoder, GraphedDecoder):
        for rows in reversed(decoder._row_buckets):
            decoder._captured(GraphShape(rows, draft_tokens, drafting=draft_tokens > 0, verifying=True, timed=False))


def step_times(scheduler: Scheduler, batch: int, draft_tokens: int) -> tuple[float, float, float]:
    """Return seconds of a verification and of a draft step in the middle of a window, and of a window's opening."""
    decoder = scheduler.decoder
    for name in ("admit", "propose", "verify", "cycle"):
        vars(decoder).pop(name, None)  # the oracle's
    prompt = [decoder.pair.tokenizer.start_of_transcript] * PROMPT_TOKENS
    middle = PROMPT_TOKENS + 50

    def rows() -> list[Row]:
        return [
            Row(slot, prompt + [0] * 50, PROMPT_TOKENS, 200, timestamps=False, draft_cap=draft_tokens, draft_length=middle - 2)
            for slot in range(batch)
        ]

    drafts = [[0] * draft_tokens] * batch
    verify = best_seconds(lambda: decoder.verify(rows(), drafts))
    draft = best_seconds(lambda: decoder.propose(rows(), [draft_tokens] * batch)) / draft_tokens if draft_tokens else 0.0
    config = decoder.pair.config
    hidden = torch.zeros(config.max_source_positions, config.d_model, device=decoder.device)

    def open_window() -> None:
        decoder.admit(0, hidden, with_draft=draft_tokens > 0)
        decoder.prefill(0, prompt, 0)

    return verify, draft, best_seconds(open_window)


@torch.inference_mode()
def encode_seconds(config: Any, device: torch.device, dtype: torch.dtype) -> float:
    """Return seconds of encoding one window with random weights."""
    with torch.device("meta"):
        names = Encoder(config).state_dict()
    tensors = {name: torch.randn(each.shape, device=device, dtype=dtype) * config.d_model**-0.5 for name, each in names.items()}
    encoder = Encoder.from_tensors(config, tensors)
    mel = torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions, device=device, dtype=dtype)
    return best_seconds(lambda: encoder(mel))


def table(lines: Sequence[Line]) -> str:
    """Return the lines as a Markdown table."""
    heads = (
        "B", "K", "windows/s", "tokens/s", "acceptance", "tokens a cycle", "time over roofline", "t_v, ms", "least", "t_d, ms",
        "least", "opening, ms", "differing",
    )  # fmt: skip
    rows = [
        f"| {x.batch} | {x.draft_tokens} | {x.windows_per_second:.2f} | {x.tokens_per_second:.0f} | {x.acceptance:.0%} | "
        f"{x.tokens_per_cycle:.2f} | {x.over_roofline:.2f}× | {x.verify_seconds * 1e3:.2f} | {x.verify_least_seconds * 1e3:.2f} | "
        f"{x.draft_seconds * 1e3:.2f} | {x.draft_least_seconds * 1e3:.2f} | "
        f"{x.opening_seconds * 1e3:.2f} | {x.differing} |"
        for x in lines
    ]
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --: |" * len(heads), *rows])


def numbers(text: str) -> list[int]:
    """Read numbers by comma."""
    return [int(each) for each in text.split(",")]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda where there is one, else cpu"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="float16 on a GPU, float32 on a CPU")
    parser.add_argument("--shape", choices=SHAPES, default="large-v3", help="dimensions of the model")
    parser.add_argument("--batches", type=numbers, default=[1, 16, 64], metavar="B,…", help="windows side by side")
    parser.add_argument("--drafts", type=numbers, default=[0, 4, 8], metavar="K,…", help="tokens drafted in a cycle")
    parser.add_argument("--acceptance", type=float, default=0.9, help="how often a drafted token is right")
    parser.add_argument("--tokens", type=int, default=100, help="of each window")
    parser.add_argument("--torch-attention", action="store_true", help="attend by torch's kernel, to see what ours is worth")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 1 where tokens with a draft differ from those without."""
    options = parse(arguments)
    with torch_s_attention() if options.torch_attention else nullcontext():
        lines = measure(options)
    print(table(lines))
    return int(any(line.differing for line in lines))


def measure(options: argparse.Namespace) -> list[Line]:
    """Measure each batch with each length of drafts; each line is printed as it comes."""
    device = torch.device(options.device)
    dtype = DTYPES[options.dtype or ("float16" if device.type == "cuda" else "float32")]
    machine = measure_machine(device, dtype)
    pair = random_pair(options.shape, device, dtype)
    encoding = encode_seconds(pair.config, device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {dtype}: {machine.flops / 1e12:.2f} TFLOP/s in products, {machine.read_bytes / 1e9:.0f} GB/s read")
    least = encoder_flops(shape_of(pair.config, dtype)) / machine.flops
    print(f"encoding a window: {encoding * 1e3:.2f} ms, at least {least * 1e3:.2f} ms", flush=True)
    lines = []
    for batch in options.batches:
        generator = torch.Generator(device).manual_seed(batch)
        size = (pair.config.max_source_positions, pair.config.d_model)
        hidden = [torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(batch)]
        # What every line must equal: the target alone, of which some windows are decoded one at a time.
        requests = windows_of(hidden, 0, options.tokens)
        together = Scheduler(pair, batch, "none", 0)
        alone = [outcome.tokens for outcome in decode(together, requests)[1]]
        single = Scheduler(pair, 1, "none", 0)
        for number in range(min(batch, CHECKED_ALONE)):
            alone[number] = decode(single, requests[number : number + 1])[1][0].tokens
        del together, single
        for draft_tokens in options.drafts:
            lines.append(measure_line(pair, machine, hidden, alone, draft_tokens, options.acceptance, options.tokens))
            print(table(lines[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    if options.out:
        figures = {
            "device": name,
            "dtype": str(dtype),
            "shape": options.shape,
            "machine": asdict(machine),
            "encode_seconds": encoding,
        }
        options.out.write_text(
            json.dumps({**figures, "lines": [asdict(line) for line in lines]}, indent=1) + "\n", encoding="utf-8"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
