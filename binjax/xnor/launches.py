"""Arrays of binary products as the Triton kernels take them, without compiling anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from binjax.packing import words_for
from binjax.xnor.xla import Epilogue

if TYPE_CHECKING:
    from kernels_triton.gradient_launch import Gradient
    from kernels_triton.launch import Epilogue as KernelEpilogue
    from kernels_triton.launch import Launch

PACKABLE = ("float32", "float16", "bfloat16")
KERNEL_EPILOGUE: Mapping[Epilogue, KernelEpilogue] = {
    "int32": "dot",
    "affine": "affine",
    "threshold": "threshold",
}
# Sizes of the elements behind a pointer.
_BYTES = {"*i1": 1, "*u16": 2, "*bf16": 2, "*fp16": 2, "*i32": 4, "*u32": 4, "*fp32": 4}


def element_sizes(launch: Launch) -> list[int]:
    """Bytes per element of each operand of a launch."""
    pointers = [argument.type for argument in launch.arguments if argument.value is None]
    return [_BYTES[pointer] for pointer in pointers[:-1]]


def product_operands(xp: jax.Array, wp: jax.Array, launch: Launch) -> list[jax.Array]:
    """Packed rows in the layout of a launch, with zero words up to its length, and their ones."""
    arrays = []
    for packed in (xp, wp):
        words = jnp.pad(packed, ((0, 0), (0, launch.words - packed.shape[1])))
        arrays.append(words.T if launch.layout == "word-major" else words)
    if launch.popcounts:
        ones = [jnp.sum(jax.lax.population_count(packed), 1) for packed in (xp, wp)]
        arrays += [count.astype(jnp.int32) for count in ones]
    return arrays


def gradient_launch(
    kind: Gradient,
    g: jax.Array,
    packed: jax.Array,
    k: int,
    mask: jax.Array | None,
    compute_capability: int,
) -> Launch | None:
    """The launch of a gradient of a product; None where the gradient is empty or zero.

    Args:
        kind: "input_gradient" or "weight_gradient".
        g: floating ``[M, N]``.
        packed: words of the other factor, ``uint32[N, ceil(k/32)]`` or ``uint32[M, ceil(k/32)]``.
        k: elements per row.
        mask: words ``uint32[M, ceil(k/32)]`` or ``uint32[k, ceil(N/32)]``.
        compute_capability: of the GPU, 10 · major + minor.

    Raises:
        TypeError: g or words of another dtype.
        ValueError: shapes that do not fit; what the kernels are not for.
    """
    from kernels_triton.gradient_launch import gradient

    if g.dtype.name not in PACKABLE:
        raise TypeError(f"g has dtype {g.dtype}; expected one of {', '.join(PACKABLE)}")
    m, n = g.shape
    of_x = kind == "input_gradient"
    expected = {"packed": (n if of_x else m, words_for(k))}
    expected["mask"] = (m, words_for(k)) if of_x else (k, words_for(n))
    for name, words in (("packed", packed), ("mask", mask)):
        if words is None:
            continue
        if words.dtype != jnp.uint32:
            raise TypeError(f"{name} has dtype {words.dtype}; it must be uint32")
        if words.shape != expected[name]:
            raise ValueError(f"{name} has shape {words.shape}; expected {expected[name]}")
    if 0 in (m, n, k):
        return None
    masked = mask is not None
    return gradient(
        kind, m, n, k, g.dtype.name, masked=masked, compute_capability=compute_capability
    )
