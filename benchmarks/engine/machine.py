"""What this machine can do at best: float32 products and reading memory, measured with the threads that every peer gets."""

import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from benchmarks.engine.child import THREADS
from benchmarks.engine.roofline import Machine

GEMM_SIZE: Final = 2048
LINEAR_ROWS: Final = 1500
READ_VALUES: Final = 1 << 27  # 512 MiB of float32, far more than any cache
REPETITIONS: Final = 5
PACKAGES: Final = (
    "transcriber-operator", "torch", "transformers", "faster-whisper", "ctranslate2", "onnxruntime", "numpy", "openai-whisper",
    "nvidia-pytriton", "piper-tts",
)  # fmt: skip


class Meter:
    """Measures the machine; a peer in a process of its own, like the others."""

    def __init__(self) -> None:
        torch.set_num_threads(THREADS)

    def measure(self) -> Machine:
        """Return the better of two ways for the float32 and the read rate."""
        return Machine(
            flops=max(self._gemm(), self._packed_linear(torch.float32)),
            half_flops=self._packed_linear(torch.bfloat16),
            read_bytes=max(self._read(torch.sum), self._read(lambda values: values.dot(values))),
        )

    def close(self) -> None:
        """Nothing is held."""

    @torch.inference_mode()
    def _gemm(self) -> float:
        a, b = torch.rand(GEMM_SIZE, GEMM_SIZE), torch.rand(GEMM_SIZE, GEMM_SIZE)
        return 2 * GEMM_SIZE**3 / best_seconds(lambda: a @ b)

    @torch.inference_mode()
    def _packed_linear(self, dtype: torch.dtype) -> float:
        rows, weight = torch.rand(LINEAR_ROWS, GEMM_SIZE).to(dtype), torch.rand(GEMM_SIZE, GEMM_SIZE).to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, LINEAR_ROWS)
        seconds = best_seconds(lambda: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))
        return 2 * LINEAR_ROWS * GEMM_SIZE**2 / seconds

    @torch.inference_mode()
    def _read(self, consume: Callable[[torch.Tensor], object]) -> float:
        values = torch.ones(READ_VALUES)
        return values.nbytes / best_seconds(lambda: consume(values))


def best_seconds(run: Callable[[], object], repetitions: int = REPETITIONS) -> float:
    """Return the shortest of some runs, the first not counted."""
    run()
    seconds = []
    for _ in range(repetitions):
        began = perf_counter()
        run()
        seconds.append(perf_counter() - began)
    return min(seconds)


def about(packages: Path) -> dict[str, object]:
    """Say what was measured on what."""
    [cpu, *_] = re.findall(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE) or ["?"]
    variables = {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(("OMP_", "MKL_", "KMP_", "OPENBLAS_"))
    }
    versions = {name: found for name in PACKAGES if (found := _version(name, packages)) is not None}
    return {"cpu": cpu, "cores": THREADS, "python": platform.python_version(), "versions": versions, "environment": variables}


def _version(name: str, packages: Path) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        beside = sorted(packages.glob(f"{name.replace('-', '_')}-*.dist-info"))
        return beside[-1].name.removesuffix(".dist-info").rpartition("-")[2] if beside else None
