"""Whether the engine's captured cycles are exact on this GPU, and what capture is worth: `python -m benchmarks.gpu_check`.

Needs torch and numpy alone. Weights are random; a draft is its target disturbed, so that it errs now and then. Windows with and
without timestamps, of different limits, are decoded side by side with drafts, and each by the target alone: tokens and mean
log-probabilities must be the same, bit for bit. Prints a line of JSON for each part as it comes, and fails where something differs.

  python -m benchmarks.gpu_check                                       a small model, in half precision
  python -m benchmarks.gpu_check --shape large-v3 --windows 32 --slots 16
  python -m benchmarks.gpu_check --device cpu --shape tiny --dtype float32
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import torch
from benchmarks.gpu_parts import show, show_times
from torch import Tensor

from transcriber_engine import attention as attending
from transcriber_engine import row_grouping
from transcriber_engine.decoder import Decoder
from transcriber_engine.graphs import GraphedDecoder
from transcriber_engine.linear import InvariantLinear, PlainLinear
from transcriber_engine.pair import DecoderPair, vocabulary
from transcriber_engine.scheduler import Scheduler
from transcriber_engine.window import Job, WindowRequest, WindowTokens

SHAPES: Final = {  # d_model, layers, heads, ids of text, timestamps, frames, layers of the draft (the target's first)
    "tiny": (32, 2, 2, 200, 50, 24, 2),
    "small": (512, 6, 8, 50_257, 1501, 1500, 6),
    "large-v3": (1280, 32, 20, 50_257, 1501, 1500, 2),
}
SPECIAL: Final = ("end", "start", "en", "translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DRAFT_NOISE: Final = 0.02


@dataclass(frozen=True)
class Ids:
    """The special tokens of a vocabulary that has no words, as far as decoding asks a tokenizer for them."""

    text_ids: int

    def __getattr__(self, name: str) -> int:
        """Return the id of a special token by its place in `SPECIAL`."""
        places = {"end_of_text": 0, "start_of_transcript": 1, "no_speech": 7, "no_timestamps": 8, "timestamp_begin": 9}
        if name not in places:
            raise AttributeError(name)
        return self.text_ids + places[name]

    def check_language(self, language: str) -> None:
        """Accept any."""

    def prompt(self, language: str, task: str, *, timestamps: bool, **_: object) -> list[int]:
        """Return start, language, task, and whether times are wanted."""
        return [self.text_ids + place for place in ((1, 2, 4) if timestamps else (1, 2, 4, 8))]


def config_of(shape: str) -> Any:
    """Return the dimensions of a shape; suppressed is what is special but for the end of text."""
    d_model, layers, heads, text, times, frames, draft_layers = SHAPES[shape]
    return SimpleNamespace(
        d_model=d_model,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * d_model,
        num_mel_bins=128,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=4 * d_model,
        draft_decoder_layers=draft_layers,
        vocab_size=text + len(SPECIAL) + times,
        max_source_positions=frames,
        max_target_positions=448,
        suppress_tokens=(1, 2, 7, *range(text + 1, text + len(SPECIAL))),
        begin_suppress_tokens=(5, text),
    )


def tensors_of(config: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return random weights of a decoder, scaled so that half precision holds what comes of them."""
    generator = torch.Generator(device).manual_seed(0)
    d, prefix = config.d_model, "model.decoder"

    def normal(*shape: int, scale: float = d**-0.5) -> Tensor:
        return (torch.randn(*shape, generator=generator, device=device) * scale).to(dtype)

    def norm(name: str) -> dict[str, Tensor]:
        ones = torch.ones(d, device=device, dtype=dtype)
        return {f"{prefix}.{name}.weight": ones, f"{prefix}.{name}.bias": torch.zeros_like(ones)}

    tensors = {
        f"{prefix}.embed_tokens.weight": normal(config.vocab_size, d, scale=4 * d**-0.5),
        f"{prefix}.embed_positions.weight": normal(config.max_target_positions, d, scale=1.0),
        **norm("layer_norm"),
    }
    for i in range(config.decoder_layers):
        layer = f"layers.{i}"
        for attention in ("self_attn", "encoder_attn"):
            tensors |= norm(f"{layer}.{attention}_layer_norm")
            for part in ("q", "k", "v", "out"):
                tensors[f"{prefix}.{layer}.{attention}.{part}_proj.weight"] = normal(d, d)
                tensors |= {} if part == "k" else {f"{prefix}.{layer}.{attention}.{part}_proj.bias": normal(d)}
        tensors |= norm(f"{layer}.final_layer_norm")
        for name, shape in (("fc1", (4 * d, d)), ("fc2", (d, 4 * d))):
            tensors |= {f"{prefix}.{layer}.{name}.weight": normal(*shape), f"{prefix}.{layer}.{name}.bias": normal(shape[0])}
    return tensors


def random_pair(shape: str, device: torch.device, dtype: torch.dtype) -> DecoderPair:
    """Build a target and a draft of its first layers, disturbed."""
    config, tokenizer = config_of(shape), Ids(SHAPES[shape][3])
    tensors = tensors_of(config, device, dtype)
    disturbed = {
        name: each + DRAFT_NOISE * each.std() * torch.randn_like(each) if ".layers." in name else each
        for name, each in tensors.items()
    }
    words = vocabulary(config, tokenizer, device)  # type: ignore[arg-type]
    target = Decoder(config, tensors, config.decoder_layers)
    draft = Decoder(config, disturbed, SHAPES[shape][6], linear=PlainLinear if device.type == "cuda" else InvariantLinear)
    return DecoderPair(config, tokenizer, words, target, draft)  # type: ignore[arg-type]


def requests_of(config: Any, count: int, tokens: int) -> list[WindowRequest]:
    """Return windows of noise with different wishes."""
    rng = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    return [
        WindowRequest(
            torch.randn(config.max_source_positions, config.d_model, generator=generator),
            language="en",
            timestamps=rng.random() < 0.5,
            max_draft_tokens=rng.choice([0, 2, 5, 8]),
            max_new_tokens=rng.randrange(tokens // 2, tokens),
        )
        for _ in range(count)
    ]


def decode(scheduler: Scheduler, requests: Sequence[WindowRequest]) -> tuple[float, list[WindowTokens]]:
    """Decode windows side by side; seconds, and what each decoded to."""
    done: dict[int, WindowTokens | BaseException] = {}
    for number, request in enumerate(requests):
        scheduler.submit(Job(request, lambda outcome, n=number: done.__setitem__(n, outcome)))
    began = time.perf_counter()
    scheduler.run_until_idle()
    seconds = time.perf_counter() - began
    for outcome in done.values():
        if isinstance(outcome, BaseException):
            raise outcome
    return seconds, [done[i] for i in range(len(requests))]  # type: ignore[misc]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Whether captured cycles are exact on this GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--windows", type=int, default=48)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--times", action="store_true", help="say how long parts take, and which kernels take it, as well")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and return 1 where something differs."""
    given = parse(arguments)
    pair = random_pair(given.shape, torch.device(given.device), DTYPES[given.dtype])
    requests = requests_of(pair.config, given.windows, given.tokens)
    device = torch.cuda.get_device_name() if given.device == "cuda" else "cpu"
    ours = given.device == "cuda" and attending.gpu_kernel(pair.target.head_dim) is not None
    show(shape=given.shape, dtype=given.dtype, device=device, torch=torch.__version__, our_attention=ours)

    alone = Scheduler(pair, 1, "none", 0)
    alone.decoder = GraphedDecoder(pair, 1, "none", 0)
    together = Scheduler(pair, given.slots, "model", 8)
    together.decoder = graphed = GraphedDecoder(pair, given.slots, "model", 8)
    began = time.perf_counter()
    graphed.calibrate()
    groupings = sorted({f"{each.multiple} of {each.at_once}" for each in row_grouping._measured.values()})
    show(capture_seconds=round(time.perf_counter() - began, 1), groupings=groupings)
    alone_seconds, expected = decode(alone, requests)
    seconds, found = decode(together, requests)
    _, again = decode(together, requests[::-1])
    differing = [
        i
        for i, (one, other, third) in enumerate(zip(expected, found, again[::-1], strict=True))
        if not one.tokens == other.tokens == third.tokens or not one.avg_logprob == other.avg_logprob == third.avg_logprob
    ]
    drafted = sum(each.draft_tokens for each in found)
    show(
        windows=given.windows,
        differing=differing,
        distinct_texts=len({each.tokens for each in expected}),
        tokens=sum(each.output_tokens for each in found),
        acceptance=round(sum(each.accepted_tokens for each in found) / max(drafted, 1), 3),
        alone_seconds=round(alone_seconds, 2),
        together_seconds=round(seconds, 2),
        memory_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2) if given.device == "cuda" else None,
    )
    if given.times:
        show_times(graphed, given.slots)
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
