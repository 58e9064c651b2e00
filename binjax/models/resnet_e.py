"""BinaryResNetE: a ResNet with a shortcut around every convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from flax import nnx

from binjax.layers import (
    Activation,
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
    he_normal,
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute

_UNITS: Mapping[int, tuple[int, ...]] = MappingProxyType({18: (4, 4, 4, 4), 34: (6, 8, 12, 6)})
_QUANTIZER = {"kind": "ste_sign", "clip_value": 1.25}


def binary_resnet_e18(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    depth: int = 18,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Blocks ``norm(conv(sign(x))) + shortcut(x)``, 64 to 512 channels in four stages.

    A shortcut that doubles the channels is a 2x2 mean, a real 1x1 convolution and a norm. Signs
    pass gradients up to 1.25. On 224x224x3 images and 1000 classes: 10,985,472 one-bit and
    704,168 32-bit parameters (Bethge et al. 2019, larq/zoo ``resnet_e.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        depth: 18 or 34 layers.
        stem: ``"imagenet"``, a 7x7 convolution of stride 2, norm, ReLU, max-pool, norm;
            ``"cifar"``, a 3x3 convolution; ``"auto"``, the latter for images less than 50 pixels
            high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown depth or stem.
    """
    check_real_stem("binary_resnet_e18", pixels)
    check_size("binary_resnet_e18", input_shape, 8)
    if depth not in _UNITS:
        raise ValueError(f"binary_resnet_e18: depth is {depth}; choose 18 or 34")
    small = small_stem("binary_resnet_e18", stem, input_shape)
    n_in = input_shape[2]
    layers = _small_stem(n_in, compute, rngs) if small else _large_stem(n_in, compute, rngs)
    n = 64
    for stage, units in enumerate(_UNITS[depth]):
        for unit in range(units):
            n_out = 64 * 2**stage
            layers[f"stage{stage + 1}_block{unit + 1}"] = _block(n, n_out, compute, rngs)
            n = n_out
    layers["relu"] = Activation("relu")
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(
        n, n_classes, kernel_init=glorot_normal, compute=compute, rngs=rngs
    )
    return Sequential(layers, memory=compute.memory)


def _small_stem(n_in: int, compute: Compute, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    return {"conv": real_conv(n_in, 64, 3, kernel_init=he_normal, compute=compute, rngs=rngs)}


def _large_stem(n_in: int, compute: Compute, rngs: nnx.Rngs) -> dict[str, nnx.Module]:
    return {
        "conv": real_conv(n_in, 64, 7, stride=2, kernel_init=he_normal, compute=compute, rngs=rngs),
        "norm": _norm(64),
        "stem_relu": Activation("relu"),
        "pool": MaxPool((3, 3), (2, 2), "SAME"),
        "norm2": _norm(64),
    }


def _block(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Residual:
    stride = 1 if n_in == n_out else 2
    conv = BinaryConv(
        n_in,
        n_out,
        strides=(stride, stride),
        input_quantizer=_QUANTIZER,
        kernel_quantizer=_QUANTIZER,
        kernel_init=glorot_normal,
        backend=compute.backend,
        dtype=compute.dtype,
        rngs=rngs,
    )
    body = Sequential({"conv": conv, "norm": _norm(n_out)}, memory=compute.memory)
    if n_in == n_out:
        return Residual(body)
    around = real_conv(n_in, n_out, 1, kernel_init=glorot_normal, compute=compute, rngs=rngs)
    shortcut = Sequential(
        {"pool": AvgPool((2, 2), padding="SAME"), "conv": around, "norm": _norm(n_out)}
    )
    return Residual(body, shortcut)


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-5, momentum=0.9)
