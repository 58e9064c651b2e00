"""Proof that a packed model computes what the trained network computes: every threshold over every
sum it can meet, then scores, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from binjax.deploy import fold
from binjax.deploy.block import Block
from binjax.deploy.digest import digest_of_model, digest_of_variables
from binjax.deploy.floats import PixelScaling
from binjax.deploy.graph import Graph, Tensors, largest_sum, shapes
from binjax.deploy.operations import (
    DeployError,
)
from binjax.deploy.pack import assemble, blocks_of
from binjax.deploy.packed import PackedModel
from binjax.deploy.words import unpack_last

Reference = Callable[[Any], jax.Array]
"""The trained network: images, as the packed model takes them, to float scores."""

_BATCH_BYTES = 1 << 28  # of activations, roughly, that exist at a time
_LARGEST_BATCH = 1000
_ALIKE = 0.9


class ProofError(DeployError):
    """A packed model that does not compute what the network computes; the counter-example."""


@dataclass(frozen=True)
class LayerProof:
    """What was compared of one layer: so many (channel, sum) pairs, sums from least to largest."""

    name: str
    channels: int
    least: int
    largest: int
    sums: int


@dataclass(frozen=True)
class Certificate:
    """What was compared, all of it equal.

    Attributes:
        layers: thresholds, exhaustively.
        images: how many, by what they are; every class score bit-equal.
        in_floats: how many of them were compared with the network in products of floats; the
            others with the network on the packed products it was trained on.
        network: sha256 of the trained network's parameters and statistics.
        model: sha256 of the packed model's graph and arrays.
        mismatches: 0; with float layers, images whose scores differ in any bit.
        float_layers: layers that multiply floats, which nothing is proven of.
        jax: version.
        platform: what it ran on.
        seconds: it took.
    """

    layers: tuple[LayerProof, ...]
    images: dict[str, int]
    in_floats: int
    network: str
    model: str
    mismatches: int
    float_layers: tuple[str, ...]
    jax: str
    platform: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return asdict(self)


def prove(
    model: nnx.Module,
    packed: PackedModel,
    reference: Reference,
    images: dict[str, np.ndarray],
    *,
    pixel_scaling: PixelScaling | None = None,
    kernels: Reference | None = None,
    in_floats: int | None = None,
    n_random: int = 100_000,
    seed: int = 0,
) -> Certificate:
    """Compare a packed model with the network it was made of.

    Args:
        model: the trained network.
        packed: what claims to be the same.
        reference: the network as it evaluates images, with products of floats.
        images: by name, what to compare scores on, such as all test images.
        pixel_scaling: as for :func:`binjax.deploy.pack`.
        kernels: the network with the packed products it was trained on, for images beyond
            ``in_floats`` of each name: float products of large networks take hours.
        in_floats: images of each name that are compared with ``reference``; None is all.
        n_random: random images to compare scores on, noise of many contrasts.
        seed: of them.

    Raises:
        ProofError: the first sum or image for which the two differ.
        DeployError: the packed model is of another network.
    """
    began = time.monotonic()
    layers = prove_thresholds(model, packed, pixel_scaling)
    counts, floats, different = {}, 0, 0
    sources = {name: (len(array), _batches(array, packed.graph)) for name, array in images.items()}
    sources["random"] = n_random, random_images(packed.graph, n_random, seed)
    for name, (count, batches) in sources.items():
        limit = count if in_floats is None or kernels is None else in_floats
        for start, batch in batches:
            by = reference if start < limit or kernels is None else kernels
            different += compare_scores(packed, by, start, batch, name)
            floats += len(batch) if by is reference else 0
        counts[name] = count
    return Certificate(
        layers=tuple(layers),
        images=counts,
        in_floats=floats,
        network=digest_of_variables(model),
        model=digest_of_model(packed),
        mismatches=different,
        float_layers=packed.graph.float_layers,
        jax=jax.__version__,
        platform=jax.default_backend(),
        seconds=round(time.monotonic() - began, 3),
    )


def prove_thresholds(
    model: nnx.Module, packed: PackedModel, pixel_scaling: PixelScaling | None = None
) -> list[LayerProof]:
    """Compare a packed model with what the network packs to, whole, and every threshold with the
    network's float expression.

    Raises:
        ProofError: the first difference.
        DeployError: the packed model is of another network.
    """
    graph, tensors = packed.graph, packed.tensors
    blocks, flatten, image = blocks_of(
        model,
        graph.image.shape,
        graph.image.scaling,
        pixels=pixel_scaling is not None,
        allow_float=bool(graph.float_layers),
    )
    wanted, arrays = assemble(blocks, flatten, image, pixel_scaling)
    _compare_graphs(wanted, graph)
    for name, array in arrays.items():
        if name not in tensors or not np.array_equal(array, tensors[name]):
            raise ProofError(f"{name} is not what the trained network folds to")
    if {*tensors} != {*arrays}:
        raise ProofError(f"{min({*tensors} - {*arrays})} belongs to no operation")
    found = []
    for block in blocks:
        if block.quantizer is None or block.floats is not None:
            continue
        largest = largest_sum(block.op)
        count = _prove_block(block, tensors)
        found.append(LayerProof(block.op.name, block.op.outputs, -largest, largest, count))
    return found


def _compare_graphs(wanted: Graph, graph: Graph) -> None:
    if wanted == graph:
        return
    if wanted.image != graph.image:
        raise DeployError(
            f"the packed model is of another network: it takes {graph.image.dtype} images of "
            f"{graph.image.shape}, scaled as {graph.image.scaling or 'nobody says'}"
        )
    for own, other in zip(wanted.ops, graph.ops, strict=False):
        if own.name != other.name:
            raise DeployError(
                f"the packed model is of another network: {other.name} stands where the network "
                f"has {own.name}"
            )
        if own != other:
            raise DeployError(f"the packed model is of another network: {other.name} differs")
    raise DeployError(
        f"the packed model is of another network: it has {len(graph.ops)} operations, the network "
        f"{len(wanted.ops)}"
    )


def _prove_block(block: Block, tensors: Tensors) -> int:
    op = block.op
    flip = unpack_last(tensors[f"{op.name}.flip"], op.outputs)
    for pool in block.pools:
        flip = flip ^ unpack_last(tensors[f"{pool.name}.flip"], op.outputs)
    folded = fold.Folded(tensors[f"{op.name}.threshold"], flip)
    count, wrong = fold.check_thresholds(block.bits, block.variables, op, folded)
    if wrong is not None:
        raise ProofError(
            f"{op.name}, channel {wrong.channel}: at the sum {wrong.sum} the network's bit is "
            f"{int(wrong.float_bit)}, that of its threshold {int(wrong.threshold_bit)}"
        )
    return count


def compare_scores(
    packed: PackedModel, reference: Reference, start: int, images: np.ndarray, what: str
) -> int:
    """Compare class scores bit for bit.

    Args:
        packed, reference: what to compare.
        start: number of the first image.
        images: as both take them.
        what: they are, for the message.

    Returns:
        How many images differ: 0 but with float layers, whose rounding is the compiler's, and
        may turn signs behind them.

    Raises:
        ProofError: the first image for which they differ; with float layers, if classes do in more
            than a tenth of the images.
    """
    own = np.asarray(packed(images))
    wanted = np.asarray(reference(images), np.float32).reshape(len(images), -1)
    if own.shape != wanted.shape:
        raise ProofError(f"the network gives {wanted.shape[1]} scores, the packed model others")
    differs = own.view(np.uint32) != wanted.view(np.uint32)
    if packed.graph.float_layers and (own.argmax(1) == wanted.argmax(1)).mean() >= _ALIKE:
        return int(differs.any(1).sum())
    if differs.any():
        image, label = (int(i) for i in np.argwhere(differs)[0])
        raise ProofError(
            f"{what} image {start + image}, class {label}: the network scores "
            f"{wanted[image, label]!r}, the packed model {own[image, label]!r}"
        )
    return 0


def random_images(graph: Graph, count: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """Noise, each image between two random levels of its own: ``(number of the first, images)``."""
    rng = np.random.default_rng(seed)
    size, shape = batch_size(graph), graph.image.shape
    for start in range(0, count, size):
        n = min(size, count - start)
        if graph.image.dtype == "float32":
            yield start, rng.normal(size=(n, *shape)).astype(np.float32)
            continue
        low, high = np.sort(rng.integers(0, 256, (2, n, 1, 1, 1)), axis=0)
        noise = rng.integers(0, 256, (n, *shape), dtype=np.int64)
        yield start, (low + noise * (high - low + 1) // 256).astype(np.uint8)


def batch_size(graph: Graph) -> int:
    """Images whose float activations fit into bounded memory, 1,000 at most."""
    largest = max(int(np.prod(shape)) for shape in (graph.image.shape, *shapes(graph)))
    return int(np.clip(_BATCH_BYTES // (4 * largest), 1, _LARGEST_BATCH))


def _batches(images: np.ndarray, graph: Graph) -> Iterator[tuple[int, np.ndarray]]:
    size = batch_size(graph)
    for start in range(0, len(images), size):
        yield start, images[start : start + size]
