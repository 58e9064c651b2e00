"""Which kernel a layer's product runs on, and why: decided before any array is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from binjax.layers.quantize import name_of
from binjax.ste import Quantizer, Stochastic, factors_of, is_sign, precision
from binjax.xnor import pixel_ops
from binjax.xnor.dispatch import backends, check_backend
from binjax.xnor.native import native

Backend = Literal["auto", "float", "xla", "native", "triton"]
BACKENDS: tuple[str, ...] = get_args(Backend)


@dataclass(frozen=True)
class Operands:
    """What stands on both sides of a layer's product, as far as its kernel depends on it.

    Attributes:
        pixels: inputs are 8-bit pixels, see ``binjax.pixel_matmul``.
        input_quantizer, kernel_quantizer: resolved.
        dropout: rate at which quantized inputs are zeroed in training.
        pad_value: of a convolution's border.
        elements: products summed into one output.
        taps: of a convolution's window; 1 for a dense layer.
        groups: of channels that are multiplied apart.
    """

    pixels: bool
    input_quantizer: Quantizer | Stochastic | None
    kernel_quantizer: Quantizer | None
    dropout: float
    pad_value: float
    elements: int
    taps: int
    groups: int = 1


def floats_because(backend: str, operands: Operands, *, train: bool) -> str | None:
    """Why a layer multiplies floats; None if it multiplies bits.

    Dropout makes zeros of ±1 in training only, so the answer depends on ``train``. Of groups of one
    channel, a word of 32 bits would hold one: ``"auto"`` evaluates them in floats, which are exact
    and more than ten times as fast on CPUs; in training bits are no slower and take less memory.
    """
    if operands.pixels:
        return _dropped(operands) if train and operands.dropout else None
    if backend == "float":
        return 'backend = "float"'
    depthwise = operands.groups > 1 and operands.elements == operands.taps
    if backend == "auto" and depthwise and not train:
        return "a word would hold one channel of each group"
    return _not_binary(operands, train)


def describe(backend: str, operands: Operands, *, train: bool) -> str:
    """The kernel of a layer's product, in words: what multiplies, or why floats do.

    A named platform's kernels are those of the machine that asks; ``"auto"`` takes the best there.
    Of 8-bit pixels the gradient of the kernel is a product of floats everywhere.
    """
    why = floats_because(backend, operands, train=train)
    if why is not None:
        return f"float: {why}"
    kernel = "8-bit pixels, " if operands.pixels else ""
    if backend == "float":
        return f'{kernel}float: backend = "float"'
    chosen = backends()[0] if backend == "auto" else backend
    if operands.pixels:
        chosen = pixel_ops.backend_of(chosen, operands.taps, operands.elements)
    detail = f" ({native().isa})" if chosen == "native" else ""
    if chosen == "triton" and operands.taps > 1:
        detail = ", gradients by XLA convolutions"
    return f"{kernel}{chosen}{detail}"


def check_choice(layer: str, backend: str, operands: Operands) -> None:
    """Refuse a layer that cannot do what it was asked for, before any image is seen.

    Raises:
        ValueError: unknown or unusable back end; a packed one named for operands that are not
            binary; 8-bit pixels with a quantizer, dropout, border or kernel they do not go with.
    """
    if backend not in BACKENDS:
        names = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"{layer}: backend is {backend!r}; choose {names}")
    if operands.pixels:
        _check_pixels(layer, operands)
    if backend in ("auto", "float"):
        return
    check_backend(backend)
    why = _not_binary(operands, train=True)
    if why is not None:
        raise ValueError(
            f'{layer}: backend = {backend!r} multiplies bits, but {why}; take backend = "auto" '
            '(floats where they are needed) or "float"'
        )


def _not_binary(operands: Operands, train: bool) -> str | None:
    kernel = operands.kernel_quantizer
    if not is_sign(kernel):
        return "the kernel is not binarized" if kernel is None else _undeclared("kernel", kernel)
    if operands.pixels:
        return _dropped(operands) if train and operands.dropout else None
    inputs = operands.input_quantizer
    if inputs is None:
        return "the input is real"
    if not is_sign(inputs) or factors_of(inputs) is not None:  # packing keeps no scale of inputs
        return _undeclared("input", inputs)
    if train and operands.dropout:
        return _dropped(operands)
    if operands.pad_value not in (-1, 0, 1):
        return f"pad_value {operands.pad_value:g} is not -1, 0 or 1"
    return None


def _dropped(operands: Operands) -> str:
    inputs = "pixels" if operands.pixels else "±1 inputs"
    return f"dropout {operands.dropout:g} makes zeros of {inputs}"


def _undeclared(which: str, quantizer: Quantizer | Stochastic) -> str:
    bits = precision(quantizer)
    has = "declares no precision" if bits is None else f"has {bits} bits"
    has = "has values other than ±1" if bits == 1 else has
    return f"the {which} quantizer {name_of(quantizer)} {has}"


def _check_pixels(layer: str, operands: Operands) -> None:
    problem = None
    if operands.input_quantizer is not None:
        problem = f"no input quantizer, not {name_of(operands.input_quantizer)}"
    elif not is_sign(operands.kernel_quantizer):
        problem = "a binary kernel quantizer"
    elif operands.pad_value:
        problem = f"pad_value 0, not {operands.pad_value:g}"
    elif operands.elements * 255 >= 2**24:
        problem = f"at most {(2**24 - 1) // 255} inputs, not {operands.elements}"
    if problem is not None:
        raise ValueError(
            f"{layer}: pixels = True wants {problem}; pixels = False takes real inputs"
        )
