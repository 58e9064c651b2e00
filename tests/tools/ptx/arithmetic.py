"""Arithmetic of integers and floats."""

from collections.abc import Callable

import numpy as np

from tools.ptx.machine import Machine
from tools.ptx.memory import Fault
from tools.ptx.parse import TYPES, Operand, Register
from tools.ptx.table import Action, Table

TABLE = Table()
Values = np.ndarray | np.generic

U32, U64 = TYPES["u32"], TYPES["u64"]
INTEGER = r"([su](?:16|32|64))"
FLOAT = r"(f32|f64)"
WIDER = {name: TYPES[name[0] + str(2 * int(name[1:]))] for name in ("s16", "s32", "u16", "u32")}


def elementwise(function: Callable[..., Values], *dtypes: np.dtype) -> Action:
    """The action that writes function of the sources, read as dtypes, into the first operand."""

    def run(m: Machine, target: Register, *sources: Operand) -> None:
        values = [m.read(s, dtype) for s, dtype in zip(sources, dtypes, strict=True)]
        m.write(target, function(*values))

    return run


# Integers

BINARY = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}


@TABLE(rf"(add|sub|min|max)\.{INTEGER}")
def binary(name: str, kind: str) -> Action:
    return elementwise(BINARY[name], TYPES[kind], TYPES[kind])


@TABLE(rf"(mul|mad)\.lo\.{INTEGER}")
def multiply_low(name: str, kind: str) -> Action:
    if name == "mul":
        return elementwise(np.multiply, TYPES[kind], TYPES[kind])
    return elementwise(lambda a, b, c: a * b + c, *3 * [TYPES[kind]])


@TABLE(r"(mul|mad)\.wide\.([su](?:16|32))")
def multiply_wide(name: str, kind: str) -> Action:
    narrow, wide = TYPES[kind], WIDER[kind]
    if name == "mul":
        return elementwise(lambda a, b: a.astype(wide) * b.astype(wide), narrow, narrow)
    return elementwise(lambda a, b, c: a.astype(wide) * b.astype(wide) + c, narrow, narrow, wide)


@TABLE(r"mul\.hi\.([su](?:16|32))")
def multiply_high(kind: str) -> Action:
    narrow, wide = TYPES[kind], WIDER[kind]
    bits = wide.type(8 * narrow.itemsize)
    return elementwise(
        lambda a, b: ((a.astype(wide) * b.astype(wide)) >> bits).astype(narrow), narrow, narrow
    )


@TABLE(rf"(div|rem)\.{INTEGER}")
def divide(name: str, kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Register, a: Operand, b: Operand) -> None:
        x, y = np.broadcast_arrays(m.read(a, dtype), m.read(b, dtype), m.active)[:2]
        zero = m.active & (y == 0)
        if zero.any():
            raise Fault("integer division by zero", int(zero.argmax()))
        y = np.where(y == 0, dtype.type(1), y)
        remainder = np.fmod(x, y)  # of the sign of x, as in C
        m.write(target, remainder if name == "rem" else (x - remainder) // y)

    return run


@TABLE(r"(neg|abs)\.(s16|s32|s64)")
def unary(name: str, kind: str) -> Action:
    return elementwise({"neg": np.negative, "abs": np.abs}[name], TYPES[kind])


# Floats


@TABLE(rf"(add|sub|mul)(?:\.rn)?\.{FLOAT}")
def float_binary(name: str, kind: str) -> Action:
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    return elementwise(function, TYPES[kind], TYPES[kind])


@TABLE(rf"(min|max)\.{FLOAT}")
def float_extreme(name: str, kind: str) -> Action:
    function = {"min": np.fmin, "max": np.fmax}[name]  # of a NaN and a number: the number
    return elementwise(function, TYPES[kind], TYPES[kind])


@TABLE(rf"(neg|abs)\.{FLOAT}")
def float_unary(name: str, kind: str) -> Action:
    return elementwise({"neg": np.negative, "abs": np.abs}[name], TYPES[kind])


@TABLE(r"fma\.rn\.f32")
def multiply_add() -> Action:
    return elementwise(fused, *3 * [TYPES["f32"]])


def fused(a: Values, b: Values, c: Values) -> Values:
    """a * b + c of float32, rounded once.

    The product is exact in float64. The sum is rounded to odd there (Boldo and Melquiond 2008),
    which makes the second rounding, to float32, right.
    """
    product, c = a.astype("f8") * b.astype("f8"), c.astype("f8")
    total = np.asarray(product + c)
    part = total - product
    error = (product - (total - part)) + (c - part)  # exact: Knuth's TwoSum
    inexact_even = np.isfinite(total) & (error != 0) & (total.view(U64) & U64.type(1) == 0)
    towards = np.where(error > 0, np.inf, -np.inf)
    return np.where(inexact_even, np.nextafter(total, towards), total).astype("f4")
