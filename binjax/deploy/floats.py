"""Layers that stay float: what ``allow_float`` packs, listed by name and outside of the proof.

Their sums are rounded in an order that compilers choose, so no other program has to agree with them
bit for bit; the operations here are those of the network's own layers, in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from binjax.deploy.block import Between, Block, Norm
from binjax.deploy.build import pool_sizes, sign_of
from binjax.deploy.operations import (
    AFFINE,
    PIXEL_SCALING,
    Affine,
    Conv,
    Flatten,
    MaxPool,
    Op,
    Real,
    Sign,
    ToFloat,
)
from binjax.layers import BatchNorm
from binjax.layers.pool import tiled_max
from binjax.packing import unpack_bits
from binjax.shift import ap2
from binjax.xnor.geometry import Geometry

Arrays = dict[str, np.ndarray]


class PixelScaling(NamedTuple):
    """Pixels p as floats: ``(gain p - mean) * inverse``; one number, or one for each channel."""

    gain: np.ndarray
    mean: np.ndarray
    inverse: np.ndarray


def affine_of(norm: Norm) -> Arrays:
    """What a norm subtracts, multiplies by and adds in evaluation."""

    @jax.jit
    def factor(spread: jax.Array, scale: jax.Array) -> jax.Array:
        assert isinstance(norm, BatchNorm)
        inverse = jax.lax.rsqrt(spread + norm.eps) if norm.running == "variance" else spread
        return inverse * scale

    if isinstance(norm, BatchNorm):
        scale = jnp.ones(norm.n) if norm.scale is None else norm.scale[...]
        values = factor(norm.spread[...], scale)
        offset = np.zeros(norm.n) if norm.bias is None else norm.bias[...]
    else:
        values = ap2(norm.inverse_std[...]) * ap2(norm.scale[...])
        offset = norm.bias[...]
    found = {"mean": norm.mean[...], "factor": values, "offset": offset}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def float_ops(block: Block) -> tuple[list[Op], Arrays]:
    """A block that multiplies floats (one with ``floats`` set) as operations and their arrays."""
    name, op, layer = block.op.name, block.op, block.layer
    takes_bits = sign_of(layer) is not None
    ops: list[Op] = [ToFloat(f"{name}-input", "bits")] if takes_bits else []
    ops.append(
        Real(
            name,
            op.elements,
            op.outputs,
            op.kernel if isinstance(op, Conv) else None,
            op.geometry if isinstance(op, Conv) else None,
        )
    )
    arrays: Arrays = {f"{name}.kernel": block.weights.astype(np.float32)}
    zeros, ones = np.zeros(op.outputs, np.float32), np.ones(op.outputs, np.float32)
    bias = zeros if layer.bias is None else np.asarray(layer.bias[...], np.float32)
    plain = {"bias": zeros, "mean": zeros, "factor": ones, "offset": zeros}

    def affine(norms: tuple[Between, ...], label: str, first: Arrays) -> None:
        parts = [plain | affine_of(norm) for norm in norms if isinstance(norm, Norm)] or [plain]
        parts[0] |= first
        for i, own in enumerate(parts):
            ops.append(Affine(f"{name}-{label}{i + 1}"))
            arrays.update({f"{name}-{label}{i + 1}.{part}": own[part] for part in AFFINE})

    affine(block.before, "norm", {"bias": bias})
    ops.extend(MaxPool(pool.name, *pool_sizes(pool.module)) for pool in block.pools)
    if block.after:
        affine(block.after, "pooled", {})
    if block.quantizer is not None:
        ops.append(Sign(f"{name}-sign"))
    if block.flatten is not None:
        ops.append(Flatten(block.flatten))
    return ops, arrays


def scaling_arrays(name: str, scaling: PixelScaling, channels: int) -> Arrays:
    """The arrays of a :class:`ToFloat` of pixels."""
    return {
        f"{name}.{part}": np.broadcast_to(np.asarray(values, np.float32), channels).copy()
        for part, values in zip(PIXEL_SCALING, scaling, strict=True)
    }


def apply_float(
    op: ToFloat | Real | Affine | MaxPool, x: jax.Array, n: int, arrays: Mapping[str, jax.Array]
) -> jax.Array:
    """One operation whose result is floats.

    Args:
        op: what to do.
        x: floats; of a :class:`ToFloat` pixels or words.
        n: elements in x's last axis.
        arrays: of all operations.
    """
    if isinstance(op, MaxPool):
        if op.window == op.strides:
            return tiled_max(x, op.window)
        pooled: jax.Array = nnx.max_pool(x, op.window, strides=op.strides)  # type: ignore[no-untyped-call]
        return pooled
    if isinstance(op, Real):
        kernel = arrays[f"{op.name}.kernel"]
        return x @ kernel if op.geometry is None else _convolve(x, kernel, op.geometry)
    if isinstance(op, ToFloat) and op.operand == "bits":
        return unpack_bits(x, n, jnp.float32)
    names = PIXEL_SCALING if isinstance(op, ToFloat) else AFFINE
    parts = [arrays[f"{op.name}.{part}"].reshape((1,) * (x.ndim - 1) + (-1,)) for part in names]
    if isinstance(op, ToFloat):
        gain, mean, inverse = parts
        return (x.astype(jnp.float32) * gain - mean) * inverse
    bias, mean, factor, offset = parts
    return ((x + bias) - mean) * factor + offset


def _convolve(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    pads = (geometry.padding[:2], geometry.padding[2:])
    if geometry.pad_value != 0 and any(geometry.padding):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=geometry.pad_value)
        pads = ((0, 0), (0, 0))
    return lax.conv_general_dilated(
        x, kernel, geometry.strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
