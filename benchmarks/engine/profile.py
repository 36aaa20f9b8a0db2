"""Where the engine's time goes: seconds by part, taken on the engine as it runs, next to the least that each part needs.

On a CPU operators run one after another, so a clock around a part measures it. The compiled steps of a forward pass are run one at
a time for that, which costs some microseconds more for each.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import numpy as np
from benchmarks.engine.clips import Clip
from benchmarks.engine.ours import Ours
from numpy.typing import NDArray
from torch import nn

from transcriber_engine.compiled_decoder import CompiledDecoder


class Profiled(Ours):
    """The engine with clocks in it."""

    def profile(self, clips: Sequence[Clip], concurrency: int) -> dict[str, Any]:
        """Transcribe, and return the seconds of each part and what was counted."""
        clocks = Clocks()
        with ExitStack() as stack:
            for decoder in (self.pair.target, self.pair.draft):
                if decoder is not None:
                    stack.enter_context(clocks.on_methods(decoder.head, "heads", ("forward", "best")))
                    for layer in decoder.layers:
                        stack.enter_context(clocks.on_methods(layer.cross_kv, "cross-attention keys and values", ("forward",)))
                    if decoder._compiled is not None:
                        stack.enter_context(clocks.on_steps(decoder._compiled))
            run = self.transcribe(clips, concurrency)
        figures, parts = run.figures, dict(clocks.seconds)
        in_decoder = figures["admit_seconds"] + figures["draft_seconds"] + figures["verify_seconds"]
        # Prompts are read outside of admitting, drafting and verifying: what of them is no clocked part counts as the scheduler's.
        clocked = sum(parts.values())
        parts["log-mel and encoder"] = figures["encode_seconds"]
        parts["rules, embeddings, scheduler, Python"] = figures["decode_seconds"] - clocked
        assert run.counts is not None
        return {"seconds": run.seconds, "parts": parts, "in_decoder_seconds": in_decoder, "counts": run.counts.as_json()}


class Clocks:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on_methods(self, module: nn.Module, part: str, names: Sequence[str]) -> Iterator[None]:
        """Clock those of a module's methods that it has."""
        methods = {name: method for name in names if (method := getattr(module, name, None)) is not None}
        for name, method in methods.items():
            setattr(module, name, self._clocked(part, method))
        try:
            yield
        finally:
            for name in methods:
                delattr(module, name)  # the class's own again

    @contextmanager
    def on_steps(self, decoder: CompiledDecoder) -> Iterator[None]:
        """Clock the steps of a forward pass."""
        sequence = decoder._sequence
        decoder._sequence = _SteppedSequence(decoder, self.seconds)  # type: ignore[assignment]
        try:
            yield
        finally:
            decoder._sequence = sequence

    def _clocked(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            began = perf_counter()
            result = method(*arguments, **named)
            self.seconds[part] += perf_counter() - began
            return result

        return call


class _SteppedSequence:
    """A decoder's sequence, step by step."""

    def __init__(self, decoder: CompiledDecoder, seconds: defaultdict[str, float]) -> None:
        self._sequence, self._seconds = decoder._sequence, seconds
        self._parts = dict.fromkeys(decoder._linear_steps, "linear layers") | dict.fromkeys(decoder._self_steps, "self-attention")
        self._parts |= dict.fromkeys(decoder._cross_steps, "cross-attention")

    def run(self, table: NDArray[np.int64]) -> None:
        """See `Sequence.run`."""
        for step in range(len(table)):
            began = perf_counter()
            self._sequence.run(table[step : step + 1])
            self._seconds[self._parts.get(step, "norms, GELU, rounding")] += perf_counter() - began
