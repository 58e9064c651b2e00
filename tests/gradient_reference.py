"""Gradients of binary convolutions in plain float64 numpy: a matrix product per tap and group."""

from __future__ import annotations

import numpy as np
from binary_reference import signs

from binjax.xnor.geometry import check_geometry

Array = np.ndarray
DENSE = {"strides": (1, 1), "padding": "VALID", "dilation": (1, 1)}


def latent(rng: np.random.Generator, shape: tuple[int, ...], dtype: type = np.float32) -> Array:
    """Normal values, some of them on the edges of sign and straight-through mask."""
    one = dtype(1)
    edges = [0.0, -0.0, one, -one, np.nextafter(one, dtype(2)), np.nextafter(one, dtype(0)), -2]
    strewn = rng.choice(np.asarray(edges, dtype), shape)
    return np.where(rng.random(shape) < 0.3, strewn, rng.normal(size=shape)).astype(dtype)


def gradients(
    x: Array,
    w: Array,
    g: Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: object = "SAME",
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    pad_value: int = 0,
) -> tuple[Array, Array]:
    """Of sign(x) ``[n, h, w, C]`` and sign(w) ``[kh, kw, C/groups, N]``, unmasked, in float64."""
    sx, sw, g = (np.asarray(a, np.float64) for a in (signs(x), signs(w), g))
    geometry = check_geometry(
        x.shape[1:3], w.shape[:2], w.shape[2], strides, padding, pad_value, dilation
    )
    top, bottom, left, right = geometry.padding
    widths = ((0, 0), (top, bottom), (left, right), (0, 0))
    bordered = np.pad(sx, widths, constant_values=pad_value)
    gx, gw = np.zeros_like(bordered), np.zeros_like(sw)
    rows, n, c = g.reshape(-1, g.shape[3]), w.shape[3] // groups, w.shape[2]
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            y0, x0 = i * dilation[0], j * dilation[1]
            here = (
                slice(None),
                slice(y0, y0 + (g.shape[1] - 1) * strides[0] + 1, strides[0]),
                slice(x0, x0 + (g.shape[2] - 1) * strides[1] + 1, strides[1]),
            )
            seen, pulled = bordered[here], np.zeros((*g.shape[:3], groups * c))
            for q in range(groups):
                own, out = slice(q * c, (q + 1) * c), slice(q * n, (q + 1) * n)
                gw[i, j, :, out] = seen[..., own].reshape(-1, c).T @ rows[:, out]
                pulled[..., own] = (rows[:, out] @ sw[i, j, :, out].T).reshape(*g.shape[:3], c)
            gx[here] += pulled
    return gx[:, top : top + x.shape[1], left : left + x.shape[2]], gw


def dense_gradients(x: Array, w: Array, g: Array) -> tuple[Array, Array]:
    """Of sign(x) ``[M, K]`` and sign(w) ``[K, N]``, unmasked, in float64."""
    g = np.asarray(g, np.float64)
    return g @ signs(w).T, signs(x).T @ g


def assert_near(found: Array, expected: Array, tolerance: float = 1e-5) -> None:
    """Distance relative to the norm of what was expected."""
    found = np.asarray(found).astype(np.float64)
    assert found.shape == expected.shape
    distance, norm = np.linalg.norm(found - expected), np.linalg.norm(expected)
    assert distance <= tolerance * norm, f"{distance / norm:.1e}"
