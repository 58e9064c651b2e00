"""ReActNet: learned thresholds and shifted PReLUs, on ResNet's and MobileNet's skeletons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from binjax.layers import (
    AvgPool,
    Beside,
    BinaryConv,
    GlobalAvgPool,
    MaxPool,
    PixelScale,
    Residual,
    RPReLU,
    RSign,
    Sequential,
)
from binjax.models.ends import (
    Stem,
    check_real_stem,
    check_size,
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, TORCH_INIT, Compute, torch_norm

KERNEL = {"kind": "magnitude_aware_sign", "scale_gradient": False}
_CHANNELS = (32, 64, *(128,) * 2, *(256,) * 2, *(512,) * 6, *(1024,) * 2)
_ONE = ((1, 1), (1, 1))


def reactnet18(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    binary_kernels: bool = True,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """ReActNet of 18 layers: Bi-Real Net's with RSign and RPReLU.

    A block is ``rprelu(norm(conv(rsign(x))) + shortcut(x))``; where channels double, the shortcut
    is a 2x2 mean, a real 1x1 convolution and a norm. Kernels are scaled by their mean magnitude.
    (Upstream begins with kernels that are all positive, and takes them from a first stage; these
    begin uniform about zero.)

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        binary_kernels: false keeps kernels real: the first of two training stages.
        stem: ``"imagenet"``, a 7x7 convolution of stride 2 and a max-pool; ``"cifar"``, a 3x3
            convolution of stride 1; ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown stem.

    References:
        Liu et al. 2020, "ReActNet"; liuzechun/ReActNet ``resnet/2_step2/birealnet.py``.
    """
    check_real_stem("reactnet18", pixels)
    check_size("reactnet18", input_shape, 8)
    small = small_stem("reactnet18", stem, input_shape)
    options: dict[str, Any] = {"kernel_init": TORCH_INIT, "compute": compute, "rngs": rngs}
    n = 64
    layers: dict[str, nnx.Module]
    if small:
        layers = {"conv": real_conv(input_shape[2], n, 3, **options), "norm": torch_norm(n)}
    else:
        border = ((3, 3), (3, 3))
        conv = real_conv(input_shape[2], n, 7, stride=2, padding=border, **options)
        layers = {"conv": conv, "norm": torch_norm(n)}
        layers["pool"] = MaxPool((3, 3), (2, 2), _ONE)
    for i in range(16):
        n_out = 2 * n if i in (4, 8, 12) else n
        stride = 1 if n == n_out else 2
        body = _binary(n, n_out, 3, stride, RSign(n), binary_kernels, compute, rngs)
        around: nnx.Module | None = None
        if n != n_out:
            pooled = {
                "pool": AvgPool((2, 2), padding="SAME"),
                "conv": real_conv(n, n_out, 1, **options),
            }
            around = Sequential({**pooled, "norm": torch_norm(n_out)})
        layers[f"block{i + 1}"] = Residual(body, around)
        layers[f"rprelu{i + 1}"] = RPReLU(n_out)
        n = n_out
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(n, n_classes, **options)
    return Sequential(layers, memory=compute.memory)


def reactnet_a(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    binary_kernels: bool = True,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """ReActNet-A: MobileNet v1 with dense binary convolutions and shortcuts around each.

    Where channels double, two 1x1 convolutions side by side, each with the shortcut, are
    concatenated; where images shrink, the shortcut is a 2x2 mean. The stem is a real 3x3
    convolution of stride 2 (``"imagenet"``) or 1 (``"cifar"``). Arguments and errors as for
    :func:`reactnet18`, but images of 16x16 at least.

    References:
        Liu et al. 2020, figure 5; liuzechun/ReActNet ``mobilenet/2_step2/reactnet.py``.
    """
    check_real_stem("reactnet_a", pixels)
    check_size("reactnet_a", input_shape, 16)
    stride = 1 if small_stem("reactnet_a", stem, input_shape) else 2
    options: dict[str, Any] = {"kernel_init": TORCH_INIT, "compute": compute, "rngs": rngs}
    n = _CHANNELS[0]
    layers: dict[str, nnx.Module] = {
        "conv": real_conv(input_shape[2], n, 3, stride=stride, padding=_ONE, **options),
        "norm": torch_norm(n),
    }
    for i, n_out in enumerate(_CHANNELS[1:], start=1):
        shrinks = n != n_out and n_out != 64
        layers[f"block{i}"] = _mobile(n, n_out, 2 if shrinks else 1, binary_kernels, compute, rngs)
        n = n_out
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(n, n_classes, **options)
    return Sequential(layers, memory=compute.memory)


def _mobile(
    n: int, n_out: int, stride: int, binary: bool, compute: Compute, rngs: nnx.Rngs
) -> Sequential:
    around = AvgPool((2, 2), padding="SAME") if stride == 2 else None
    spatial = Residual(_binary(n, n, 3, stride, RSign(n), binary, compute, rngs), around)
    layers: dict[str, nnx.Module] = {"spatial": spatial, "rprelu1": RPReLU(n)}
    sign = RSign(n)
    if n == n_out:
        layers["pointwise"] = Residual(_binary(n, n, 1, 1, sign, binary, compute, rngs))
    else:
        left, right = (_binary(n, n, 1, 1, sign, binary, compute, rngs) for _ in range(2))
        layers["pointwise"] = Beside(Residual(left), Residual(right))
    layers["rprelu2"] = RPReLU(n_out)
    return Sequential(layers, memory=compute.memory)


def _binary(
    n: int,
    n_out: int,
    side: int,
    stride: int,
    sign: RSign,
    binary: bool,
    compute: Compute,
    rngs: nnx.Rngs,
) -> Sequential:
    conv = BinaryConv(
        n,
        n_out,
        (side, side),
        strides=(stride, stride),
        padding=_ONE if side == 3 else "VALID",
        input_quantizer=sign,
        kernel_quantizer=KERNEL if binary else None,
        kernel_init=TORCH_INIT,
        backend=compute.backend if binary else "auto",
        dtype=compute.dtype,
        rngs=rngs,
    )
    return Sequential({"conv": conv, "norm": torch_norm(n_out)}, memory=compute.memory)
