"""BNext: MobileNet's skeleton with binary convolutions scaled by what they see and give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from binjax.layers import (
    AvgPool,
    Beside,
    BinaryConv,
    GlobalAvgPool,
    PixelScale,
    PReLU,
    Sequential,
    Shift,
    SqueezeExcite,
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

Size = Literal["tiny", "small", "middle", "large"]
_STAGES: Mapping[str, tuple[int, tuple[int, int, int, int]]] = {
    "tiny": (32, (2, 2, 6, 2)),
    "small": (48, (2, 2, 6, 2)),
    "middle": (48, (4, 4, 8, 4)),
    "large": (64, (4, 4, 16, 4)),
}
_INPUTS = {"kind": "ste_sign", "clip_value": 1.5}
_KERNELS = {"kind": "ste_sign", "clip_value": None}
_BORDER = ((1, 1), (1, 1))
_KERNEL_INIT = nnx.initializers.normal(1e-3)


def bnext(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    size: Size = "tiny",
    progressive: bool = False,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """BNext: blocks of a 3x3 convolution and one or two of 1x1, each behind a learned threshold.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        size: channels and number of blocks; BNext-T is ``"tiny"``.
        progressive: kernels become signs in the course of the run, as published
            (:class:`binjax.layers.ProgressiveSign`); products are of floats then. Otherwise they
            are signs from the beginning.
        stem: a 3x3 convolution of stride 2 (``"imagenet"``) or 1 (``"cifar"``); ``"auto"``, the
            latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images below 16x16, an unknown size or stem.

    References:
        Guo et al. 2022, "Join the High Accuracy Club on ImageNet with A Binary Neural Network
        Ticket"; hpi-xnor/BNext ``src/bnext.py``. It holds PReLUs that it never calls; so does this,
        so that weights and parameter counts agree.
    """
    check_real_stem("bnext", pixels)
    check_size("bnext", input_shape, 16)
    if size not in _STAGES:
        raise ValueError(f"bnext: size is {size!r}; choose {', '.join(map(repr, _STAGES))}")
    stride = 1 if small_stem("bnext", stem, input_shape) else 2
    n, repeats = _STAGES[size]
    options: dict[str, Any] = {"kernel_init": TORCH_INIT, "compute": compute, "rngs": rngs}
    layers: dict[str, nnx.Module] = {"stem": _Stem(input_shape[2], n, stride, options)}
    kernels = "progressive_sign" if progressive else _KERNELS
    channels = [2 * n] + [n * 2 ** (i + 2) for i, count in enumerate(repeats) for _ in range(count)]
    for i, n_out in enumerate(channels, start=1):
        step = 2 if n_out != n and i > 1 else 1
        even = i % 2 == 0
        layers[f"block{i}"] = _block(n, n_out, step, even, kernels, compute, rngs)
        n = n_out
    layers["prelu"] = PReLU(n)
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(n, n_classes, **options)
    return Sequential(layers, memory=compute.memory)


class _Stem(nnx.Module):
    """A real 3x3 convolution and its norm, beside a PReLU that nothing calls."""

    def __init__(self, n_in: int, n_out: int, stride: int, options: dict[str, Any]):
        self.conv = real_conv(n_in, n_out, 3, stride=stride, padding=_BORDER, **options)
        self.norm, self.prelu = torch_norm(n_out), PReLU(n_out)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, n_in]``."""
        return self.norm(self.conv(x, train=train), train=train)


class Recoupled(nnx.Module):
    """A binary convolution whose output is scaled by a gate that sees its input and its output.

    With ``y = prelu(norm(conv(sign(x + bias))))`` the gate sees ``s·x + (1 - s)·y``, s learned per
    channel; ``gate·y`` is normalized and x added. With ``multiply`` it is also multiplied by
    ``prelu(x)``, which is then added in place of x (figure 2 of the paper); without, that PReLU is
    there but not called. s counts as cut to
    [0, 1], where published code cuts the parameter itself.

    Args:
        n: channels, of the output too.
        side, stride: of the convolution; where it has a stride of 2, x is averaged over 2x2.
        multiply: see above.
        kernels: a quantizer.
        compute, rngs: see :func:`binjax.models.mlp`.
    """

    def __init__(
        self,
        n: int,
        side: int,
        stride: int,
        multiply: bool,
        kernels: Any,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        self.move = Shift(n)
        conv = BinaryConv(
            n,
            n,
            (side, side),
            strides=(stride, stride),
            padding=_BORDER if side == 3 else "VALID",
            input_quantizer=_INPUTS,
            kernel_quantizer=kernels,
            kernel_init=_KERNEL_INIT,
            backend=compute.backend,
            dtype=compute.dtype,
            rngs=rngs,
        )
        body = {"conv": conv, "norm": torch_norm(n), "prelu": PReLU(n)}
        self.body, self.norm = Sequential(body, memory=compute.memory), torch_norm(n)
        self.multiply, self.around = multiply, PReLU(n)
        self.pool = AvgPool((2, 2), padding="SAME") if stride == 2 else None
        self.share = nnx.Param(jnp.full(n, 0.5))
        self.gate = SqueezeExcite(n, kernel_init=TORCH_INIT, dtype=compute.dtype, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[n, h, w, channels]``."""
        y = self.body(self.move(x), train=train)
        around = self.around(x) if self.multiply else x
        if self.pool is not None:
            x, around = self.pool(x), self.pool(around)
        raw = self.share[...]
        share = raw + jax.lax.stop_gradient(jnp.clip(raw, 0, 1) - raw)
        share = share.astype(y.dtype).reshape(1, 1, 1, -1)
        scale = self.gate(share * x + (1 - share) * y, train=train)
        y = y * scale.astype(y.dtype)[:, None, None, :]
        if self.multiply:
            y = y * around
        return self.norm(y, train=train) + around


def _block(
    n: int,
    n_out: int,
    stride: int,
    multiply: bool,
    kernels: Any,
    compute: Compute,
    rngs: nnx.Rngs,
) -> Sequential:
    spatial = Recoupled(n, 3, stride, multiply, kernels, compute, rngs)
    parts = [Recoupled(n, 1, 1, False, kernels, compute, rngs) for _ in range(n_out // n)]
    pointwise = parts[0] if n == n_out else Beside(*parts)
    return Sequential({"spatial": spatial, "pointwise": pointwise}, memory=compute.memory)
