"""Quantizers by the name a config uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from binjax.ste.core import Quantizer, Stochastic
from binjax.ste.signs import approx_sign, noop, ste_sign, stochastic_sign, swish_sign

QUANTIZERS: Mapping[str, Quantizer | Stochastic] = MappingProxyType(
    {
        "ste_sign": ste_sign,
        "approx_sign": approx_sign,
        "swish_sign": swish_sign,
        "stochastic_sign": Stochastic(training=stochastic_sign, evaluation=ste_sign, bits=1),
        "noop": noop,
    }
)
"""Quantizers by the name a config uses."""
