"""Logic, shifts, bit fields, counts of bits."""

import numpy as np

from tools.ptx.arithmetic import Values, elementwise
from tools.ptx.parse import TYPES
from tools.ptx.table import Action, Table

TABLE = Table()
U32, U64, S64 = TYPES["u32"], TYPES["u64"], TYPES["s64"]


@TABLE(r"(and|or|xor)\.(pred|b16|b32|b64)")
def logic(name: str, kind: str) -> Action:
    function = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[name]
    return elementwise(function, TYPES[kind], TYPES[kind])


@TABLE(r"not\.(pred|b16|b32|b64)")
def invert(kind: str) -> Action:
    return elementwise(np.invert, TYPES[kind])


@TABLE(r"(shl|shr)\.([bsu](?:16|32|64))")
def shift(name: str, kind: str) -> Action:
    dtype = TYPES[kind]
    bits = 8 * dtype.itemsize
    function = np.left_shift if name == "shl" else np.right_shift

    def shifted(x: Values, by: Values) -> Values:
        # From the word's width on: all bits out, of which a signed right shift leaves the sign.
        if dtype.kind == "i" and name == "shr":
            return np.right_shift(x, np.minimum(by, U32.type(bits - 1)).astype(dtype))
        inside = by < bits
        return np.where(inside, function(x, np.where(inside, by, 0).astype(dtype)), dtype.type(0))

    return elementwise(shifted, dtype, U32)


@TABLE(r"shf\.(l|r)\.(wrap|clamp)\.b32")
def funnel_shift(side: str, mode: str) -> Action:
    def shifted(low: Values, high: Values, by: Values) -> Values:
        by = by % U32.type(32) if mode == "wrap" else np.minimum(by, U32.type(32))
        both = (high.astype(U64) << U64.type(32)) | low.astype(U64)
        if side == "r":
            return (both >> by.astype(U64)).astype(U32)
        return ((both << by.astype(U64)) >> U64.type(32)).astype(U32)

    return elementwise(shifted, U32, U32, U32)


@TABLE(r"bfe\.([su](?:32|64))")
def extract(kind: str) -> Action:
    dtype = TYPES[kind]

    def signed(x: Values, start: Values, length: Values) -> Values:
        start, length = (start & U32.type(255)).astype(S64), (length & U32.type(255)).astype(S64)
        moved = x.astype(S64) >> np.minimum(start, 63)  # past its top a field repeats x's sign
        unused = (64 - np.minimum(length, 64)) & 63
        return np.where(length == 0, 0, (moved << unused) >> unused).astype(dtype)

    def unsigned(x: Values, start: Values, length: Values) -> Values:
        start, length = (start & U32.type(255)).astype(U64), (length & U32.type(255)).astype(U64)
        moved = np.where(start < 64, x.astype(U64) >> (start & U64.type(63)), U64.type(0))
        ones = (U64.type(1) << (length & U64.type(63))) - U64.type(1)
        return np.where(length < 64, moved & ones, moved).astype(dtype)

    return elementwise(signed if dtype.kind == "i" else unsigned, dtype, U32, U32)


@TABLE(r"bfi\.(b32|b64)")
def insert(kind: str) -> Action:
    dtype = TYPES[kind]
    bits = 8 * dtype.itemsize

    def field(a: Values, b: Values, start: Values, length: Values) -> Values:
        start, length = start & 255, length & 255
        ones = dtype.type(2**bits - 1)
        shift = np.where(start < bits, start, 0).astype(dtype)
        kept = np.where(length < bits, length, 0).astype(dtype)
        mask = np.where(length < bits, (dtype.type(1) << kept) - dtype.type(1), ones) << shift
        mask = np.where(start < bits, mask, dtype.type(0))
        return ((a << shift) & mask) | (b & ~mask)

    return elementwise(field, dtype, dtype, U32, U32)


@TABLE(r"popc\.(b32|b64)")
def population(kind: str) -> Action:
    return elementwise(lambda x: np.bitwise_count(x).astype(U32), TYPES[kind])


@TABLE(r"clz\.b32")
def leading_zeros() -> Action:
    # The exponent of the float64, which holds every uint32 exactly.
    return elementwise(lambda x: (32 - np.frexp(x.astype("f8"))[1]).astype(U32), U32)


@TABLE(r"brev\.b32")
def reverse() -> Action:
    def reversed_bits(x: Values) -> Values:
        for step, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
            step, mask = U32.type(step), U32.type(mask)
            x = ((x >> step) & mask) | ((x & mask) << step)
        return (x >> U32.type(16)) | (x << U32.type(16))

    return elementwise(reversed_bits, U32)


@TABLE(r"lop3\.b32")
def lookup() -> Action:
    def combined(a: Values, b: Values, c: Values, table: Values) -> Values:
        result = np.zeros_like(a | b | c)
        for entry in range(8):
            if int(table) >> entry & 1:
                x, y, z = (v if entry >> bit & 1 else ~v for v, bit in ((a, 2), (b, 1), (c, 0)))
                result = result | (x & y & z)
        return result

    return elementwise(combined, U32, U32, U32, U32)


@TABLE(r"prmt\.b32")
def permute() -> Action:
    def permuted(a: Values, b: Values, selector: Values) -> Values:
        both = (b.astype(U64) << U64.type(32)) | a.astype(U64)
        result = U64.type(0)
        for i in range(4):
            nibble = (selector >> U32.type(4 * i)).astype(U64) & U64.type(15)
            byte = (both >> ((nibble & U64.type(7)) * U64.type(8))) & U64.type(255)
            spread = np.where(byte >= 128, U64.type(255), U64.type(0))  # replicate the sign
            result = result | np.where(nibble >= 8, spread, byte) << U64.type(8 * i)
        return result.astype(U32)

    return elementwise(permuted, U32, U32, U32)
