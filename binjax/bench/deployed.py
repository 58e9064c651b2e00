"""A packed network to measure, and the same in float32 with XLA's products, its reference.

In floats a pixel p is ``2p - 255``, bits are ±1. All sums are whole numbers below 2^24, exact in
any order of addition.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from binjax import deploy
from binjax.bench.problems import Problem, describe_net
from binjax.deploy.graph import Graph, largest_sum, shapes
from binjax.deploy.operations import (
    AFFINE,
    PIXEL_LEVELS,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Scores,
    Threshold,
)
from binjax.deploy.words import unpack_last
from binjax.models.options import Compute

Array = np.ndarray[Any, Any]
_PIECE = 100  # images of which the reference is computed at a time


@dataclass(frozen=True)
class Network:
    """A packed network, images, and what it has to make of them.

    Attributes:
        packed: the network.
        floats: its arrays in floats, see :func:`float_arrays`.
        described: the same architecture, for those who build it themselves.
        images: ``uint8[n, h, w, c]``.
        scores: ``float32[n, classes]``, from sums in floats.
    """

    packed: deploy.PackedModel
    floats: Mapping[str, Array]
    described: Mapping[str, Any]
    images: Array
    scores: Array


def prepare(problem: Problem, n_images: int, seed: int = 0) -> Network:
    """A network with random norms, packed, and random images with their scores.

    Args:
        problem: the network; its batch does not matter.
        n_images: at least 1.
        seed: of weights, norms and images.
    """
    model = problem.build(compute=Compute(), pixels=True, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    _randomize_norms(model, rng)
    packed = deploy.pack(model, problem.image)
    floats = float_arrays(packed)
    images = rng.integers(0, 256, (n_images, *problem.image), np.uint8)
    net = describe_net(model, problem.eps, problem.momentum)
    layers = [
        layer._asdict() | {"n_out": getattr(model, f"{layer.kind}{layer.number}").n_out}
        for layer in net.layers
    ]
    described = {"layers": layers, "image": problem.image, "eps": problem.eps}
    return Network(packed, floats, described, images, _reference(packed, floats, images))


def _randomize_norms(model: nnx.Module, rng: np.random.Generator) -> None:
    """Statistics and gains as of a trained network; gains of both signs."""
    draw: Mapping[str, Callable[[tuple[int, ...]], Array]] = {
        "scale": lambda shape: rng.normal(size=shape),
        "bias": lambda shape: rng.normal(size=shape),
        "mean": lambda shape: 5 * rng.normal(size=shape),
        "spread": lambda shape: rng.uniform(0.1, 40, shape),
    }
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        value = variable[...]
        if path[-1] in draw:
            variable[...] = jnp.asarray(draw[str(path[-1])](value.shape), value.dtype)


def _reference(packed: deploy.PackedModel, floats: Mapping[str, Array], images: Array) -> Array:
    """Scores by float products, not by any kernel of ours."""
    sums = jax.jit(functools.partial(xla_sums, packed.graph))
    placed = {name: jnp.asarray(array) for name, array in floats.items()}
    pieces = [
        np.asarray(sums(placed, jnp.asarray(images[start : start + _PIECE])))
        for start in range(0, len(images), _PIECE)
    ]
    return exact_scores(packed, np.concatenate(pieces))


def macs(graph: Graph) -> int:
    """Multiply-accumulates of one image."""
    return sum(
        op.elements * math.prod(shape)
        for op, shape in zip(graph.ops, shapes(graph), strict=True)
        if isinstance(op, Dense | Conv)
    )


def float_arrays(packed: deploy.PackedModel) -> dict[str, Array]:
    """The arrays of a network in floats, by ``<operation>.<array>``, all float32.

    ``kernel`` is ±1, ``[elements, outputs]`` or HWIO; ``limit`` and ``sign`` are ``[outputs]``: a
    sum at or above its limit becomes ``sign``, any other ``-sign``. A pooling has ``sign`` alone.

    Raises:
        ValueError: an operation that the functions here do not know.
    """
    found: dict[str, Array] = {}
    channels = packed.graph.image.shape[2]
    for op in packed.graph.ops:
        name = op.name
        if isinstance(op, MaxPool):
            found[f"{name}.sign"] = _signs(~unpack_last(packed.tensors[f"{name}.flip"], channels))
        elif isinstance(op, Dense | Conv):
            _check(op)
            channels = op.outputs
            found[f"{name}.kernel"] = _kernel(op, packed.tensors[f"{name}.words"])
            if isinstance(op.rule, Scores):
                found |= {f"{name}.{part}": packed.tensors[f"{name}.{part}"] for part in AFFINE}
                continue
            beyond = largest_sum(op) + 1
            limit = np.clip(packed.tensors[f"{name}.threshold"], -beyond, beyond)
            found[f"{name}.limit"] = limit.astype(np.float32)
            found[f"{name}.sign"] = _signs(~unpack_last(packed.tensors[f"{name}.flip"], channels))
        elif not isinstance(op, Flatten):
            raise ValueError(f"{name} ({type(op).__name__.lower()}) has no form in floats here")
    return found


def _check(op: Dense | Conv) -> None:
    """Sums have to be exact in float32, borders zeros and alike on both sides."""
    plain = largest_sum(op) < 1 << 24
    if isinstance(op, Conv):
        top, bottom, left, right = op.geometry.padding
        plain &= top == bottom and left == right and op.groups == 1
        plain &= op.geometry.dilation == (1, 1)
        plain &= op.geometry.pad_value == 0 or not any(op.geometry.padding)
    if not plain:
        raise ValueError(f"{op.name} is not a layer that is compared in floats")


def _kernel(op: Dense | Conv, words: Array) -> Array:
    if isinstance(op, Dense):
        return np.ascontiguousarray(_signs(unpack_last(words, op.elements)).T)
    if op.operand == "pixels":
        values = unpack_last(words, op.elements).reshape(op.outputs, *op.kernel, -1)
    else:
        values = unpack_last(words, op.geometry.channels)
    return np.ascontiguousarray(np.moveaxis(_signs(values), 0, 3))


def _signs(bits: Array) -> Array:
    return np.where(bits, np.float32(1), np.float32(-1))


def exact_scores(packed: deploy.PackedModel, sums: Array) -> Array:
    """Scores of the last layer's sums, each operation rounded as the network's are, by numpy."""
    op = packed.graph.ops[-1]
    assert isinstance(op, Dense | Conv)
    assert isinstance(op.rule, Scores)
    bias, mean, factor, offset = (packed.tensors[f"{op.name}.{part}"] for part in AFFINE)
    real = sums.astype(np.float32) * np.float32(op.rule.scale)
    return np.asarray(((real + bias) - mean) * factor + offset)


def xla_scores(graph: Graph, arrays: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """Scores ``float32[n, classes]``, by float32 products."""
    op = graph.ops[-1]
    assert isinstance(op, Dense | Conv)
    assert isinstance(op.rule, Scores)
    bias, mean, factor, offset = (arrays[f"{op.name}.{part}"][None] for part in AFFINE)
    real = xla_sums(graph, arrays, images) * op.rule.scale
    return ((real + bias) - mean) * factor + offset


def xla_sums(graph: Graph, arrays: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """The last layer's sums ``float32[n, classes]``: whole numbers, so of any order of addition."""
    x = images
    for op in graph.ops:
        if isinstance(op, Flatten):
            x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        elif isinstance(op, MaxPool):
            window, strides = (1, *op.window, 1), (1, *op.strides, 1)
            x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")
            x = x * _per_channel(arrays[f"{op.name}.sign"], x)
        else:
            assert isinstance(op, Dense | Conv)
            if op.operand == "pixels":
                x = 2.0 * x.astype(jnp.float32) - PIXEL_LEVELS
            x = _xla_product(op, x, arrays[f"{op.name}.kernel"])
            if isinstance(op.rule, Threshold):
                sign = _per_channel(arrays[f"{op.name}.sign"], x)
                x = jnp.where(x >= _per_channel(arrays[f"{op.name}.limit"], x), sign, -sign)
    return x.reshape(x.shape[0], graph.classes)


def _xla_product(op: Dense | Conv, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if isinstance(op, Dense):
        return x @ kernel
    top, bottom, left, right = op.geometry.padding
    return lax.conv_general_dilated(
        x,
        kernel,
        op.geometry.strides,
        ((top, bottom), (left, right)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _per_channel(values: jax.Array, x: jax.Array) -> jax.Array:
    return values.reshape((1,) * (x.ndim - 1) + (-1,))
