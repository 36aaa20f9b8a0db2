"""What stands between a decoder's products, compiled where it runs: layer norm, GELU and rounding, row by row.

A row's result follows from that row alone, in one order of sums (see vector_code.py).
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from llvmlite import ir

from transcriber_engine.vector_code import F32, NOTHING, POINTER, Code, Team, compiled

EPSILON: Final = 1e-5  # torch's own, of a layer norm
# erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: off by 1.5e-7 at most.
ERF_P: Final = 0.3275911
ERF_POLYNOMIAL: Final = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
SQRT_HALF: Final = 0.7071067811865476

ADDRESSES: Final = ("rows", "out", "weight", "bias")
ARGUMENTS: Final = ("next_task", "tasks", "size", *ADDRESSES)
"""What the worker is given, 64 bits each; a task is one row of `size` floats, of which rows and results have no others between."""

Function = Literal["norm", "gelu", "round"]


@dataclass(frozen=True)
class Shape:
    """What code is made for: what it computes, floats in a vector register, which divide a row, and the type of the results."""

    function: Function
    lanes: int
    rounded: bool
    """Whether results are bfloat16."""


def _norm(code: Code, row: ir.Value, size: ir.Value, weight: ir.Value, bias: ir.Value) -> Callable[[ir.Value], ir.Value]:
    """Return what computes the vector at an index of a row's layer norm."""
    count = code.sitofp(size, F32)

    def mean_of(term: Callable[[ir.Value], ir.Value]) -> ir.Value:
        sums = code.variable(code.splat(0.0))
        with code.loop(size, code.lanes) as i:
            code.put(code.fadd(code.get(sums), term(code.get(code.at(row, i)))), sums)
        return code.fdiv(code.total(code.get(sums)), count)

    mean = code.splat(mean_of(lambda x: x))
    variance = mean_of(lambda x: code.fmul(code.fsub(x, mean), code.fsub(x, mean)))
    deviation = code.intrinsic("llvm.sqrt.f32", F32, code.fadd(variance, F32(EPSILON)))
    scale = code.splat(code.fdiv(F32(1.0), deviation))

    def result(i: ir.Value) -> ir.Value:
        centred = code.fmul(code.fsub(code.get(code.at(row, i)), mean), scale)
        return code.fma(centred, code.get(code.at(weight, i)), code.get(code.at(bias, i)))

    return result


def _gelu(code: Code, x: ir.Value) -> ir.Value:
    """x (1 + erf(x / √2)) / 2."""
    z = code.fmul(code.intrinsic(f"llvm.fabs.v{code.lanes}f32", code.vector, x), code.splat(SQRT_HALF))
    t = code.fdiv(code.splat(1.0), code.fma(z, code.splat(ERF_P), code.splat(1.0)))
    polynomial = code.splat(ERF_POLYNOMIAL[0])
    for coefficient in ERF_POLYNOMIAL[1:]:
        polynomial = code.fma(polynomial, t, code.splat(coefficient))
    missing = code.fmul(code.fmul(polynomial, t), code.exp(code.fneg(code.fmul(z, z))))  # 1 - erf(|x| / √2)
    half = code.fmul(code.splat(0.5), missing)
    share = code.select(code.fcmp_ordered("<", x, code.splat(0.0)), half, code.fsub(code.splat(1.0), half))
    return code.fmul(x, share)


def _worker(module: ir.Module, shape: Shape) -> None:
    """`worker(arguments)`: take one row after the other until none is left; see `ARGUMENTS`."""
    code = Code(module, shape.lanes, "worker", NOTHING, POINTER, exported=True)
    (arguments,) = code.function.args
    given = code.unpacked(arguments, ARGUMENTS, ADDRESSES)
    size = given["size"]
    with code.tasks(arguments, given["tasks"]) as task:
        row = code.at(given["rows"], code.mul(task, size))
        normed = _norm(code, row, size, given["weight"], given["bias"]) if shape.function == "norm" else None
        with code.loop(size, shape.lanes) as i:
            x = normed(i) if normed else code.get(code.at(row, i))
            result = _gelu(code, x) if shape.function == "gelu" else x
            place = code.add(code.mul(task, size), i)
            if shape.rounded:
                code.put_rounded(result, code.at(given["out"], place, ir.IntType(16)))
            else:
                code.put(result, code.at(given["out"], place))
    code.ret_void()


class Kernel:
    """The compiled kernel of one shape, as a step of a `Sequence`."""

    def __init__(self, shape: Shape, openmp: ctypes.CDLL) -> None:
        """`openmp` is as for `Team`."""
        module = ir.Module()
        _worker(module, shape)
        self.team = Team(compiled(module), "worker", openmp)
