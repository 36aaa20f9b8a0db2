"""Products with one weight, compiled where they run: as fast for few rows as memory gives the weight, for many as the cores add.

The weight lies in panels of a few columns' vectors, packed once in the order in which they are read. Up to a block of rows share
every load, and each element of the product is summed over the inputs from the first to the last, whatever its block (see
vector_code.py): neither the number of rows nor a row's place changes a bit.

Threads take panels one after the other, and ask memory for the next one while they multiply with the last.
"""

import ctypes
from dataclasses import dataclass
from itertools import product
from typing import Final

import torch
import torch.nn.functional as F
from llvmlite import ir
from torch import Tensor

from transcriber_engine.vector_code import (
    BF16,
    CACHE_LINE,
    F32,
    I64,
    NOTHING,
    POINTER,
    Code,
    Team,
    bytes_of,
    compiled,
    host_vectors,
)

WIDTH: Final = 3  # vectors side by side in a panel
ROWS_AT_ONCE: Final = 128  # of the inputs, to stay in the second-level cache while panels pass by

ADDRESSES: Final = ("rows", "weight", "bias", "out")
SIZES: Final = ("panels", "count", "at_once", "inputs", "outputs", "row")
ARGUMENTS: Final = ("next_task", "tasks", *SIZES, *ADDRESSES)
"""What the worker is given, 64 bits each; a task is one panel for `at_once` rows, the rows of inputs are `row` floats apart."""
_Arguments = ctypes.c_int64 * len(ARGUMENTS)


@dataclass(frozen=True)
class Shape:
    """What code is made for: floats in a vector register, rows that share a load, and the type of the weight."""

    lanes: int
    rows: int
    halved: bool = False
    """Whether the weight is bfloat16."""

    @property
    def kind(self) -> ir.Type:
        """What an element of the weight is."""
        return BF16 if self.halved else F32

    @property
    def columns(self) -> int:
        """Outputs of a panel."""
        return WIDTH * self.lanes

    @property
    def lines(self) -> int:
        """Cache lines of one input's part of a panel, at most."""
        return -(-self.columns * bytes_of(self.kind) // CACHE_LINE)


def host_shape(*, halved: bool) -> Shape | None:
    """Return the shape for this machine, or None if the kernel would be no good on it."""
    vectors = host_vectors()
    return vectors and Shape(vectors.lanes, vectors.sums // WIDTH, halved)


def _block(module: ir.Module, shape: Shape, rows: int) -> ir.Function:
    """`block(x, row, panel, bias, out, out_row, inputs, ahead, ahead_step)`: so many rows times one panel.

    Asks for `ahead_step` more elements of what lies at `ahead` with each input.
    """
    code = Code(module, shape.lanes, f"block_{rows}", NOTHING, POINTER, I64, POINTER, POINTER, POINTER, I64, I64, POINTER, I64)
    x, row, panel, bias, out, out_row, inputs, ahead, ahead_step = code.function.args
    places = list(product(range(rows), range(WIDTH)))
    initial = [code.get(code.at(bias, j * shape.lanes)) for j in range(WIDTH)]
    sums = {(i, j): code.variable(initial[j]) for i, j in places}
    with code.loop(inputs) as k:
        start = code.mul(k, I64(shape.columns))
        loaded = [code.widened(code.at(panel, code.add(start, I64(j * shape.lanes)), shape.kind), shape.kind) for j in range(WIDTH)]
        wanted = code.at(ahead, code.mul(k, ahead_step), shape.kind)
        for line in range(shape.lines):
            code.prefetch(code.at(wanted, line * CACHE_LINE // bytes_of(shape.kind), shape.kind))
        for i in range(rows):
            factor = code.splat(code.get(code.at(x, code.add(k, code.mul(row, I64(i)))), F32))
            for j in range(WIDTH):
                code.put(code.fma(factor, loaded[j], code.get(sums[i, j])), sums[i, j])
    for i, j in places:
        code.put(code.get(sums[i, j]), code.at(out, code.add(code.mul(out_row, I64(i)), I64(j * shape.lanes))))
    code.ret_void()
    return code.function


def _panel(module: ir.Module, shape: Shape) -> ir.Function:
    """`panel(x, rows, row, panel, bias, out, out_row, columns, inputs, next)`: rows times a panel, block by block.

    `columns` of the panel are written to `out`. The first blocks ask for the panel `next` together, each for a part, and so for no
    more than memory gives while they multiply; what later blocks ask for is there already.
    """
    blocks = [_block(module, shape, rows) for rows in range(1, shape.rows + 1)]
    arguments = (POINTER, I64, I64, POINTER, POINTER, POINTER, I64, I64, I64, POINTER)
    code = Code(module, shape.lanes, "panel", NOTHING, *arguments)
    x, rows, row, panel, bias, out, out_row, columns, inputs, following = code.function.args
    rest = code.space(F32, shape.rows * shape.columns)
    count, size = code.even(rows, shape.rows)
    asking = code.smaller(count, I64(shape.lines))
    step = code.sdiv(I64(shape.columns), asking)
    is_whole = code.icmp_signed(">=", columns, I64(shape.columns))
    with code.loop(rows, size) as first:
        own = code.at(out, code.mul(out_row, first))
        target, target_row = code.select(is_whole, own, rest), code.select(is_whole, out_row, I64(shape.columns))
        part = code.srem(code.sdiv(first, size), asking)
        ahead = code.at(following, code.mul(code.mul(part, step), inputs), shape.kind)
        given = [code.at(x, code.mul(row, first)), row, panel, bias, target, target_row, inputs, ahead, step]
        here = code.smaller(code.sub(rows, first), size)
        code.call_one(blocks, here, given)
        with code.if_then(code.not_(is_whole)), code.loop(here) as i:
            code.copy(code.at(own, code.mul(out_row, i)), code.at(rest, code.mul(i, I64(shape.columns))), columns, F32)
    code.ret_void()
    return code.function


def _worker(module: ir.Module, shape: Shape) -> None:
    """`worker(arguments)`: take one task after the other until none is left; see `ARGUMENTS`."""
    multiply = _panel(module, shape)
    code = Code(module, shape.lanes, "worker", NOTHING, POINTER, exported=True)
    (arguments,) = code.function.args
    given = code.unpacked(arguments, ARGUMENTS, ADDRESSES)
    begin, work, end = (code.append_basic_block() for _ in range(3))
    own = code.variable(code.atomic_rmw("add", arguments, I64(1), "monotonic"))
    code.branch(begin)
    code.position_at_end(begin)
    task = code.get(own, I64)
    code.cbranch(code.icmp_signed("<", task, given["tasks"]), work, end)
    code.position_at_end(work)
    following = code.atomic_rmw("add", arguments, I64(1), "monotonic")
    code.put(following, own)
    number, after = (code.srem(each, given["panels"]) for each in (task, code.smaller(following, code.sub(given["tasks"], I64(1)))))
    size = code.mul(given["inputs"], I64(shape.columns))
    column, first = code.mul(number, I64(shape.columns)), code.mul(code.sdiv(task, given["panels"]), given["at_once"])
    code.call(multiply, [
        code.at(given["rows"], code.mul(first, given["row"])), code.smaller(given["at_once"], code.sub(given["count"], first)),
        given["row"], code.at(given["weight"], code.mul(number, size), shape.kind), code.at(given["bias"], column),
        code.at(given["out"], code.add(code.mul(first, given["outputs"]), column)), given["outputs"],
        code.sub(given["outputs"], column), given["inputs"], code.at(given["weight"], code.mul(after, size), shape.kind),
    ])  # fmt: skip
    code.branch(begin)
    code.position_at_end(end)
    code.ret_void()


class Kernel:
    """The compiled kernel of one shape; it runs in torch's own threads."""

    def __init__(self, shape: Shape, openmp: ctypes.CDLL) -> None:
        """`openmp` is as for `Team`."""
        self.shape = shape
        module = ir.Module()
        _worker(module, shape)
        self.team = Team(compiled(module), "worker", openmp)


class Panels:
    """A weight packed for a kernel: `y = x Wᵀ + b` of float32 rows, whatever the type of the weight."""

    def __init__(self, kernel: Kernel, weight: Tensor, bias: Tensor | None) -> None:
        """weight [outputs, inputs] and bias [outputs], of any type on the CPU; copied."""
        self._kernel = kernel
        self.outputs, self.inputs = weight.shape
        columns, dtype = kernel.shape.columns, torch.bfloat16 if kernel.shape.halved else torch.float32
        missing = -self.outputs % columns
        whole = F.pad(weight.to(dtype), (0, 0, 0, missing)).view(-1, columns, self.inputs)
        self._weight = whole.transpose(1, 2).contiguous()  # [panels, inputs, columns]
        self._bias = F.pad(weight.new_zeros(self.outputs) if bias is None else bias, (0, missing)).float()

    def __call__(self, rows: Tensor) -> Tensor:
        """Float32 [rows, inputs] -> float32 [rows, outputs]."""
        assert rows.dtype == torch.float32
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        count, panels = len(rows), len(self._weight)
        out = torch.empty(count, self.outputs)
        parts = -(-count // ROWS_AT_ONCE)
        at_once = -(-count // max(parts, 1))
        addresses = [each.data_ptr() for each in (rows, self._weight, self._bias, out)]
        sizes = (panels, count, at_once, self.inputs, self.outputs, rows.stride(0))
        self._kernel.team.run(_Arguments(0, panels * parts, *sizes, *addresses))
        return out
