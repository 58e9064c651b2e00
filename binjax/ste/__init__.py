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
    precision,
    straight_through,
)
from binjax.ste.registry import QUANTIZERS
from binjax.ste.signs import (
    approx_sign,
    hard_sigmoid,
    hard_tanh,
    noop,
    sign,
    ste_sign,
    stochastic_sign,
    swish_sign,
)

__all__ = [
    "QUANTIZERS",
    "Autodiff",
    "Factors",
    "Quantizer",
    "Stochastic",
    "approx_sign",
    "declare",
    "factors_of",
    "hard_sigmoid",
    "hard_tanh",
    "noop",
    "precision",
    "sign",
    "ste_sign",
    "stochastic_sign",
    "straight_through",
    "swish_sign",
]
