"""Networks and their options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from binjax.config.quantizers import KernelQuantizer, Quantizer, SteSign
from binjax.config.section import Listed, Positive, Rate, Section, Share
from binjax.config.zoo import LarqZoo
from binjax.config.zoo_torch import BinaryNetPyTorch, Since2020


class BatchNorm(Section):
    """Ordinary batch normalization."""

    kind: Literal["batch"] = "batch"
    eps: Rate = 1e-4
    momentum: Share = 0.9
    """share of the old running statistics kept at a step"""
    running: Literal["variance", "inverse_std"] = "variance"
    """the statistic averaged for evaluation; Theano averaged inverse_std"""


class ShiftNorm(Section):
    """Shift-based batch normalization; the last layer keeps the ordinary one."""

    kind: Literal["shift"] = "shift"
    eps: Rate = 1e-5
    momentum: Share = 0.875


Norm = Annotated[BatchNorm | ShiftNorm, Field(discriminator="kind")]


class _Net(Section):
    first_layer: Literal["auto", "float", "pixels"] = "auto"
    """pixels: 8-bit images times ±1 weights on packed kernels, exactly; needs data.scaling.kind =
    "unit" and no input dropout. auto: that where it is possible, else float"""


class _BinaryNet(_Net):
    norm: Norm = BatchNorm()
    input_quantizer: Quantizer = SteSign()
    """binarizes activations; stochastic_sign draws in training only"""
    kernel_quantizer: KernelQuantizer = SteSign()
    use_bias: bool = True
    """biases in front of batch normalization, as the paper's networks have them"""
    kernel_init: Literal["glorot_uniform", "uniform"] = "glorot_uniform"
    """latent weights at the start; BinaryNet's Theano code draws them uniform in [-1, 1]"""


class MLP(_BinaryNet):
    """The paper's permutation-invariant MNIST network, any widths."""

    kind: Literal["mlp"] = "mlp"
    widths: Listed[Positive] = (4096, 4096, 4096)
    input_dropout: Share = 0.2
    hidden_dropout: Share = 0.5


class Cifar10ConvNet(_BinaryNet):
    """The paper's CIFAR-10 ConvNet: 2x128C3-MP2-2x256C3-MP2-2x512C3-MP2-1024-1024-10."""

    kind: Literal["cifar10_convnet"] = "cifar10_convnet"
    channels: Listed[Positive] = (128, 256, 512)
    """of each pair of convolutions; a 2x2 max-pool follows each pair"""
    widths: tuple[Positive, ...] = (1024, 1024)
    """of the dense layers before the last"""


class SvhnConvNet(_BinaryNet):
    """The paper's SVHN ConvNet: the CIFAR-10 one with half the channels."""

    kind: Literal["svhn_convnet"] = "svhn_convnet"
    channels: Listed[Positive] = (64, 128, 256)
    """of each pair of convolutions; a 2x2 max-pool follows each pair"""
    widths: tuple[Positive, ...] = (1024, 1024)
    """of the dense layers before the last"""


class LarqCifar10(_Net):
    """The CIFAR-10 network of Larq's tutorial."""

    kind: Literal["larq_cifar10"] = "larq_cifar10"


class CifarResnet(Section):
    """A residual network for small images with the ingredients of many papers as options."""

    kind: Literal["cifar_resnet"] = "cifar_resnet"
    depth: Annotated[int, Field(ge=8, le=1202)] = 20
    """6n + 2: two convolutions in each of n blocks of each of three stages"""
    width: Positive = 16
    """channels of the first stage; the others have two and four times as many"""
    input_quantizer: Quantizer = SteSign()
    kernel_quantizer: KernelQuantizer = SteSign()
    shortcut: Literal["layer", "block"] = "layer"
    """around every convolution (Bi-Real Net), or every two"""
    downsample: Literal["conv", "pad"] = "conv"
    """shortcuts that change shape: averages and a real 1x1 convolution, or zeros"""
    scale: Literal["none", "channel", "rank1"] = "none"
    """learned factors behind each convolution; rank1: per row, column and channel (XNOR-Net++)"""
    input_scale: bool = False
    """multiply by the mean absolute input under the window (XNOR-Net's K)"""
    activation: Literal["none", "relu", "hard_tanh", "prelu", "rprelu", "dprelu"] = "none"
    """behind each convolution and its shortcut"""
    norm_first: bool = False
    """the norm stands in front of the convolution (XNOR-Net), not behind it"""


Model = Annotated[
    MLP
    | Cifar10ConvNet
    | SvhnConvNet
    | LarqCifar10
    | CifarResnet
    | LarqZoo
    | BinaryNetPyTorch
    | Since2020,
    Field(discriminator="kind"),
]
