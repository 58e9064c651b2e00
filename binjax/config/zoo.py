"""The networks of Larq's zoo and their options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from binjax.config.section import Listed, Positive, Section

Bits = Annotated[int, Field(ge=1, le=16)]


class WithStem(Section):
    """A network made for ImageNet, which takes small images too."""

    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """what stands in front of the blocks: the published layers, which shrink images (imagenet), or
    layers that don't (cifar); auto: the latter for images less than 50 pixels high"""


class BinaryAlexNet(WithStem):
    """AlexNet with binary kernels in all layers."""

    kind: Literal["binary_alexnet"] = "binary_alexnet"
    first_layer: Literal["auto", "float", "pixels"] = "auto"
    """as of mlp"""
    inflation_ratio: Positive = 1
    """multiplies the channels of all convolutions but the last"""


class XnorNet(WithStem):
    """XNOR-Net's AlexNet."""

    kind: Literal["xnornet"] = "xnornet"


class DoReFaNet(WithStem):
    """DoReFa-Net's AlexNet: one-bit kernels, activations of a few bits."""

    kind: Literal["dorefanet"] = "dorefanet"
    activations_k_bit: Bits = 2


class BiRealNet(WithStem):
    """Bi-Real Net of 18 layers."""

    kind: Literal["birealnet"] = "birealnet"
    filters: Positive = 64
    """channels of the first stage"""


class BinaryResNetE18(WithStem):
    """ResNet with a shortcut around every binary convolution."""

    kind: Literal["binary_resnet_e18"] = "binary_resnet_e18"
    depth: Literal[18, 34] = 18


class _DenseNet(WithStem):
    growth_rate: Positive = 64
    """channels that each binary convolution adds"""
    initial_filters: Positive = 64
    """channels of the stem"""


class BinaryDenseNet28(_DenseNet):
    """BinaryDenseNet of 28 layers."""

    kind: Literal["binary_densenet28"] = "binary_densenet28"


class BinaryDenseNet37(_DenseNet):
    """BinaryDenseNet of 37 layers."""

    kind: Literal["binary_densenet37"] = "binary_densenet37"


class BinaryDenseNet37Dilated(_DenseNet):
    """BinaryDenseNet of 37 layers, the last two stages dilated in place of pools."""

    kind: Literal["binary_densenet37_dilated"] = "binary_densenet37_dilated"


class BinaryDenseNet45(_DenseNet):
    """BinaryDenseNet of 45 layers."""

    kind: Literal["binary_densenet45"] = "binary_densenet45"


class MeliusNet22(WithStem):
    """MeliusNet of 22 layers."""

    kind: Literal["meliusnet22"] = "meliusnet22"
    blocks: Listed[Positive] = (4, 5, 4, 4)
    """of each stage"""
    transitions: tuple[Positive, ...] = (160, 224, 256)
    """channels behind each stage but the last"""


class RealToBinary(WithStem):
    """Real-to-Binary net, its strong baseline (rescale = rank1) and their teachers (stage)."""

    kind: Literal["real_to_binary"] = "real_to_binary"
    stage: Literal["real", "activations", "binary"] = "binary"
    """what is binary in the blocks: nothing, inputs of convolutions, or inputs and kernels; in
    this order each network teaches the next"""
    rescale: Literal["gate", "rank1"] = "gate"
    """convolutions are scaled by what dense layers make of their input, or by learned factors"""


class ResNet18(WithStem):
    """Real-valued ResNet-18, the first teacher of Real-to-Binary nets."""

    kind: Literal["resnet18"] = "resnet18"


class QuickNetSmall(WithStem):
    """QuickNet with half the channels in its first two stages."""

    kind: Literal["quicknet_small"] = "quicknet_small"
    blocks: Listed[Positive] = (4, 4, 4, 4)
    """of each stage"""
    filters: Listed[Positive] = (32, 64, 256, 512)
    """channels of each stage; the first a multiple of 4"""


class QuickNet(WithStem):
    """QuickNet."""

    kind: Literal["quicknet"] = "quicknet"
    blocks: Listed[Positive] = (4, 4, 4, 4)
    """of each stage"""
    filters: Listed[Positive] = (64, 128, 256, 512)
    """channels of each stage; the first a multiple of 4"""


class QuickNetLarge(WithStem):
    """QuickNet with more blocks."""

    kind: Literal["quicknet_large"] = "quicknet_large"
    blocks: Listed[Positive] = (6, 8, 12, 6)
    """of each stage"""
    filters: Listed[Positive] = (64, 128, 256, 512)
    """channels of each stage; the first a multiple of 4"""


LarqZoo = (
    BinaryAlexNet
    | XnorNet
    | DoReFaNet
    | BiRealNet
    | BinaryResNetE18
    | BinaryDenseNet28
    | BinaryDenseNet37
    | BinaryDenseNet37Dilated
    | BinaryDenseNet45
    | MeliusNet22
    | RealToBinary
    | ResNet18
    | QuickNetSmall
    | QuickNet
    | QuickNetLarge
)
