"""What the C export computes before it writes: weights as panels, limits, borders, the arena.

A count of ones c of ``x ^ w`` gives the sum ``base - 2c``. So a threshold is a largest count, found
here once for each class of output positions: those whose windows leave the image by the same taps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from binjax.deploy.graph import Graph, Tensors, largest_sum, shapes
from binjax.deploy.operations import (
    PIXEL_LEVELS,
    Conv,
    Dense,
    DeployError,
    Flatten,
    MaxPool,
    Op,
    Sign,
    Threshold,
)
from binjax.deploy.words import unpack_last
from binjax.packing import WORD, words_for
from binjax.xnor.geometry import Geometry, Pair, matrix_geometry

LANES = 16
BLOCK = 32
NO_BORDER = (0, 0, 0, 0)

Border = tuple[int, int, int, int]
"""Rows and columns around an image: top, bottom, left, right."""


@dataclass(frozen=True)
class Product:
    """Arrays of a product.

    Attributes:
        panels: uint32 ``[groups * panels, words of a window, LANES]``, output channels past the
            last 0.
        limits: int32 ``[classes, groups * blocks * BLOCK]``: the largest count that gives the bit
            1, or the base of the sum.
        row_class, column_class: uint16, of output rows and columns; a class is
            ``row_class * column_classes + column_class``. Empty if there is one.
        column_classes: how many.
        segments: int32, where the stretches of a window begin: in words, of pixels in bytes.
        length: of a stretch.
    """

    panels: np.ndarray
    limits: np.ndarray
    row_class: np.ndarray
    column_class: np.ndarray
    column_classes: int
    segments: np.ndarray
    length: int


class Stage(NamedTuple):
    """An operation with the shapes, in elements, of what it takes and gives."""

    op: Op
    before: tuple[int, ...]
    after: tuple[int, ...]

    def __str__(self) -> str:
        """One line of ASCII; an operation's name may hold anything."""
        sizes = ("x".join(map(str, shape)) for shape in (self.before, self.after))
        name = re.sub("[^A-Za-z0-9_.-]", "_", self.op.name)
        return f"{name}, {type(self.op).__name__}, {' to '.join(sizes)}"


@dataclass(frozen=True)
class Buffer:
    """An image in the arena: ``[high, wide, pixel]`` units with a border around it.

    Attributes:
        high, wide: without the border.
        pixel: units of a pixel: words of bits, or bytes of pixels.
        border: see :data:`Border`.
        unit: bytes.
    """

    high: int
    wide: int
    pixel: int
    border: Border = NO_BORDER
    unit: int = 4

    @property
    def row(self) -> int:
        """Units from a row to the next."""
        return (self.wide + self.border[2] + self.border[3]) * self.pixel

    @property
    def size(self) -> int:
        """Units, with the border."""
        return (self.high + self.border[0] + self.border[1]) * self.row

    @property
    def origin(self) -> int:
        """Units in front of the first pixel."""
        return self.border[0] * self.row + self.border[2] * self.pixel

    @property
    def words(self) -> int:
        """Of four bytes, all of it."""
        return -(-self.size * self.unit // 4)


def stages(graph: Graph) -> list[Stage]:
    """A graph's operations, without flattenings that move nothing.

    Raises:
        DeployError: an operation that cannot be exported, by name.
    """
    for op in graph.ops:
        _check(op)
    found: list[Stage] = []
    before: tuple[int, ...] = graph.image.shape
    for op, after in zip(graph.ops, shapes(graph), strict=True):
        if isinstance(op, MaxPool) and not found:
            raise DeployError(f"{op.name} cannot be exported to C: it pools floats")
        if not isinstance(op, Flatten):
            found.append(Stage(op, before, after))
        elif found and isinstance(found[-1].op, Sign):
            found[-1] = Stage(found[-1].op, after, after)
        elif found and len(before) > 1 and before[-1] % WORD:
            found.append(Stage(op, before, after))
        before = after
    return found


def place(sizes: Sequence[int], scratch: int, beside: int) -> tuple[list[int], int]:
    """Places of buffers, each made from the one before, and the size of an arena for them.

    They stand at its beginning and at its end in turn. ``scratch`` comes behind the first and is in
    use together with the first ``beside`` ones.
    """
    total = max(a + b for a, b in zip(sizes, [*sizes[1:], 0], strict=True))
    total = max(total, sum(sizes[:beside]) + scratch)
    return [total - size if i % 2 else 0 for i, size in enumerate(sizes)], total


def _check(op: Op) -> None:
    if not isinstance(op, Dense | Conv | MaxPool | Flatten | Sign):
        raise DeployError(f"{op.name} ({type(op).__name__}) cannot be exported to C")
    if not isinstance(op, Dense | Conv):
        return
    if largest_sum(op) >= 1 << 29:
        raise DeployError(
            f"{op.name} cannot be exported to C: sums of up to {largest_sum(op)} do not fit"
        )
    if isinstance(op, Conv) and op.groups > 1 and op.geometry.channels % WORD:
        raise DeployError(
            f"{op.name} cannot be exported to C: groups of {op.geometry.channels} channels; a "
            f"multiple of {WORD} is needed"
        )


def pixel_of(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, elements) of a shape, a vector as an image of one pixel."""
    return (1, 1, shape[0]) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def geometry_of(op: Dense | Conv) -> tuple[Geometry, Pair, int]:
    """Geometry, kernel and groups; a dense layer's are those of one pixel."""
    if isinstance(op, Dense):
        return matrix_geometry(op.elements), (1, 1), 1
    return op.geometry, op.kernel, op.groups


def make_product(stage: Stage, tensors: Tensors) -> Product:
    """The arrays of a dense layer or a convolution."""
    op = stage.op
    assert isinstance(op, Dense | Conv)
    geometry, kernel, groups = geometry_of(op)
    words, flipped = _without_flips(op, tensors)
    high, wide, _ = pixel_of(stage.before)
    pixels = op.operand == "pixels"
    row_class = column_class = np.zeros(0, np.uint16)
    ranges: tuple[list[Pair], list[Pair]] = [(0, kernel[0])], [(0, kernel[1])]
    if any(geometry.padding) and (pixels or geometry.pad_value == 0):
        size = geometry.output((high, wide), kernel)
        rows, row_class = _classes(_inside(geometry, 0, high, kernel[0], size[0]))
        columns, column_class = _classes(_inside(geometry, 1, wide, kernel[1], size[1]))
        ranges = rows, columns
    base = _bases(op, words, ranges)
    limits = base
    if flipped is not None:
        limits = np.clip((base - flipped) >> 1, -1, (1 << 31) - 1)  # sum >= t: 2 count <= base - t
    per_group = op.outputs // groups
    padded = np.full((len(limits), groups, -(-per_group // BLOCK) * BLOCK), -1, np.int32)
    padded[..., :per_group] = limits.reshape(len(limits), groups, per_group)
    segments, length = _segments(op, wide)
    return Product(
        _panels(words, groups),
        padded.reshape(len(limits), -1),
        row_class,
        column_class,
        len(ranges[1]),
        np.asarray(segments, np.int32),
        length,
    )


def _without_flips(op: Dense | Conv, tensors: Tensors) -> tuple[np.ndarray, np.ndarray | None]:
    """Words and thresholds int64, flips moved into the weights: sum < t means -sum >= 1 - t."""
    words = tensors[f"{op.name}.words"]
    if not isinstance(op.rule, Threshold):
        return words, None
    threshold = tensors[f"{op.name}.threshold"].astype(np.int64)
    flip = unpack_last(tensors[f"{op.name}.flip"], op.outputs)
    if not flip.any():
        return words, threshold
    bits_of_row = op.elements if words.ndim == 2 else geometry_of(op)[0].channels
    used = np.full(words.shape[-1], 0xFFFFFFFF, np.uint32)
    if bits_of_row % WORD:
        used[-1] = (1 << bits_of_row % WORD) - 1
    turned = words.copy()
    turned[flip] ^= used
    return turned, np.where(flip, 1 - threshold, threshold)


def _panels(words: np.ndarray, groups: int) -> np.ndarray:
    """Words ``[outputs, ...]`` as :attr:`Product.panels`."""
    by_group = words.reshape(groups, words.shape[0] // groups, -1)
    missing = -by_group.shape[1] % LANES
    by_group = np.pad(by_group, ((0, 0), (0, missing), (0, 0)))
    lanes = by_group.reshape(-1, LANES, by_group.shape[2])
    return np.ascontiguousarray(lanes.swapaxes(1, 2))


def _inside(geometry: Geometry, axis: int, size: int, taps: int, out: int) -> list[Pair]:
    """Taps [first, end) of one axis that fall inside the image, for each output position."""
    step, low = geometry.dilation[axis], geometry.padding[2 * axis]
    ranges = []
    for i in range(out):
        start = i * geometry.strides[axis] - low
        first = min(taps, max(0, -(start // step)))
        end = min(taps, max(0, (size - 1 - start) // step + 1))
        ranges.append((first, max(first, end)))
    return ranges


def _classes(ranges: Sequence[Pair]) -> tuple[list[Pair], np.ndarray]:
    distinct = list(dict.fromkeys(ranges))
    return distinct, np.asarray([distinct.index(r) for r in ranges], np.uint16)


def _bases(
    op: Dense | Conv, words: np.ndarray, ranges: tuple[list[Pair], list[Pair]]
) -> np.ndarray:
    """Sums of a count of 0, int64 ``[classes, outputs]``.

    Zeros of a border are multiplied as -1 (-255 of pixels): a tap outside is missing from the
    number of elements and has added its ones to the count.
    """
    geometry, kernel, _ = geometry_of(op)
    unit = PIXEL_LEVELS if op.operand == "pixels" else 1
    # [outputs, kh, kw]
    if words.ndim == 2:
        bits = unpack_last(words, op.elements).reshape(op.outputs, *kernel, geometry.channels)
        ones = bits.sum(-1, dtype=np.int64)
    else:
        ones = np.bitwise_count(words).sum(-1, dtype=np.int64)
    found = []
    for top, bottom in ranges[0]:
        for left, right in ranges[1]:
            elements = geometry.channels * (bottom - top) * (right - left)
            outside = ones.sum((1, 2)) - ones[:, top:bottom, left:right].sum((1, 2))
            found.append(unit * (elements + 2 * outside))
    return np.stack(found)


def _segments(op: Dense | Conv, wide: int) -> tuple[list[int], int]:
    """Stretches of a window that lie without gaps, and their length: words, of pixels bytes."""
    geometry, (down, right), groups = geometry_of(op)
    own = geometry.channels if op.operand == "pixels" else words_for(geometry.channels)
    pixel, joined = groups * own, groups == 1 and geometry.dilation[1] == 1
    row = (wide + geometry.padding[2] + geometry.padding[3]) * pixel
    starts = [
        i * geometry.dilation[0] * row + j * geometry.dilation[1] * pixel
        for i in range(down)
        for j in range(1 if joined else right)
    ]
    return starts, own * (right if joined else 1)
