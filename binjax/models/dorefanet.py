"""DoReFa-Net's AlexNet: binary kernels, activations of a few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.ends import (
    Stem,
    check_real_stem,
    check_size,
    least_size,
    pooled,
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute
from binjax.ste.core import elementwise, where_inside

_clamp = elementwise(
    lambda x: jnp.clip(x, 0, 1), residual=lambda x: (x >= 0) & (x <= 1), pullback=where_inside
)


class UnitClamp(nnx.Module):
    """``clip(x, 0, 1)`` with derivative 1 inside, boundary included."""

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: any shape."""
        return _clamp(x)


def dorefanet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    activations_k_bit: int = 2,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """AlexNet with one-bit kernels and k-bit activations between real first and last layers.

    Order in a block: quantizer, convolution, norm without scale, max-pool. Products are products
    of floats, since activations are not ±1. On 224x224x3 images and 1000 classes: 58,236,928
    one-bit and 4,157,512 32-bit parameters (Zhou et al. 2016, larq/zoo ``dorefanet.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        activations_k_bit: of every binary layer's input.
        stem: ``"imagenet"``, a 12x12 convolution of stride 4; ``"cifar"``, 3x3 of stride 1;
            ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images too small for the pools, an unknown stem, bits out of range, a packed
            back end.
    """
    check_real_stem("dorefanet", pixels)
    window, stride = (3, 1) if small_stem("dorefanet", stem, input_shape) else (12, 4)
    check_size("dorefanet", input_shape, least_size(lambda s: _last_map(s, window, stride) > 0))
    shared: dict[str, Any] = {
        "input_quantizer": {"kind": "dorefa", "k_bit": activations_k_bit, "mode": "activations"},
        "kernel_quantizer": "layer_sign",
        "backend": compute.backend,
        "dtype": compute.dtype,
        "rngs": rngs,
    }
    ends: dict[str, Any] = {"use_bias": True, "compute": compute, "rngs": rngs}
    height, width, n_in = input_shape
    layers: dict[str, nnx.Module] = {
        "conv1": real_conv(n_in, 96, window, stride=stride, padding="VALID", **ends)
    }
    n = 96
    for i, (n_out, taps, pool) in enumerate(
        ((256, 5, "SAME"), (384, 3, "SAME"), (384, 3, None), (256, 3, "VALID")), start=2
    ):
        layers[f"conv{i}"] = BinaryConv(n, n_out, (taps, taps), **shared)
        layers[f"norm{i}"] = _norm(n_out)
        if pool:
            layers[f"pool{i}"] = MaxPool((3, 3), (2, 2), pool)
        n = n_out
    layers["flatten"] = Flatten()
    n *= _last_map(height, window, stride) * _last_map(width, window, stride)
    for i in (6, 7):
        layers[f"dense{i}"] = BinaryDense(n, 4096, **shared)
        layers[f"norm{i}"] = _norm(4096)
        n = 4096
    layers["clamp"] = UnitClamp()
    layers["dense8"] = real_dense(n, n_classes, **ends)
    return Sequential(layers, memory=compute.memory)


def _last_map(side: int, window: int, stride: int) -> int:
    side = pooled(side, window, stride)
    return pooled(-(-side // 4), 3, 2)


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-4, momentum=0.9, use_scale=False)
