"""Binarization as pure functions with straight-through gradients.

Every quantizer computes an exact forward value and a *declared* derivative in place of the true
one, which is zero almost everywhere (Bengio et al. 2013; Courbariaux, Hubara et al. 2016, §1.3).
They work under ``jit``, ``vmap``, ``grad`` and ``grad`` of ``grad`` for any floating dtype and
return the dtype they were given. Forward mode (``jvp``, ``jacfwd``, ``hessian``) needs
``autodiff="jvp"``; both modes give the same numbers. Names, arguments and defaults are Larq's.

Convention: ``sign(0) = sign(-0.0) = +1``; NaN stays NaN.
"""

from binjax.ste.core import (
    Autodiff,
    Factors,
    Quantizer,
    Stochastic,
    declare,
    factors_of,
    is_sign,
    precision,
    sign_input_of,
    straight_through,
)
from binjax.ste.levels import absmax, absmax_int8, absmean_ternary, dorefa, ste_tern
from binjax.ste.registry import QUANTIZERS
from binjax.ste.signs import (
    approx_sign,
    bounded_sign,
    ede,
    fourier,
    hard_sigmoid,
    hard_tanh,
    noop,
    progressive_sign,
    rbnn,
    sign,
    ste_heaviside,
    ste_sign,
    stochastic_sign,
    swish_sign,
)
from binjax.ste.weights import (
    absmax_sign,
    adabin_weights,
    center,
    layer_sign,
    libra_pb,
    magnitude_aware_sign,
    mean_magnitude,
    recu,
    standardize,
    xnor_weight_scale,
)

__all__ = [
    "QUANTIZERS",
    "Autodiff",
    "Factors",
    "Quantizer",
    "Stochastic",
    "absmax",
    "absmax_int8",
    "absmax_sign",
    "absmean_ternary",
    "adabin_weights",
    "approx_sign",
    "bounded_sign",
    "center",
    "declare",
    "dorefa",
    "ede",
    "factors_of",
    "fourier",
    "hard_sigmoid",
    "hard_tanh",
    "is_sign",
    "layer_sign",
    "libra_pb",
    "magnitude_aware_sign",
    "mean_magnitude",
    "noop",
    "precision",
    "progressive_sign",
    "rbnn",
    "recu",
    "sign",
    "sign_input_of",
    "standardize",
    "ste_heaviside",
    "ste_sign",
    "ste_tern",
    "stochastic_sign",
    "straight_through",
    "swish_sign",
    "xnor_weight_scale",
]
