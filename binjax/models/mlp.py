"""The permutation-invariant MLP of the BinaryNet paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from binjax.layers import BinaryDense, Flatten, PixelScale, Sequential
from binjax.layers.quantize import QuantizerLike
from binjax.models.options import (
    DEFAULT_COMPUTE,
    DEFAULT_NORM,
    Compute,
    make_initializer,
    make_last_norm,
    make_norm,
)


def mlp(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    widths: Sequence[int] = (4096, 4096, 4096),
    input_dropout: float = 0.2,
    hidden_dropout: float = 0.5,
    norm: Mapping[str, Any] = DEFAULT_NORM,
    input_quantizer: QuantizerLike = "ste_sign",
    kernel_quantizer: QuantizerLike = "ste_sign",
    use_bias: bool = True,
    kernel_init: str = "glorot_uniform",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Dropout, then [dense, norm, sign, dropout] per width, dense, batch norm.

    The first layer takes the real-valued input. With the defaults on 28x28 images: 36,843,550
    trainable parameters, 36,806,656 of them binary (MatthieuCourbariaux/BinaryNet ``mnist.py``).

    Args:
        input_shape: (height, width, channels); flattened.
        n_classes: scores per image.
        widths: of the hidden layers.
        input_dropout, hidden_dropout: rates in [0, 1).
        norm: ``{"kind": "batch" | "shift", ...}`` with the arguments of that layer; the last
            layer keeps an ordinary batch norm.
        input_quantizer, kernel_quantizer: see :class:`binjax.layers.BinaryDense`.
        use_bias: biases in the dense layers, as in the paper.
        kernel_init: ``"glorot_uniform"`` or ``"uniform"``.
        pixels: images come as uint8 and the first layer multiplies them exactly, scaled to
            [-1, 1] or as a ``PixelScale`` says; with ``input_dropout``, in evaluation only.
        compute: kernels, memory and dtype.
        rngs: for initialization.
    """
    layers: dict[str, nnx.Module] = {"flatten": Flatten()}
    n_in = math.prod(input_shape)
    for i, n_out in enumerate((*widths, n_classes), start=1):
        last = i > len(widths)
        layers[f"dense{i}"] = BinaryDense(
            n_in,
            n_out,
            input_quantizer=None if i == 1 else input_quantizer,
            kernel_quantizer=kernel_quantizer,
            dropout=input_dropout if i == 1 else hidden_dropout,
            use_bias=use_bias,
            kernel_init=make_initializer(kernel_init),
            pixels=pixels if i == 1 else False,
            backend=compute.backend,
            dtype=compute.dtype,
            rngs=rngs,
        )
        layers[f"norm{i}"] = make_last_norm(norm, n_out) if last else make_norm(norm, n_out)
        n_in = n_out
    return Sequential(layers, memory=compute.memory)
