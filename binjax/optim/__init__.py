"""Optax transforms for binarized networks: shift-based AdaMax, Bop, latent weights.

Each is an ordinary ``optax.GradientTransformation``; a full optimizer for latent weights is a
chain that ends in :func:`clip_latent`::

    optax.chain(shift_adamax(2**-10), scale_by_glorot(mask), clip_latent(mask=mask))
"""

from binjax.optim.adamax import ShiftAdaMaxState, Variant, scale_by_shift_adamax, shift_adamax
from binjax.optim.cases import partition
from binjax.optim.flipping import BopState, binarize_params, bop, second_order_bop
from binjax.optim.latent import clip_latent, glorot_scale, scale_by_glorot, variable_mask
from binjax.optim.schedules import exponential_epoch_decay, piecewise, shift_decay

__all__ = [
    "BopState",
    "ShiftAdaMaxState",
    "Variant",
    "binarize_params",
    "bop",
    "clip_latent",
    "exponential_epoch_decay",
    "glorot_scale",
    "partition",
    "piecewise",
    "scale_by_glorot",
    "scale_by_shift_adamax",
    "second_order_bop",
    "shift_adamax",
    "shift_decay",
    "variable_mask",
]
