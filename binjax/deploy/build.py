"""From a trained model to blocks: which layers, in which order, and what cannot be packed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from binjax.deploy.block import Between, Block, Function, Layer, Norm, SignQuantizer
from binjax.deploy.graph import after
from binjax.deploy.modules import Named, in_order
from binjax.deploy.operations import (
    Conv,
    Dense,
    DeployError,
    Image,
    MaxPool,
    Operand,
    Scores,
    Threshold,
)
from binjax.layers import BinaryDense, LearnedScale
from binjax.layers import Flatten as FlattenLayer
from binjax.layers import MaxPool as MaxPoolLayer
from binjax.layers.base import BinaryLayer
from binjax.layers.quantize import name_of, quantize
from binjax.ste import factors_of, is_sign
from binjax.xnor.geometry import Geometry, pads


def make_blocks(
    model: nnx.Module, image: Image, *, allow_float: bool = False
) -> tuple[list[Block], str | None]:
    """The blocks of a network, and the name of a flattening in front of them.

    Args:
        model: the network.
        image: what it takes.
        allow_float: keep layers that cannot be packed as products of floats.

    Raises:
        DeployError: something that cannot be packed, by name, with what to change.
    """
    modules = list(in_order(model))
    starts = [i for i, m in enumerate(modules) if isinstance(m.module, BinaryLayer)]
    if not starts:
        raise DeployError("the network has no binary layer to pack")
    leading = modules[: starts[0]]
    flatten = _only_flatten(leading)
    layers = [modules[i] for i in starts]
    reasons = [_floats_because(named, first=i == 0, image=image) for i, named in enumerate(layers)]
    for named, reason in zip(layers, reasons, strict=True):
        if reason is not None and not allow_float:
            raise DeployError(f"{named.name}: {reason}; --allow-float keeps the layer float")
    blocks = []
    shape: tuple[int, ...] = image.shape if flatten is None else (math.prod(image.shape),)
    ends = [*starts[1:], len(modules)]
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        following = layers[at + 1].module if at + 1 < len(layers) else None
        quantizer = sign_of(following) if isinstance(following, Layer) else None
        last = at + 1 == len(layers)
        if reasons[at] is None and not last and quantizer is None:
            raise DeployError(
                f"{layers[at + 1].name} takes real inputs from {layers[at].name}, a layer of bits; "
                'take input_quantizer = "ste_sign"'
            )
        block, shape = _make_block(
            modules[start], modules[start + 1 : end], quantizer, shape, reasons[at], last
        )
        blocks.append(block)
    return blocks, flatten


def sign_of(layer: Layer) -> SignQuantizer | None:
    """What binarizes a layer's input; None where it takes it as it is.

    Raises:
        DeployError: something else than a sign.
    """
    quantizer = layer.input_quantizer
    if quantizer is None or name_of(quantizer) == "noop":
        return None
    if not is_sign(quantizer) or factors_of(quantizer) is not None:
        raise DeployError(
            f"the input quantizer {name_of(quantizer)} does not give ±1 and cannot be exported"
        )
    return quantizer


def _only_flatten(leading: Sequence[Named]) -> str | None:
    for named in leading:
        if not isinstance(named.module, FlattenLayer):
            raise DeployError(
                f"{named.name} ({type(named.module).__name__}) stands in front of the first binary "
                "layer, which takes images as they are; move it behind, or into the preprocessing"
            )
    return leading[0].name if leading else None


def _floats_because(named: Named, *, first: bool, image: Image) -> str | None:
    """Why a layer cannot be packed, and what to change; None if it can."""
    layer = named.module
    if not isinstance(layer, Layer):
        raise DeployError(f"{named.name}: {type(layer).__name__} cannot be exported")
    if layer.pad_value not in (-1, 0, 1):
        raise DeployError(
            f"{named.name}: its border of {layer.pad_value:g} cannot be exported; take pad_value "
            "-1, 0 or 1"
        )
    if layer.groups != 1:
        raise DeployError(f"{named.name}: {layer.groups} groups cannot be exported; take 1")
    if layer.pixels is not None and not first:
        raise DeployError(f"{named.name} takes pixels but is not the first layer")
    if not is_sign(layer.kernel_quantizer):
        return (
            f"its kernel quantizer {name_of(layer.kernel_quantizer)} does not give ±1; take "
            'kernel_quantizer = "ste_sign"'
        )
    if layer.pixels is not None:
        return None
    if first and image.dtype == "uint8":
        return (
            "the first layer multiplies scaled images as floats; train with data.scaling.kind = "
            '"unit" and model.first_layer = "auto", so that it multiplies the 8-bit pixels'
        )
    if sign_of(layer) is None:
        return 'it multiplies real inputs; take input_quantizer = "ste_sign"'
    return None


def _make_block(
    named: Named,
    behind: Sequence[Named],
    quantizer: SignQuantizer | None,
    shape: tuple[int, ...],
    floats: str | None,
    last: bool,
) -> tuple[Block, tuple[int, ...]]:
    layer = named.module
    assert isinstance(layer, Layer)
    before: list[Between] = []
    after: list[Between] = []
    pools: list[Named] = []
    flatten: str | None = None
    for other in behind:
        module = other.module
        if flatten is not None:
            _refuse(
                other,
                f"stands behind {flatten}; between a flattening and the next binary "
                "layer nothing can be folded: put it in front",
            )
        if isinstance(module, Norm | Function):
            if floats is not None and isinstance(module, Function):
                _refuse(other, f"stands behind {named.name}, which stays float; there norms can")
            _check_channels(other)
            (after if pools else before).append(module)
        elif isinstance(module, MaxPoolLayer):
            if after:
                _refuse(other, f"is a second pooling behind {named.name}; there can be one")
            pools.append(other)
        elif isinstance(module, FlattenLayer):
            flatten = other.name
        else:
            _refuse(
                other,
                "cannot be folded into a threshold; known are BatchNorm, ShiftBatchNorm, MaxPool, "
                "Flatten and, channel by channel, Activation, PReLU, RPReLU, DPReLU, Shift, "
                "LearnedScale",
            )
    learned = isinstance(quantizer, nnx.Module) and nnx.state(quantizer, nnx.Param)
    if flatten is not None and learned:
        raise DeployError(
            f"{flatten}: the layer behind it has {name_of(quantizer)}, with a threshold for each "
            "place and channel; only one for each channel can be folded"
        )
    if last and pools:
        _refuse(pools[0], "pools scores; only layers that a sign follows are pooled")
    weights, scale = _signs(named) if floats is None else (_real_kernel(layer), None)
    pixels = 1.0 if layer.pixels is None else layer.pixels.scale
    rule = Scores(pixels, scale is not None) if last else Threshold()
    op = _operation(named.name, layer, rule, shape)
    behind_it = tuple(before), tuple(pools), tuple(after), flatten, quantizer
    block = Block(op, layer, weights, scale, *behind_it, floats)
    return block, _shape_after(block, shape)


def _check_channels(named: Named) -> None:
    module = named.module
    if isinstance(module, LearnedScale) and len(module.shape) != 1:
        _refuse(named, "scales places too; thresholds are per channel")


def _signs(named: Named) -> tuple[np.ndarray, jax.Array | None]:
    """The kernel's signs and their scale."""
    layer = named.module
    assert isinstance(layer, Layer)
    split = factors_of(layer.kernel_quantizer)
    if split is None:
        signs, scale = (
            quantize(layer.kernel_quantizer, layer.kernel[...], train=False, key=None),
            None,
        )
    else:
        signs, scale = split(layer.kernel[...])
    values = np.asarray(signs)
    other = values[~np.isin(values, (-1, 1))]
    if other.size:
        raise DeployError(
            f"{named.name}: its kernel quantizer {name_of(layer.kernel_quantizer)} gives values "
            f"other than ±1, such as {float(other[0]):g}; only ±1 can be packed"
        )
    return values, scale


def _real_kernel(layer: Layer) -> np.ndarray:
    kernel = quantize(layer.kernel_quantizer, layer.kernel[...], train=False, key=None)
    return np.asarray(kernel, np.float32)


def _operation(
    name: str, layer: Layer, rule: Scores | Threshold, shape: tuple[int, ...]
) -> Dense | Conv:
    operand: Operand = "bits" if layer.pixels is None else "pixels"
    if isinstance(layer, BinaryDense):
        return Dense(name, operand, layer.n_in, layer.n_out, rule)
    if len(shape) != 3:
        raise DeployError(f"{name} (conv) takes [h, w, {layer.n_in}], not {list(shape)}")
    (top, bottom), (left, right) = pads(
        shape[:2], layer.kernel_size, layer.strides, layer.padding, layer.dilation
    )
    geometry = Geometry(
        layer.n_in, layer.strides, layer.dilation, (top, bottom, left, right), int(layer.pad_value)
    )
    return Conv(name, operand, layer.n_out, layer.kernel_size, geometry, 1, rule)


def _shape_after(block: Block, shape: tuple[int, ...]) -> tuple[int, ...]:
    shape, kind = after(block.op, shape, block.op.operand)
    for pool in block.pools:
        shape, kind = after(MaxPool(pool.name, *pool_sizes(pool.module)), shape, kind)
    return (math.prod(shape),) if block.flatten is not None else shape


def pool_sizes(module: nnx.Module) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and strides of a pooling layer."""
    assert isinstance(module, MaxPoolLayer)
    if module.padding != "VALID":
        raise DeployError(f"max-pooling with padding {module.padding} cannot be exported")
    return module.window, module.strides


def _refuse(named: Named, problem: str) -> None:
    raise DeployError(f"{named.name} ({type(named.module).__name__}) {problem}")
