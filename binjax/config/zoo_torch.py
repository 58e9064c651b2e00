"""BinaryNet.pytorch's networks, those since 2020, and their options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from binjax.config.section import Positive, Section
from binjax.config.zoo import WithStem


class VggCifar10Binary(Section):
    """BinaryNet.pytorch's VGG, three times as wide, all kernels binary."""

    kind: Literal["vgg_cifar10_binary"] = "vgg_cifar10_binary"
    first_layer: Literal["auto", "float", "pixels"] = "auto"
    """as of mlp"""
    inflation_ratio: Positive = 3
    """multiplies the channels of all convolutions but the last"""


class VggCifar10(Section):
    """Its real twin."""

    kind: Literal["vgg_cifar10"] = "vgg_cifar10"


class AlexNetBinary(WithStem):
    """BinaryNet.pytorch's AlexNet, three times as wide, all kernels binary."""

    kind: Literal["alexnet_binary"] = "alexnet_binary"
    inflation_ratio: Positive = 3
    """multiplies the channels of all convolutions but the last"""


class AlexNet(WithStem):
    """Its real twin."""

    kind: Literal["alexnet"] = "alexnet"


class ResnetBinary(WithStem):
    """BinaryNet.pytorch's residual network, all kernels binary."""

    kind: Literal["resnet_binary"] = "resnet_binary"
    depth: Annotated[int, Field(ge=14, le=1202)] | None = None
    """6n + 2 for small images, default 18; 18, 34, 50, 101 or 152 for large ones, default 50"""
    inflation_ratio: Positive = 5
    """multiplies the channels 16, 32, 64 of the network for small images"""


class Resnet(WithStem):
    """Its real twin."""

    kind: Literal["resnet"] = "resnet"
    depth: Annotated[int, Field(ge=14, le=1202)] | None = None
    """as of resnet_binary"""


class _ReActNet(WithStem):
    binary_kernels: bool = True
    """false: real kernels, the first of two training stages"""


class ReActNet18(_ReActNet):
    """ReActNet of 18 layers."""

    kind: Literal["reactnet18"] = "reactnet18"


class ReActNetA(_ReActNet):
    """ReActNet-A, on MobileNet's skeleton."""

    kind: Literal["reactnet_a"] = "reactnet_a"


class PokeBNN(WithStem):
    """PokeBNN, on ResNet-50's skeleton (published in JAX)."""

    kind: Literal["pokebnn"] = "pokebnn"
    width: Annotated[float, Field(ge=0.125, le=16, allow_inf_nan=False)] = 1.0
    """multiplies the channels of the blocks; the paper has 0.5 to 2"""
    stem_filters: Literal[1, 2, 4, 8, 16, 32, 64] = 32
    """channels of the first convolution"""


class _BNext(WithStem):
    progressive: bool = False
    """kernels become signs in the course of the run, as published; until then they are floats"""


class BNextT(_BNext):
    """BNext-T, on MobileNet's skeleton."""

    kind: Literal["bnext_t"] = "bnext_t"


class BNextS(_BNext):
    """BNext-S."""

    kind: Literal["bnext_s"] = "bnext_s"


class BNextM(_BNext):
    """BNext-M."""

    kind: Literal["bnext_m"] = "bnext_m"


class BNextL(_BNext):
    """BNext-L."""

    kind: Literal["bnext_l"] = "bnext_l"


Since2020 = ReActNet18 | ReActNetA | PokeBNN | BNextT | BNextS | BNextM | BNextL
BinaryNetPyTorch = VggCifar10Binary | VggCifar10 | AlexNetBinary | AlexNet | ResnetBinary | Resnet
