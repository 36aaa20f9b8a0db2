"""Code over vectors of float32 for LLVM: the phrases that a kernel is made of, and how it is compiled.

Every operation is written without fast-math flags, so LLVM keeps the order of all sums, and a fused multiply-add stays one: what
is computed follows from the code alone, whatever LLVM unrolls or inlines.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import torch
from llvmlite import binding, ir

I1, I32, I64, F32, POINTER = ir.IntType(1), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.PointerType()
BF16: Final = ir.IntType(16)  # the upper half of a float32's bits: it is only ever widened
INT8: Final = ir.IntType(8)
NOTHING: Final = ir.VoidType()
CACHE_LINE: Final = 64  # bytes

# e^x = 2^n e^r with n = round(x / ln 2); the polynomial is that of Cephes' expf for |r| <= ln 2 / 2.
LEAST_EXPONENT: Final = -87.0
EXP_POLYNOMIAL: Final = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
    1.0,
    1.0,
)
LOG2_E: Final = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
ROUNDER: Final = 1.5 * 2**23  # a small float plus this holds the nearest integer in its lowest bits
MANTISSA_BITS: Final = 23


class Vectors(NamedTuple):
    """A processor's vector registers: floats in one, how many there are to hold sums in, and if it adds products of bfloat16."""

    lanes: int
    sums: int
    has_pairs: bool = False


class _BFloat16(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's own type, where an instruction asks for it."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


def host_vectors() -> Vectors | None:
    """Return those of this machine; None if it has no fused multiply-add."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return Vectors(16, 24, has_pairs=bool(features.get("avx512bf16")))
    if features.get("fma"):
        return Vectors(8, 12)
    return Vectors(4, 24) if features.get("neon") else None


class _FunctionPointer(ir.PointerType):  # type: ignore[misc]
    """LLVM's opaque pointer, of which llvmlite wants to know the function."""

    def __init__(self, function: ir.FunctionType) -> None:
        super().__init__()
        self.pointee = function


class Code(ir.IRBuilder):  # type: ignore[misc]  # llvmlite has no types
    """Builds one function, whose vectors are of `lanes` floats."""

    def __init__(
        self, module: ir.Module, lanes: int, name: str, result: ir.Type, *arguments: ir.Type, exported: bool = False
    ) -> None:
        function = ir.Function(module, ir.FunctionType(result, arguments), name)
        if not exported:
            function.linkage = "internal"
            function.attributes.add("noinline")  # a third of the code, compiled in a third of the time
        super().__init__(function.append_basic_block())
        self.lanes = lanes
        self.vector = ir.VectorType(F32, lanes)
        self.integers = ir.VectorType(I32, lanes)

    def intrinsic(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """Call one of LLVM's own functions."""
        known = self.module.globals.get(name)
        return self.call(known or ir.Function(self.module, ir.FunctionType(result, [v.type for v in values]), name), values)

    def splat(self, value: Any) -> ir.Value:
        """Return a vector of one scalar: of a number, or of a value at run time."""
        if isinstance(value, float):
            return ir.Constant(self.vector, [value] * self.lanes)
        first = self.insert_element(ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined), value, I32(0))
        return self.shuffle_vector(first, first, ir.Constant(self.integers, [0] * self.lanes))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a b + c, rounded once."""
        return self.intrinsic(f"llvm.fma.v{self.lanes}f32", self.vector, a, b, c)

    def add_pairs(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a₀ b₀ + a₁ b₁ + c, where each float32 of a and b holds two of bfloat16; on processors with `has_pairs` alone."""
        pairs = ir.VectorType(_BFloat16(), 2 * self.lanes)
        halves = (self.bitcast(each, pairs) for each in (a, b))
        return self.intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", self.vector, c, *halves)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return the maximum in each lane."""
        return self.select(self.fcmp_ordered(">", a, b), a, b)

    def largest(self, a: ir.Value) -> ir.Value:
        """Return the maximum over the lanes."""
        return self.intrinsic(f"llvm.vector.reduce.fmax.v{self.lanes}f32", F32, a)

    def total(self, a: ir.Value) -> ir.Value:
        """Sum the lanes in their order."""
        return self.intrinsic(f"llvm.vector.reduce.fadd.v{self.lanes}f32", F32, F32(0.0), a)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return the minimum of two integers."""
        return self.select(self.icmp_signed("<", a, b), a, b)

    def at(self, pointer: ir.Value, index: ir.Value | int, kind: ir.Type = F32) -> ir.Value:
        """Return the address of element `index`."""
        return self.gep(pointer, [I64(index) if isinstance(index, int) else index], source_etype=kind)

    def get(self, pointer: ir.Value, kind: ir.Type | None = None) -> ir.Value:
        """Read a vector of floats, or a value of the `kind`; of floats, no more is sure than where floats may stand."""
        return self.load(pointer, typ=kind or self.vector, align=None if kind else 4)

    def widened(self, pointer: ir.Value, kind: ir.Type) -> ir.Value:
        """Read a vector of floats that lie as `kind`, F32, BF16 or INT8."""
        if kind == F32:
            return self.get(pointer)
        if kind == INT8:
            return self.sitofp(
                self.sext(self.load(pointer, typ=ir.VectorType(INT8, self.lanes), align=1), self.integers), self.vector
            )
        halves = self.load(pointer, typ=ir.VectorType(BF16, self.lanes), align=2)
        upper = self.shl(self.zext(halves, self.integers), ir.Constant(self.integers, [BF16.width] * self.lanes))
        return self.bitcast(upper, self.vector)

    def put(self, value: ir.Value, pointer: ir.Value) -> None:
        """Write a value; see `get`."""
        self.store(value, pointer, align=4 if value.type == self.vector else None)

    def put_rounded(self, value: ir.Value, pointer: ir.Value) -> None:
        """Write a vector of floats as bfloat16, rounded to nearest."""
        self.store(self.fptrunc(value, ir.VectorType(_BFloat16(), self.lanes)), pointer, align=2)

    def space(self, kind: ir.Type, count: int = 1) -> ir.Value:
        """Return the address of space on the stack."""
        with self.goto_entry_block():
            space = self.alloca(kind, count)
        space.align = 64
        space.type = POINTER  # opaque, as all of LLVM's are
        return space

    def variable(self, initial: ir.Value, count: int = 1) -> ir.Value:
        """Return the address of `count` values, all of them `initial` whenever control comes by here."""
        space = self.space(initial.type, count)
        for i in range(count):
            self.put(initial, self.at(space, i, initial.type))
        return space

    @contextmanager
    def loop(self, stop: ir.Value | int, step: ir.Value | int = 1) -> Iterator[ir.Value]:
        """`for index in range(0, stop, step)`."""
        stop, step = (I64(each) if isinstance(each, int) else each for each in (stop, step))
        counter = self.variable(I64(0))
        head, body, end = (self.append_basic_block() for _ in range(3))
        self.branch(head)
        self.position_at_end(head)
        index = self.get(counter, I64)
        self.cbranch(self.icmp_signed("<", index, stop), body, end)
        self.position_at_end(body)
        yield index
        self.put(self.add(index, step), counter)
        self.branch(head)
        self.position_at_end(end)

    def call_address(self, address: ir.Value, *arguments: ir.Value) -> None:
        """Call the function, which returns nothing, that stands at an address given as an integer."""
        function = ir.FunctionType(NOTHING, [each.type for each in arguments])
        self.call(self.inttoptr(address, _FunctionPointer(function)), arguments)

    def call_one(self, functions: Sequence[ir.Function], number: ir.Value, arguments: Sequence[ir.Value]) -> None:
        """Call function `number`, counted from 1."""
        after = self.append_basic_block()
        choice = self.switch(number, after)
        for i, function in enumerate(functions, 1):
            case = self.append_basic_block()
            choice.add_case(I64(i), case)
            self.position_at_end(case)
            self.call(function, arguments)
            self.branch(after)
        self.position_at_end(after)

    def even(self, total: ir.Value, most: int) -> tuple[ir.Value, ir.Value]:
        """Divide a total into as few parts of at most `most` as there can be, of nearly one size: how many, and how large."""
        count = self.sdiv(self.add(total, I64(most - 1)), I64(most))
        return count, self.sdiv(self.add(total, self.sub(count, I64(1))), count)

    def unpacked(self, arguments: ir.Value, names: Sequence[str], addresses: Sequence[str]) -> dict[str, ir.Value]:
        """Read the arguments of a `Team`, 64 bits each, by name; those among the `addresses` become pointers."""
        given = {name: self.get(self.at(arguments, i, I64), I64) for i, name in enumerate(names)}
        return given | {name: self.inttoptr(given[name], POINTER) for name in addresses}

    @contextmanager
    def tasks(self, arguments: ir.Value, count: ir.Value) -> Iterator[ir.Value]:
        """For each task below `count` that no other thread has taken; the arguments begin with the number of the next one."""
        begin, work, end = (self.append_basic_block() for _ in range(3))
        self.branch(begin)
        self.position_at_end(begin)
        task = self.atomic_rmw("add", arguments, I64(1), "monotonic")
        self.cbranch(self.icmp_signed("<", task, count), work, end)
        self.position_at_end(work)
        yield task
        self.branch(begin)
        self.position_at_end(end)

    def prefetch(self, pointer: ir.Value) -> None:
        """Ask for a cache line, for the second level: the first has no room for all that is asked for ahead."""
        self.intrinsic("llvm.prefetch.p0", NOTHING, pointer, I32(0), I32(2), I32(1))

    def copy(self, target: ir.Value, source: ir.Value, count: ir.Value, kind: ir.Type) -> None:
        """Copy so many values of the `kind`, F32, BF16 or INT8."""
        self.intrinsic("llvm.memcpy.p0.p0.i64", NOTHING, target, source, self.mul(count, I64(bytes_of(kind))), I1(0))

    def exp(self, x: ir.Value) -> ir.Value:
        """e^x for x <= 0 with a relative error below 2e-7; exactly 1 for 0, exactly 0 below `LEAST_EXPONENT`."""
        shifted = self.fma(x, self.splat(LOG2_E), self.splat(ROUNDER))
        n = self.fsub(shifted, self.splat(ROUNDER))
        r = self.fma(n, self.splat(-LN2_LOW), self.fma(n, self.splat(-LN2_HIGH), x))
        power = self.splat(EXP_POLYNOMIAL[0])
        for coefficient in EXP_POLYNOMIAL[1:]:
            power = self.fma(power, r, self.splat(coefficient))
        exponent = self.shl(self.bitcast(shifted, self.integers), ir.Constant(self.integers, [MANTISSA_BITS] * self.lanes))
        scaled = self.bitcast(self.add(self.bitcast(power, self.integers), exponent), self.vector)
        return self.select(self.fcmp_ordered("<", x, self.splat(LEAST_EXPONENT)), self.splat(0.0), scaled)


def bytes_of(kind: ir.Type) -> int:
    """Return the size of an F32, a BF16 or an INT8."""
    return 4 if kind == F32 else kind.width // 8


def compiled(module: ir.Module) -> Any:
    """Compile for the processor that this runs on: an engine that owns the code and knows its functions' addresses."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    machine = target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=2, jit=True)
    module.triple = machine.triple
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(parsed, passes)
    engine = binding.create_mcjit_compiler(parsed, machine)  # it frees the machine: each engine needs its own
    engine.finalize_object()
    return engine


def torch_openmp() -> ctypes.CDLL | None:
    """Return a library through which torch's own OpenMP is called, for a `Team`; None where that is not GNU's."""
    library = ctypes.CDLL(torch._C.__file__)  # with the libraries that torch itself has loaded, its OpenMP among them
    return library if hasattr(library, "GOMP_parallel") else None


class Team:
    """A compiled function that all of torch's own OpenMP threads run at once: a second pool would contend for the cores."""

    def __init__(self, engine: Any, function: str, openmp: ctypes.CDLL) -> None:
        """`openmp` is any library that has the functions of GNU's OpenMP; AttributeError if it has not."""
        self._engine = engine
        self.address: int = engine.get_function_address(function)
        self._in_threads = openmp.GOMP_parallel
        self._in_threads.restype = None

    def run(self, arguments: "ctypes.Array[ctypes.c_int64]") -> None:
        """Have each thread call the function with the address of the arguments; returns when all are through."""
        self._in_threads(ctypes.c_void_p(self.address), arguments, torch.get_num_threads(), 0)
