"""Warp-wide instructions: shuffles, reductions, votes, matrix fragments, matrix products.

They must be reached by whole warps. Fragment layouts: PTX ISA, "Matrix multiply-accumulate
operation using mma instruction"; in units of 32-bit words those of .b1, .f16, .bf16 and .tf32 are
that of .s8.
"""

from collections.abc import Callable

import numpy as np

from tools.ptx.machine import WARP, Machine
from tools.ptx.parse import BOOL, TYPES, Address, Operand, Register, Vector
from tools.ptx.table import Action, Table

TABLE = Table()
U32, S32, F32 = TYPES["u32"], TYPES["s32"], TYPES["f32"]
LANE = np.arange(WARP)
GROUP, IN_GROUP = LANE // 4, LANE % 4


def words(m: Machine, operand: Operand, dtype: np.dtype = U32) -> np.ndarray:
    """An operand as [warps, 32]."""
    return np.broadcast_to(m.read(operand, dtype), m.lanes).reshape(-1, WARP)


def require_full_mask(m: Machine, members: Operand) -> None:
    m.require_whole_warps()
    if (m.read(members, U32) != 0xFFFFFFFF).any():
        raise NotImplementedError("warp-wide instruction of part of a warp")


@TABLE(r"shfl\.sync\.(up|down|bfly|idx)\.b32")
def shuffle(mode: str) -> Action:
    def run(
        m: Machine, target: Operand, a: Operand, b: Operand, c: Operand, members: Operand
    ) -> None:
        require_full_mask(m, members)
        value, by, control = (words(m, x).astype(np.int64) for x in (a, b, c))
        by, segment, clamp = by & 31, control >> 8 & 31, control & 31
        first, last = LANE & segment, LANE & segment | clamp & ~segment
        source = {
            "up": LANE - by,
            "down": LANE + by,
            "bfly": LANE ^ by,
            "idx": first | by & ~segment,
        }[mode]
        inside = source >= last if mode == "up" else source <= last
        source = np.where(inside, source, LANE)
        result = np.take_along_axis(value, source, axis=1).astype(U32).reshape(-1)
        if isinstance(target, Vector):
            m.write(target.items[0], result)
            m.write(target.items[1], inside.reshape(-1))
        else:
            m.write(target, result)

    return run


REDUCE = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@TABLE(r"redux\.sync\.(add|min|max)\.(s32|u32)")
@TABLE(r"redux\.sync\.(and|or|xor)\.(b32)")
def reduce(name: str, kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Register, source: Operand, members: Operand) -> None:
        require_full_mask(m, members)
        total = REDUCE[name].reduce(words(m, source, dtype), axis=1, dtype=dtype)
        m.write(target, np.repeat(total, WARP))

    return run


@TABLE(r"vote\.sync\.(all|any|uni|ballot)\.(pred|b32)")
def vote(name: str, kind: str) -> Action | None:
    if (name == "ballot") != (kind == "b32"):
        return None

    def run(m: Machine, target: Register, source: Register, members: Operand) -> None:
        require_full_mask(m, members)
        ayes = words(m, source, BOOL)
        everyone, anyone = ayes.all(1), ayes.any(1)
        result = {
            "all": everyone,
            "any": anyone,
            "uni": everyone | ~anyone,
            "ballot": np.packbits(ayes, axis=1, bitorder="little").view(U32)[:, 0],
        }[name]
        m.write(target, np.repeat(result, WARP))

    return run


@TABLE(r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.shared(?:::cta)?\.b16")
def load_matrices(count: str, transposed: str | None) -> Action:
    n = int(count)

    def run(m: Machine, target: Vector, source: Address) -> None:
        """8 × 8 matrices of 16-bit elements; lane 8·i + r has the address of row r of the i-th."""
        m.require_whole_warps()
        addresses = m.address(source, U32)
        asked = m.active & (np.tile(LANE, m.lanes // WARP) < 8 * n)
        rows = np.zeros((m.lanes, 16), np.uint8)
        rows[asked] = m.shared.load(addresses, 16, asked)
        matrices = rows.view(np.uint16).reshape(-1, 4, 8, 8)[:, :n]
        if transposed:
            matrices = matrices.swapaxes(2, 3)
        pairs = np.ascontiguousarray(matrices).view(U32).reshape(-1, n, WARP)
        for i, register in enumerate(target.items):
            m.write(register, pairs[:, i].reshape(-1))

    return run


def binary_product(combine: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        both = combine(a[:, :, None, :], b[:, None, :, :])
        return np.bitwise_count(both).sum(-1, dtype=np.int64)

    return product


def byte_product(a_type: np.dtype, b_type: np.dtype) -> Callable[..., np.ndarray]:
    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # Exact in float32: sums of 32 products stay far below 2**24.
        a, b = (np.ascontiguousarray(x).view(t).astype("f4") for x, t in ((a, a_type), (b, b_type)))
        return (a @ b.swapaxes(1, 2)).astype(np.int64)

    return product


@TABLE(r"mma\.sync\.aligned\.m16n8k(128|256)\.row\.col\.s32\.b1\.b1\.s32\.(and|xor)\.popc")
def multiply_bits(k: str, name: str) -> Action:
    return multiply(int(k) // 32, binary_product(REDUCE[name]), integer_sum(False))


@TABLE(r"mma\.sync\.aligned\.m16n8k(16|32)\.row\.col(\.satfinite)?\.s32\.([su]8)\.([su]8)\.s32")
def multiply_bytes(k: str, saturate: str | None, a_type: str, b_type: str) -> Action:
    product = byte_product(TYPES[a_type], TYPES[b_type])
    return multiply(int(k) // 4, product, integer_sum(saturate is not None))


@TABLE(r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f32\.(f16|bf16)\.(f16|bf16)\.f32")
def multiply_halves(k: str, a_type: str, b_type: str) -> Action | None:
    if a_type != b_type:
        return None
    return multiply(int(k) // 2, float_product(TYPES[a_type]), float32_sum, F32)


@TABLE(r"mma\.sync\.aligned\.m16n8k(4|8)\.row\.col\.f32\.tf32\.tf32\.f32")
def multiply_tf32(k: str) -> Action:
    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # The low 13 bits of a register are not read.
        a, b = ((x & U32.type(0xFFFFE000)).view(F32).astype("f8") for x in (a, b))
        return a @ b.swapaxes(1, 2)

    return multiply(int(k), product, float32_sum, F32)


def float_product(dtype: np.dtype) -> Callable[..., np.ndarray]:
    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (np.ascontiguousarray(x).view(dtype).astype("f8") for x in (a, b))
        return a @ b.swapaxes(1, 2)

    return product


def float32_sum(product: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The sum, of which that of the products is float64's, truncated.

    PTX leaves order and rounding open ("at least single precision"). That tensor cores truncate
    was found by Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores".
    """
    total = product + c.astype("f8")
    nearest = total.astype("f4")
    outwards = np.isfinite(nearest) & (np.abs(nearest.astype("f8")) > np.abs(total))
    return np.where(outwards, np.nextafter(nearest, F32.type(0)), nearest)


def integer_sum(saturate: bool) -> Callable[..., np.ndarray]:
    def total(product: np.ndarray, c: np.ndarray) -> np.ndarray:
        wide = product + c
        return (np.clip(wide, -(2**31), 2**31 - 1) if saturate else wide).astype(S32)

    return total


def multiply(
    n_words: int,
    product: Callable[..., np.ndarray],
    add: Callable[..., np.ndarray],
    dtype: np.dtype = S32,
) -> Action:
    """D = add(product(A, B), C), A [16, n_words] and B [8, n_words] of 32-bit words, C [16, 8]."""
    blocks = [(row, word) for word in range(0, n_words, 4) for row in (0, 8)]

    def run(m: Machine, d: Vector, a: Vector, b: Vector, c: Vector) -> None:
        m.require_whole_warps()
        warps = m.lanes // WARP
        left, right = np.zeros((warps, 16, n_words), U32), np.zeros((warps, 8, n_words), U32)
        for item, (row, word) in zip(a.items, blocks, strict=True):
            left[:, GROUP + row, IN_GROUP + word] = words(m, item)
        for item, word in zip(b.items, range(0, n_words, 4), strict=True):
            right[:, GROUP, IN_GROUP + word] = words(m, item)
        result = product(left, right)
        places = [(row, column) for row in (0, 8) for column in (0, 1)]
        for target, item, (row, column) in zip(d.items, c.items, places, strict=True):
            part = result[:, GROUP + row, 2 * IN_GROUP + column]
            m.write(target, add(part, words(m, item, dtype)).reshape(-1))

    return run
