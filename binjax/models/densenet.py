"""BinaryDenseNet: every binary convolution adds channels to all that came before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from flax import nnx

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

_QUANTIZER = {"kind": "ste_sign", "clip_value": 1.3}


def binary_densenet(
    input_shape: Sequence[int],
    n_classes: int,
    *,
    units: Sequence[int],
    reduction: Sequence[float],
    dilation: Sequence[int] = (1, 1, 1, 1),
    growth_rate: int = 64,
    initial_filters: int = 64,
    stem: Stem = "auto",
    pixels: bool | PixelScale = False,
    compute: Compute = DEFAULT_COMPUTE,
    rngs: nnx.Rngs,
) -> Sequential:
    """Stages of units ``[x, conv(sign(norm(x)))]``, between them norm, pool, ReLU, 1x1.

    Signs pass gradients up to 1.3. With 1000 classes (Bethge et al. 2019, larq/zoo
    ``densenet.py``), one-bit and 32-bit parameters:

    * ``binary_densenet28`` 4,202,496 and 929,000;
    * ``binary_densenet37`` and ``binary_densenet37_dilated`` 7,593,984 and 1,108,264;
    * ``binary_densenet45`` 12,349,440 and 1,540,072.

    Args:
        input_shape: (height, width, channels).
        n_classes: scores per image.
        units: of each stage.
        reduction: what the real 1x1 convolution behind each stage but the last divides the
            channels by; they are rounded to multiples of 32.
        dilation: of each stage's convolutions; there is no pool in front of a dilated stage.
        growth_rate: channels that a unit adds.
        initial_filters: channels of the stem.
        stem: ``"imagenet"``, a 7x7 convolution of stride 2, norm, ReLU, max-pool; ``"cifar"``,
            a 3x3 convolution; ``"auto"``, the latter for images less than 50 pixels high.
        pixels: must be false: the first layer is real.
        compute, rngs: see :func:`binjax.models.mlp`.

    Raises:
        ValueError: images too small for the pools, an unknown stem.
    """
    name = "binary_densenet"
    check_real_stem(name, pixels)
    small = small_stem(name, stem, input_shape)
    shrink = 2 ** sum(step == 1 for step in dilation[1:])
    check_size(name, input_shape, least_size(lambda s: (s if small else -(-s // 4)) >= shrink))
    layers: dict[str, nnx.Module] = {
        "conv": real_conv(
            input_shape[2],
            initial_filters,
            3 if small else 7,
            stride=1 if small else 2,
            kernel_init=he_normal,
            compute=compute,
            rngs=rngs,
        )
    }
    if not small:
        layers["norm"] = _norm(initial_filters)
        layers["relu"] = Activation("relu")
        layers["pool"] = MaxPool((3, 3), (2, 2), "SAME")
    n = initial_filters
    for stage, count in enumerate(units):
        for unit in range(count):
            layers[f"stage{stage + 1}_unit{unit + 1}"] = _unit(
                n, growth_rate, dilation[stage], compute, rngs
            )
            n += growth_rate
        if stage < len(units) - 1:
            n_out = round(n // reduction[stage] / 32) * 32
            pool = dilation[stage + 1] == 1
            layers[f"transition{stage + 1}"] = _transition(n, n_out, pool, compute, rngs)
            n = n_out
    layers["last_norm"] = _norm(n)
    layers["last_relu"] = Activation("relu")
    layers["mean"] = GlobalAvgPool()
    layers["dense"] = real_dense(n, n_classes, kernel_init=he_normal, compute=compute, rngs=rngs)
    return Sequential(layers, memory=compute.memory)


def _unit(n_in: int, n_out: int, dilation: int, compute: Compute, rngs: nnx.Rngs) -> Concatenate:
    conv = BinaryConv(
        n_in,
        n_out,
        dilation=(dilation, dilation),
        input_quantizer=_QUANTIZER,
        kernel_quantizer=_QUANTIZER,
        kernel_init=glorot_normal,
        backend=compute.backend,
        dtype=compute.dtype,
        rngs=rngs,
    )
    return Concatenate(Sequential({"norm": _norm(n_in), "conv": conv}, memory=compute.memory))


def _transition(n_in: int, n_out: int, pool: bool, compute: Compute, rngs: nnx.Rngs) -> Sequential:
    layers: dict[str, nnx.Module] = {"norm": _norm(n_in)}
    if pool:
        layers["pool"] = MaxPool()
    layers["relu"] = Activation("relu")
    layers["conv"] = real_conv(n_in, n_out, 1, kernel_init=he_normal, compute=compute, rngs=rngs)
    return Sequential(layers)


def _norm(n: int) -> BatchNorm:
    return BatchNorm(n, eps=1e-5, momentum=0.9)


binary_densenet28 = partial(binary_densenet, units=(6, 6, 6, 5), reduction=(2.7, 2.7, 2.2))
"""28 layers; see :func:`binary_densenet`."""
binary_densenet37 = partial(binary_densenet, units=(6, 8, 12, 6), reduction=(3.3, 3.3, 4))
"""37 layers; see :func:`binary_densenet`."""
binary_densenet37_dilated = partial(binary_densenet37, dilation=(1, 1, 2, 4))
"""37 layers, the last two stages dilated by 2 and 4 in place of pools."""
binary_densenet45 = partial(binary_densenet, units=(6, 12, 14, 8), reduction=(2.7, 3.3, 4))
"""45 layers; see :func:`binary_densenet`."""
