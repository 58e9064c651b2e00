"""Convolutions of ±1 images, 3x3, zeros around them: ours in every mode against XLA's float one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binjax.bench.gemm import compiled, own_backends, random_signs, threshold_bits, thresholds
from binjax.bench.timing import Array, Case, Contestant, Unit, WrongResult
from binjax.xnor import pack_conv_input, pack_conv_kernel, packed_conv, packed_conv_threshold

_SIDE = 3


def conv_case(group: str, shape: tuple[int, ...]) -> Case:
    """The contestants of a 3x3 convolution, stride 1, SAME, the border counted as 0.

    Args:
        group: name for the rows.
        shape: (batch, height, width, channels in, channels out).
    """
    batch, height, width, n_in, n_out = shape
    rng = np.random.default_rng(sum(shape))
    x = random_signs(rng, (batch, height, width, n_in))
    w = random_signs(rng, (_SIDE, _SIDE, n_in, n_out))
    dot = exact_conv(rng, x, w)
    threshold, flip = thresholds(rng, n_out, _SIDE * _SIDE * n_in)
    bits = threshold_bits(dot, threshold, flip)
    contestants = [
        *(c for name in own_backends() for c in _ours(name, x, w, dot, threshold, flip, bits)),
        Contestant("xla", "float32", compiled(float_conv, x, w), dot, "fma"),
        Contestant("numpy", "float32", lambda: numpy_conv(x, w), dot, "fma", pool="numpy"),
    ]
    text = "x".join(map(str, shape))
    macs = batch * height * width * _SIDE * _SIDE * n_in * n_out
    return Case(group, text, macs, contestants)


def numpy_conv(x: Array, w: Array) -> Array:
    """The convolution as one float32 matrix product for each tap."""
    batch, height, width, n_in = x.shape
    margin = _SIDE // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    total = np.zeros((batch * height * width, w.shape[3]), x.dtype)
    for i in range(_SIDE):
        for j in range(_SIDE):
            window = padded[:, i : i + height, j : j + width]
            total += window.reshape(-1, n_in) @ w[i, j]
    return total.reshape(batch, height, width, -1)


def exact_conv(rng: np.random.Generator, x: Array, w: Array) -> Array:
    """The convolution in int32, by numpy's float32, itself checked with integers at places.

    Raises:
        WrongResult: the two disagree.
    """
    dot = numpy_conv(x, w).astype(np.int32)
    images = rng.integers(0, x.shape[0], 1)
    features = rng.integers(0, w.shape[3], min(w.shape[3], 8))
    sample = numpy_conv(x[images].astype(np.int64), w[..., features].astype(np.int64))
    if not np.array_equal(dot[images][..., features], sample):
        raise WrongResult("numpy's float32 convolution of ±1 is not exact on this machine")
    return dot


def float_conv(x: jax.Array, w: jax.Array) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _ours(
    backend: str, x: Array, w: Array, dot: Array, threshold: Array, flip: Array, bits: Array
) -> Iterator[Contestant]:
    channels = x.shape[3]
    options: dict[str, Any] = {"padding": "SAME", "pad_value": 0, "backend": backend}
    unit: Unit = "popcount" if jax.default_backend() == "cpu" else ""
    placed = [jnp.asarray(a) for a in (x, w)]

    def pack_x(x: jax.Array) -> jax.Array:
        return pack_conv_input(x, backend=backend)

    def pack_w(w: jax.Array) -> jax.Array:
        return pack_conv_kernel(w, backend=backend)

    def to_bits(xp: jax.Array, wp: jax.Array, t: jax.Array, f: jax.Array) -> jax.Array:
        return packed_conv_threshold(xp, wp, channels, t, f, **options)

    def to_int32(xp: jax.Array, wp: jax.Array) -> jax.Array:
        return packed_conv(xp, wp, channels, **options)

    xp, wp = pack_x(placed[0]), pack_w(placed[1])
    runs = {
        "bits": compiled(to_bits, xp, wp, threshold, flip),
        "int32": compiled(to_int32, xp, wp),
        "pack-x-bits": compiled(
            lambda x, wp, t, f: to_bits(pack_x(x), wp, t, f), placed[0], wp, threshold, flip
        ),
        "pack-x": compiled(lambda x, wp: to_int32(pack_x(x), wp), placed[0], wp),
        "pack-both": compiled(lambda x, w: to_int32(pack_x(x), pack_w(w)), *placed),
    }
    for mode, run in runs.items():
        expected = bits if mode.endswith("bits") else dot
        yield Contestant(f"binjax-{backend}", mode, run, expected, unit, ours=True)
