"""Compiled workers one after the other in one run of torch's threads: dozens of steps for the price of one call.

Around a step of a decoder, which takes ten millionths of a second, Python and the start of the threads take as long again, or
several times that where the step before has driven them out of the processor's caches.
"""

import ctypes
from typing import Final

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from transcriber_engine.vector_code import I64, NOTHING, POINTER, Code, Team, compiled

ARGUMENTS: Final = ("steps", "words", "barrier", "table")
_Arguments = ctypes.c_int64 * len(ARGUMENTS)


def _worker(module: ir.Module) -> None:
    """`worker(arguments)`: call each step's function with the address of its arguments, and wait after it for all threads.

    A row of the table has `words` words: the function, and then its arguments.
    """
    code = Code(module, 1, "worker", NOTHING, POINTER, exported=True)
    (arguments,) = code.function.args
    given = code.unpacked(arguments, ARGUMENTS, ("table",))
    with code.loop(given["steps"]) as i:
        step = code.at(given["table"], code.mul(i, given["words"]), I64)
        code.call_address(code.get(step, I64), code.at(step, 1, I64))
        code.call_address(given["barrier"])
    code.ret_void()


class Sequence:
    """Runs tables of steps."""

    def __init__(self, openmp: ctypes.CDLL) -> None:
        """`openmp` is as for `Team`."""
        module = ir.Module()
        _worker(module)
        self._team = Team(compiled(module), "worker", openmp)
        self._barrier = ctypes.cast(openmp.GOMP_barrier, ctypes.c_void_p).value or 0

    def run(self, table: NDArray[np.int64]) -> None:
        """Take the steps [steps, words]: in each row the address of a `Team`'s function, then its arguments, then anything."""
        assert table.flags.c_contiguous
        steps, words = table.shape
        self._team.run(_Arguments(steps, words, self._barrier, table.ctypes.data))
