"""Capture of a function on static buffers, which is then repeated without Python; on a CPU it is called again instead."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Run = Callable[[], None]


class Capture(Protocol):
    """Makes of a function on static buffers what does the same to them again, as often as it is called."""

    def __call__(self, run: Run) -> Run:
        """Return what repeats `run`, which may be called meanwhile."""


def plainly(run: Run) -> Run:
    """Capture nothing: call the function itself."""
    return run


class CudaCapture:
    """Captures kernels as CUDA graphs, all in one pool of memory: no two run at once, and what one leaves there nobody reads."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> Run:
        """Run once, so that libraries make and measure what they need, then capture."""
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            run()
        return graph.replay


def bring(buffer: Tensor, values: Tensor) -> None:
    """Copy the host's values into a buffer, without waiting where that is a GPU's."""
    buffer.copy_(values.pin_memory() if buffer.is_cuda else values, non_blocking=True)
