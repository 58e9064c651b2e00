"""binjax: binarized neural networks in JAX and Flax.

The names below are loaded on first use, so that ``import binjax`` costs nothing and the command
line can refuse a bad config before JAX is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from binjax import checkpoint as checkpoint
    from binjax import config as config
    from binjax import data as data
    from binjax import layers as layers
    from binjax import losses as losses
    from binjax import metrics as metrics
    from binjax import models as models
    from binjax import optim as optim
    from binjax import summary as summary
    from binjax import train as train
    from binjax import xnor as xnor
    from binjax.packing import unpack_bits as unpack_bits
    from binjax.shift import ap2 as ap2
    from binjax.ste import QUANTIZERS as QUANTIZERS
    from binjax.ste import Stochastic as Stochastic
    from binjax.ste import absmax as absmax
    from binjax.ste import absmax_int8 as absmax_int8
    from binjax.ste import absmax_sign as absmax_sign
    from binjax.ste import absmean_ternary as absmean_ternary
    from binjax.ste import adabin_weights as adabin_weights
    from binjax.ste import approx_sign as approx_sign
    from binjax.ste import bounded_sign as bounded_sign
    from binjax.ste import declare as declare
    from binjax.ste import dorefa as dorefa
    from binjax.ste import ede as ede
    from binjax.ste import fourier as fourier
    from binjax.ste import hard_sigmoid as hard_sigmoid
    from binjax.ste import hard_tanh as hard_tanh
    from binjax.ste import layer_sign as layer_sign
    from binjax.ste import libra_pb as libra_pb
    from binjax.ste import magnitude_aware_sign as magnitude_aware_sign
    from binjax.ste import noop as noop
    from binjax.ste import progressive_sign as progressive_sign
    from binjax.ste import rbnn as rbnn
    from binjax.ste import recu as recu
    from binjax.ste import sign as sign
    from binjax.ste import ste_heaviside as ste_heaviside
    from binjax.ste import ste_sign as ste_sign
    from binjax.ste import ste_tern as ste_tern
    from binjax.ste import stochastic_sign as stochastic_sign
    from binjax.ste import straight_through as straight_through
    from binjax.ste import swish_sign as swish_sign
    from binjax.ste import xnor_weight_scale as xnor_weight_scale
    from binjax.xnor import backends as backends
    from binjax.xnor import binary_conv as binary_conv
    from binjax.xnor import binary_matmul as binary_matmul
    from binjax.xnor import pack_bits as pack_bits
    from binjax.xnor import pack_conv_input as pack_conv_input
    from binjax.xnor import pack_conv_kernel as pack_conv_kernel
    from binjax.xnor import packed_conv as packed_conv
    from binjax.xnor import packed_conv_affine as packed_conv_affine
    from binjax.xnor import packed_conv_threshold as packed_conv_threshold
    from binjax.xnor import packed_matmul as packed_matmul
    from binjax.xnor import packed_matmul_affine as packed_matmul_affine
    from binjax.xnor import packed_matmul_threshold as packed_matmul_threshold
    from binjax.xnor import packed_max_pool as packed_max_pool
    from binjax.xnor import pixel_conv as pixel_conv
    from binjax.xnor import pixel_matmul as pixel_matmul
    from binjax.xnor import xnor_conv as xnor_conv
    from binjax.xnor import xnor_matmul as xnor_matmul

_MODULES = (
    "checkpoint",
    "config",
    "data",
    "layers",
    "losses",
    "metrics",
    "models",
    "optim",
    "summary",
    "train",
    "xnor",
)
_FUNCTIONS = {
    "ap2": "shift",
    "QUANTIZERS": "ste",
    "Stochastic": "ste",
    "adabin_weights": "ste",
    "dorefa": "ste",
    "ede": "ste",
    "fourier": "ste",
    "magnitude_aware_sign": "ste",
    "rbnn": "ste",
    "recu": "ste",
    "layer_sign": "ste",
    "libra_pb": "ste",
    "progressive_sign": "ste",
    "ste_heaviside": "ste",
    "ste_tern": "ste",
    "xnor_weight_scale": "ste",
    "absmax": "ste",
    "absmax_int8": "ste",
    "absmax_sign": "ste",
    "absmean_ternary": "ste",
    "approx_sign": "ste",
    "bounded_sign": "ste",
    "declare": "ste",
    "hard_sigmoid": "ste",
    "hard_tanh": "ste",
    "noop": "ste",
    "sign": "ste",
    "ste_sign": "ste",
    "stochastic_sign": "ste",
    "straight_through": "ste",
    "swish_sign": "ste",
    "unpack_bits": "packing",
    "backends": "xnor",
    "binary_conv": "xnor",
    "binary_matmul": "xnor",
    "pack_bits": "xnor",
    "pack_conv_input": "xnor",
    "pack_conv_kernel": "xnor",
    "packed_conv": "xnor",
    "packed_conv_affine": "xnor",
    "packed_conv_threshold": "xnor",
    "packed_matmul": "xnor",
    "packed_matmul_affine": "xnor",
    "packed_matmul_threshold": "xnor",
    "packed_max_pool": "xnor",
    "pixel_conv": "xnor",
    "pixel_matmul": "xnor",
    "xnor_conv": "xnor",
    "xnor_matmul": "xnor",
}
__all__ = ["__version__", *_FUNCTIONS, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"binjax.{_FUNCTIONS[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"binjax.{name}")
    raise AttributeError(f"module 'binjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
