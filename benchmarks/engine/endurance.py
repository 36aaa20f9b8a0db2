"""Whether memory grows with cycles: the engine in miniature, for as many cycles as are wanted."""

import gc
import random
import tracemalloc

import torch
from benchmarks.engine.child import resident_bytes
from tests.engine.toy import toy_pair

from transcriber_engine.scheduler import Scheduler
from transcriber_engine.window import Job, WindowRequest

SLOTS = 8
WARM_UP_CYCLES = 1000


class Endurance:
    """Rows that join and leave at random, each of its own length, with a draft that is right about half of the time."""

    def __init__(self) -> None:
        torch.set_num_threads(1)  # sixteen dimensions are only slowed by more
        self.pair = toy_pair(seed=3)
        self.scheduler = Scheduler(self.pair, SLOTS, "model", 4)
        self._random = random.Random(5)

    def run(self, cycles: int) -> dict[str, float]:
        """Return what was held before and after, in bytes and in objects, once everything is warm."""
        self._cycle(WARM_UP_CYCLES)
        tracemalloc.start()
        self._cycle(WARM_UP_CYCLES)
        before = self._held()
        self._cycle(cycles)
        after = self._held()
        tracemalloc.stop()
        grown = {f"{name}_grown": after[name] - before[name] for name in before}
        return {"cycles": cycles, **before, **grown}

    def close(self) -> None:
        """Nothing is held."""

    def _cycle(self, cycles: int) -> None:
        until = self.scheduler.counters.cycles + cycles
        while self.scheduler.counters.cycles < until:
            if self.scheduler.held < SLOTS + 2:
                config = self.pair.config
                hidden = torch.randn(config.max_source_positions, config.d_model)
                request = WindowRequest(hidden, language="en", max_draft_tokens=self._random.randint(0, 4))
                self.scheduler.submit(Job(request, lambda _: None))
            self.scheduler.step()
        self.scheduler.run_until_idle()  # what is on its way does not count as held

    def _held(self) -> dict[str, float]:
        gc.collect()
        tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
        return {"resident_bytes": resident_bytes(), "python_bytes": tracemalloc.get_traced_memory()[0], "tensors": tensors}
