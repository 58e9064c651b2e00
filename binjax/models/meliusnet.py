"""MeliusNet: dense blocks that add channels, improvement blocks that refine the newest ones."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers import (
    Activation,
    BatchNorm,
    BinaryConv,
    Concatenate,
    GlobalAvgPool,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.ends import (
    Initializer,
    Stem,
    check_real_stem,
    check_size,
    glorot_normal,
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute

_QUANTIZER = {"kind": "ste_sign", "clip_value": 1.3}
_NEW = 64


class Improvement(nnx.Module):
    """Add ``body(x)`` to the last channels of x, as many as it has."""

    def __init__(self, body: nnx.Module):
        self.body = body

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., channels]``, at least as many as ``body(x)`` has."""
        y: jax.Array = self.body(x, train=train, key=key)
        kept = x.shape[-1] - y.shape[-1]
        return jnp.concatenate([x[..., :kept], x[..., kept:] + y], -1)


def meliusnet22(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    blocks: Sequence[int] = (4, 5, 4, 4),
    transitions: Sequence[int] = (160, 224, 256),
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Blocks of a dense and an improvement layer, 64 channels each, in four stages.

    Both are ``conv(sign(norm(x)))``; the first is appended to x, the second added to its last 64
    channels. Between stages: norm, max-pool, ReLU, real 1x1 convolution. Signs pass gradients up
    to 1.3. On 224x224x3 images and 1000 classes: 6,119,424 one-bit and 825,160 32-bit parameters
    (Bethge et al. 2020, larq/zoo ``meliusnet.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        blocks: of each stage.
        transitions: channels behind each stage but the last.
        stem: ``"imagenet"``, three 3x3 convolutions, the first of stride 2, the others in groups
            of 8 channels, and a max-pool; ``"cifar"``, the same without stride and pool;
            ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown stem, stages and transitions that do not match.
    """
    check_real_stem("meliusnet22", pixels)
    check_size("meliusnet22", input_shape, 8)
    if len(transitions) != len(blocks) - 1:
        raise ValueError(
            f"meliusnet22: {len(blocks)} stages take {len(blocks) - 1} transitions, "
            f"got {len(transitions)}"
        )
    small = small_stem("meliusnet22", stem, input_shape)
    layers = _stem(input_shape[2], small, compute, rngs)
    n = 64
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"stage{stage + 1}_block{block + 1}"
            layers[f"{name}_dense"] = Concatenate(normed_conv(n, compute, rngs))
            n += _NEW
            layers[f"{name}_improve"] = Improvement(normed_conv(n, compute, rngs))
        if stage < len(transitions):
            n_out = transitions[stage]
            layers[f"transition{stage + 1}"] = _transition(n, n_out, compute, rngs)
            n = n_out
    layers["last_norm"] = _norm(n)
    layers["last_relu"] = Activation("relu")
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(
        n, n_classes, kernel_init=glorot_normal, compute=compute, rngs=rngs
    )
    return Sequential(layers, memory=compute.memory)


def _stem(n_in: int, small: bool, compute: Compute, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    layers: dict[str, nnx.Module] = {}
    n = n_in
    for i, (n_out, groups) in enumerate(((32, 1), (32, 4), (64, 8)), start=1):
        layers[f"conv{i}"] = real_conv(
            n,
            n_out,
            3,
            stride=2 if i == 1 and not small else 1,
            groups=groups,
            kernel_init=each_group(glorot_normal, groups),
            compute=compute,
            rngs=rngs,
        )
        layers[f"norm{i}"] = _norm(n_out)
        layers[f"relu{i}"] = Activation("relu")
        n = n_out
    if not small:
        layers["pool"] = MaxPool(padding="SAME")
    return layers


def each_group(init: Initializer, groups: int) -> Initializer:
    """Draw each group's kernel as if it stood alone: its fan-out is that of the group."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        own = (*shape[:-1], shape[-1] // groups)
        return jnp.concatenate([init(k, own, dtype) for k in jax.random.split(key, groups)], -1)

    return draw


def normed_conv(n: int, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    """``conv(sign(norm(x)))``: ``n`` channels to 64."""
    conv = BinaryConv(
        n,
        _NEW,
        input_quantizer=_QUANTIZER,
        kernel_quantizer=_QUANTIZER,
        kernel_init=glorot_normal,
        backend=compute.backend,
        dtype=compute.dtype,
        rngs=rngs,
    )
    return Sequential({"norm": _norm(n), "conv": conv}, memory=compute.memory)


def _transition(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    layers = {
        "norm": _norm(n_in),
        "pool": MaxPool(padding="SAME"),
        "relu": Activation("relu"),
        "conv": real_conv(n_in, n_out, 1, kernel_init=glorot_normal, compute=compute, rngs=rngs),
    }
    return Sequential(layers)


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-5, momentum=0.9)
