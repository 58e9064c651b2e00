"""Quantizers in plain numpy, float64, from the papers' formulas: (value, derivative) of arrays.

Derivatives are dy_j/dx_j with everything that is a constant in the backward pass held still; for
those that look at whole channels, ``pullback(x, g)``.
"""

import math

import numpy as np


def kernel(*shape):
    """A kernel at random, the same for each call."""
    return np.random.default_rng(7).normal(0, 0.7, shape).astype(np.float32)


def sign(x):
    return np.where(np.isnan(x), x, np.where(x >= 0, 1.0, -1.0))


def inside(x, clip=1.0):
    return (np.abs(x) <= clip).astype(float)


def sigmoid_like(x, beta):
    """BNN+ (Darabi et al. 2018), eq. 3: the derivative of SignSwish."""
    with np.errstate(over="ignore", invalid="ignore"):
        d = beta * (2 - beta * x * np.tanh(beta * x / 2)) / (1 + np.cosh(beta * x))
    return np.where(np.isinf(x) | (np.abs(beta * x) > 700), 0, d)


def approx(x):
    return np.where(np.abs(x) <= 1, 2 * (1 - np.abs(x)), 0)


def heaviside(x):
    return np.where(np.isnan(x), x, (x > 0).astype(float))


def ternary(x, threshold):
    """-1, 0, 1: Larq's sign(sign(x + threshold) + sign(x - threshold))."""
    return np.sign(np.sign(x + threshold) + np.sign(x - threshold))


def levels(x, k):
    n = 2**k - 1
    return np.round(np.clip(x, 0, 1) * n) / n  # numpy rounds halves to even


def dorefa_weights(x, k):
    t = np.tanh(x)
    m = np.abs(t).max()
    if m == 0:
        return np.zeros_like(x), np.ones_like(x)
    return 2 * levels(t / (2 * m) + 0.5, k) - 1, (1 - t**2) / m


def fourier(x, terms, omega):
    """FDA-BNN: the derivative of the sine series of a square wave, term by term."""
    total = np.zeros_like(x)
    for i in range(terms):
        with np.errstate(invalid="ignore"):
            total += np.cos((2 * i + 1) * omega * x)
    return np.where(np.abs(x) <= 1, 4 * omega / math.pi * total, 0)


def ede(x, t, k):
    return k * t * (1 - np.tanh(t * x) ** 2)


def rbnn(x, t, k):
    return k * np.maximum(0, math.sqrt(2) * t - t**2 * np.abs(x))


def channel_mean(x):
    return np.abs(x).mean(tuple(range(x.ndim - 1)), keepdims=True)


def standardized(x, eps=1e-5):
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean = x.mean(axes, keepdims=True)
    variance = ((x - mean) ** 2).sum(axes, keepdims=True) / max(count - 1, 1)
    return (x - mean) / np.sqrt(variance + eps)


def standardized_pullback(x, g, eps=1e-5):
    """Of y = (x - mean)/sqrt(var + eps), var unbiased, by the chain rule over each channel."""
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    mean = x.mean(axes, keepdims=True)
    c = x - mean
    variance = (c**2).sum(axes, keepdims=True) / max(count - 1, 1)
    s = np.sqrt(variance + eps)
    along = (g * c).sum(axes, keepdims=True)
    dc = g / s - c * along / (s**3 * max(count - 1, 1))
    return dc - dc.mean(axes, keepdims=True)


def adabin(x, t, k):
    """Tu et al. 2022: values alpha·sign((x - beta)/alpha) + beta, and the pullback.

    beta is the channel's mean, alpha = |x - beta|/sqrt(n). With u = (x - beta)/alpha, s = sign(u)
    and d = ede(u): dy = s·dalpha + alpha·d·du + dbeta, alpha·du = dx - dbeta - u·dalpha,
    dalpha = mean(u·dx).
    """
    axes = tuple(range(x.ndim - 1))
    beta = x.mean(axes, keepdims=True)
    alpha = np.sqrt(((x - beta) ** 2).mean(axes, keepdims=True))
    u = (x - beta) / alpha
    d = ede(u, t, k)

    def pullback(g):
        from_alpha = (g * (sign(u) - d * u)).mean(axes, keepdims=True)
        return g * d + (g * (1 - d)).mean(axes, keepdims=True) + u * from_alpha

    return alpha * sign(u) + beta, pullback
