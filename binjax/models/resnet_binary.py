"""BinaryNet.pytorch's residual networks, binary and real, for small and for ImageNet's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from binjax.layers import (
    Activation,
    BinaryConv,
    BinaryDense,
    GlobalAvgPool,
    MaxPool,
    PixelScale,
    Sequential,
)
from binjax.models.ends import Stem, check_real_stem, check_size, small_stem
from binjax.models.options import DEFAULT_COMPUTE, TORCH_INIT, Compute, torch_norm

IMAGENET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each stage by depth; from 50 layers on they are bottlenecks."""
_DOUBLE_3X3 = ((3, 1), (3, 1))
_BOTTLENECK = ((1, 1), (3, 1), (1, 4))
_he_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Block(nnx.Module):
    """Convolutions with norms and activations, and a shortcut.

    Binary: ``hard_tanh(norm(conv(...) + shortcut(x)))``, the norm behind the sum; real:
    ``relu(norm(conv(...)) + shortcut(x))``.

    Args:
        n_in: channels of the input.
        widths: output channels of each convolution.
        taps: window side of each.
        stride: of the first 3x3 convolution, and of the shortcut.
        binary: kernels and inputs.
        ends: whether norm and activation stand behind the sum. They don't in the last block of a
            binary network: what follows is an average, and they follow that. The norm is there
            though, without use, as upstream: so weights and parameter counts agree.
        compute, rngs: see :func:`binjax.models.mlp`.
    """

    def __init__(
        self,
        n_in: int,
        widths: Sequence[int],
        taps: Sequence[int],
        stride: int,
        *,
        binary: bool,
        ends: bool,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        self.binary, self.ends = binary, ends
        activation = "hard_tanh" if binary else "relu"
        layers: dict[str, nnx.Module] = {}
        n = n_in
        for i, (n_out, side) in enumerate(zip(widths, taps, strict=True), start=1):
            own = stride if side == 3 and stride > 1 and i == taps.index(3) + 1 else 1
            layers[f"conv{i}"] = _conv(n, n_out, side, own, binary, compute, rngs)
            if i < len(widths):
                layers[f"norm{i}"] = torch_norm(n_out)
                layers[f"activation{i}"] = Activation(activation)
            n = n_out
        self.body = Sequential(layers, memory=compute.memory)
        self.norm, self.activation = torch_norm(n), Activation(activation)
        around: dict[str, nnx.Module] = {}
        if stride != 1 or n_in != n:
            around["conv"] = _conv(n_in, n, 1, stride, binary, compute, rngs)
            around["norm"] = torch_norm(n)
        self.shortcut = Sequential(around, memory=compute.memory)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``."""
        y, around = self.body(x, train=train), self.shortcut(x, train=train)
        if not self.binary:
            return self.activation(self.norm(y, train=train) + around)
        y = y + around
        return self.activation(self.norm(y, train=train)) if self.ends else y


def resnet_binary(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    depth: int | None = None,
    inflation_ratio: int = 5,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Binary ResNet, all kernels binary, hard tanh for ReLU, norms behind the sums.

    For small images: 3x3 stem, stages of 80, 160 and 320 channels; depth 18 has 4,338,030
    parameters on 10 classes. (Upstream takes ``(depth - 2) // 6`` blocks a stage: 18 is its name
    for what others call 14; so does this.) For large ones: depths 18, 34, 50, 101, 152 of 64 to
    512 channels (times four behind bottlenecks).

    Upstream's ImageNet networks stop in a debugger, and name norms and activations that are not
    there. Here they end as its CIFAR networks do (norm, hard tanh, dense, norm behind the average),
    bottlenecks put their third norm behind the sum, and the first norm's activation is the hard
    tanh that upstream calls by another name. Kernels have ``ste_sign``; upstream's latent weights
    are not clipped and get every gradient (``models/binarized_modules.py``).

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        depth: default 18 for small images, 50 for large ones.
        inflation_ratio: multiplies the channels 16, 32, 64 of the small network.
        stem: ``"imagenet"``, a 7x7 convolution of stride 2 and a max-pool, and four stages;
            ``"cifar"``, a 3x3 convolution and three stages; ``"auto"``, the latter for images less
            than 50 pixels high.
        pixels, compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: unknown depth or stem, images below 8x8.

    References:
        itayhubara/BinaryNet.pytorch ``resnet_binary.py``.
    """
    options = {"binary": True, "compute": compute, "rngs": rngs}
    layers, n = _trunk(
        "resnet_binary", input_shape, depth, 16 * inflation_ratio, stem, pixels, options
    )
    layers["pool"] = GlobalAvgPool()
    layers["norm_pool"], layers["tanh"] = torch_norm(n), Activation("hard_tanh")
    layers["dense"] = BinaryDense(
        n,
        n_classes,
        use_bias=True,
        kernel_init=TORCH_INIT,
        backend=compute.backend,
        dtype=compute.dtype,
        rngs=rngs,
    )
    layers["norm_dense"] = torch_norm(n_classes)
    return Sequential(layers, memory=compute.memory)


def resnet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    depth: int | None = None,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """The real twin: He et al.'s ResNet, not inflated; arguments as for :func:`resnet_binary`.

    25,557,032 parameters for depth 50 on 1000 classes (itayhubara/BinaryNet.pytorch
    ``resnet.py``).
    """
    check_real_stem("resnet", pixels)
    options = {"binary": False, "compute": compute, "rngs": rngs}
    layers, n = _trunk("resnet", input_shape, depth, 16, stem, False, options)
    layers["pool"] = GlobalAvgPool()
    layers["dense"] = BinaryDense(
        n,
        n_classes,
        input_quantizer=None,
        kernel_quantizer=None,
        use_bias=True,
        kernel_init=TORCH_INIT,
        dtype=compute.dtype,
        rngs=rngs,
    )
    return Sequential(layers, memory=compute.memory)


def _trunk(
    name: str,
    input_shape: Sequence[int],
    depth: int | None,
    width: int,
    stem: Stem,
    pixels: bool | PixelScale,
    options: dict[str, Any],
) -> tuple[dict[str, nnx.Module], int]:
    """Stem and blocks, and the channels behind them."""
    small = small_stem(name, stem, input_shape)
    check_size(name, input_shape, 8)
    binary, compute, rngs = options["binary"], options["compute"], options["rngs"]
    activation = Activation("hard_tanh" if binary else "relu")
    blocks: tuple[int, ...]
    convolutions: tuple[tuple[int, int], ...] = _DOUBLE_3X3
    if small:
        depth = depth or 18
        blocks = ((depth - 2) // 6,) * 3
        if blocks[0] < 2:
            raise ValueError(f"{name}: depth is {depth}; small images take at least 14")
        n = width
    else:
        depth = depth or 50
        if depth not in IMAGENET:
            known = ", ".join(map(str, IMAGENET))
            raise ValueError(f"{name}: depth is {depth}; large images take {known}")
        blocks, n = IMAGENET[depth], 64
        convolutions = _BOTTLENECK if depth >= 50 else _DOUBLE_3X3
        if pixels:
            raise ValueError(
                f'{name}: its first layer takes pixels with stem = "cifar" only; pixels = False '
                "takes scaled images"
            )
    first = _conv(
        input_shape[2], n, 3 if small else 7, 1 if small else 2, binary, compute, rngs, True, pixels
    )
    layers: dict[str, nnx.Module] = {"conv": first}
    end: dict[str, nnx.Module] = {"norm": torch_norm(n), "activation": activation}
    if small:
        layers |= end
    else:
        pool = {"pool_stem": MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)))}
        layers |= pool | end if binary else end | pool
    planes = n
    for stage, count in enumerate(blocks, start=1):
        for block in range(1, count + 1):
            last = stage == len(blocks) and block == count
            widths = [planes * times for _, times in convolutions]
            layers[f"stage{stage}_block{block}"] = Block(
                n,
                widths,
                [side for side, _ in convolutions],
                2 if stage > 1 and block == 1 else 1,
                binary=binary,
                ends=not last,
                compute=compute,
                rngs=rngs,
            )
            n = widths[-1]
        planes *= 2
    return layers, n


def _conv(
    n_in: int,
    n_out: int,
    side: int,
    stride: int,
    binary: bool,
    compute: Compute,
    rngs: nnx.Rngs,
    first: bool = False,
    pixels: bool | PixelScale = False,
) -> BinaryConv:
    quantizer = "ste_sign" if binary else None
    pad = side // 2
    return BinaryConv(
        n_in,
        n_out,
        (side, side),
        strides=(stride, stride),
        padding="SAME" if stride == 1 else ((pad, pad), (pad, pad)),
        input_quantizer=None if first else quantizer,
        kernel_quantizer=quantizer,
        kernel_init=_he_fan_out,
        pixels=pixels,
        backend=compute.backend if binary else "auto",
        dtype=compute.dtype,
        rngs=rngs,
    )
