"""Bi-Real Net: a shortcut around every binary convolution."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from binjax.layers import (
    AvgPool,
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
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute


def birealnet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    filters: int = 64,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Bi-Real Net of 18 layers: sixteen binary 3x3 convolutions in four stages.

    A block is ``norm(conv(approx_sign(x))) + shortcut(x)``; where channels double, the shortcut
    is a 2x2 mean, a real 1x1 convolution and a norm. On 224x224x3 images and 1000 classes:
    10,985,472 one-bit and 704,040 32-bit parameters (Liu et al. 2018, larq/zoo
    ``birealnet.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        filters: channels of the first stage.
        stem: ``"imagenet"``, a 7x7 convolution of stride 2 and a max-pool; ``"cifar"``, a 3x3
            convolution of stride 1; ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown stem.
    """
    check_real_stem("birealnet", pixels)
    check_size("birealnet", input_shape, 8)
    small = small_stem("birealnet", stem, input_shape)
    layers: dict[str, nnx.Module] = {
        "conv": real_conv(
            input_shape[2],
            filters,
            3 if small else 7,
            stride=1 if small else 2,
            kernel_init=glorot_normal,
            compute=compute,
            rngs=rngs,
        ),
        "norm": _norm(filters),
    }
    if not small:
        layers["pool"] = MaxPool((3, 3), (2, 2), "SAME")
    n = filters
    for i in range(16):
        n_out = 2 * n if i in (4, 8, 12) else n
        layers[f"block{i + 1}"] = _block(n, n_out, compute, rngs)
        n = n_out
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(n, n_classes, compute=compute, rngs=rngs)
    return Sequential(layers, memory=compute.memory)


def _block(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Residual:
    stride = 1 if n_in == n_out else 2
    conv = BinaryConv(
        n_in,
        n_out,
        strides=(stride, stride),
        input_quantizer="approx_sign",
        kernel_quantizer="magnitude_aware_sign",
        kernel_init=glorot_normal,
        backend=compute.backend,
        dtype=compute.dtype,
        rngs=rngs,
    )
    body = Sequential({"conv": conv, "norm": _norm(n_out)}, memory=compute.memory)
    if n_in == n_out:
        return Residual(body)
    around = real_conv(n_in, n_out, 1, kernel_init=glorot_normal, compute=compute, rngs=rngs)
    pool = AvgPool((2, 2), padding="SAME")
    return Residual(body, Sequential({"pool": pool, "conv": around, "norm": _norm(n_out)}))


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-3, momentum=0.8)
