"""A trained model as a packed one: weights to words, norms to thresholds, scores to four arrays."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from binjax.deploy import fold
from binjax.deploy.block import Block, Norm
from binjax.deploy.build import make_blocks, pool_sizes, sign_of
from binjax.deploy.floats import PixelScaling, affine_of, float_ops, scaling_arrays
from binjax.deploy.graph import Graph, shapes
from binjax.deploy.modules import check_finite
from binjax.deploy.operations import (
    Conv,
    Dense,
    DeployError,
    Flatten,
    Image,
    MaxPool,
    Op,
    Scores,
    Sign,
    ToFloat,
)
from binjax.deploy.packed import PackedModel
from binjax.deploy.words import pack_last
from binjax.layers.quantize import name_of

Arrays = dict[str, np.ndarray]


def pack(
    model: nnx.Module,
    image_shape: Sequence[int],
    *,
    scaling: str = "",
    backend: str | None = None,
    allow_float: bool = False,
    pixel_scaling: PixelScaling | None = None,
) -> PackedModel:
    """The integer network that computes what a trained model computes in evaluation.

    Args:
        model: a :class:`~binjax.layers.Sequential` of binary layers, norms, max-pools and
            flattenings. One whose first layer has ``pixels=True`` takes uint8 images, any other
            float32 images, of which the first layer takes the signs.
        image_shape: (height, width, channels) of one image.
        scaling: what pixels stand for, kept in the file for information.
        backend: of the result, see ``packed_matmul``.
        allow_float: keep layers that cannot be packed, as products of floats; else they are an
            error. ``graph.float_layers`` names them.
        pixel_scaling: of a network whose first layer takes scaled images: how pixels are scaled,
            so that the result takes pixels.

    Raises:
        DeployError: something that cannot be packed, by name, with what to change; NaN.
    """
    check_finite(model)
    blocks, flatten, image = blocks_of(
        model, image_shape, scaling, pixels=pixel_scaling is not None, allow_float=allow_float
    )
    return PackedModel(*assemble(blocks, flatten, image, pixel_scaling), backend=backend)


def assemble(
    blocks: Sequence[Block], flatten: str | None, image: Image, pixel_scaling: PixelScaling | None
) -> tuple[Graph, Arrays]:
    """The graph and arrays of what :func:`blocks_of` gives.

    Raises:
        DeployError: as :func:`pack`.
    """
    ops: list[Op] = []
    tensors: Arrays = {}
    if pixel_scaling is not None and blocks[0].op.operand != "pixels":
        ops.append(ToFloat("scaled", "pixels"))
        tensors |= scaling_arrays("scaled", pixel_scaling, image.shape[2])
    first = sign_of(blocks[0].layer)
    if isinstance(first, nnx.Module):
        raise DeployError(
            f"{blocks[0].op.name}: images are binarized by their signs, and {name_of(first)} may "
            'have thresholds of its own; take input_quantizer = "ste_sign" in the first layer'
        )
    if first is not None:
        ops.append(Sign("sign"))
    if flatten is not None:
        ops.append(Flatten(flatten))
    for block in blocks:
        own, arrays = pack_block(block)
        ops += own
        tensors |= arrays
    graph = Graph(image, tuple(ops))
    shapes(graph)
    return graph, tensors


def blocks_of(
    model: nnx.Module,
    image_shape: Sequence[int],
    scaling: str,
    *,
    pixels: bool = False,
    allow_float: bool = False,
) -> tuple[list[Block], str | None, Image]:
    """The model's blocks, the flattening in front of them, and the images it takes.

    Raises:
        DeployError: as :func:`pack`.
    """
    shape = tuple(int(size) for size in image_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise DeployError(
            f"image_shape is {tuple(image_shape)}; expected (height, width, channels)"
        )
    takes_pixels = pixels or any(getattr(m, "pixels", None) for _, m in nnx.iter_modules(model))
    image = Image((shape[0], shape[1], shape[2]), "uint8" if takes_pixels else "float32", scaling)
    blocks, flatten = make_blocks(model, image, allow_float=allow_float)
    return blocks, flatten, image


def pack_block(block: Block) -> tuple[list[Op], Arrays]:
    """A block's operations and their arrays."""
    op, name = block.op, block.op.name
    if block.floats is not None:
        return float_ops(block)
    arrays = {f"{name}.words": _words(block)}
    if block.quantizer is None:
        op, parts = _scores(block)
        return [op], arrays | {f"{name}.{part}": values for part, values in parts.items()}
    folded = fold.find_thresholds(block.bits, block.variables, op)
    if block.functions:
        _check_monotone(block, folded)
    ops: list[Op] = [op]
    flip = folded.flip
    if block.pools:
        # Pooling takes the largest value: where values fall with the sum, that of the least sum,
        # which has the bit 1 where any has it: all bits are the other way round in the OR.
        falls = ~fold.rising(block.pooled_values, block.variables, op)
        flip, behind = falls, folded.flip ^ falls
        ops += [MaxPool(pool.name, *pool_sizes(pool.module)) for pool in block.pools]
        for pool in block.pools:
            last = pool is block.pools[-1]
            arrays[f"{pool.name}.flip"] = pack_last(behind if last else np.zeros_like(behind))
    arrays[f"{name}.threshold"] = folded.threshold
    arrays[f"{name}.flip"] = pack_last(flip)
    if block.flatten is not None:
        ops.append(Flatten(block.flatten))
    return ops, arrays


def _check_monotone(block: Block, folded: fold.Folded) -> None:
    """Refuse a block whose learned functions rise and fall: no threshold is where they turn.

    Raises:
        DeployError: a channel does.
    """
    op, variables = block.op, block.variables
    channel = None
    _, wrong = fold.check_thresholds(block.bits, variables, op, folded)
    if wrong is not None:
        channel = wrong.channel
    elif block.pools:
        channel = fold.turning(block.pooled_values, variables, op)
    if channel is not None:
        kinds = ", ".join(type(module).__name__ for module in block.functions)
        raise DeployError(
            f"{op.name}: what follows it ({kinds}) rises and falls with the sum of channel "
            f"{channel}, so that its sign is no threshold: a slope is negative; keep slopes "
            "positive in training"
        )


def _words(block: Block) -> np.ndarray:
    """The layer's weights, packed as its operation takes them."""
    values, op = block.weights > 0, block.op
    if isinstance(op, Conv) and op.operand == "bits":
        return pack_last(np.moveaxis(values, 3, 0))
    return pack_last(values.reshape(op.elements, op.outputs).T)


def _scores(block: Block) -> tuple[Dense | Conv, Arrays]:
    """The last layer with its float arrays, rounded as the network's own expression is."""
    op, layer, norms = block.op, block.layer, block.before
    if len(norms) > 1:
        raise DeployError(f"{op.name} is followed by {len(norms)} norms; one at most can be kept")
    if block.flatten is not None:
        raise DeployError(f"{block.flatten} flattens the scores of {op.name}; leave it out")
    zeros, ones = np.zeros(op.outputs, np.float32), np.ones(op.outputs, np.float32)
    bias = zeros if layer.bias is None else np.asarray(layer.bias[...], np.float32)
    parts = {"bias": bias, "mean": zeros, "factor": ones, "offset": zeros}
    if block.functions:
        kinds = ", ".join(type(module).__name__ for module in block.functions)
        raise DeployError(f"{op.name} is followed by {kinds}; scores are kept with a norm at most")
    if block.scale is not None:
        scale = np.asarray(block.scale, np.float32)
        parts["gain"] = np.broadcast_to(scale, ones.shape).copy()
    if norms:
        (norm,) = norms
        assert isinstance(norm, Norm)
        parts |= affine_of(norm)
    rule = op.rule
    assert isinstance(rule, Scores)
    _check_scores(block, rule, parts)
    return op, parts


def _check_scores(block: Block, rule: Scores, parts: Arrays) -> None:
    """Compare scores with the network's own expression at every sum.

    Raises:
        DeployError: they differ.
    """
    for part in ("factor", "offset"):
        if not np.isfinite(parts[part]).all():
            raise DeployError(f"the norm behind {block.op.name} has a {part} that is not finite")
    gain = parts.get("gain", np.ones(1, np.float32))
    if not np.isfinite(gain).all():
        raise DeployError(f"the kernel of {block.op.name} has a scale that is not finite")
    values, variables = jax.jit(block.values), block.variables
    for sums in fold.all_sums(block.op):
        rows = np.broadcast_to(sums[:, None], (len(sums), block.op.outputs))
        own = np.asarray(values(variables, jnp.asarray(rows)), np.float32)
        real = rows.astype(np.float32) * np.float32(rule.scale) * gain
        scores = ((real + parts["bias"]) - parts["mean"]) * parts["factor"] + parts["offset"]
        if (own != scores).any():
            raise DeployError(
                f"the scores of {block.op.name} are not float32 (sum + bias - mean) * factor + "
                "offset; compute the last layer in float32, and pixels from -1 to 1"
            )
