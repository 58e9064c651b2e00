"""Flax NNX layers of binarized networks. All are called ``layer(x, train=..., key=...)``."""

from binjax.layers.activation import (
    ACTIVATIONS,
    Activation,
    DPReLU,
    Identity,
    LearnedScale,
    PReLU,
    RPReLU,
    Shift,
)
from binjax.layers.annealed import EDE, RBNN, LibraPB, Progress, ProgressiveSign, ReCU, set_progress
from binjax.layers.base import BinaryWeight
from binjax.layers.binary import BinaryConv, BinaryDense
from binjax.layers.block import Beside, Concatenate, Dropout, Gate, Pad, Residual, SqueezeExcite
from binjax.layers.conv_nd import BinaryConv1D, BinaryConv3D
from binjax.layers.functional import apply, apply_watched, split
from binjax.layers.learned import QUANTIZER_MODULES, AdaBinActivations, RSign, ScaledSign
from binjax.layers.local import BinaryLocallyConnected
from binjax.layers.norm import BatchNorm, ShiftBatchNorm
from binjax.layers.pool import AvgPool, GlobalAvgPool, MaxPool
from binjax.layers.products import products
from binjax.layers.recording import capture, record
from binjax.layers.recurrent import BinaryGRUCell, BinaryLSTMCell, Recurrent
from binjax.layers.regular import Flatten, dropout
from binjax.layers.repeat import Repeat
from binjax.layers.separable import BinaryDepthwiseConv, BinarySeparableConv, BinarySeparableConv1D
from binjax.layers.sequential import Sequential
from binjax.layers.transposed import BinaryConvTranspose, BinaryConvTranspose3D
from binjax.xnor.pixel_scale import UNIT, PixelScale

__all__ = [
    "ACTIVATIONS",
    "EDE",
    "QUANTIZER_MODULES",
    "RBNN",
    "UNIT",
    "Activation",
    "AdaBinActivations",
    "AvgPool",
    "BatchNorm",
    "Beside",
    "BinaryConv",
    "BinaryConv1D",
    "BinaryConv3D",
    "BinaryConvTranspose",
    "BinaryConvTranspose3D",
    "BinaryDense",
    "BinaryDepthwiseConv",
    "BinaryGRUCell",
    "BinaryLSTMCell",
    "BinaryLocallyConnected",
    "BinarySeparableConv",
    "BinarySeparableConv1D",
    "BinaryWeight",
    "Concatenate",
    "DPReLU",
    "Dropout",
    "Flatten",
    "Gate",
    "GlobalAvgPool",
    "Identity",
    "LearnedScale",
    "LibraPB",
    "MaxPool",
    "PReLU",
    "Pad",
    "PixelScale",
    "Progress",
    "ProgressiveSign",
    "RPReLU",
    "RSign",
    "ReCU",
    "Recurrent",
    "Repeat",
    "Residual",
    "ScaledSign",
    "Sequential",
    "Shift",
    "ShiftBatchNorm",
    "SqueezeExcite",
    "apply",
    "apply_watched",
    "capture",
    "dropout",
    "products",
    "record",
    "set_progress",
    "split",
]
