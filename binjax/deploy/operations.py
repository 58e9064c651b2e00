"""What a deployed network is made of: operations on bits, pixels and floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from binjax.xnor.geometry import Geometry, Pair

Operand = Literal["pixels", "bits"]

AFFINE = ("bias", "mean", "factor", "offset")
PIXEL_LEVELS = 255
"""A pixel p counts as the odd integer 2p - 255."""


class DeployError(ValueError):
    """A network that cannot be deployed, or images it does not take; the message is one line."""


class Threshold(NamedTuple):
    """Epilogue: bit = (sum >= threshold) ^ flip. Tensors ``threshold``, ``flip``."""


class Scores(NamedTuple):
    """Epilogue: ``((sum * scale * gain + bias) - mean) * factor + offset``, in float32.

    Each operation is rounded, as in the trained network. Tensors ``bias``, ``mean``, ``factor``,
    ``offset``, and ``gain`` of a scaled kernel.

    Attributes:
        scale: 1, or that of sums of pixels, such as 1/255; rounded to float32.
        gain: whether each output has a scale of its own.
    """

    scale: float
    gain: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Its tensors."""
        return ("gain", *AFFINE) if self.gain else AFFINE


Rule = Threshold | Scores


@dataclass(frozen=True)
class Dense:
    """``[n, elements]`` times packed weights.

    Attributes:
        name: of the layer.
        operand: what comes in: ``"bits"``, or ``"pixels"`` (uint8).
        elements, outputs: sizes.
        rule: what becomes of the sums.
    """

    name: str
    operand: Operand
    elements: int
    outputs: int
    rule: Rule


@dataclass(frozen=True)
class Conv:
    """2-D convolution of ``[n, h, w, groups * channels]`` with packed kernels.

    Attributes:
        name, operand, outputs, rule: see :class:`Dense`. Pixels have one group.
        kernel: (kh, kw).
        geometry: channels per group, strides, dilation, padding, what the border counts as.
        groups: of the channels.
    """

    name: str
    operand: Operand
    outputs: int
    kernel: Pair
    geometry: Geometry
    groups: int
    rule: Rule

    @property
    def elements(self) -> int:
        """Products summed into one output."""
        return self.geometry.elements(self.kernel)


@dataclass(frozen=True)
class MaxPool:
    """OR of bits over windows, VALID, then XOR with a bit per channel (tensor ``flip``)."""

    name: str
    window: Pair
    strides: Pair


@dataclass(frozen=True)
class Flatten:
    """``[n, h, w, c]`` to ``[n, h w c]``, the last axis fastest."""

    name: str


@dataclass(frozen=True)
class Sign:
    """Floats to bits: 1 where x >= 0."""

    name: str


@dataclass(frozen=True)
class ToFloat:
    """Bits to ±1.0, or pixels p to ``(gain p - mean) * inverse`` (float32 ``[channels]`` each)."""

    name: str
    operand: Operand


@dataclass(frozen=True)
class Real:
    """A product of floats: a layer that was not binarized. Tensor ``kernel``.

    Attributes:
        name, outputs: of the layer.
        elements: products summed into one output.
        kernel: (kh, kw) of a convolution; None of a dense layer.
        geometry: of a convolution.
    """

    name: str
    elements: int
    outputs: int
    kernel: Pair | None
    geometry: Geometry | None


@dataclass(frozen=True)
class Affine:
    """Floats to ``((x + bias) - mean) * factor + offset``, per channel."""

    name: str


Op = Dense | Conv | MaxPool | Flatten | Sign | ToFloat | Real | Affine
PIXEL_SCALING = ("gain", "mean", "inverse")


@dataclass(frozen=True)
class Image:
    """What a network takes: ``[n, *shape]``.

    Attributes:
        shape: (height, width, channels).
        dtype: ``"uint8"`` pixels as they come from a file, or ``"float32"`` scaled ones.
        scaling: how pixels became the trained network's inputs; for information.
    """

    shape: tuple[int, int, int]
    dtype: Literal["uint8", "float32"]
    scaling: str
