"""Networks to deploy, and a deployed graph executed in numpy integers, independent of binjax."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.deploy.operations import (
    Dense,
    Flatten,
    MaxPool,
    Scores,
    Sign,
)
from binjax.layers import apply, split


def randomize(model, seed=0):
    """Norms as after some training, with gamma 0, of both signs, and thresholds beyond all sums."""
    rng = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shape, name = variable[...].shape, path[-1]
        if name == "scale":
            values = rng.normal(size=shape)
            values[0] = 0
        elif name == "mean":
            values = rng.normal(size=shape) * 5
        elif name in ("spread", "inverse_std"):
            values = rng.uniform(0.1, 40, shape)
        elif name == "bias":
            values = rng.normal(size=shape)
            values[-1] *= 1e6
        else:
            continue
        variable[...] = jnp.asarray(values.astype(np.float32))
    return model


def scores_of(model):
    """The model's evaluation, with its variables as arguments, as in training."""
    graphdef, params, stats = split(model)
    run = jax.jit(lambda p, s, images: apply(graphdef, p, s, images, train=False)[0])
    return lambda images: run(params, stats, images)


def images_for(graph, n, seed=0):
    rng = np.random.default_rng(seed)
    if graph.image.dtype == "float32":
        x = rng.normal(size=(n, *graph.image.shape))
        return np.where(rng.random(x.shape) < 0.1, 0 * x, x).astype(np.float32)  # with -0.0
    return rng.integers(0, 256, (n, *graph.image.shape)).astype(np.uint8)


def execute(graph, tensors, images):
    """Scores of a graph: ±1 as int64, windows by hand, float32 only in the scores."""
    x = images.astype(np.float32)
    if graph.image.dtype == "uint8":
        x = 2 * images.astype(np.int64) - 255
    for op in graph.ops:
        own = {k.removeprefix(op.name + "."): v for k, v in tensors.items() if _owns(op, k)}
        if isinstance(op, Flatten):
            x = x.reshape(len(x), -1)
        elif isinstance(op, Sign):
            x = np.where(x >= 0, 1, -1)
        elif isinstance(op, MaxPool):
            x = _pool(x, op) * np.where(_bits(own["flip"], x.shape[-1]), -1, 1)
        else:
            x = _finish(op, own, _multiply(op, own["words"], x))
    return x


def _owns(op, name):
    return name.rsplit(".", 1)[0] == op.name


def _bits(words, n):
    """One bit after the other: bit j of word i is element 32 i + j."""
    i = np.arange(n)
    return (words[..., i // 32] >> (i % 32).astype(np.uint32)) & 1


def _multiply(op, words, x):
    if isinstance(op, Dense):
        return x @ (2 * _bits(words, op.elements).astype(np.int64) - 1).T
    g, (kh, kw) = op.geometry, op.kernel
    if op.operand == "pixels":
        w = 2 * _bits(words, op.elements).astype(np.int64) - 1
        w = w.reshape(op.outputs, kh, kw, g.channels)
    else:
        w = 2 * _bits(words, g.channels).astype(np.int64) - 1
    top, bottom, left, right = g.padding
    border = 0 if op.operand == "pixels" else g.pad_value
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=border)
    high = (x.shape[1] - (kh - 1) * g.dilation[0] - 1) // g.strides[0] + 1
    wide = (x.shape[2] - (kw - 1) * g.dilation[1] - 1) // g.strides[1] + 1
    out = np.zeros((len(x), high, wide, op.outputs), np.int64)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * g.dilation[0], i * g.dilation[0] + (high - 1) * g.strides[0] + 1)
            columns = slice(j * g.dilation[1], j * g.dilation[1] + (wide - 1) * g.strides[1] + 1)
            tap = x[:, rows, columns][:, :: g.strides[0], :: g.strides[1]]
            each = op.outputs // op.groups
            for group in range(op.groups):
                to = slice(group * each, (group + 1) * each)
                channels = slice(group * g.channels, (group + 1) * g.channels)
                out[..., to] += tap[..., channels] @ w[to, i, j].T
    return out


def _finish(op, own, sums):
    if not isinstance(op.rule, Scores):
        bits = (sums >= own["threshold"]) ^ (_bits(own["flip"], op.outputs) == 1)
        return np.where(bits, 1, -1)
    real = sums.astype(np.float32) * np.float32(op.rule.scale) * own.get("gain", np.float32(1))
    real = real + own["bias"] - own["mean"]
    out = real * own["factor"] + own["offset"]
    return out.reshape(len(out), -1)


def _pool(x, op):
    (down, right), (vertical, horizontal) = op.window, op.strides
    high = (x.shape[1] - down) // vertical + 1
    wide = (x.shape[2] - right) // horizontal + 1
    out = np.full((len(x), high, wide, x.shape[3]), -1)
    for i in range(high):
        for j in range(wide):
            at = x[:, i * vertical : i * vertical + down, j * horizontal : j * horizontal + right]
            out[:, i, j] = at.max((1, 2))
    return out
