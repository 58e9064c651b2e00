"""XNOR-Net's AlexNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from binjax.layers import (
    Activation,
    BatchNorm,
    BinaryConv,
    Flatten,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.alexnet import last_map
from binjax.models.ends import (
    Stem,
    check_real_stem,
    check_size,
    least_size,
    real_conv,
    real_dense,
    small_stem,
)
from binjax.models.options import DEFAULT_COMPUTE, Compute


def xnornet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """AlexNet with binary layers between a real convolution and a real dense layer.

    Kernels are signs times their channel's mean magnitude. The last map is convolved with a 6x6
    kernel, or with one of its own size where that is smaller. On 224x224x3 images and 1000
    classes: 58,236,928 one-bit and 4,150,176 32-bit parameters (Rastegari et al. 2016, as in
    larq/zoo ``xnornet.py``: activations have no scale K).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        stem: ``"imagenet"``, an 11x11 convolution of stride 4; ``"cifar"``, 3x3 of stride 1;
            ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images too small for the pools, an unknown stem.
    """
    check_real_stem("xnornet", pixels)
    window, stride = (3, 1) if small_stem("xnornet", stem, input_shape) else (11, 4)
    check_size("xnornet", input_shape, least_size(lambda side: last_map(side, stride) > 0))
    height, width, n_in = input_shape
    map_size = last_map(height, stride), last_map(width, stride)
    whole = min(6, map_size[0]), min(6, map_size[1])
    ends: dict[str, Any] = {"use_bias": False, "compute": compute, "rngs": rngs}
    layers: dict[str, nnx.Module] = {
        "conv1": real_conv(n_in, 96, window, stride=stride, **ends),
        "norm1": _norm(96, 1e-5),
        "relu1": Activation("relu"),
        "pool1": MaxPool((3, 3), (2, 2)),
        "norm1b": _norm(96),
    }
    n = 96
    for i, (n_out, taps, pool, eps) in enumerate(
        (
            (256, (5, 5), True, 1e-4),
            (384, (3, 3), False, 1e-4),
            (384, (3, 3), False, 1e-4),
            (256, (3, 3), True, 1e-4),
            (4096, whole, False, 1e-4),
            (4096, (1, 1), False, 1e-3),
        ),
        start=2,
    ):
        layers[f"conv{i}"] = BinaryConv(
            n,
            n_out,
            taps,
            padding="SAME" if i < 6 else "VALID",
            kernel_quantizer="xnor_weight_scale",
            backend=compute.backend,
            dtype=compute.dtype,
            rngs=rngs,
        )
        if pool:
            layers[f"pool{i}"] = MaxPool((3, 3), (2, 2))
        layers[f"norm{i}"] = _norm(n_out, eps)
        n = n_out
    places = (map_size[0] - whole[0] + 1) * (map_size[1] - whole[1] + 1)
    layers["relu7"] = Activation("relu")
    layers["flatten"] = Flatten()
    layers["dense8"] = real_dense(n * places, n_classes, **ends)
    return Sequential(layers, memory=compute.memory)


def _norm(n: int, eps: float = 1e-4) -> BatchNorm:
    return BatchNorm(n, eps=eps, momentum=0.9, use_scale=False)
