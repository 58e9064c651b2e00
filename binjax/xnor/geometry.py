"""What a packed convolution is, apart from its operands: sizes, strides, borders."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple

from jax import lax

Pair = tuple[int, int]
Padding = str | Sequence[Sequence[int]]


class Geometry(NamedTuple):
    """Static description of a 2-D convolution of packed words.

    Attributes:
        channels: input channels *per group*, so that a tap has ``ceil(channels/32)`` words.
        strides, dilation: (vertical, horizontal), each at least 1.
        padding: (top, bottom, left, right), each at least 0.
        pad_value: what the border counts as: -1, 0 or +1.
    """

    channels: int
    strides: Pair
    dilation: Pair
    padding: tuple[int, int, int, int]
    pad_value: int

    def elements(self, kernel: Sequence[int]) -> int:
        """Products summed into one output: the K of the equivalent matrix product."""
        return kernel[0] * kernel[1] * self.channels

    def output(self, image: Sequence[int], kernel: Sequence[int]) -> Pair:
        """(height, width) of the result, 0 where the window does not fit."""
        top, bottom, left, right = self.padding
        high = self._positions(image[0] + top + bottom, kernel[0], 0)
        return high, self._positions(image[1] + left + right, kernel[1], 1)

    def _positions(self, size: int, taps: int, axis: int) -> int:
        window = (taps - 1) * self.dilation[axis] + 1
        return max((size - window) // self.strides[axis] + 1, 0)


def matrix_geometry(k: int) -> Geometry:
    """A product with a matrix of k rows, as a convolution of 1x1 images."""
    return Geometry(k, (1, 1), (1, 1), (0, 0, 0, 0), 0)


def check_geometry(
    image: Sequence[int],
    kernel: Sequence[int],
    channels: int,
    strides: Sequence[int],
    padding: Padding,
    pad_value: int,
    dilation: Sequence[int],
) -> Geometry:
    """The geometry that a caller's arguments describe.

    Raises:
        ValueError: an option out of range, a kernel without taps, or 2^30 products or more per
            output.
    """
    strides, dilation = pair("strides", strides), pair("dilation", dilation)
    if 0 in kernel:
        raise ValueError(f"the kernel has no taps: its spatial shape is {tuple(kernel)}")
    if pad_value not in (-1, 0, 1):
        raise ValueError(f"pad_value is {pad_value}; a binary border is -1, 0 or +1")
    (top, bottom), (left, right) = pads(image, kernel, strides, padding, dilation)
    geometry = Geometry(channels, strides, dilation, (top, bottom, left, right), int(pad_value))
    if geometry.elements(kernel) >= 1 << 30:
        raise ValueError(f"{geometry.elements(kernel)} products per output; 2**30 is too many")
    return geometry


def check_groups(groups: int, n_in: int, n_out: int) -> None:
    """Groups divide input and output channels.

    Raises:
        ValueError: they don't, or one of the three is no integer.
    """
    for name, size in (("groups", groups), ("n_in", n_in), ("n_out", n_out)):
        if not integers((size,)):
            raise ValueError(f"{name} is {size!r}, must be an integer")
    if groups < 1 or n_in % groups or n_out % groups:
        raise ValueError(
            f"groups is {groups}; it must divide the {n_in} input and {n_out} output channels"
        )


def pads(
    image: Sequence[int],
    kernel: Sequence[int],
    strides: Pair,
    padding: Padding,
    dilation: Pair,
) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) of "SAME", "VALID" or explicit pairs.

    Raises:
        ValueError: anything else, or a negative one.
    """
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(
                f'padding is {padding!r}; choose "SAME", "VALID" or ((top, bottom), (left, right))'
            )
        window = [(taps - 1) * d + 1 for taps, d in zip(kernel, dilation, strict=True)]
        high, wide = lax.padtype_to_pads(image, window, strides, padding)
        return (int(high[0]), int(high[1])), (int(wide[0]), int(wide[1]))
    found = [integers(axis) for axis in padding] if isinstance(padding, Sequence) else []
    if [len(axis) for axis in found] != [2, 2] or min(p for axis in found for p in axis) < 0:
        raise ValueError(
            f"padding is {padding}; explicit padding is ((top, bottom), (left, right)), none "
            "negative"
        )
    (top, bottom), (left, right) = found
    return (top, bottom), (left, right)


def pair(name: str, value: Sequence[int]) -> Pair:
    """Two positive integers.

    Raises:
        ValueError: anything else.
    """
    found = integers(value)
    if len(found) != 2 or min(found) < 1:
        raise ValueError(f"{name} is {value}; expected two positive integers")
    return found[0], found[1]


def integers(values: object) -> tuple[int, ...]:
    """The integers of a sequence; empty if it is something else."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return ()
    try:
        return tuple(operator.index(v) for v in values)
    except TypeError:
        return ()
