"""Packed inference: a graph's operations on words, compiled once for each shape of images."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from binjax.deploy.file import write
from binjax.deploy.floats import apply_float
from binjax.deploy.graph import Graph, Tensors, shapes
from binjax.deploy.operations import (
    AFFINE,
    Affine,
    Conv,
    Dense,
    DeployError,
    Flatten,
    MaxPool,
    Op,
    Real,
    Scores,
    Threshold,
    ToFloat,
)
from binjax.deploy.words import unpack_last
from binjax.packing import WORD, pack_positive, unpack_bits
from binjax.rounding import apart
from binjax.xnor import ops, packed_max_pool, pixel_ops
from binjax.xnor.dispatch import check_backend
from binjax.xnor.pack import pack_last_axis

Arrays = Mapping[str, jax.Array]


class PackedModel:
    """A network as packed words, thresholds and scores; call it with images.

    Attributes:
        graph: its operations.
        tensors: its arrays, see :mod:`binjax.deploy.graph`.
        arrays: the same on the device, as :func:`run` takes them.
        backend: None for the best of the platform, or "native", "xla", "triton": the integers are
            the same on each.
    """

    def __init__(self, graph: Graph, tensors: Tensors, *, backend: str | None = None):
        check_backend(backend)
        self.graph, self.tensors, self.backend = graph, dict(tensors), backend
        self.arrays = _on_device(graph, self.tensors)

    def __call__(self, images: ArrayLike) -> jax.Array:
        """Scores of images.

        Args:
            images: ``[n, height, width, channels]`` of the dtype that ``graph.image`` declares:
                uint8 pixels, or float32.

        Returns:
            ``float32[n, classes]``.

        Raises:
            DeployError: another shape or dtype.
        """
        images = images if isinstance(images, jax.Array | np.ndarray) else np.asarray(images)
        check_images(self.graph, images)
        scores: jax.Array = run(self.graph, self.backend, self.arrays, images)
        return scores

    def save(self, path: str | Path) -> None:
        """Write the model to one file, whole or not at all; see :func:`binjax.deploy.load`.

        Raises:
            DeployError: it cannot be written.
        """
        write(Path(path), self.graph, self.tensors)


def check_images(graph: Graph, images: jax.Array | np.ndarray) -> None:
    """Refuse images that the network does not take.

    Raises:
        DeployError: another shape or dtype.
    """
    wanted = graph.image
    if images.ndim != 4 or images.shape[1:] != wanted.shape:
        size = "x".join(map(str, wanted.shape))
        raise DeployError(
            f"images have shape {tuple(images.shape)}; the network takes [n, height, width, "
            f"channels] of {size}"
        )
    if images.dtype != wanted.dtype:
        raise DeployError(
            f"images have dtype {images.dtype}; the network takes {wanted.dtype}"
            + (" pixels as they are in the file" if wanted.dtype == "uint8" else "")
        )


@functools.partial(jax.jit, static_argnames=("graph", "backend"))
def run(graph: Graph, backend: str | None, arrays: Arrays, images: jax.Array) -> jax.Array:
    """Scores ``float32[n, classes]``, unchecked."""
    x = images
    before: tuple[int, ...] = graph.image.shape
    for op, shape in zip(graph.ops, shapes(graph), strict=True):
        x = _apply(op, x, before, arrays, backend)
        before = shape
    return x.reshape(x.shape[0], graph.classes)


def _apply(
    op: Op, x: jax.Array, shape: tuple[int, ...], arrays: Arrays, backend: str | None
) -> jax.Array:
    """One operation.

    Args:
        op: what to do.
        x: pixels, floats, or words ``uint32[n, ..., words]``.
        shape: of one element of x, in elements.
        arrays: of all operations.
        backend: of products and packing.
    """
    if isinstance(op, Dense | Conv):
        return _multiply(op, x, arrays, backend)
    if isinstance(op, ToFloat | Real | Affine) or (
        isinstance(op, MaxPool) and x.dtype != jnp.uint32
    ):
        return apply_float(op, x, shape[-1], arrays)
    if isinstance(op, MaxPool):
        flip = arrays[f"{op.name}.flip"]
        return packed_max_pool(x, op.window, op.strides) ^ flip[None, None, None]
    if isinstance(op, Flatten):
        return _flatten(x, shape)
    return pack_last_axis(x, backend)


def _multiply(op: Dense | Conv, x: jax.Array, arrays: Arrays, backend: str | None) -> jax.Array:
    rest: tuple[jax.Array, ...] = ()
    if isinstance(op.rule, Threshold):
        rest = arrays[f"{op.name}.threshold"], arrays[f"{op.name}.flip"]
    epilogue = "threshold" if rest else "int32"
    words = arrays[f"{op.name}.words"]
    out: jax.Array
    if isinstance(op, Dense):
        if op.operand == "pixels":
            out = pixel_ops.matmul(x, words, *rest, epilogue=epilogue, backend=backend)
        else:
            out = ops.matmul(x, words, *rest, k=op.elements, epilogue=epilogue, backend=backend)
    elif op.operand == "pixels":
        out = pixel_ops.conv(
            x,
            words,
            *rest,
            kernel=op.kernel,
            geometry=op.geometry,
            epilogue=epilogue,
            backend=backend,
        )
    else:
        grouped = x.reshape(*x.shape[:3], op.groups, x.shape[3] // op.groups)
        out = ops.conv(
            grouped, words, *rest, geometry=op.geometry, epilogue=epilogue, backend=backend
        )
    return out if isinstance(op.rule, Threshold) else _scores(op.name, op.rule, out, arrays)


def _scores(name: str, rule: Scores, sums: jax.Array, arrays: Arrays) -> jax.Array:
    def part(which: str) -> jax.Array:
        return arrays[f"{name}.{which}"].reshape((1,) * (sums.ndim - 1) + (-1,))

    bias, mean, factor, offset = map(part, AFFINE)
    real = sums.astype(jnp.float32)
    if rule.scale != 1:
        real = apart(real * np.float32(rule.scale))
    if rule.gain:
        real = apart(real * part("gain"))
    return apart((apart(real + bias) - mean) * factor) + offset


def _flatten(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if x.dtype == jnp.uint32 and shape[-1] % WORD:  # bits are not next to each other
        bits = unpack_bits(x, shape[-1], jnp.bool_)
        return pack_positive(bits.reshape(x.shape[0], math.prod(shape)))
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _on_device(graph: Graph, tensors: Tensors) -> dict[str, jax.Array]:
    flips = {
        f"{op.name}.flip": op.outputs
        for op in graph.ops
        if isinstance(op, Dense | Conv) and isinstance(op.rule, Threshold)
    }
    return {
        name: jnp.asarray(unpack_last(array, flips[name]) if name in flips else array)
        for name, array in tensors.items()
    }
