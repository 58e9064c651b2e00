"""The PTX emulator against numpy, on small programs written by hand, and what it refuses."""

import itertools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from tools.ptx import Fault, Kernel

REGISTER = {1: "%h", 2: "%h", 4: "%r", 8: "%d"}  # by bytes


def assemble(body: str, pointers: int, threads: int = 32, extra: str = "") -> Kernel:
    """A kernel around a body: registers %p %h %r %d, the thread in %r0, pointer i in %di."""
    parameters = ",\n".join(f".param .u64 .ptr .global .align 16 k_{i}" for i in range(pointers))
    loads = "\n".join(f"ld.param.b64 %d{i}, [k_{i}];" for i in range(pointers))
    return Kernel(f"""
        // A comment with a ; and a {{
        .version 8.7
        .target sm_80
        .address_size 64
        .extern .shared .align 16 .b8 smem[];
        .visible .entry k({parameters})
        .reqntid {threads}
        {{
            .reg .pred %p<9>; .reg .b16 %h<30>; .reg .b32 %r<40>; .reg .b64 %d<40>;
            .loc 1 3 0
            {loads}
            mov.u32 %r0, %tid.x;
            {extra}
            {body}
            ret;
        }}
        """)


def apply(template: str, out: np.dtype | type, *sources: np.ndarray) -> np.ndarray:
    """One instruction on every element: ``{0}`` in the template is the result, then the sources."""
    out = np.dtype(out)
    n = sources[0].size
    total = -(-n // 32) * 32
    arrays = [np.resize(s, total) for s in sources]
    for array in arrays:
        array.flags.writeable = False
    result = np.zeros(total, out)
    names = [f"{REGISTER[out.itemsize]}20"]
    body = ["mov.u32 %r1, %ctaid.x;", "mad.lo.s32 %r1, %r1, 32, %r0;"]
    for i, array in enumerate(arrays):
        size = array.itemsize
        names.append(f"{REGISTER[size]}{21 + i}")
        body += [
            f"mad.wide.u32 %d10, %r1, {size}, %d{i};",
            f"ld.global.b{8 * size} {names[-1]}, [%d10];",
        ]
    body += [
        template.format(*names) + ";",
        f"mad.wide.u32 %d10, %r1, {out.itemsize}, %d{len(arrays)};",
        f"st.global.b{8 * out.itemsize} [%d10], {names[0]};",
    ]
    kernel = assemble("\n".join(body), len(arrays) + 1)
    kernel.launch((total // 32,), [*arrays, result])
    return result[:n]


def edges(dtype: np.dtype | type) -> np.ndarray:
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        tiny, one = np.finfo(dtype).smallest_subnormal, dtype.type(1)
        values = [0, -0.0, 1, -1, 1.5, 3e9, -7e4, 2.5, tiny, -tiny, np.inf, -np.inf, np.nan]
        with np.errstate(over="ignore"):
            return np.array([*values, np.nextafter(one, 2 * one), 0.1], dtype)
    bits = 8 * dtype.itemsize
    low = -(1 << bits - 1) if dtype.kind == "i" else 0
    high = low + (1 << bits) - 1
    pattern = 0xA5C3_96F0_1234_5678 & ((1 << bits - 1) - 1)
    values = [low, low + 1, high, high - 1, 0, 1, 2, 5, 31, 32, 33, high // 3, pattern]
    return np.array(values, dtype)


def pairs(dtype: np.dtype | type, n: int = 2) -> list[np.ndarray]:
    rows = np.array(list(itertools.product(edges(dtype), repeat=n)), dtype)
    return [np.ascontiguousarray(column) for column in rows.T]


def python(dtype: np.dtype, function: Callable[..., int], *sources: np.ndarray) -> np.ndarray:
    """function of exact integers, wrapped to dtype."""
    mask = (1 << 8 * dtype.itemsize) - 1
    values = [function(*map(int, row)) & mask for row in zip(*sources, strict=True)]
    return np.array(values, f"u{dtype.itemsize}").view(dtype)


def c_division(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if a * b >= 0 else -1)


INTEGERS = ["s16", "u16", "s32", "u32", "s64", "u64"]


def numpy_type(kind: str) -> np.dtype:
    return np.dtype({"s": "i", "u": "u", "b": "u", "f": "f"}[kind[0]] + str(int(kind[1:]) // 8))


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add", lambda a, b: a + b),
        ("sub", lambda a, b: a - b),
        ("mul.lo", lambda a, b: a * b),
        ("min", min),
        ("max", max),
        ("div", c_division),
        ("rem", lambda a, b: a - b * c_division(a, b)),
    ],
)
def test_integer_arithmetic(name: str, kind: str, function: Callable[[int, int], int]) -> None:
    dtype = numpy_type(kind)
    a, b = pairs(dtype)
    if name in ("div", "rem"):
        a, b = a[b != 0], b[b != 0]
    result = apply(f"{name}.{kind} {{0}}, {{1}}, {{2}}", dtype, a, b)
    np.testing.assert_array_equal(result, python(dtype, function, a, b))


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
def test_wide_and_high_products(kind: str) -> None:
    dtype = numpy_type(kind)
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")
    a, b = pairs(dtype)
    c = np.resize(edges(wide), a.size)
    template = f".{kind} {{0}}, {{1}}, {{2}}"
    product = python(wide, lambda x, y: x * y, a, b)
    np.testing.assert_array_equal(apply("mul.wide" + template, wide, a, b), product)
    high = python(dtype, lambda x, y: x * y >> 8 * dtype.itemsize, a, b)
    np.testing.assert_array_equal(apply("mul.hi" + template, dtype, a, b), high)
    total = python(wide, lambda x, y, z: x * y + z, a, b, c)
    np.testing.assert_array_equal(apply(f"mad.wide{template}, {{3}}", wide, a, b, c), total)


def test_multiply_add_and_signs() -> None:
    a, b, c = pairs(np.int32, 3)
    expected = python(a.dtype, lambda x, y, z: x * y + z, a, b, c)
    result = apply("mad.lo.s32 {0}, {1}, {2}, {3}", np.int32, a, b, c)
    np.testing.assert_array_equal(result, expected)
    a = edges(np.int64)
    np.testing.assert_array_equal(
        apply("neg.s64 {0}, {1}", np.int64, a), python(a.dtype, int.__neg__, a)
    )
    np.testing.assert_array_equal(apply("abs.s64 {0}, {1}", np.int64, a), python(a.dtype, abs, a))


@pytest.mark.parametrize("kind", ["b16", "b32", "b64"])
def test_logic(kind: str) -> None:
    dtype = numpy_type(kind)
    a, b = pairs(dtype)
    for name, function in (
        ("and", int.__and__),
        ("or", int.__or__),
        ("xor", int.__xor__),
    ):
        result = apply(f"{name}.{kind} {{0}}, {{1}}, {{2}}", dtype, a, b)
        np.testing.assert_array_equal(result, python(dtype, function, a, b))
    np.testing.assert_array_equal(apply(f"not.{kind} {{0}}, {{1}}", dtype, a), ~a)


@pytest.mark.parametrize("kind", ["b16", "b32", "b64", "s16", "u16", "s32", "u32", "s64", "u64"])
def test_shifts(kind: str) -> None:
    dtype = numpy_type(kind)
    by = np.array([0, 1, 7, 15, 16, 31, 32, 63, 64, 255, 2**32 - 1], np.uint32)
    rows = list(itertools.product(edges(dtype), by))
    a = np.array([row[0] for row in rows], dtype)
    by = np.array([row[1] for row in rows], np.uint32)
    if kind[0] == "b":
        result = apply(f"shl.{kind} {{0}}, {{1}}, {{2}}", dtype, a, by)
        expected = python(dtype, lambda x, s: x << min(s, 64), a, by)
    else:
        result = apply(f"shr.{kind} {{0}}, {{1}}, {{2}}", dtype, a, by)
        expected = python(dtype, lambda x, s: x >> min(s, 64), a, by)
    np.testing.assert_array_equal(result, expected)


def test_funnel_shift() -> None:
    low, high, by = pairs(np.uint32, 3)
    for mode, clip in (("wrap", lambda s: s & 31), ("clamp", lambda s: min(s, 32))):
        for side in "lr":

            def shifted(a: int, b: int, s: int, side: str = side, clip: Callable = clip) -> int:
                both = b << 32 | a
                return both << clip(s) >> 32 if side == "l" else both >> clip(s)

            result = apply(
                f"shf.{side}.{mode}.b32 {{0}}, {{1}}, {{2}}, {{3}}", np.uint32, low, high, by
            )
            np.testing.assert_array_equal(result, python(by.dtype, shifted, low, high, by))


def field(kind: str, a: int, start: int, length: int) -> int:
    """The definition of bfe in the PTX ISA, bit by bit."""
    top = int(kind[1:]) - 1
    start, length = start & 255, length & 255
    sign = 0
    if kind[0] == "s" and length:
        sign = a >> min(start + length - 1, top) & 1
    bits = [a >> start + i & 1 if i < length and start + i <= top else sign for i in range(top + 1)]
    return sum(bit << i for i, bit in enumerate(bits))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_bit_fields(kind: str) -> None:
    dtype = numpy_type(kind)
    places = np.array([0, 1, 5, 8, 31, 32, 33, 63, 64, 100, 255, 256], np.uint32)
    rows = list(itertools.product(edges(dtype), places, places))
    a, start, length = (
        np.array(column, t)
        for column, t in zip(zip(*rows, strict=True), (dtype, "u4", "u4"), strict=True)
    )
    result = apply(f"bfe.{kind} {{0}}, {{1}}, {{2}}, {{3}}", dtype, a, start, length)
    expected = python(dtype, lambda *row: field(kind, *row), a, start, length)
    np.testing.assert_array_equal(result, expected)


def test_bit_field_insertion() -> None:
    places = [0, 1, 5, 31, 32, 100, 257]
    rows = list(itertools.product(edges(np.uint32)[::3], edges(np.uint32)[::4], places, places))
    a, b, start, length = (np.array(column, np.uint32) for column in zip(*rows, strict=True))

    def inserted(a: int, b: int, start: int, length: int) -> int:
        for i in range(length & 255):
            place = (start & 255) + i
            if place <= 31:
                b = b & ~(1 << place) | (a >> i & 1) << place
        return b

    result = apply("bfi.b32 {0}, {1}, {2}, {3}, {4}", np.uint32, a, b, start, length)
    np.testing.assert_array_equal(result, python(a.dtype, inserted, a, b, start, length))


def test_counting_and_reversing_bits() -> None:
    a, wide = edges(np.uint32), edges(np.uint64)
    np.testing.assert_array_equal(
        apply("popc.b32 {0}, {1}", np.uint32, a), [int(x).bit_count() for x in a]
    )
    np.testing.assert_array_equal(
        apply("popc.b64 {0}, {1}", np.uint32, wide), [int(x).bit_count() for x in wide]
    )
    np.testing.assert_array_equal(
        apply("clz.b32 {0}, {1}", np.uint32, a), [32 - int(x).bit_length() for x in a]
    )
    np.testing.assert_array_equal(
        apply("brev.b32 {0}, {1}", np.uint32, a), [int(f"{x:032b}"[::-1], 2) for x in a]
    )


@pytest.mark.parametrize("table", [0x00, 0x80, 0x96, 0xCA, 0x3C, 0xE8, 0xFF])
def test_lookup(table: int) -> None:
    a, b, c = pairs(np.uint32, 3)

    def looked_up(a: int, b: int, c: int) -> int:
        picks = [(a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32)]
        return sum((table >> pick & 1) << i for i, pick in enumerate(picks))

    result = apply(f"lop3.b32 {{0}}, {{1}}, {{2}}, {{3}}, {table:#x}", np.uint32, a, b, c)
    np.testing.assert_array_equal(result, python(a.dtype, looked_up, a, b, c))


def test_byte_permutation() -> None:
    a, b, selector = pairs(np.uint32, 3)
    selector ^= np.arange(a.size, dtype=np.uint32) * np.uint32(2654435761)

    def permuted(a: int, b: int, selector: int) -> int:
        both, result = b << 32 | a, 0
        for i in range(4):
            nibble = selector >> 4 * i & 15
            byte = both >> 8 * (nibble & 7) & 255
            result |= ((255 if byte & 128 else 0) if nibble & 8 else byte) << 8 * i
        return result

    result = apply("prmt.b32 {0}, {1}, {2}, {3}", np.uint32, a, b, selector)
    np.testing.assert_array_equal(result, python(a.dtype, permuted, a, b, selector))


# Floats


def assert_same_floats(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal with the sign of zero; any NaN equals any."""
    np.testing.assert_array_equal(actual, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual)[numbers], np.signbit(expected)[numbers])


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_float_arithmetic(kind: str) -> None:
    dtype = numpy_type(kind)
    a, b = pairs(dtype)
    with np.errstate(all="ignore"):
        for name, expected in (
            ("add", a + b),
            ("sub.rn", a - b),
            ("mul", a * b),
            ("min", np.fmin(a, b)),
            ("max", np.fmax(a, b)),
        ):
            result = apply(f"{name}.{kind} {{0}}, {{1}}, {{2}}", dtype, a, b)
            np.testing.assert_array_equal(result, expected)
    assert_same_floats(apply(f"neg.{kind} {{0}}, {{1}}", dtype, a), -a)
    assert_same_floats(apply(f"abs.{kind} {{0}}, {{1}}", dtype, a), np.abs(a))


def nearest_float32(exact: Fraction) -> np.float32:
    """Round to nearest, ties to even, from the exact value."""
    guess = np.float32(float(exact))
    around = [
        np.nextafter(guess, np.float32(-np.inf)),
        guess,
        np.nextafter(guess, np.float32(np.inf)),
    ]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - exact), int(f.view(np.uint32)) & 1))


def test_fused_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(0)
    # 1 + 2**-23 squared ends just past a tie that a tiny c breaks either way.
    near = np.float32(1) + np.float32(2**-12)
    ties = [
        (near, near, sign * np.float32(2.0**power))
        for sign in (1, -1)
        for power in (-126, -80, -60, -40)
    ]
    ties += [(np.float32(2**-12), np.float32(2**-12), np.float32(1 + 2**-22)),
             (np.float32(2**-75), np.float32(2**-74), np.float32(2**-140))]  # fmt: skip
    random = rng.standard_normal((3, 2000)) * 2.0 ** rng.integers(-30, 30, (3, 2000))
    a, b, c = np.concatenate([np.array(ties).T, random], 1).astype(np.float32)
    exact = [
        Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        for x, y, z in zip(a, b, c, strict=True)
    ]
    result = apply("fma.rn.f32 {0}, {1}, {2}, {3}", np.float32, a, b, c)
    np.testing.assert_array_equal(result, [nearest_float32(value) for value in exact])
    with np.errstate(all="ignore"):
        twice = (a.astype("f8") * b + c).astype("f4")  # what rounding to float64 first gives
        assert (result != a * b + c).any() and (result != twice).any()


def test_fused_multiply_add_of_special_values() -> None:
    a, b, c = pairs(np.float32, 3)
    with np.errstate(all="ignore"):
        special = ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c))
        expected = a[special].astype("f8") * b[special] + c[special]
    result = apply("fma.rn.f32 {0}, {1}, {2}, {3}", np.float32, a, b, c)
    np.testing.assert_array_equal(result[special], expected.astype("f4"))


@pytest.mark.parametrize("target", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("source", ["u8", "s8", "u16", "s32", "u64", "s64"])
def test_integer_conversions(target: str, source: str) -> None:
    # Registers are wider than 8-bit types: the source's upper bits count for nothing.
    kinds = {kind: numpy_type(kind) for kind in (source, target)}
    a = edges(kinds[source])
    in_register = a.astype(f"{a.dtype.kind}{max(2, a.itemsize)}")
    wide = np.dtype(f"{kinds[target].kind}{max(2, kinds[target].itemsize)}")
    result = apply(f"cvt.{target}.{source} {{0}}, {{1}}", wide, in_register)
    np.testing.assert_array_equal(result, a.astype(kinds[target]).astype(wide))


@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64", "s16"])
def test_integers_to_floats(source: str) -> None:
    a = edges(numpy_type(source))
    result = apply(f"cvt.rn.f32.{source} {{0}}, {{1}}", np.float32, a)
    np.testing.assert_array_equal(result, [nearest_float32(Fraction(int(x))) for x in a])


@pytest.mark.parametrize("target", ["s32", "u32", "s64", "u64"])
def test_floats_to_integers_saturate(target: str) -> None:
    dtype = numpy_type(target)
    limits = np.iinfo(dtype)
    a = np.array(
        [0.5, 1.5, -0.5, -1.5, 2.5, 3e9, -3e9, 1e20, -1e20, np.inf, -np.inf, np.nan, 2**31, 2**63],
        "f4",
    )
    for name, rounded in (("rzi", np.trunc), ("rni", np.rint), ("rmi", np.floor), ("rpi", np.ceil)):
        result = apply(f"cvt.{name}.{target}.f32 {{0}}, {{1}}", dtype, a)
        for got, value in zip(result, rounded(a), strict=True):
            if np.isnan(value):
                assert got == 0
            elif np.isinf(value):
                assert got == (limits.max if value > 0 else limits.min)
            else:
                assert got == min(max(int(value), limits.min), limits.max)


def test_float_conversions() -> None:
    a = np.concatenate(
        [edges(np.float32), np.random.default_rng(1).standard_normal(50).astype("f4")]
    )
    with np.errstate(over="ignore"):
        half, brain = a.astype(np.float16), a.astype(ml_dtypes.bfloat16)
    assert_same_floats(apply("cvt.rn.f16.f32 {0}, {1}", np.float16, a), half)
    assert_same_floats(apply("cvt.f32.f16 {0}, {1}", np.float32, half), half.astype("f4"))
    assert_same_floats(apply("cvt.f64.f32 {0}, {1}", np.float64, a), a.astype("f8"))
    narrowed = apply("cvt.rn.bf16.f32 {0}, {1}", np.uint16, a).view(ml_dtypes.bfloat16)
    assert_same_floats(narrowed.astype("f4"), brain.astype("f4"))
    both = apply("cvt.rn.bf16x2.f32 {0}, {1}, {2}", np.uint32, a, a[::-1].copy())
    halves = both.view(np.uint16).view(ml_dtypes.bfloat16).reshape(-1, 2).astype("f4")
    assert_same_floats(halves, np.stack([brain[::-1], brain], 1).astype("f4"))


# Comparison and selection

ORDER = {name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64"])
@pytest.mark.parametrize("name", ORDER)
def test_comparison(name: str, kind: str) -> None:
    a, b = pairs(numpy_type(kind))
    select = "; selp.b32 {0}, 1, 0, %p1"
    result = apply(f"setp.{name}.{kind} %p1, {{1}}, {{2}}{select}", np.uint32, a, b)
    ordered = ~(np.isnan(a) | np.isnan(b)) if kind[0] == "f" else np.ones(a.size, bool)
    expected = np.array([ORDER[name](x, y) for x, y in zip(a, b, strict=True)])
    np.testing.assert_array_equal(result, expected & ordered)
    if kind[0] == "f":
        result = apply(f"setp.{name}u.{kind} %p1, {{1}}, {{2}}{select}", np.uint32, a, b)
        np.testing.assert_array_equal(result, expected | ~ordered)
        for word, value in (("num", ordered), ("nan", ~ordered)):
            result = apply(f"setp.{word}.{kind} %p1, {{1}}, {{2}}{select}", np.uint32, a, b)
            np.testing.assert_array_equal(result, value)


@pytest.mark.parametrize(("name", "same"), [("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")])
def test_unsigned_comparison_names(name: str, same: str) -> None:
    a, b = pairs(np.uint32)
    body = f"setp.{name}.u32 %p1, {{1}}, {{2}}; selp.b32 {{0}}, 1, 0, %p1"
    expected = [ORDER[same](x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(apply(body, np.uint32, a, b), expected)


@pytest.mark.parametrize("combine", ["and", "or", "xor"])
@pytest.mark.parametrize("negation", ["", "!"])
def test_combined_comparison_and_its_opposite(combine: str, negation: str) -> None:
    a, b = pairs(np.int32)
    function = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}[combine]
    other = (a > 0) ^ (negation == "!")
    body = (
        f"setp.gt.s32 %p3, {{1}}, 0; setp.lt.{combine}.s32 %p1|%p2, {{1}}, {{2}}, {negation}%p3;"
        "selp.b32 %r30, 1, 0, %p1; selp.b32 {0}, 2, 0, %p2; or.b32 {0}, {0}, %r30"
    )
    expected = function(a < b, other) + 2 * function(a >= b, other)
    np.testing.assert_array_equal(apply(body, np.int32, a, b), expected)


def test_selection_and_predicates() -> None:
    a, b = pairs(np.float32)
    body = (
        "setp.lt.f32 %p1, {1}, {2}; setp.lt.f32 %p2, {1}, 0f00000000; xor.pred %p3, %p1, %p2;"
        "not.pred %p3, %p3; mov.pred %p4, -1; and.pred %p3, %p3, %p4; selp.f32 {0}, {1}, {2}, %p3"
    )
    with np.errstate(invalid="ignore"):
        expected = np.where(~((a < b) ^ (a < 0)), a, b)
    np.testing.assert_array_equal(apply(body, np.float32, a, b), expected)


# Memory and moves


def numbers(n: int, dtype: np.dtype | type = np.uint32) -> np.ndarray:
    return np.random.default_rng(n).integers(0, np.iinfo(dtype).max, n, dtype)


@pytest.mark.parametrize(
    ("vector", "size"), [("", 4), (".v2", 2), (".v2", 4), (".v4", 4), (".v2", 8), (".v4", 1)]
)
def test_vector_loads_and_stores(vector: str, size: int) -> None:
    n = int(vector[2:] or 1)
    registers = ", ".join(f"{REGISTER[size]}{20 + i}" for i in range(n))
    source, target = numbers(32 * n, f"u{size}"), np.zeros(32 * n, f"u{size}")
    assemble(
        f"""mad.wide.u32 %d10, %r0, {n * size}, %d0;
        mad.wide.u32 %d11, %r0, {n * size}, %d1;
        ld.global{vector}.b{8 * size} {{ {registers} }}, [ %d10 + 0 ];
        st.global.L1::evict_last{vector}.b{8 * size} [ %d11 + 0 ], {{ {registers} }};""",
        2,
    ).launch((1,), [source, target])
    np.testing.assert_array_equal(target, source)


def test_signed_loads_extend_and_stores_cut() -> None:
    source, target, low = numbers(32, np.uint8), np.zeros(32, np.int32), np.zeros(32, np.uint8)
    assemble(
        """cvt.u64.u32 %d10, %r0; add.s64 %d11, %d0, %d10; ld.global.s8 %r1, [%d11];
        mad.wide.u32 %d12, %r0, 4, %d1; st.global.b32 [%d12+-4], %r1;
        add.s64 %d13, %d2, %d10; st.global.b8 [%d13], %r1;""",
        3,
        extra="add.s64 %d1, %d1, 4;",
    ).launch((1,), [source, target, low])
    np.testing.assert_array_equal(target, source.view(np.int8))
    np.testing.assert_array_equal(low, source)


def test_pack_and_unpack() -> None:
    a = numbers(40, np.uint64)
    body = (
        "mov.b64 {{%r30, %r31}}, {1}; mov.b32 {{%h1, %h2}}, %r30; mov.b32 %r32, {{%h2, %h1}};"
        "mov.b64 {{_, %r33}}, {1}; mov.b64 {0}, {{%r32, %r33}}"
    )
    halves = a.view(np.uint16).reshape(-1, 4)[:, [1, 0, 2, 3]]
    np.testing.assert_array_equal(
        apply(body, np.uint64, a), np.ascontiguousarray(halves).view("u8")[:, 0]
    )


def test_scalars_grid_and_special_registers() -> None:
    kernel = Kernel("""
        .version 8.7
        .target sm_80
        .visible .entry k(.param .u64 k_0, .param .u32 k_1, .param .f32 k_2, .param .u64 k_3)
        .maxntid 64
        { .reg .b32 %r<20>; .reg .b64 %d<9>; .reg .f32 %f<9>;
        ld.param.b64 %d0, [k_0]; ld.param.s32 %r1, [k_1]; ld.param.f32 %f1, [k_2];
        mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y; mov.u32 %r4, %ctaid.z;
        mov.u32 %r5, %nctaid.x; mov.u32 %r6, %nctaid.y; mov.u32 %r7, %ntid.x; mov.u32 %r8, %tid.x;
        mad.lo.s32 %r9, %r4, %r6, %r3; mad.lo.s32 %r9, %r9, %r5, %r2;
        mad.lo.s32 %r9, %r9, %r7, %r8;
        cvt.rn.f32.s32 %f2, %r9; add.f32 %f2, %f2, %f1; cvt.rzi.s32.f32 %r10, %f2;
        add.s32 %r10, %r10, %r1; mad.wide.u32 %d1, %r9, 4, %d0; st.global.b32 [%d1], %r10; ret; }
        """)
    out = np.zeros(3 * 5 * 2 * 64, np.int32)
    counts = kernel.launch((3, 5, 2), [out, -7, 2.0])  # the last, a null pointer, is left out
    np.testing.assert_array_equal(out, np.arange(out.size) - 5)
    assert counts["mad.wide.u32"] == 30 * 2 and kernel.name == "k"
    assert kernel.program.target == "sm_80" and kernel.program.version == "8.7"


REVERSE = """
    mov.b32 %r5, smem; mad.lo.s32 %r1, %r0, 4, %r5; sub.s32 %r2, 63, %r0;
    mad.lo.s32 %r2, %r2, 4, %r5;
    mad.wide.u32 %d10, %r0, 4, %d0; ld.global.b32 %r3, [%d10]; st.shared.b32 [%r1], %r3;
    {barrier} ld.shared.b32 %r4, [%r2]; {again} {more} st.global.b32 [%d10], %r4;"""


def test_shared_memory_between_warps() -> None:
    a = numbers(64)
    body = REVERSE.format(
        barrier="bar.sync 0;", again="bar.sync 0;", more="st.shared.b32 [%r1], %r4;"
    )
    out = a.copy()
    assemble(body, 1, threads=64).launch((1,), [out], shared_bytes=256)
    np.testing.assert_array_equal(out, a[::-1])


COPY = """
    shl.b32 %r1, %r0, 4; mad.wide.u32 %d10, %r0, 16, %d0; mad.wide.u32 %d11, %r0, 16, %d1;
    setp.lt.s32 %p1, %r0, 30; selp.b32 %r2, 16, 0, %p1;
    cp.async.cg.shared.global [ %r1 + 0 ], [ %d10 + 0 ], 0x10, %r2;
    cp.async.commit_group; cp.async.commit_group; {wait}
    ld.shared.v4.b32 {{%r3, %r4, %r5, %r6}}, [%r1];
    st.global.v4.b32 [%d11], {{%r3, %r4, %r5, %r6}};"""


def test_asynchronous_copy() -> None:
    source, out = numbers(120), numbers(128)  # of the last two rows nothing is read
    assemble(COPY.format(wait="cp.async.wait_group 1;"), 2).launch((1,), [source, out])
    np.testing.assert_array_equal(out, np.append(source, [0] * 8))
    for wait in ("", "cp.async.wait_group 2;"):
        with pytest.raises(Fault, match=r"before cp\.async\.wait"):
            assemble(COPY.format(wait=wait), 2).launch((1,), [source, out])


# Warp-wide instructions


def warp(body: str, *sources: np.ndarray, out: np.dtype | type = np.uint32) -> np.ndarray:
    return apply(body, out, *sources).reshape(-1, 32)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("by", [0, 1, 3, 7, 16, 31])
def test_shuffle(mode: str, width: int, by: int) -> None:
    a = numbers(64)
    control = (32 - width) << 8 | (0 if mode == "up" else 31)
    body = (
        f"shfl.sync.{mode}.b32 {{0}}|%p1, {{1}}, {by}, {control}, -1; @!%p1 add.s32 {{0}}, {{0}}, 1"
    )
    expected = np.empty((2, 32), np.uint32)
    for lane in range(32):
        first = lane // width * width
        last = first + width - 1
        source = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": first + by % width}[
            mode
        ]
        inside = first <= source <= last if mode in ("up", "down") else source <= last
        expected[:, lane] = a.reshape(2, 32)[:, source if inside else lane] + (not inside)
    np.testing.assert_array_equal(warp(body, a), expected)


def test_reduction_and_vote() -> None:
    a = numbers(96).reshape(3, 32)
    for name, kind, expected in (
        ("add", "s32", a.sum(1, dtype=np.uint32)),
        ("max", "s32", a.view(np.int32).max(1).view(np.uint32)),
        ("min", "u32", a.min(1)),
        ("and", "b32", np.bitwise_and.reduce(a, 1)),
        ("or", "b32", np.bitwise_or.reduce(a, 1)),
        ("xor", "b32", np.bitwise_xor.reduce(a, 1)),
    ):
        result = warp(f"redux.sync.{name}.{kind} {{0}}, {{1}}, -1", a.reshape(-1))
        np.testing.assert_array_equal(result, np.repeat(expected[:, None], 32, 1))
    odd = (a & 1).astype(bool)
    body = "and.b32 %r30, {1}, 1; setp.ne.b32 %p1, %r30, 0; vote.sync.ballot.b32 {0}, %p1, -1"
    ballots = [sum(int(bit) << i for i, bit in enumerate(row)) for row in odd]
    np.testing.assert_array_equal(warp(body, a.reshape(-1))[:, 0], ballots)
    body = body.replace("ballot.b32 {0}", "{vote}.pred %p2").replace("{vote}", "any")
    result = warp(body + "; selp.b32 {0}, 1, 0, %p2", a.reshape(-1) & 4)
    np.testing.assert_array_equal(result, np.zeros((3, 32)))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_matrix_loads(n: int, transposed: bool) -> None:
    source, out = numbers(32 * 8, np.uint16), np.zeros(32 * n, np.uint32)
    registers = [f"%r{10 + i}" for i in range(n)]
    stores = "".join(f"st.global.b32 [%d11+{128 * i}], {r};" for i, r in enumerate(registers))
    assemble(
        f"""shl.b32 %r1, %r0, 4; mad.wide.u32 %d10, %r0, 16, %d0; mad.wide.u32 %d11, %r0, 4, %d1;
        ld.global.v4.b32 {{%r2, %r3, %r4, %r5}}, [%d10];
        st.shared.v4.b32 [%r1], {{%r2, %r3, %r4, %r5}}; bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x{n}{".trans" if transposed else ""}.shared.b16
            {{{", ".join(registers)}}}, [%r1];
        {stores}""",
        2,
    ).launch((1,), [source, out], shared_bytes=512)
    matrices = source.reshape(4, 8, 8)[:n]
    expected = np.empty((n, 32, 2), np.uint16)
    for lane in range(32):
        for i in range(2):
            row, column = lane // 4, 2 * (lane % 4) + i
            place = (column, row) if transposed else (row, column)
            expected[:, lane, i] = matrices[:, *place]
    np.testing.assert_array_equal(out.view(np.uint16).reshape(n, 32, 2), expected)


def multiply_fragments(opcode: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One mma on fragments a [warps, 32, na], b [warps, 32, nb], c [warps, 32, 4] of words."""
    names = iter(range(10, 40))
    body = ["mov.u32 %r1, %ctaid.x;", "mad.lo.s32 %r1, %r1, 32, %r0;"]
    groups = []
    for i, fragment in enumerate((a, b, c)):
        n = fragment.shape[-1]
        group = [f"%r{next(names)}" for _ in range(n)]
        groups.append("{" + ", ".join(group) + "}")
        body.append(f"mad.wide.u32 %d10, %r1, {4 * n}, %d{i};")
        body += [f"ld.global.b32 {r}, [%d10+{4 * j}];" for j, r in enumerate(group)]
    body += [f"{opcode} {groups[2]}, {groups[0]}, {groups[1]}, {groups[2]};"]
    body += ["mad.wide.u32 %d10, %r1, 16, %d3;", f"st.global.v4.b32 [%d10], {groups[2]};"]
    out = np.zeros(c.shape, np.int32)
    assemble("\n".join(body), 4).launch((len(a),), [a, b, c, out])
    return out


def place(i: int, per_word: int, lane: int, step: int) -> tuple[int, int]:
    """(row offset, column) of element i of a lane's A fragment, as the PTX ISA writes it."""
    low = i % per_word
    column = lane % 4 * per_word + low + (step if i >= 2 * per_word else 0)
    return 8 if (i // per_word) % 2 else 0, column


@pytest.mark.parametrize(
    ("k", "bits", "shape"),
    [(256, 1, "m16n8k256"), (128, 1, "m16n8k128"), (32, 8, "m16n8k32"), (16, 8, "m16n8k16")],
)
def test_matrix_products(k: int, bits: int, shape: str) -> None:
    rng = np.random.default_rng(k)
    per_word, warps = 32 // bits, 3
    n_a = 16 * k * bits // 1024
    dtype = bool if bits == 1 else np.int8
    a = rng.integers(-128 if bits == 8 else 0, 128 if bits == 8 else 2, (warps, 16, k)).astype(
        dtype
    )
    b = rng.integers(-128 if bits == 8 else 0, 128 if bits == 8 else 2, (warps, 8, k)).astype(dtype)
    c = rng.integers(-1000, 1000, (warps, 16, 8), np.int32)

    def words(elements: np.ndarray) -> np.ndarray:
        if bits == 8:
            return np.ascontiguousarray(elements).view(np.uint32)
        return np.packbits(elements, axis=-1, bitorder="little").view(np.uint32)

    left = np.zeros((warps, 32, n_a * per_word), dtype)
    right = np.zeros((warps, 32, n_a // 2 * per_word), dtype)
    sums = np.zeros((warps, 32, 4), np.int32)
    for lane in range(32):
        for i in range(left.shape[-1]):
            row, column = place(i, per_word, lane, k // 2)
            left[:, lane, i] = a[:, lane // 4 + row, column]
        for i in range(right.shape[-1]):
            column = lane % 4 * per_word + i % per_word + (k // 2 if i >= per_word else 0)
            right[:, lane, i] = b[:, lane // 4, column]
        for i in range(4):
            sums[:, lane, i] = c[:, lane // 4 + 8 * (i >= 2), lane % 4 * 2 + i % 2]

    def unpack(out: np.ndarray) -> np.ndarray:
        result = np.empty_like(c)
        for lane in range(32):
            for i in range(4):
                result[:, lane // 4 + 8 * (i >= 2), lane % 4 * 2 + i % 2] = out[:, lane, i]
        return result

    x, y = a.astype(np.int32), b.astype(np.int32).swapaxes(1, 2)
    if bits == 1:
        forms = {
            f"mma.sync.aligned.{shape}.row.col.s32.b1.b1.s32.and.popc": x @ y,
            f"mma.sync.aligned.{shape}.row.col.s32.b1.b1.s32.xor.popc": x @ (1 - y) + (1 - x) @ y,
        }
    else:
        forms = {
            f"mma.sync.aligned.{shape}.row.col.s32.s8.s8.s32": x @ y,
            f"mma.sync.aligned.{shape}.row.col.satfinite.s32.s8.s8.s32": x @ y,
            f"mma.sync.aligned.{shape}.row.col.s32.u8.s8.s32": a.view(np.uint8).astype(np.int32)
            @ y,
        }
    for opcode, expected in forms.items():
        result = multiply_fragments(opcode, words(left), words(right), sums)
        np.testing.assert_array_equal(unpack(result), expected + c, err_msg=opcode)


def test_saturating_product() -> None:
    ones = np.full((1, 32, 4), 0x7F7F7F7F, np.uint32)
    sums = np.full((1, 32, 4), 2**31 - 5, np.int32)
    opcode = "mma.sync.aligned.m16n8k32.row.col{}.s32.s8.s8.s32"
    right = ones[..., :2].copy()
    wrapped = multiply_fragments(opcode.format(""), ones, right, sums)
    saturated = multiply_fragments(opcode.format(".satfinite"), ones, right, sums)
    assert (wrapped < 0).all() and (saturated == 2**31 - 1).all()


FLOAT_FORMS = {
    "m16n8k16.row.col.f32.bf16.bf16.f32": (ml_dtypes.bfloat16, 16),
    "m16n8k8.row.col.f32.bf16.bf16.f32": (ml_dtypes.bfloat16, 8),
    "m16n8k16.row.col.f32.f16.f16.f32": (np.float16, 16),
    "m16n8k8.row.col.f32.f16.f16.f32": (np.float16, 8),
    "m16n8k8.row.col.f32.tf32.tf32.f32": (np.float32, 8),
    "m16n8k4.row.col.f32.tf32.tf32.f32": (np.float32, 4),
}


def multiply_floats(form: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One mma of [warps, 16, k] by [warps, 8, k], both of its type, plus float32 [warps, 16, 8].

    Element i of a lane's fragments, as the PTX ISA writes it.
    """
    k = a.shape[-1]
    per_word = 4 // a.itemsize
    n_a = 16 * k // 32
    left = np.zeros((len(a), 32, n_a), a.dtype)
    right = np.zeros((len(a), 32, n_a // 2), a.dtype)
    sums, result = np.zeros((len(a), 32, 4), np.float32), np.zeros_like(c)
    places = [
        [(lane // 4 + 8 * (i >= 2), lane % 4 * 2 + i % 2) for i in range(4)] for lane in range(32)
    ]
    for lane in range(32):
        for i in range(n_a):
            row, column = place(i, per_word, lane, k // 2)
            left[:, lane, i] = a[:, lane // 4 + row, column]
        for i in range(n_a // 2):
            column = lane % 4 * per_word + i % per_word + (k // 2 if i >= per_word else 0)
            right[:, lane, i] = b[:, lane // 4, column]
        for i, (row, column) in enumerate(places[lane]):
            sums[:, lane, i] = c[:, row, column]
    fragments = [x.view(np.uint32) for x in (left, right)]
    out = multiply_fragments("mma.sync.aligned." + form, *fragments, sums.view(np.int32))
    for lane in range(32):
        for i, (row, column) in enumerate(places[lane]):
            result[:, row, column] = out.view(np.float32)[:, lane, i]
    return result


@pytest.mark.parametrize("form", FLOAT_FORMS)
def test_products_of_floats(form: str) -> None:
    dtype, k = FLOAT_FORMS[form]
    rng = np.random.default_rng(k)
    a, b = (rng.integers(-9, 10, (3, n, k)).astype(dtype) for n in (16, 8))
    c = rng.integers(-1000, 1000, (3, 16, 8)).astype(np.float32)
    expected = a.astype(np.float32) @ b.astype(np.float32).swapaxes(1, 2) + c
    np.testing.assert_array_equal(multiply_floats(form, a, b, c), expected)


@pytest.mark.parametrize("form", FLOAT_FORMS)
def test_sums_of_floats_are_truncated(form: str) -> None:
    dtype, k = FLOAT_FORMS[form]
    rng = np.random.default_rng(k)
    a, b = (rng.normal(size=(1, n, k)).astype(dtype) for n in (16, 8))
    c = rng.normal(size=(1, 16, 8)).astype(np.float32)
    result = multiply_floats(form, a, b, c)
    if dtype == np.float32:  # of tf32 10 bits of the significand count
        a, b = ((x.view(np.uint32) & 0xFFFFE000).view(np.float32) for x in (a, b))
    exact = a.astype("f8") @ b.astype("f8").swapaxes(1, 2) + c
    step = np.spacing(np.abs(result)).astype("f8")
    assert (np.abs(result) <= np.abs(exact)).all()
    assert (np.abs(exact) < np.abs(result) + step).all()
    assert (result != exact.astype("f4")).any()


def test_special_values_in_products_of_floats() -> None:
    form = "m16n8k16.row.col.f32.bf16.bf16.f32"
    a, b = (np.ones((1, n, 16), ml_dtypes.bfloat16) for n in (16, 8))
    a[0, 0, 3], a[0, 1, 3], b[0, 2, 3] = np.inf, np.nan, -1
    a[0, 2, :4] = 2.0**127
    c = np.zeros((1, 16, 8), np.float32)
    result = multiply_floats(form, a, b, c)[0]
    assert (result[0, 1], result[0, 2], result[2, 0]) == (np.inf, -np.inf, np.inf)
    assert np.isnan(result[1]).all() and (result[3, 1], result[3, 2]) == (16, 14)


# Control flow


def test_divergent_branches_meet_again() -> None:
    out = np.zeros(3 * 64, np.int32)
    counts = assemble(
        """mov.u32 %r9, %ctaid.x; mad.lo.s32 %r1, %r9, 64, %r0; mov.b32 %r2, 0; mov.b32 %r3, 0;
        setp.ge.s32 %p1, %r0, 40; @%p1 bra $FAR;
        $LOOP: add.s32 %r2, %r2, %r0; add.s32 %r3, %r3, 1;
        setp.le.s32 %p2, %r3, %r9; @%p2 bra $LOOP;  // 1, 2, 3 rounds in CTA 0, 1, 2
        bra.uni $END;
        $FAR: mov.b32 %r2, -1;
        $END: bar.sync 0;
        setp.eq.s32 %p3, %r0, 5; @%p3 ret;
        mad.wide.s32 %d10, %r1, 4, %d0; st.global.b32 [%d10], %r2;""",
        1,
        threads=64,
    ).launch((3,), [out])
    thread, cta = np.tile(np.arange(64), 3), np.repeat(np.arange(3), 64)
    expected = np.where(thread >= 40, -1, thread * (cta + 1))
    np.testing.assert_array_equal(out, np.where(thread == 5, 0, expected))
    # The rounds of both warps: 2 * (1 + 2 + 3); two of three warps took no other way.
    assert counts["bar.sync"] == 6 and counts["setp.le.s32"] == 12


def test_counts_are_per_warp() -> None:
    body = "mov.b32 %r1, 0; $L: add.s32 %r1, %r1, 1; setp.lt.s32 %p1, %r1, 5; @%p1 bra $L;"
    counts = assemble(body, 0, threads=96).launch((7, 2), [])
    expected = Counter(
        {"mov.u32": 1, "mov.b32": 1, "add.s32": 5, "setp.lt.s32": 5, "bra": 5, "ret": 1}
    )
    assert counts == Counter({name: 42 * n for name, n in expected.items()})


# What is refused


def refuse(match: str, body: str, arrays: Sequence[np.ndarray] = (), threads: int = 64) -> None:
    with pytest.raises(Fault, match=match):
        assemble(body, len(arrays), threads).launch((2,), list(arrays), shared_bytes=256)


ADDRESS = "mad.wide.s32 %d10, %r0, 4, %d0; "


@pytest.mark.parametrize("offset", [4, -4, 2**20, -(2**30), 2**36])
@pytest.mark.parametrize("access", ["ld.global.b32 %r1, [%d10];", "st.global.b32 [%d10], %r0;"])
def test_global_memory_out_of_bounds(offset: int, access: str) -> None:
    arrays = [numbers(64), numbers(64)]
    before = [array.copy() for array in arrays]
    thread = 63 if offset == 4 else 0
    refuse(
        rf"out of bounds: 4 bytes at offset {offset + 4 * thread} of k_0 \(256 bytes\); "
        rf"CTA \(0, 0, 0\), thread {thread}: {access[:9]}",
        f"{ADDRESS} add.s64 %d10, %d10, {offset}; {access}",
        arrays,
    )
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_masked_access_out_of_bounds_is_fine() -> None:
    a = numbers(40)
    body = f"setp.lt.s32 %p1, %r0, 40; {ADDRESS} @%p1 st.global.b32 [%d10], %r0;"
    assemble(body, 1, threads=64).launch((1,), [a])
    np.testing.assert_array_equal(a, np.arange(40))


def test_other_bad_global_accesses() -> None:
    a = numbers(64)
    refuse("in no array", "mov.b64 %d10, 0; ld.global.b32 %r1, [%d10];", [a])
    refuse("in no array", "ld.global.b32 %r1, [%d0+1152921504606846976];", [a])
    refuse("misaligned access: 4 bytes", "ld.global.b32 %r1, [%d0+2];", [a])
    refuse("misaligned access: 8 bytes", "ld.global.v2.b32 {%r1, %r2}, [%d0+4];", [a])
    refuse("misaligned access: 16 bytes", "ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%d0+8];", [a])
    refuse("out of bounds: 16 bytes", "ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%d0];", [a[:3]])
    refuse("out of bounds: 4 bytes", "ld.global.b32 %r1, [%d0];", [a[:0]])
    a.flags.writeable = False
    refuse("store to k_0, a read-only array", "st.global.b32 [%d0], %r0;", [a])


def test_bad_shared_accesses() -> None:
    refuse("of 256 bytes of shared", "st.shared.b32 [smem+256], %r0;")
    refuse("of 256 bytes of shared", "mov.b32 %r1, smem; st.shared.b32 [%r1+-4], %r0;")
    refuse("misaligned access: 4 bytes at shared", "st.shared.b32 [smem+1], %r0;")
    refuse("uninitialised shared", "ld.shared.b32 %r1, [smem];")
    refuse(
        "uninitialised shared memory; CTA .1, 0, 0., thread 0",
        """mov.u32 %r1, %ctaid.x; setp.eq.s32 %p1, %r1, 0; @%p1 st.shared.b32 [smem], %r0;
        bar.sync 0; ld.shared.b32 %r1, [smem];""",
    )


def test_races_between_warps() -> None:
    again, more = "bar.sync 0;", "st.shared.b32 [%r1], %r4;"
    refuse(
        "race: shared memory that",
        REVERSE.format(barrier="", again=again, more=more),
        [numbers(64)],
    )
    refuse(
        "race: write to shared",
        REVERSE.format(barrier="bar.sync 0;", again="", more=more),
        [numbers(64)],
    )
    # Two warps read one word; then one of them writes it.
    refuse(
        "race: write to shared",
        """setp.lt.s32 %p1, %r0, 32; st.shared.b32 [smem], 7; bar.sync 0; ld.shared.b32 %r1, [smem];
        @%p1 st.shared.b32 [smem], 8;""",
    )


def test_a_missing_barrier_in_compiled_code_is_found() -> None:
    pytest.importorskip("triton", reason="compiles a Triton kernel")
    from kernels_triton.aot import compile_launch
    from kernels_triton.launch import gemm
    from kernels_triton.tiles import Tile

    tile = Tile("int8_gemm", 32, 32, 4, num_warps=4)
    launch = gemm(40, 33, 300, compute_capability=80, tile=tile)
    compiled = compile_launch(launch, 80)
    buffers = {
        "x_ptr": numbers(40 * launch.words),
        "w_ptr": numbers(33 * launch.words),
        "out_ptr": np.zeros(launch.out_shape, launch.out_dtype),
    }
    arguments = [buffers.get(a.name, a.value) for a in launch.arguments]
    options = {"shared_bytes": compiled.shared_bytes}
    assert Kernel(compiled.ptx).launch(launch.grid, arguments, **options)["bar.sync"] > 0
    with pytest.raises(Fault, match="race"):
        Kernel(compiled.ptx.replace("bar.sync", "//")).launch(launch.grid, arguments, **options)


def test_uninitialised_registers() -> None:
    refuse("read of %r2, never written", "add.s32 %r1, %r0, %r2;")
    refuse("read of %p1, never written", "@%p1 ret;")
    masked = f"setp.lt.s32 %p1, %r0, 40; {ADDRESS} @%p1 ld.global.b32 %r1, [%d10];"
    refuse(
        r"read of %r1, not written in this thread; CTA .*, thread 40",
        masked + "not.b32 %r2, %r1;",
        [numbers(40)],
    )
    both = f"{masked} @!%p1 mov.b32 %r1, 0; not.b32 %r2, %r1;"
    assemble(both, 1, threads=64).launch((1,), [numbers(40)])
    assemble(f"{masked} @%p1 not.b32 %r2, %r1;", 1, threads=64).launch((1,), [numbers(40)])


def test_divergence_that_hardware_does_not_allow() -> None:
    part = "setp.lt.s32 %p1, %r0, 20; "
    refuse("divergent: a barrier without this thread; CTA .*, thread 20", part + "@%p1 bar.sync 0;")
    refuse("divergent: a barrier", part + "@%p1 bra $L; bar.sync 0; $L: bar.sync 0;")
    refuse("divergent: a warp-wide", part + "@%p1 shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;")
    refuse("divergent: a warp-wide", part + "@%p1 ret; redux.sync.add.s32 %r1, %r0, -1;")
    whole = "setp.lt.s32 %p1, %r0, 32; @%p1 redux.sync.add.s32 %r1, %r0, -1; @%p1 ret; bar.sync 0;"
    assemble(whole, 0, threads=64).launch((1,), [])


def test_other_faults() -> None:
    refuse("division by zero", "div.s32 %r1, 5, %r0;")
    refuse("trap", "trap;")
    with pytest.raises(TimeoutError, match="after 100 steps"):
        assemble("$L: bra $L;", 0).launch((1,), [], max_steps=100)


@pytest.mark.parametrize(
    "statement",
    [
        "tanh.approx.f32 %r1, %r0",
        "add.ftz.f32 %r1, %r0, %r0",
        "add.sat.s32 %r1, %r0, %r0",
        "setp.lo.f32 %p1, %r0, %r0",
        "cvt.f16.f32 %h1, %r0",
        "call foo, (%r1)",
        "atom.global.add.u32 %r1, [%d0], 1",
        "mov.u32 %r1, %clock",
        "ld.global.L2::cache_hint.b32 %r1, [%d0], %d1",
        "ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1, %r2}, [%r0]",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1}, {%r1}, {%r1}, {%r1}",
    ],
)
def test_unknown_instructions_are_named(statement: str) -> None:
    name = "%clock" if "clock" in statement else statement.split()[0]
    with pytest.raises(NotImplementedError, match=name):
        assemble(statement + ";", 0)


def test_partial_warp_masks_and_named_barriers_are_unknown() -> None:
    for body in ("redux.sync.add.s32 %r1, %r0, 15;", "bar.sync 1;", "bar.sync 0, 32;"):
        with pytest.raises(NotImplementedError):
            assemble(body, 0).launch((1,), [])


def test_text_that_is_no_kernel() -> None:
    with pytest.raises(ValueError, match=r"one \.entry, found 0"):
        Kernel(".version 8.7")
    text = ".version 8.7\n.target sm_80\n.visible .entry k()\n{body}"
    with pytest.raises(ValueError, match="multiple of 32"):
        Kernel(text.format(body=".reqntid 31\n{ ret; }"))
    with pytest.raises(ValueError, match="closing brace"):
        Kernel(text.format(body=".reqntid 32\n{ ret;"))
    with pytest.raises(ValueError, match=r"cannot parse '1 = x'"):
        Kernel(text.format(body=".reqntid 32\n{ 1 = x; ret; }"))


def test_types_that_are_unknown_are_named() -> None:
    with pytest.raises(NotImplementedError, match=r"\.b128"):
        assemble("", 0, extra=".reg .b128 %q<2>;")


def test_arguments_must_fit() -> None:
    kernel = Kernel("""
        .version 8.7
        .target sm_80
        .visible .entry k(.param .u32 k_0, .param .u64 k_1, .param .u64 k_2, .param .u64 k_3)
        .reqntid 32
        { ret; }""")
    kernel.launch((1,), [-1, numbers(4)])
    for arguments in ([], [1], [2**32], [1.5, numbers(4)], [numbers(4), numbers(4)], [1] * 5):
        with pytest.raises(TypeError, match="k"):
            kernel.launch((1,), arguments)
    with pytest.raises(ValueError, match="C-contiguous"):
        kernel.launch((1,), [1, numbers(8)[::2]])
