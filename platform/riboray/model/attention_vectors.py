"""Vectors of `LANES` float32 numbers as values in numba functions.

numba vectorises loops by itself, but cannot be told to keep a tile of sums in registers, and its
``exp`` takes one number at a time. Attention with heads of 10 needs both. The functions below are
single operations on whole vectors, and become what the processor has (two AVX2 registers, one of
AVX-512, four of NEON). They work inside ``@njit`` functions alone.

Indices count numbers, not vectors, and are not checked. After a change here, delete what numba has
cached of the files that use it: numba looks at a function's own file only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as _untyped_cgutils
from numba.extending import intrinsic, models, register_model

__all__ = [
    "LANES",
    "add",
    "divide",
    "exp2",
    "fill",
    "fma",
    "get",
    "load",
    "load_some",
    "maximum",
    "multiply",
    "put",
    "root",
    "round_whole",
    "spread",
    "store",
    "subtract",
]

cgutils: Any = _untyped_cgutils

#: Numbers in a vector. Two AVX2 registers: the accumulators of a tile then fill all sixteen, and a
#: number spread over the lanes serves two multiplications.
LANES = 16

#: 2**r on [-1/2, 1/2] as a polynomial of degree 5, lowest power first: the minimax fit of the
#: relative error with 2**0 exact, coefficients rounded to float32 one after the other. Its own
#: error is 9.4e-8; with float32 arithmetic `exp2` is right to 2e-7.
_POWERS = (
    1.0,
    0.6931470036506653,
    0.24022246897220612,
    0.0555071085691452,
    0.009671291336417198,
    0.0013269518967717886,
)

#: 1.5 * 2**23. Adding it rounds to a whole number, which then stands in the lowest bits.
_ROUNDER = 12582912.0

#: Smallest exponent of a normal float32.
_LOWEST = -126.0

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_INTEGERS = ir.VectorType(_INT, LANES)


def _operation(function: Callable[..., Any]) -> Any:
    """Make an operation of numba functions of a function that types it and writes its code."""
    return intrinsic(function)


class _VectorType(types.Type):
    """numba's type of a vector."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_vector: Any = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    """A vector is an LLVM vector."""

    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)  # type: ignore[no-untyped-call]


def _constant(value: float) -> Any:
    return ir.Constant(_VECTOR, [value] * LANES)


def _place(context: Any, builder: Any, array_type: Any, array: Any, index: Any, of: Any) -> Any:
    """Pointer to what stands at an index of an array."""
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    place = builder.gep(data, [index], inbounds=True)
    return builder.bitcast(place, of.as_pointer())


def _spread(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, [0] * LANES))


def _spread_whole(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(_INTEGERS, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_INTEGERS, [0] * LANES))


def _call(builder: Any, name: str, *arguments: Any) -> Any:
    """Call one of LLVM's own functions."""
    signature = ir.FunctionType(_VECTOR, [_VECTOR] * len(arguments))
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, arguments)


@_operation
def load(typing: Any, array: Any, index: Any) -> Any:
    """Vector that begins at an index of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1], _VECTOR)
        return builder.load(place, align=4)

    return _vector(array, types.intp), generate


@_operation
def load_some(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """Vector of the ``count`` numbers from an index of a flat array on, and zeros."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1], _VECTOR)
        count = _spread_whole(builder, builder.trunc(args[2], _INT))
        mask = builder.icmp_signed("<", ir.Constant(_INTEGERS, list(range(LANES))), count)
        kinds = [place.type, _INT, mask.type, _VECTOR]
        name = f"llvm.masked.load.v{LANES}f32.p0"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, kinds), name
        )
        return builder.call(function, [place, ir.Constant(_INT, 4), mask, _constant(0.0)])

    return _vector(array, types.intp, types.intp), generate


@_operation
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector to an index of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1], _VECTOR)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _vector), generate


@_operation
def get(typing: Any, array: Any, index: Any) -> Any:
    """Single number at an index of a flat array; an index below 0 does not count from the end."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1], _FLOAT)
        return builder.load(place, align=4)

    return types.float32(array, types.intp), generate


@_operation
def put(typing: Any, array: Any, index: Any, number: Any) -> Any:
    """Write a single number to an index of a flat array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1], _FLOAT)
        builder.store(args[2], place, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), generate


@_operation
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Vector with the number at an index of a flat array in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1], _FLOAT)
        return _spread(builder, builder.load(place, align=4))

    return _vector(array, types.intp), generate


@_operation
def fill(typing: Any, number: Any) -> Any:
    """Vector with a number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0])

    return _vector(types.float32), generate


@_operation
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Compute ``a * b + c``, rounded once where the processor can."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "fmuladd", *args)

    return _vector(_vector, _vector, _vector), generate


@_operation
def add(typing: Any, a: Any, b: Any) -> Any:
    """Compute ``a + b``."""
    return _vector(_vector, _vector), lambda context, builder, _, args: builder.fadd(*args)


@_operation
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """Compute ``a - b``."""
    return _vector(_vector, _vector), lambda context, builder, _, args: builder.fsub(*args)


@_operation
def multiply(typing: Any, a: Any, b: Any) -> Any:
    """Compute ``a * b``."""
    return _vector(_vector, _vector), lambda context, builder, _, args: builder.fmul(*args)


@_operation
def divide(typing: Any, a: Any, b: Any) -> Any:
    """Compute ``a / b``."""
    return _vector(_vector, _vector), lambda context, builder, _, args: builder.fdiv(*args)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


@_operation
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """Take the larger of two; a NaN in ``a`` stays, one in ``b`` is passed over."""
    return _vector(_vector, _vector), lambda context, builder, _, args: _maximum(builder, *args)


@_operation
def root(typing: Any, a: Any) -> Any:
    """Square root."""
    return _vector(_vector), lambda context, builder, _, args: _call(builder, "sqrt", *args)


@_operation
def round_whole(typing: Any, a: Any) -> Any:
    """Nearest whole number; right for magnitudes up to 2**22."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rounder = _constant(_ROUNDER)
        return builder.fsub(builder.fadd(args[0], rounder), rounder)

    return _vector(_vector), generate


@_operation
def exp2(typing: Any, x: Any, shift: Any) -> Any:
    """``2 ** (x - shift)`` to a relative error of 2e-7.

    ``shift`` must be whole and below 2**21 in magnitude, and ``x - shift`` below 127; below -126
    the result is 2**-126. NaN stays NaN, infinity becomes NaN.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, shift = args
        # Whole part: adding the rounder leaves it in the lowest bits, from where it is shifted to
        # the exponent. What stays is in [-1/2, 1/2].
        rounder = builder.fsub(_constant(_ROUNDER), shift)
        x = _maximum(builder, x, builder.fadd(shift, _constant(_LOWEST)))
        rounded = builder.fadd(x, rounder)
        rest = builder.fsub(x, builder.fsub(rounded, rounder))
        power = _constant(_POWERS[-1])
        for coefficient in _POWERS[-2::-1]:
            power = _call(builder, "fmuladd", power, rest, _constant(coefficient))
        bits = ir.Constant(_INTEGERS, [23] * LANES)
        exponent = builder.shl(builder.bitcast(rounded, _INTEGERS), bits)
        scaled = builder.add(builder.bitcast(power, _INTEGERS), exponent)
        return builder.bitcast(scaled, _VECTOR)

    return _vector(_vector, _vector), generate
