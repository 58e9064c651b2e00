"""Larq's layers by Larq's names, arguments and defaults, for code that is ported from it.

Each function returns a layer of this package. Input features come first, since NNX modules are
built before they see an input; ``rngs`` is needed. Larq's ``units`` or ``filters``,
``kernel_size``, ``strides``, ``padding`` ("valid", "same", "causal"), ``pad_values``,
``dilation_rate``, ``groups``, ``use_bias=True``, ``input_quantizer=None`` and
``kernel_quantizer=None`` mean the same here; ``kernel_initializer`` is a name or a function
``(key, shape, dtype)``. What our layers do elsewhere (``activation``, ``kernel_constraint``,
regularizers, ``name``) is refused with a line that says where.
Kernels of transposed layers have their last two axes the other way round, depthwise ones are
``[kh, kw, 1, n_in·depth_multiplier]``; scales of kernel quantizers are per output channel of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx

from binjax.layers.arguments import several
from binjax.layers.binary import BinaryConv, BinaryDense
from binjax.layers.conv_nd import BinaryConv1D, BinaryConv3D
from binjax.layers.keras_options import (
    padding_name,
    refuse_kernel_quantizer,
    translate,
    valid_only,
)
from binjax.layers.local import BinaryLocallyConnected
from binjax.layers.quantize import QuantizerLike
from binjax.layers.separable import BinaryDepthwiseConv, BinarySeparableConv, BinarySeparableConv1D
from binjax.layers.transposed import BinaryConvTranspose, BinaryConvTranspose3D

Sizes = int | Sequence[int]


def QuantDense(n_in: int, units: int, *, rngs: nnx.Rngs, **options: Any) -> BinaryDense:
    """:class:`BinaryDense` with Larq's defaults."""
    return BinaryDense(n_in, units, rngs=rngs, **_defaults("QuantDense", options))


def QuantConv1D(
    n_in: int,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    padding: str = "valid",
    pad_values: float = 0.0,
    dilation_rate: int = 1,
    groups: int = 1,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryConv1D:
    """:class:`BinaryConv1D` with Larq's defaults."""
    return BinaryConv1D(
        n_in,
        filters,
        kernel_size,
        stride=strides,
        padding=padding_name(padding),
        pad_value=pad_values,
        dilation=dilation_rate,
        groups=groups,
        rngs=rngs,
        **_defaults("QuantConv1D", options),
    )


def QuantConv2D(
    n_in: int,
    filters: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    pad_values: float = 0.0,
    dilation_rate: Sizes = 1,
    groups: int = 1,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryConv:
    """:class:`BinaryConv` with Larq's defaults."""
    return BinaryConv(
        n_in,
        filters,
        kernel_size,
        strides=strides,
        padding=padding_name(padding),
        pad_value=pad_values,
        dilation=dilation_rate,
        groups=groups,
        rngs=rngs,
        **_defaults("QuantConv2D", options),
    )


def QuantConv3D(
    n_in: int,
    filters: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    pad_values: float = 0.0,
    dilation_rate: Sizes = 1,
    groups: int = 1,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryConv3D:
    """:class:`BinaryConv3D` with Larq's defaults."""
    return BinaryConv3D(
        n_in,
        filters,
        kernel_size,
        strides=strides,
        padding=padding_name(padding),
        pad_value=pad_values,
        dilation=dilation_rate,
        groups=groups,
        rngs=rngs,
        **_defaults("QuantConv3D", options),
    )


def QuantDepthwiseConv2D(
    n_in: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    pad_values: float = 0.0,
    depth_multiplier: int = 1,
    dilation_rate: Sizes = 1,
    *,
    depthwise_quantizer: QuantizerLike = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryDepthwiseConv:
    """:class:`BinaryDepthwiseConv` with Larq's defaults."""
    refuse_kernel_quantizer("QuantDepthwiseConv2D", options)
    return BinaryDepthwiseConv(
        n_in,
        kernel_size,
        strides=strides,
        padding=padding_name(padding),
        pad_value=pad_values,
        depth_multiplier=depth_multiplier,
        dilation=dilation_rate,
        rngs=rngs,
        **_defaults("QuantDepthwiseConv2D", options | {"kernel_quantizer": depthwise_quantizer}),
    )


def QuantSeparableConv1D(
    n_in: int,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    padding: str = "valid",
    pad_values: float = 0.0,
    dilation_rate: int = 1,
    depth_multiplier: int = 1,
    *,
    input_quantizer: QuantizerLike = None,
    depthwise_quantizer: QuantizerLike = None,
    pointwise_quantizer: QuantizerLike = None,
    use_bias: bool = True,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinarySeparableConv1D:
    """:class:`BinarySeparableConv1D` with Larq's defaults."""
    refuse_kernel_quantizer("QuantSeparableConv1D", options)
    return BinarySeparableConv1D(
        n_in,
        filters,
        kernel_size,
        stride=strides,
        padding=padding_name(padding),
        pad_value=pad_values,
        dilation=dilation_rate,
        depth_multiplier=depth_multiplier,
        input_quantizer=input_quantizer,
        depthwise_quantizer=depthwise_quantizer,
        pointwise_quantizer=pointwise_quantizer,
        use_bias=use_bias,
        rngs=rngs,
        **translate("QuantSeparableConv1D", options),
    )


def QuantSeparableConv2D(
    n_in: int,
    filters: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    pad_values: float = 0.0,
    dilation_rate: Sizes = 1,
    depth_multiplier: int = 1,
    *,
    input_quantizer: QuantizerLike = None,
    depthwise_quantizer: QuantizerLike = None,
    pointwise_quantizer: QuantizerLike = None,
    use_bias: bool = True,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinarySeparableConv:
    """:class:`BinarySeparableConv` with Larq's defaults."""
    refuse_kernel_quantizer("QuantSeparableConv2D", options)
    return BinarySeparableConv(
        n_in,
        filters,
        kernel_size,
        strides=strides,
        padding=padding_name(padding),
        pad_value=pad_values,
        dilation=dilation_rate,
        depth_multiplier=depth_multiplier,
        input_quantizer=input_quantizer,
        depthwise_quantizer=depthwise_quantizer,
        pointwise_quantizer=pointwise_quantizer,
        use_bias=use_bias,
        rngs=rngs,
        **translate("QuantSeparableConv2D", options),
    )


def QuantConv2DTranspose(
    n_in: int,
    filters: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    output_padding: Sizes | None = None,
    dilation_rate: Sizes = 1,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryConvTranspose:
    """:class:`BinaryConvTranspose` with Larq's defaults."""
    return BinaryConvTranspose(
        n_in,
        filters,
        kernel_size,
        strides=strides,
        padding=padding_name(padding),
        output_padding=output_padding,
        dilation=dilation_rate,
        rngs=rngs,
        **_defaults("QuantConv2DTranspose", options),
    )


def QuantConv3DTranspose(
    n_in: int,
    filters: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    output_padding: Sizes | None = None,
    dilation_rate: Sizes = 1,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryConvTranspose3D:
    """:class:`BinaryConvTranspose3D` with Larq's defaults."""
    return BinaryConvTranspose3D(
        n_in,
        filters,
        kernel_size,
        strides=strides,
        padding=padding_name(padding),
        output_padding=output_padding,
        dilation=dilation_rate,
        rngs=rngs,
        **_defaults("QuantConv3DTranspose", options),
    )


def QuantLocallyConnected1D(
    n_in: int,
    size: int,
    filters: int,
    kernel_size: int,
    strides: int = 1,
    padding: str = "valid",
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryLocallyConnected:
    """:class:`BinaryLocallyConnected` on ``[n, size, n_in]`` with Larq's defaults."""
    valid_only("QuantLocallyConnected1D", padding)
    return BinaryLocallyConnected(
        n_in,
        filters,
        several("QuantLocallyConnected1D", "size", size, 1)[0],
        kernel_size,
        strides=strides,
        rngs=rngs,
        **_defaults("QuantLocallyConnected1D", options),
    )


def QuantLocallyConnected2D(
    n_in: int,
    size: Sizes,
    filters: int,
    kernel_size: Sizes,
    strides: Sizes = 1,
    padding: str = "valid",
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> BinaryLocallyConnected:
    """:class:`BinaryLocallyConnected` on ``[n, *size, n_in]`` with Larq's defaults."""
    valid_only("QuantLocallyConnected2D", padding)
    return BinaryLocallyConnected(
        n_in,
        filters,
        several("QuantLocallyConnected2D", "size", size, 2),
        kernel_size,
        strides=strides,
        rngs=rngs,
        **_defaults("QuantLocallyConnected2D", options),
    )


def _defaults(layer: str, options: dict[str, Any]) -> dict[str, Any]:
    larqs = {"input_quantizer": None, "kernel_quantizer": None, "use_bias": True}
    return larqs | translate(layer, options)
