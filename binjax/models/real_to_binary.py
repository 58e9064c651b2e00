"""Real-to-Binary nets, the strong baseline, and the networks that teach them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
from flax import nnx

from binjax.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    BinaryConv,
    Gate,
    GlobalAvgPool,
    LearnedScale,
    MaxPool,
    PixelScale,
    PReLU,
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

Stage = Literal["real", "activations", "binary"]
Rescale = Literal["gate", "rank1"]
_REDUCTION = 8


def real_to_binary(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    stage: Stage = "binary",
    rescale: Rescale = "gate",
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """ResNet-18 of halves ``prelu(rescale(conv(sign(norm(x))))) + shortcut(x)``.

    A shortcut that doubles the channels is a 2x2 mean, a real 1x1 convolution and a norm. On
    224x224x3 images and 1000 classes: 10,985,472 one-bit and 1,001,448 32-bit parameters
    (Martinez et al. 2020, larq/zoo ``real_to_bin_nets.py``). Layers ``block2`` to ``block9``
    are those whose attention the paper's stages compare.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        stage: what is binary: ``"binary"``, inputs and kernels of the blocks' convolutions;
            ``"activations"``, inputs only; ``"real"``, nothing, with tanh in place of the sign.
            In this order backwards each network teaches the next.
        rescale: of a convolution's output: ``"gate"``, by what two dense layers make of the
            input's mean over the image; ``"rank1"``, by learned factors per row, column and
            channel, which makes the paper's strong baseline.
        stem: ``"imagenet"``, a 7x7 convolution of stride 2, norm, PReLU, max-pool; ``"cifar"``,
            the same with a 3x3 convolution of stride 1 and no pool; ``"auto"``, the latter for
            images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown stage, rescaling or stem.
    """
    _check("stage", stage, Stage)
    _check("rescale", rescale, Rescale)
    check_real_stem("real_to_binary", pixels)
    check_size("real_to_binary", input_shape, 8)
    small = small_stem("real_to_binary", stem, input_shape)
    layers = _stem(input_shape[2], PReLU(64, slope=0.0), small, compute, rngs)
    n = 64
    image = [side if small else -(-side // 4) for side in input_shape[:2]]
    for block in range(2, 10):
        stride = 2 if block in (4, 6, 8) else 1
        image = [-(-side // stride) for side in image]
        halves: dict[str, nnx.Module] = {}
        for half in ("a", "b"):
            n_out = n * stride if half == "a" else n
            halves[half] = _half(n, n_out, image, stage, rescale, compute, rngs)
            n = n_out
        layers[f"block{block}"] = Sequential(halves, memory=compute.memory)
    return _finish(layers, n, n_classes, compute, rngs)


def resnet18(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """The real ResNet-18 that teaches Real-to-Binary nets first.

    A block is ``relu(relu(norm(conv(relu(norm(conv(x)))))) + shortcut(x))``, shortcuts as in
    :func:`real_to_binary`; convolutions have biases. On 224x224x3 images and 1000 classes:
    11,693,352 parameters (larq/zoo ``real_to_bin_nets.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        stem: as of :func:`real_to_binary`, with ReLU.
        pixels: must be false.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 8x8, an unknown stem.
    """
    check_real_stem("resnet18", pixels)
    check_size("resnet18", input_shape, 8)
    small = small_stem("resnet18", stem, input_shape)
    layers = _stem(input_shape[2], Activation("relu"), small, compute, rngs)
    n = 64
    for block in range(2, 10):
        n_out = 2 * n if block in (4, 6, 8) else n
        layers[f"block{block}"] = _real_block(n, n_out, compute, rngs)
        n = n_out
    return _finish(layers, n, n_classes, compute, rngs)


def _stem(
    n_in: int, activation: nnx.Module, small: bool, compute: Compute, rngs: nnx.Rngs
) -> dict[str, nnx.Module]:
    taps, stride = (3, 1) if small else (7, 2)
    conv = real_conv(
        n_in, 64, taps, stride=stride, kernel_init=glorot_normal, compute=compute, rngs=rngs
    )
    layers = {"conv": conv, "norm": _norm(64), "activation": activation}
    return layers if small else layers | {"pool": MaxPool((3, 3), (2, 2), "SAME")}


def _finish(
    layers: dict[str, nnx.Module], n: int, n_classes: int, compute: Compute, rngs: nnx.Rngs
) -> Sequential:
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(n, n_classes, compute=compute, rngs=rngs)
    return Sequential(layers, memory=compute.memory)


def _half(
    n_in: int,
    n_out: int,
    image: Sequence[int],
    stage: Stage,
    rescale: Rescale,
    compute: Compute,
    rngs: nnx.Rngs,
) -> Residual:
    stride = n_out // n_in
    binary = stage == "binary"
    conv = BinaryConv(
        n_in,
        n_out,
        strides=(stride, stride),
        input_quantizer=jnp.tanh if stage == "real" else "ste_sign",
        kernel_quantizer="ste_sign" if binary else None,
        kernel_init=glorot_normal,
        # Networks that teach have no binary product, whichever kernels multiply the student's.
        backend=compute.backend if binary else "auto",
        dtype=compute.dtype,
        rngs=rngs,
    )
    layers: dict[str, nnx.Module] = {"norm": _norm(n_in)}
    if rescale == "gate":
        layers["conv"] = Gate(conv, _gate(n_in, n_out, compute, rngs))
    else:
        layers |= {"conv": conv, "scale": LearnedScale((*image, n_out))}
    layers["activation"] = PReLU(n_out, slope=0.0)
    body = Sequential(layers, memory=compute.memory)
    return Residual(body, _shortcut(n_in, n_out, compute, rngs))


def _gate(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    shared: dict[str, Any] = {
        "use_bias": False,
        "kernel_init": he_normal,
        "compute": compute,
        "rngs": rngs,
    }
    inner = n_in // _REDUCTION
    return Sequential(
        {
            "mean": GlobalAvgPool(),
            "reduce": real_dense(n_in, inner, **shared),
            "relu": Activation("relu"),
            "expand": real_dense(inner, n_out, **shared),
            "sigmoid": Activation("sigmoid"),
        }
    )


def _real_block(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    shared: dict[str, Any] = {"use_bias": True, "compute": compute, "rngs": rngs}
    body = Sequential(
        {
            "conv_a": real_conv(n_in, n_out, 3, stride=n_out // n_in, **shared),
            "norm_a": _norm(n_out),
            "relu_a": Activation("relu"),
            "conv_b": real_conv(n_out, n_out, 3, **shared),
            "norm_b": _norm(n_out),
            "relu_b": Activation("relu"),
        }
    )
    added = Residual(body, _shortcut(n_in, n_out, compute, rngs))
    return Sequential({"sum": added, "relu": Activation("relu")})


def _shortcut(n_in: int, n_out: int, compute: Compute, rngs: nnx.Rngs) -> Sequential | None:
    if n_in == n_out:
        return None
    conv = real_conv(n_in, n_out, 1, kernel_init=glorot_normal, compute=compute, rngs=rngs)
    pool = AvgPool((2, 2), padding="SAME")
    return Sequential({"pool": pool, "conv": conv, "norm": _norm(n_out)})


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-3, momentum=0.99)


def _check(option: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        known = ", ".join(map(repr, get_args(choices)))
        raise ValueError(f"real_to_binary: {option} is {value!r}; choose {known}")
