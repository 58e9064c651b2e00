"""Operators of TensorFlow Lite and of Larq Compute Engine (LCE), appended one after the other.

Bits in LCE: bit 1 of an int32 word is -1, the complement of :mod:`binjax.packing`; the order is the
same, and padding bits are 0 too. Source: larq/compute-engine 0.16, ``core/bitpacking/bitpack.h``,
``core/bconv2d/{reference,output_transform}.h``, ``core/bmaxpool.h``, ``mlir/ir/lce_ops.cc``,
``tflite/kernels/{bconv2d,bmaxpool,quantization}.cc``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from binjax.deploy.tflite_schema import ABSENT, SAME, TYPES, VALID, Operator, Tensor, serialize
from binjax.deploy.words import pack_last
from binjax.packing import words_for
from binjax.xnor.geometry import Geometry, Pair, pads

Shape = tuple[int, ...]


def packed_signs(positive: np.ndarray) -> np.ndarray:
    """LCE's words of booleans ``[..., n]``, True for +1: ``int32[..., ceil(n/32)]``."""
    return pack_last(~positive).view(np.int32)


def is_same(image: Pair, kernel: Pair, geometry: Geometry) -> bool:
    """Whether a border is TensorFlow's SAME."""
    (top, bottom), (left, right) = pads(image, kernel, geometry.strides, "SAME", geometry.dilation)
    return geometry.padding == (top, bottom, left, right)


class Program:
    """Tensors and operators of a file; every method appends an operator and gives its result.

    Tensors are indices; ``[1, height, width, channels]`` unless something else is said, bits with
    ``ceil(channels/32)`` int32 words in the last axis.
    """

    def __init__(self, name: str, shape: Shape, dtype: str) -> None:
        self.tensors = [Tensor(name, (1, *shape), dtype)]
        self.operators: list[Operator] = []

    def serialize(self, output: int, description: str) -> bytes:
        """The file, from its first tensor to ``output``."""
        return serialize(self.tensors, self.operators, [0], [output], description)

    def shape(self, x: int) -> Shape:
        """Shape of a tensor."""
        return self.tensors[x].shape

    def constant(self, name: str, values: np.ndarray) -> int:
        """A tensor that holds an array."""
        self.tensors.append(Tensor(name, values.shape, str(values.dtype), values))
        return len(self.tensors) - 1

    def append(
        self,
        code: str,
        inputs: Sequence[int],
        shape: Shape,
        dtype: str,
        name: str,
        **options: int,
    ) -> int:
        """Any operator with one result."""
        self.tensors.append(Tensor(name, shape, dtype))
        result = len(self.tensors) - 1
        self.operators.append(Operator(code, tuple(inputs), (result,), options))
        return result

    def quantize(self, x: int, name: str) -> int:
        """Floats to bits: +1 where x >= 0 or x is -0.0."""
        *rest, n = self.shape(x)
        return self.append("LceQuantize", [x], (*rest, words_for(n)), "int32", name)

    def dequantize(self, x: int, n: int, name: str) -> int:
        """Bits to ±1.0; n: channels."""
        return self.append("LceDequantize", [x], (*self.shape(x)[:-1], n), "float32", name)

    def reshape(self, x: int, shape: Shape, name: str) -> int:
        """Another shape for one image; any number of images."""
        dtype = self.tensors[x].dtype
        wanted = self.constant(f"{name}.shape", np.array((-1, *shape[1:]), np.int32))
        return self.append("RESHAPE", [x, wanted], shape, dtype, name)

    def cast(self, x: int, dtype: str, name: str) -> int:
        """Another dtype."""
        types = {"in_data_type": TYPES[self.tensors[x].dtype], "out_data_type": TYPES[dtype]}
        return self.append("CAST", [x], self.shape(x), dtype, name, **types)

    def combine(self, code: str, x: int, values: np.ndarray, name: str) -> int:
        """ADD, SUB or MUL of floats and a constant that broadcasts, rounded once."""
        constant = self.constant(f"{name}.values", np.asarray(values, np.float32))
        return self.append(code, [x, constant], self.shape(x), "float32", name)

    def pad(self, x: int, padding: Sequence[int], value: float, name: str) -> int:
        """A border of zeros, or of a value, around floats or words."""
        top, bottom, left, right = padding
        n, high, wide, channels = self.shape(x)
        dtype = self.tensors[x].dtype
        sides = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
        inputs = [x, self.constant(f"{name}.sides", sides)]
        if value:
            inputs.append(self.constant(f"{name}.value", np.array([value], dtype)))
        shape = (n, high + top + bottom, wide + left + right, channels)
        return self.append("PADV2" if value else "PAD", inputs, shape, dtype, name)

    def max_pool(self, x: int, window: Pair, strides: Pair, name: str) -> int:
        """The largest of each window, VALID, of floats or of bits."""
        n, *image, channels = self.shape(x)
        high, wide = (
            (size - w) // s + 1 for size, w, s in zip(image, window, strides, strict=True)
        )
        dtype = self.tensors[x].dtype
        options = {"padding": VALID, "filter_width": window[1], "filter_height": window[0]}
        if dtype == "int32":
            code, words = "LceBMaxPool2d", ("stride_width", "stride_height")
        else:
            code, words = "MAX_POOL_2D", ("stride_w", "stride_h")
        options |= dict(zip(words, reversed(strides), strict=True))
        return self.append(code, [x], (n, high, wide, channels), dtype, name, **options)

    def dense(self, x: int, weights: int, bias: np.ndarray, name: str) -> int:
        """Floats ``[1, 1, 1, elements]`` times a tensor ``float32[outputs, elements]``."""
        inputs = [x, weights, self.constant(f"{name}.bias", bias.astype(np.float32))]
        shape = (*self.shape(x)[:-1], len(bias))
        return self.append("FULLY_CONNECTED", inputs, shape, "float32", name, keep_num_dims=1)

    def conv(
        self, x: int, weights: np.ndarray, bias: np.ndarray, geometry: Geometry, name: str
    ) -> int:
        """Floats convolved with ``[outputs, kh, kw, channels]``; any border, any value in it."""
        kernel = (weights.shape[1], weights.shape[2])
        image = self.shape(x)[1:3]
        padding = VALID
        high, wide = geometry.output(image, kernel)
        if any(geometry.padding):
            if not geometry.pad_value and is_same((image[0], image[1]), kernel, geometry):
                padding = SAME
            else:
                x = self.pad(x, geometry.padding, geometry.pad_value, f"{name}.border")
        inputs = [
            x,
            self.constant(f"{name}.kernel", weights.astype(np.float32)),
            self.constant(f"{name}.bias", bias.astype(np.float32)),
        ]
        shape = (self.shape(x)[0], high, wide, len(weights))
        return self.append(
            "CONV_2D", inputs, shape, "float32", name, padding=padding, **_steps(geometry)
        )

    def binary_conv(
        self,
        x: int,
        weights: np.ndarray,
        geometry: Geometry,
        same: int | None,
        bias: np.ndarray,
        name: str,
        *,
        bits: bool,
        groups: int = 1,
    ) -> int:
        """Bits convolved with bits.

        Args:
            x: bits.
            weights: bool ``[outputs, kh, kw, channels of a group]``, True for +1.
            geometry: strides and dilation; of the padding, only what ``same`` says is used.
            same: None for no border, else what the SAME border counts as: 1, or 0, which LCE's
                usual kernels take with float results only.
            bias: whole numbers ``[outputs]``, added to the sums.
            name: of the result.
            bits: the result is bits, +1 where it is at least 0. Else floats, exact below 2^22
                products.
            groups: of the channels.
        """
        outputs, kh, kw, channels = weights.shape
        image = self.shape(x)[1:3]
        if same is None:
            high, wide = geometry._replace(padding=(0, 0, 0, 0)).output(image, (kh, kw))
        else:
            high, wide = (-(-n // s) for n, s in zip(image, geometry.strides, strict=True))
        inputs = [x, self.constant(f"{name}.kernel", packed_signs(weights))]
        if bits:
            # LCE counts differing bits, (elements - sum) / 2, and says -1 above the threshold.
            counts = (kh * kw * channels + bias.astype(np.int64)) // 2
            inputs += [ABSENT, ABSENT, self.constant(f"{name}.threshold", counts.astype(np.int32))]
        else:
            ones = self.constant(f"{name}.multiplier", np.ones(outputs, np.float32))
            inputs += [ones, self.constant(f"{name}.bias", bias.astype(np.float32)), ABSENT]
        return self.append(
            "LceBconv2d",
            inputs,
            (self.shape(x)[0], high, wide, words_for(outputs) if bits else outputs),
            "int32" if bits else "float32",
            name,
            channels_in=groups * channels,
            dilation_height_factor=geometry.dilation[0],
            dilation_width_factor=geometry.dilation[1],
            fused_activation_function=0,
            pad_values=same or 0,
            padding=VALID if same is None else SAME,
            stride_height=geometry.strides[0],
            stride_width=geometry.strides[1],
        )


def _steps(geometry: Geometry) -> dict[str, int]:
    return {
        "stride_w": geometry.strides[1],
        "stride_h": geometry.strides[0],
        "dilation_w_factor": geometry.dilation[1],
        "dilation_h_factor": geometry.dilation[0],
    }
