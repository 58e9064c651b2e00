"""What binjax computes, once more, in plain numpy: the other side of the tests.

Written from the papers' formulas and the authors' Theano and Torch code, not from binjax. Loops
and float64 where they help clarity; channels are the last axis; nothing here is fast.

Sources: [P] Courbariaux, Hubara et al. 2016 (arXiv:1602.02830); [Theano]
MatthieuCourbariaux/BinaryNet; [Torch] itayhubara/BinaryNet; [L] Lasagne's ``updates.py``.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Tree = dict[str, Any]

# Signs and their declared derivatives


def sign(x: Array) -> Array:
    """+1 for x >= 0 and for -0.0, -1 below, NaN for NaN ([P] eq. 1)."""
    return np.where(np.isnan(x), x, np.where(x < 0, -1, 1)).astype(x.dtype)


def hard_tanh(x: Array) -> Array:
    """clip(x, -1, 1)."""
    return np.clip(x, -1, 1)


def hard_sigmoid(x: Array) -> Array:
    """clip((x + 1)/2, 0, 1) ([P] eq. 3), without overflow in x + 1."""
    return (np.clip(x, -1, 1) + 1) / 2


def saturated_derivative(x: Array, clip_value: float = 1.0) -> Array:
    """1 where abs(x) <= clip_value, boundary included ([P] eq. 4)."""
    return (np.abs(x) <= clip_value).astype(np.float64)


def approx_sign_derivative(x: Array) -> Array:
    """2 (1 - abs(x)) inside [-1, 1] (Bi-Real Net, arXiv:1808.00278)."""
    return np.where(np.abs(x) <= 1, 2 * (1 - np.clip(np.abs(x), 0, 1)), 0.0)


def swish_sign_derivative(x: Array, beta: float = 5.0) -> Array:
    """beta (2 - beta x tanh(beta x/2)) / (1 + cosh(beta x)) (BNN+, arXiv:1812.11800)."""
    with np.errstate(over="ignore"):
        bx = np.clip(beta * np.asarray(x, np.float64), -700, 700)  # 0 beyond: cosh(700) = 5e303
    value = beta * (2 - bx * np.tanh(bx / 2)) / (1 + np.cosh(bx))
    return np.where(np.abs(bx) < 700, value, np.where(np.isnan(bx), np.nan, 0.0))


# Powers of two


def _smallest_mantissa_rounding_up() -> float:
    """The first double m in [1/2, 1) with m*m > 1/2, squared exactly."""
    m = math.sqrt(0.5)
    while Fraction(m) ** 2 > Fraction(1, 2):
        m = math.nextafter(m, 0.0)
    while Fraction(m) ** 2 < Fraction(1, 2):
        m = math.nextafter(m, 1.0)
    return m


_ROUNDS_UP = _smallest_mantissa_rounding_up()


def ap2(x: Array) -> Array:
    """sign(x) 2^round(log2 abs(x)) ([P] table of AP2), exact: 0, inf, NaN give themselves.

    With ``abs(x) = m 2^e`` and m in [1/2, 1), the rounded logarithm is e where m^2 > 1/2 and
    e - 1 where it is less; they are never equal, since the square root of 1/2 is irrational.
    """
    x = np.asarray(x)
    wide = x.astype(np.float64)  # exact for every narrower format
    ordinary = np.isfinite(wide) & (wide != 0)
    mantissa, exponent = np.frexp(np.where(ordinary, np.abs(wide), 1.0))
    with np.errstate(over="ignore"):
        power = np.ldexp(1.0, np.where(mantissa >= _ROUNDS_UP, exponent, exponent - 1))
        return np.where(ordinary, np.copysign(power, wide), wide).astype(x.dtype)


def ap2_of_sqrt(square: Fraction) -> float:
    """2^round(log2 sqrt(square)), half away from zero upwards: exact also in the ties."""
    k = 0
    while Fraction(4) ** k * 2 <= square:  # 2^(2k+1) <= square: sqrt(square) rounds above 2^k
        k += 1
    while square * 2 < Fraction(4) ** k:  # square < 2^(2k-1)
        k -= 1
    return math.ldexp(1.0, k)


# Losses


def squared_hinge(scores: Array, targets: Array) -> float:
    """mean(max(0, 1 - t y)^2) over batch and classes [Theano]."""
    return float(np.mean(np.maximum(0, 1 - targets * scores) ** 2))


def squared_hinge_gradient(scores: Array, targets: Array) -> Array:
    """d squared_hinge / d scores."""
    return -2 * targets * np.maximum(0, 1 - targets * scores) / scores.size


def hinge(scores: Array, targets: Array) -> float:
    """mean(max(0, 1 - t y))."""
    return float(np.mean(np.maximum(0, 1 - targets * scores)))


def cross_entropy(scores: Array, labels: Array) -> float:
    """mean(log sum exp(y) - y[label])."""
    shifted = scores - scores.max(-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(-1))
    return float(np.mean(log_sum - np.take_along_axis(shifted, labels[..., None], -1)[..., 0]))


def one_vs_rest(labels: Array, n_classes: int) -> Array:
    """+1 at the label, -1 elsewhere."""
    return np.where(np.arange(n_classes) == labels[..., None], 1.0, -1.0)


# Normalization over all axes but the last


class Normalized(NamedTuple):
    """Output and the two batch statistics, per channel."""

    y: Array
    mean: Array
    inverse_std: Array


def _axes(x: Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Normalized:
    """(x - mean) / sqrt(var + eps) gamma + beta with the biased variance."""
    mean = x.mean(_axes(x))
    inverse_std = 1 / np.sqrt(((x - mean) ** 2).mean(_axes(x)) + eps)
    return Normalized((x - mean) * inverse_std * gamma + beta, mean, inverse_std)


def batch_norm_gradients(
    x: Array, gamma: Array, g: Array, eps: float
) -> tuple[Array, Array, Array]:
    """d/dx, d/dgamma, d/dbeta: the true derivatives."""
    _, mean, inverse_std = batch_norm(x, gamma, np.zeros_like(gamma), eps)
    xhat = (x - mean) * inverse_std
    gx = g - g.mean(_axes(x)) - xhat * (xhat * g).mean(_axes(x))
    return gx * gamma * inverse_std, (xhat * g).sum(_axes(x)), g.sum(_axes(x))


def batch_norm_evaluated(
    x: Array, gamma: Array, beta: Array, mean: Array, inverse_std: Array
) -> Array:
    """With running statistics, [Theano]: the running *inverse* standard deviation."""
    return (x - mean) * inverse_std * gamma + beta


def shift_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Normalized:
    """[P] algorithm 3: every product but the statistic's is by a power of two."""
    mean = x.mean(_axes(x))
    c = x - mean
    inverse_std = ((ap2(c) * c).mean(_axes(x)) + eps) ** -0.5
    return Normalized(c * ap2(inverse_std) * ap2(gamma) + beta, mean, inverse_std)


def shift_norm_gradients(
    x: Array, gamma: Array, g: Array, eps: float
) -> tuple[Array, Array, Array]:
    """[Torch] BatchNormalizationShiftPow2.lua: not the true derivative."""
    c = x - x.mean(_axes(x))
    chat = ap2(c)
    s2 = ap2(((chat * c).mean(_axes(x)) + eps) ** -0.5)
    gx = (g - g.mean(_axes(x)) - chat * (chat * g).mean(_axes(x)) * s2**2) * s2 * ap2(gamma)
    return gx, (ap2(c * s2) * g).sum(_axes(x)), g.sum(_axes(x))


def shift_norm_evaluated(
    x: Array, gamma: Array, beta: Array, mean: Array, inverse_std: Array
) -> Array:
    """With the running mean and the running, un-rounded inverse standard deviation [Torch]."""
    return (x - mean) * ap2(inverse_std) * ap2(gamma) + beta


def moved(old: Array, batch: Array, kept: float) -> Array:
    """Running statistic after a step: kept old + (1 - kept) batch."""
    return kept * old + (1 - kept) * batch


# Products


def same_pads(size: int, window: int, stride: int) -> tuple[int, int]:
    """SAME padding: ceil(size/stride) outputs, the odd element after."""
    total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def conv(x: Array, w: Array, strides: tuple[int, int], padding: str, pad_value: float) -> Array:
    """NHWC by HWIO cross-correlation, the border filled with pad_value."""
    x = _padded(x, w, strides, padding, pad_value)
    high, wide = _windows(x, w, strides)
    y = np.zeros((x.shape[0], high, wide, w.shape[3]))
    for i in range(high):
        for j in range(wide):
            y[:, i, j] = np.tensordot(_patch(x, w, strides, i, j), w, 3)
    return y


def conv_gradients(
    x: Array, w: Array, g: Array, strides: tuple[int, int], padding: str, pad_value: float
) -> tuple[Array, Array]:
    """d/dx, d/dw of :func:`conv` for the output gradient g."""
    padded = _padded(x, w, strides, padding, pad_value)
    gx, gw = np.zeros(padded.shape), np.zeros(w.shape)
    for i in range(g.shape[1]):
        for j in range(g.shape[2]):
            gw += np.tensordot(_patch(padded, w, strides, i, j), g[:, i, j], (0, 0))
            _patch(gx, w, strides, i, j)[...] += np.tensordot(g[:, i, j], w, (1, 3))
    pads = [
        same_pads(x.shape[1 + a], w.shape[a], strides[a]) if padding == "SAME" else (0, 0)
        for a in (0, 1)
    ]
    top, left = pads[0][0], pads[1][0]
    return gx[:, top : top + x.shape[1], left : left + x.shape[2]], gw


def _padded(x: Array, w: Array, strides: tuple[int, int], padding: str, pad_value: float) -> Array:
    if padding == "VALID":
        return x
    pads = [same_pads(x.shape[1 + a], w.shape[a], strides[a]) for a in (0, 1)]
    return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=pad_value)


def _windows(x: Array, w: Array, strides: tuple[int, int]) -> tuple[int, int]:
    high = (x.shape[1] - w.shape[0]) // strides[0] + 1
    return high, (x.shape[2] - w.shape[1]) // strides[1] + 1


def _patch(x: Array, w: Array, strides: tuple[int, int], i: int, j: int) -> Array:
    top, left = i * strides[0], j * strides[1]
    return x[:, top : top + w.shape[0], left : left + w.shape[1]]


# Update rules: (update, new state), in the dtype of the gradient


class Moments(NamedTuple):
    """First moment, and second moment or infinity norm."""

    m: Array
    v: Array


def no_moments(like: Array) -> Moments:
    return Moments(np.zeros_like(like), np.zeros_like(like))


def adam(g: Array, old: Moments, t: int, lr: float) -> tuple[Array, Moments]:
    """[L] adam: lr sqrt(1 - b2^t)/(1 - b1^t) m / (sqrt(v) + 1e-8), b1 .9, b2 .999; t from 1."""
    m = 0.9 * old.m + (1 - 0.9) * g
    v = 0.999 * old.v + (1 - 0.999) * g**2
    rate = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return -rate * m / (np.sqrt(v) + 1e-8), Moments(m, v)


def shift_adamax_paper(
    g: Array, old: Moments, t: int, lr: float, b1: float, b2: float
) -> tuple[Array, Moments]:
    """[P] algorithm 4, dividing by the rounded bias correction and by the rounded v; t from 1."""
    m = b1 * old.m + (1 - b1) * g
    v = np.maximum(b2 * old.v, np.abs(g))
    correction = float(ap2(np.float64(1 - b1**t)))
    return -(lr / correction) * m / ap2(v), Moments(m, v)


def shift_adamax_torch(
    g: Array, old: Moments, t: int, lr: float, b1: float, b2: float
) -> tuple[Array, Moments]:
    """[Torch] adaMax_binary_clip_shift.lua; tensors round after every operation; t from 1.

    The rounded ``v`` is written back into the state; scalars are Lua's doubles.
    """
    kind = g.dtype.type
    m = kind(b1) * old.m + kind(1 - b1) * g
    v = ap2(np.maximum(kind(b2) * old.v, np.abs(g))) + kind(2**-27)
    step = kind(ap2(np.float64(lr / (1 - b1**t))))
    return -step * (m / v), Moments(m, v)


def glorot_square(shape: tuple[int, ...]) -> Fraction:
    """The square of 1/sqrt(1.5/(fan_in + fan_out)), exact [Theano]; dense (in, out), conv HWIO."""
    receptive = math.prod(shape[:-2])
    return Fraction(receptive * (shape[-2] + shape[-1])) / Fraction(3, 2)


def glorot_scale(shape: tuple[int, ...], power_of_two: bool = False) -> float:
    """Factor on a binary weight's update [Theano]; rounded to a power of two [Torch]."""
    square = glorot_square(shape)
    return ap2_of_sqrt(square) if power_of_two else math.sqrt(square)


# Two whole networks, trained by hand. A layer is a dict of arrays:
# kernel (n_in, n_out), gamma, beta, mean, inverse_std (or variance), and bias where there is one.


class Trained(NamedTuple):
    """Losses before each step, the layers after the last one, and an evaluation."""

    losses: list[float]
    layers: list[Tree]
    evaluated: Array


def train_theano_net(
    layers: list[Tree], batches: list[tuple[Array, Array]], lr: float = 0.003
) -> Trained:
    """[Theano] mnist.py without dropout: Dense(±1 kernel, bias), BN, sign, ..., Dense, BN.

    BN eps 1e-4 and alpha .1; Adam; the kernels' updates times the Glorot scale, then clipped to
    ±1. The last entry is evaluated on the first batch's inputs.
    """
    eps, kept = 1e-4, 0.9
    learned = ("kernel", "bias", "gamma", "beta")
    layers = [dict(layer) for layer in layers]
    moments = [{name: no_moments(layer[name]) for name in learned} for layer in layers]
    losses = []
    for t, (x, targets) in enumerate(batches, 1):
        inputs, sums, normals = [], [], []
        for n, layer in enumerate(layers):
            inputs.append(x)
            sums.append(x @ sign(layer["kernel"]) + layer["bias"])
            normals.append(batch_norm(sums[n], layer["gamma"], layer["beta"], eps))
            x = sign(normals[n].y)
        losses.append(squared_hinge(normals[-1].y, targets))
        g = squared_hinge_gradient(normals[-1].y, targets)
        for n in reversed(range(len(layers))):
            layer, gradients = layers[n], {}
            if n < len(layers) - 1:
                g = g * saturated_derivative(normals[n].y)
            g, gradients["gamma"], gradients["beta"] = batch_norm_gradients(
                sums[n], layer["gamma"], g, eps
            )
            gradients["bias"] = g.sum(0)
            gradients["kernel"] = inputs[n].T @ g
            g = g @ sign(layer["kernel"]).T
            for name in learned:
                update, moments[n][name] = adam(gradients[name], moments[n][name], t, lr)
                if name == "kernel":
                    update = update * glorot_scale(layer["kernel"].shape)
                layer[name] = layer[name] + update
            layer["kernel"] = np.clip(layer["kernel"], -1, 1)
            layer["mean"] = moved(layer["mean"], normals[n].mean, kept)
            layer["inverse_std"] = moved(layer["inverse_std"], normals[n].inverse_std, kept)
    x = batches[0][0]
    for layer in layers:
        z = batch_norm_evaluated(
            x @ sign(layer["kernel"]) + layer["bias"],
            *(layer[name] for name in ("gamma", "beta", "mean", "inverse_std")),
        )
        x = sign(z)
    return Trained(losses, layers, z)


def train_torch_net(
    layers: list[Tree],
    batches: list[tuple[Array, Array]],
    noises: list[list[Array]] | None,
    lr: float = 2**-6,
    b1: float = 0.9,
    b2: float = 0.999,
    power_of_two: bool = True,
) -> Trained:
    """[Torch] Dense(±1 kernel), shift BN, sign, ..., Dense, ordinary BN.

    Shift BN eps 1e-5, kept .875; last BN eps 1e-5, kept .9, running variance. Shift-AdaMax,
    Torch variant; the kernels' updates times the Glorot scale, then clipped to ±1.

    Args:
        noises: per step and hidden layer, uniform on [-1, 1): the activation is +1 where it
            exceeds the noise, which is the stochastic sign; None for the deterministic sign.
    """
    eps = 1e-5
    learned = ("kernel", "gamma", "beta")
    layers = [dict(layer) for layer in layers]
    moments = [{name: no_moments(layer[name]) for name in learned} for layer in layers]
    last = len(layers) - 1
    losses = []
    for t, (x, targets) in enumerate(batches, 1):
        inputs, sums, normals = [], [], []
        for n, layer in enumerate(layers):
            inputs.append(x)
            sums.append(x @ sign(layer["kernel"]))
            rule = batch_norm if n == last else shift_norm
            normals.append(rule(sums[n], layer["gamma"], layer["beta"], eps))
            if n < last:
                noise = noises[t - 1][n] if noises is not None else 0.0
                above = normals[n].y > noise if noises is not None else normals[n].y >= 0
                x = np.where(above, 1.0, -1.0)
        losses.append(squared_hinge(normals[last].y, targets))
        g = squared_hinge_gradient(normals[last].y, targets)
        for n in reversed(range(len(layers))):
            layer, gradients = layers[n], {}
            if n < last:
                g = g * saturated_derivative(normals[n].y)
            rule = batch_norm_gradients if n == last else shift_norm_gradients
            g, gradients["gamma"], gradients["beta"] = rule(sums[n], layer["gamma"], g, eps)
            gradients["kernel"] = inputs[n].T @ g
            g = g @ sign(layer["kernel"]).T
            for name in learned:
                update, moments[n][name] = shift_adamax_torch(
                    gradients[name], moments[n][name], t, lr, b1, b2
                )
                if name == "kernel":
                    update = update * glorot_scale(layer["kernel"].shape, power_of_two)
                layer[name] = layer[name] + update
            layer["kernel"] = np.clip(layer["kernel"], -1, 1)
            kept = 0.9 if n == last else 0.875
            layer["mean"] = moved(layer["mean"], normals[n].mean, kept)
            if n == last:
                variance = normals[n].inverse_std ** -2.0 - eps
                layer["variance"] = moved(layer["variance"], variance, kept)
            else:
                layer["inverse_std"] = moved(layer["inverse_std"], normals[n].inverse_std, kept)
    x = batches[0][0]
    for n, layer in enumerate(layers):
        a, gamma, beta = x @ sign(layer["kernel"]), layer["gamma"], layer["beta"]
        if n == last:
            inverse_std = 1 / np.sqrt(layer["variance"] + eps)
            z = batch_norm_evaluated(a, gamma, beta, layer["mean"], inverse_std)
        else:
            z = shift_norm_evaluated(a, gamma, beta, layer["mean"], layer["inverse_std"])
        x = sign(z)
    return Trained(losses, layers, z)
