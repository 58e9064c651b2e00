"""Proof that a packed model computes what the trained network computes: every threshold over every
sum it can meet, then scores, bit for bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import numpy as np
from flax import nnx

from binjax.deploy import fold
from binjax.deploy.build import Block
from binjax.deploy.graph import Conv, Dense, DeployError, Graph, Real, Tensors, largest_sum, shapes
from binjax.deploy.pack import blocks_of, pack_block
from binjax.deploy.packed import PackedModel
from binjax.deploy.words import unpack_last

Reference = Callable[[Any], jax.Array]
"""The trained network: images, as the packed model takes them, to float scores."""

_BATCH_BYTES = 1 << 28  # of activations, roughly, that exist at a time
_LARGEST_BATCH = 1000


class ProofError(DeployError):
    """A packed model that does not compute what the network computes; the counter-example."""


@dataclass(frozen=True)
class LayerProof:
    """What was compared of one layer: ``sums`` (channel, sum) pairs, over ``range``."""

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
    layers = prove_thresholds(model, packed.graph, packed.tensors)
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
        model=digest_of_arrays(packed.tensors),
        mismatches=different,
        float_layers=packed.graph.float_layers,
        jax=jax.__version__,
        platform=jax.default_backend(),
        seconds=round(time.monotonic() - began, 3),
    )


def prove_thresholds(model: nnx.Module, graph: Graph, tensors: Tensors) -> list[LayerProof]:
    """Compare weights with the network's, and every threshold with its float expression.

    Raises:
        ProofError: the first difference.
    """
    blocks, _, image = blocks_of(
        model,
        graph.image.shape,
        graph.image.scaling,
        pixels=graph.image.dtype == "uint8",
        allow_float=bool(graph.float_layers),
    )
    ops = [op for op in graph.ops if isinstance(op, Dense | Conv | Real)]
    if image != graph.image or [b.op.name for b in blocks] != [op.name for op in ops]:
        raise DeployError("the packed model is of another network: its layers have other names")
    for block, op in zip(blocks, ops, strict=True):
        packed_to = isinstance(op, Dense | Conv) and replace(op, rule=block.op.rule)
        if packed_to != (block.floats is None and block.op):
            raise DeployError(f"the packed model is of another network: {op.name} differs")
    found = []
    for block, op in zip(blocks, ops, strict=True):
        own, arrays = pack_block(block)
        if op not in own:
            raise ProofError(f"{op.name}: what becomes of its sums is not what it folds to")
        for name, array in arrays.items():
            if not np.array_equal(array, tensors[name]):
                raise ProofError(f"{name} is not what the trained network folds to")
        if block.quantizer is None or isinstance(op, Real):
            continue
        largest = largest_sum(op)
        count = _prove_block(block, op, tensors)
        found.append(LayerProof(op.name, op.outputs, -largest, largest, count))
    return found


def _prove_block(block: Block, op: Dense | Conv, tensors: Tensors) -> int:
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
        How many images differ: 0 but with float layers, whose rounding is the compiler's.

    Raises:
        ProofError: the first image for which they differ.
    """
    own, wanted = np.asarray(packed(images)), np.asarray(reference(images), np.float32)
    differs = own.view(np.uint32) != wanted.view(np.uint32)
    if packed.graph.float_layers:
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
    """Images whose float activations fit into bounded memory, a power of ten at most."""
    largest = max(int(np.prod(shape)) for shape in (graph.image.shape, *shapes(graph)))
    return int(np.clip(_BATCH_BYTES // (4 * largest), 1, _LARGEST_BATCH))


def digest_of_variables(model: nnx.Module) -> str:
    """sha256 of a network's parameters and statistics, with their names."""
    flat = {
        "/".join(map(str, p)): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(model))
    }
    return digest_of_arrays(flat)


def digest_of_arrays(arrays: Tensors) -> str:
    """sha256 of arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _batches(images: np.ndarray, graph: Graph) -> Iterator[tuple[int, np.ndarray]]:
    size = batch_size(graph)
    for start in range(0, len(images), size):
        yield start, images[start : start + size]
