"""QuickNet: binary residual blocks whose ReLU stands in front of the norm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers import (
    Activation,
    BatchNorm,
    BinaryConv,
    GlobalAvgPool,
    MaxPool,
    PixelScale,
    Residual,
    Sequential,
)
from binjax.models.ends import (
    Stem,
    check_real_stem,
    check_size,
    glorot_normal,
    he_normal,
    least_size,
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute

_QUANTIZER = {"kind": "ste_sign", "clip_value": 1.25}


class Fixed(nnx.BatchStat[jax.Array]):
    """A number that neither an optimizer nor a batch moves; counted as not trainable."""


class Blur(BinaryConv):
    """Every second pixel of each channel, blurred by ``[1 2 1]/4`` in both directions.

    Zhang 2019, "Making Convolutional Networks Shift-Invariant Again". Zeros around the image.

    Args:
        n: channels.
        compute, rngs: see :func:`binjax.models.mlp`.
    """

    def __init__(self, n: int, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(
            n,
            n,
            strides=(2, 2),
            groups=n,
            input_quantizer=None,
            kernel_quantizer=None,
            kernel_init=_blur_kernel,
            dtype=compute.dtype,
            rngs=rngs,
        )
        self.kernel = Fixed(self.kernel[...])  # type: ignore[assignment]


def _blur_kernel(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
    del key
    taps = jnp.asarray([1, 2, 1], dtype) / 4
    return jnp.broadcast_to(jnp.outer(taps, taps)[..., None, None], shape)


def quicknet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    blocks: Sequence[int] = (4, 4, 4, 4),
    filters: Sequence[int] = (64, 128, 256, 512),
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Blocks ``norm(relu(conv(sign(x)))) + x`` with a border of +1, in four stages.

    Between stages: ReLU, max-pool, blur, real 1x1 convolution, norm. Signs pass gradients up to
    1.25. On 224x224x3 images and 1000 classes (Bannink et al. 2021, larq/zoo ``quicknet.py``),
    one-bit and 32-bit parameters:

    * ``quicknet_small`` 11,980,800 and 674,888;
    * ``quicknet`` 12,533,760 and 700,328;
    * ``quicknet_large`` 22,634,496 and 707,752.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        blocks: of each stage.
        filters: channels of each stage; the first a multiple of 4.
        stem: ``"imagenet"``, a 3x3 convolution and a 3x3 depthwise one, both of stride 2, and a
            1x1 convolution; ``"cifar"``, the same without strides; ``"auto"``, the latter for
            images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images too small for the stages, an unknown stem, blocks and filters that do
            not match.
    """
    check_real_stem("quicknet", pixels)
    if len(blocks) != len(filters) or filters[0] % 4:
        raise ValueError(
            f"quicknet: blocks {tuple(blocks)} and filters {tuple(filters)}; wanted as many of "
            "both, the first of the filters a multiple of 4"
        )
    small = small_stem("quicknet", stem, input_shape)
    stages = sum(a != b for a, b in itertools.pairwise(filters))
    check_size("quicknet", input_shape, least_size(lambda side: _last_map(side, small, stages) > 0))
    layers = _stem(input_shape[2], filters[0], 1 if small else 2, compute, rngs)
    n = filters[0]
    for stage, (count, n_out) in enumerate(zip(blocks, filters, strict=True), start=1):
        if n_out != n:
            layers[f"transition{stage - 1}"] = _transition(n, n_out, compute, rngs)
            n = n_out
        for block in range(1, count + 1):
            layers[f"stage{stage}_block{block}"] = residual_block(n, compute, rngs)
    layers["last_relu"] = Activation("relu")
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(
        n, n_classes, kernel_init=glorot_normal, compute=compute, rngs=rngs
    )
    return Sequential(layers, memory=compute.memory)


quicknet_small = partial(quicknet, filters=(32, 64, 256, 512))
"""See :func:`quicknet`."""
quicknet_large = partial(quicknet, blocks=(6, 8, 12, 6))
"""See :func:`quicknet`."""


def residual_block(n: int, compute: Compute, rngs: nnx.Rngs) -> Residual:
    """``norm(relu(conv(sign(x)))) + x`` over ``n`` channels."""
    conv = BinaryConv(
        n,
        n,
        pad_value=1,
        input_quantizer=_QUANTIZER,
        kernel_quantizer=_QUANTIZER,
        kernel_init=glorot_normal,
        backend=compute.backend,
        dtype=compute.dtype,
        rngs=rngs,
    )
    layers = {
        "conv": conv,
        "relu": Activation("relu"),
        "norm": BatchNorm(n, eps=1e-5, momentum=0.9),
    }
    return Residual(Sequential(layers, memory=compute.memory))


def _stem(
    n_in: int, n_out: int, stride: int, compute: Compute, rngs: nnx.Rngs
) -> dict[str, nnx.Module]:
    inner = n_out // 4
    return {
        "conv": real_conv(
            n_in, inner, 3, stride=stride, kernel_init=he_normal, compute=compute, rngs=rngs
        ),
        "norm": BatchNorm(inner, eps=1e-3, momentum=0.99),
        "relu": Activation("relu"),
        "depthwise": real_conv(
            inner, inner, 3, stride=stride, groups=inner, compute=compute, rngs=rngs
        ),
        "depthwise_norm": BatchNorm(
            inner, eps=1e-3, momentum=0.99, use_scale=False, use_bias=False
        ),
        "pointwise": real_conv(inner, n_out, 1, kernel_init=he_normal, compute=compute, rngs=rngs),
        "pointwise_norm": BatchNorm(n_out, eps=1e-3, momentum=0.99),
    }


def _transition(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    layers = {
        "relu": Activation("relu"),
        "pool": MaxPool((2, 2), (1, 1)),
        "blur": Blur(n_in, compute=compute, rngs=rngs),
        "conv": real_conv(n_in, n_out, 1, kernel_init=glorot_normal, compute=compute, rngs=rngs),
        "norm": BatchNorm(n_out, eps=1e-5, momentum=0.9),
    }
    return Sequential(layers)


def _last_map(side: int, small: bool, stages: int) -> int:
    side = side if small else -(-side // 4)
    for _ in range(stages):
        side = side // 2  # a window of 2 without border, then every second pixel
    return side
