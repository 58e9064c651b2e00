"""Quantizers by the name a config uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from binjax.ste.core import Quantizer, Stochastic
from binjax.ste.levels import absmax, absmax_int8, absmean_ternary, dorefa, ste_tern
from binjax.ste.signs import (
    approx_sign,
    bounded_sign,
    fourier,
    noop,
    ste_heaviside,
    ste_sign,
    stochastic_sign,
    swish_sign,
)
from binjax.ste.weights import (
    absmax_sign,
    layer_sign,
    magnitude_aware_sign,
    xnor_weight_scale,
)

QUANTIZERS: Mapping[str, Quantizer | Stochastic] = MappingProxyType(
    {
        "ste_sign": ste_sign,
        "approx_sign": approx_sign,
        "swish_sign": swish_sign,
        "bounded_sign": bounded_sign,
        "magnitude_aware_sign": magnitude_aware_sign,
        "xnor_weight_scale": xnor_weight_scale,
        "fourier": fourier,
        "stochastic_sign": Stochastic(training=stochastic_sign, evaluation=ste_sign, bits=1),
        "ste_heaviside": ste_heaviside,
        "ste_tern": ste_tern,
        "dorefa": dorefa,
        "absmean_ternary": absmean_ternary,
        "layer_sign": layer_sign,
        "absmax": absmax,
        "absmax_int8": absmax_int8,
        "absmax_sign": absmax_sign,
        "noop": noop,
    }
)
"""Functions; quantizers with variables of their own are in ``binjax.layers.QUANTIZER_MODULES``."""
