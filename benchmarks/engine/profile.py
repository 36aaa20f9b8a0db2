"""Where the engine's time goes: seconds by part, taken on the engine as it runs, next to the least that each part needs.

On a CPU operators run one after another, so a clock around a part measures it. Parts inside others are taken out of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import torch
from benchmarks.engine.clips import Clip
from benchmarks.engine.ours import Ours
from torch import nn

from transcriber_engine import decoder as decoder_module


class Profiled(Ours):
    """The engine with clocks in it."""

    def profile(self, clips: Sequence[Clip], concurrency: int) -> dict[str, Any]:
        """Transcribe, and return the seconds of each part and what was counted."""
        clocks = Clocks()
        with ExitStack() as stack:
            for decoder in (self.pair.target, self.pair.draft):
                if decoder is not None:
                    stack.enter_context(clocks.on_module(decoder.head, "heads"))
                    for name, module in decoder.layers.named_modules():
                        if _is_linear(module):
                            part = "cross-attention keys and values" if name.endswith("cross_kv") else "linear layers"
                            stack.enter_context(clocks.on_module(module, part))
            stack.enter_context(clocks.on_attention())
            run = self.transcribe(clips, concurrency)
        figures, parts = run.figures, dict(clocks.seconds)
        in_decoder = figures["admit_seconds"] + figures["draft_seconds"] + figures["verify_seconds"]
        # Prompts are read outside of admitting, drafting and verifying: what of them is no clocked part counts as the scheduler's.
        clocked = sum(parts.values())
        parts["log-mel and encoder"] = figures["encode_seconds"]
        parts["rules, norms, embeddings, scheduler, Python"] = figures["decode_seconds"] - clocked
        assert run.counts is not None
        return {"seconds": run.seconds, "parts": parts, "in_decoder_seconds": in_decoder, "counts": run.counts.as_json()}


def _is_linear(module: nn.Module) -> bool:
    return not list(module.children()) and hasattr(module, "outputs")


class Clocks:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on_module(self, module: nn.Module, part: str) -> Iterator[None]:
        """Clock the calls of a module."""
        began = 0.0

        def before(*_: object) -> None:
            nonlocal began
            began = perf_counter()

        def after(*_: object) -> None:
            self.seconds[part] += perf_counter() - began

        handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def on_attention(self) -> Iterator[None]:
        """Clock self- and cross-attention; the latter sees all frames, so that it is given nothing to hide."""
        attend: Callable[..., torch.Tensor] = decoder_module.attend

        def clocked(
            query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor, visible: Any
        ) -> torch.Tensor:
            began = perf_counter()
            mixed = attend(query, keys, values, slots, visible)
            self.seconds["cross-attention" if visible is None else "self-attention"] += perf_counter() - began
            return mixed

        decoder_module.attend = clocked
        try:
            yield
        finally:
            decoder_module.attend = attend
