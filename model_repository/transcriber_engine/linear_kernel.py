"""Products with one weight, compiled where they run: as fast for few rows as memory gives the weight, for many as the cores add.

The weight lies in panels of a few columns' vectors, packed once in the order in which they are read. Up to a block of rows share
every load, and each element of the product is summed over the inputs from the first to the last, whatever its block (see
vector_code.py): neither the number of rows nor a row's place changes a bit.

Threads take panels one after the other, and ask memory for the next one while they multiply with the last.

Where nothing exact depends on a product, both factors are rounded to bfloat16: half the bytes, and two inputs are multiplied and
added by one instruction of processors that have it (AVX512-BF16). Two inputs then lie where one float32 would.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, Final

import torch
import torch.nn.functional as F
from llvmlite import ir
from torch import Tensor

from transcriber_engine.vector_code import (
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

LOWEST: Final = -1e30  # a peak below it counts as this, lest the distance of -inf from it be no number

ADDRESSES: Final = ("rows", "weight", "bias", "out", "peaks", "masses")
SIZES: Final = ("panels", "count", "at_once", "inputs", "outputs", "row")
ARGUMENTS: Final = ("next_task", "tasks", *SIZES, *ADDRESSES)
"""What the worker is given, 64 bits each; a task is one panel for `at_once` rows, the rows of inputs are `row` floats apart.

A product that nobody surveys has no use for the last two addresses.
"""
_Arguments = ctypes.c_int64 * len(ARGUMENTS)


@dataclass(frozen=True)
class Shape:
    """What code is made for: floats in a vector register, and rows that share a load."""

    lanes: int
    rows: int
    paired: bool = False
    """Whether rows and weight are bfloat16, of which two inputs are taken at once."""
    surveyed: bool = False
    """Whether the highest of each row's results with a panel is told, and the sum of e to the power of all less it."""
    adds: bool = False
    """Whether results are added to what stands where they go."""

    @property
    def columns(self) -> int:
        """Outputs of a panel."""
        return WIDTH * self.lanes

    @property
    def lines(self) -> int:
        """Cache lines of one input's part of a panel, or of two inputs', at most."""
        return -(-self.columns * bytes_of(F32) // CACHE_LINE)


def host_shape(*, paired: bool = False, surveyed: bool = False, adds: bool = False) -> Shape | None:
    """Return the shape for this machine, or None if the kernel would be no good on it."""
    vectors = host_vectors()
    if vectors is None or (paired and not vectors.has_pairs):
        return None
    return Shape(vectors.lanes, vectors.sums // WIDTH, paired, surveyed, adds)


def _block(module: ir.Module, shape: Shape, rows: int) -> ir.Function:
    """`block(x, row, panel, bias, out, out_row, peaks, masses, panels, inputs, ahead, ahead_step)`: so many rows times one panel.

    Asks for `ahead_step` more elements of what lies at `ahead` with each input. Of a survey, a row's places are `panels` apart.
    """
    arguments = (POINTER, I64, POINTER, POINTER, POINTER, I64, POINTER, POINTER, I64, I64, POINTER, I64)
    code = Code(module, shape.lanes, f"block_{rows}", NOTHING, *arguments)
    x, row, panel, bias, out, out_row, peaks, masses, panels, inputs, ahead, ahead_step = code.function.args
    multiply_add = code.add_pairs if shape.paired else code.fma
    places = list(product(range(rows), range(WIDTH)))
    initial = [code.get(code.at(bias, j * shape.lanes)) for j in range(WIDTH)]
    sums = {(i, j): code.variable(initial[j]) for i, j in places}
    with code.loop(inputs) as k:
        start = code.mul(k, I64(shape.columns))
        loaded = [code.get(code.at(panel, code.add(start, I64(j * shape.lanes)))) for j in range(WIDTH)]
        wanted = code.at(ahead, code.mul(k, ahead_step))
        for line in range(shape.lines):
            code.prefetch(code.at(wanted, line * CACHE_LINE // bytes_of(F32)))
        for i in range(rows):
            factor = code.splat(code.get(code.at(x, code.add(k, code.mul(row, I64(i)))), F32))
            for j in range(WIDTH):
                code.put(multiply_add(factor, loaded[j], code.get(sums[i, j])), sums[i, j])
    for i in range(rows):
        results = [code.get(sums[i, j]) for j in range(WIDTH)]
        for j, result in enumerate(results):
            place = code.at(out, code.add(code.mul(out_row, I64(i)), I64(j * shape.lanes)))
            code.put(code.fadd(code.get(place), result) if shape.adds else result, place)
        if shape.surveyed:
            peak, mass = _survey(code, results)
            place = code.mul(panels, I64(i))
            code.put(peak, code.at(peaks, place))
            code.put(mass, code.at(masses, place))
    code.ret_void()
    return code.function


def _survey(code: Code, results: Sequence[ir.Value]) -> tuple[ir.Value, ir.Value]:
    """Return the highest of some vectors' floats, and the sum of e to the power of each less it."""
    peak = code.largest(reduce(code.larger, results))
    from_peak = code.splat(code.select(code.fcmp_ordered(">", peak, F32(LOWEST)), peak, F32(LOWEST)))
    return peak, code.total(reduce(code.fadd, [code.exp(code.fsub(result, from_peak)) for result in results]))


def _panel(module: ir.Module, shape: Shape) -> ir.Function:
    """`panel(x, rows, row, panel, bias, out, out_row, peaks, masses, panels, columns, inputs, next)`: rows times a panel.

    Goes block by block. `columns` of the panel are written to `out`. The first blocks ask for the panel `next` together, each for
    a part, and so for no more than memory gives while they multiply; what later blocks ask for is there already.
    """
    blocks = [_block(module, shape, rows) for rows in range(1, shape.rows + 1)]
    arguments = (POINTER, I64, I64, POINTER, POINTER, POINTER, I64, POINTER, POINTER, I64, I64, I64, POINTER)
    code = Code(module, shape.lanes, "panel", NOTHING, *arguments)
    x, rows, row, panel, bias, out, out_row, peaks, masses, panels, columns, inputs, following = code.function.args
    rest = code.space(F32, shape.rows * shape.columns)
    count, size = code.even(rows, shape.rows)
    asking = code.smaller(count, I64(shape.lines))
    step = code.sdiv(I64(shape.columns), asking)
    is_whole = code.icmp_signed(">=", columns, I64(shape.columns))
    with code.loop(rows, size) as first:
        own = code.at(out, code.mul(out_row, first))
        target, target_row = code.select(is_whole, own, rest), code.select(is_whole, out_row, I64(shape.columns))
        part = code.srem(code.sdiv(first, size), asking)
        ahead = code.at(following, code.mul(code.mul(part, step), inputs))
        told = [code.at(each, code.mul(panels, first)) for each in (peaks, masses)]
        given = [code.at(x, code.mul(row, first)), row, panel, bias, target, target_row, *told, panels, inputs, ahead, step]
        here = code.smaller(code.sub(rows, first), size)

        def exchange(*, back: bool, here: ir.Value = here, own: ir.Value = own) -> None:
            with code.if_then(code.not_(is_whole)), code.loop(here) as i:
                places = code.at(own, code.mul(out_row, i)), code.at(rest, code.mul(i, I64(shape.columns)))
                code.copy(*(places if back else places[::-1]), columns, F32)

        if shape.adds:
            exchange(back=False)
        code.call_one(blocks, here, given)
        exchange(back=True)
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
    survey = code.add(code.mul(first, given["panels"]), number)
    code.call(multiply, [
        code.at(given["rows"], code.mul(first, given["row"])), code.smaller(given["at_once"], code.sub(given["count"], first)),
        given["row"], code.at(given["weight"], code.mul(number, size)), code.at(given["bias"], column),
        code.at(given["out"], code.add(code.mul(first, given["outputs"]), column)), given["outputs"],
        code.at(given["peaks"], survey), code.at(given["masses"], survey), given["panels"],
        code.sub(given["outputs"], column), given["inputs"], code.at(given["weight"], code.mul(after, size)),
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
    """A weight packed for a kernel: `y = x Wᵀ + b` of float32 rows, rounded to bfloat16 where the kernel takes pairs."""

    def __init__(self, kernel: Kernel, weight: Tensor, bias: Tensor | None) -> None:
        """weight [outputs, inputs] and bias [outputs], of any type on the CPU; copied."""
        self.kernel = kernel
        self.outputs, self.inputs = weight.shape
        columns = kernel.shape.columns
        missing = -self.outputs % columns
        whole = F.pad(_elements(weight, kernel.shape), (0, 0, 0, missing))
        self._weight = whole.view(-1, columns, whole.shape[1]).transpose(1, 2).contiguous()  # [panels, inputs, columns]
        self._bias = F.pad(weight.new_zeros(self.outputs) if bias is None else bias, (0, missing)).float()

    def __call__(self, rows: Tensor) -> Tensor:
        """Float32 [rows, inputs] -> float32 [rows, outputs]."""
        assert not self.kernel.shape.surveyed
        return self._run(rows)

    def words(self, rows: Tensor, out: Tensor) -> dict[str, int]:
        """Return the worker's arguments for rows as the kernel takes them, less `tasks`, `count` and `at_once`."""
        places = {"rows": rows, "weight": self._weight, "bias": self._bias, "out": out}
        sizes = {"panels": len(self._weight), "inputs": self._weight.shape[1], "outputs": self.outputs}
        row = rows.stride(0) * rows.element_size() // self._weight.element_size()
        return {**sizes, "row": row, **{name: each.data_ptr() for name, each in places.items()}}

    def _run(self, rows: Tensor, *surveys: Tensor) -> Tensor:
        assert rows.dtype == torch.float32
        rows = _elements(rows, self.kernel.shape)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        count, out = len(rows), torch.empty(len(rows), self.outputs)
        words = self.words(rows, out) | share_out(count, len(self._weight))
        words |= {name: each.data_ptr() for name, each in zip(("peaks", "masses"), surveys, strict=False)}
        self.kernel.team.run(_Arguments(*(words.get(name, 0) for name in ARGUMENTS)))
        return out


def share_out(count: int, panels: Any) -> dict[str, Any]:
    """Return the worker's arguments that follow from the number of rows; of one product, or of an array of their panels."""
    parts = -(-count // ROWS_AT_ONCE)
    return {"count": count, "at_once": -(-count // max(parts, 1)), "tasks": panels * parts}


@dataclass(frozen=True)
class Surveyed:
    """Scores [rows, outputs], and of each row and panel of `columns` the highest and the sum of e to the power of all less it."""

    scores: Tensor
    peaks: Tensor
    masses: Tensor
    columns: int


class SurveyedPanels(Panels):
    """The same, with a survey of the results; a last panel that is not whole is filled up by -inf."""

    def __init__(self, kernel: Kernel, weight: Tensor, bias: Tensor) -> None:
        """See `Panels`."""
        missing = -len(weight) % kernel.shape.columns
        super().__init__(kernel, F.pad(weight, (0, 0, 0, missing)), F.pad(bias, (0, missing), value=float("-inf")))

    def survey(self, rows: Tensor) -> Surveyed:
        """Float32 [rows, inputs] -> scores of as many outputs as whole panels have, and their survey."""
        peaks, masses = torch.empty(2, len(rows), len(self._weight))
        return Surveyed(self._run(rows, peaks, masses), peaks, masses, self.kernel.shape.columns)


def _elements(rows: Tensor, shape: Shape) -> Tensor:
    """[rows, inputs] as the kernel takes them: float32, of which each holds two inputs where it takes pairs."""
    if not shape.paired:
        return rows.float()
    halved = rows.bfloat16()
    return (F.pad(halved, (0, 1)) if halved.shape[1] % 2 else halved.contiguous()).view(torch.float32)
