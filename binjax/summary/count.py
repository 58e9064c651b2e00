"""Counting: the totals of a network's rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flax import nnx

from binjax.layers import products
from binjax.summary.activations import Activations, inference_bytes, training_bytes
from binjax.summary.cost import arithmetic_effort, energy_model, operations
from binjax.summary.rows import Row, input_bits, rows_of
from binjax.summary.trace import trace

_OF_MACS = ("macs", "binary_macs_ratio", "ternary_macs_ratio", "ops", "ace", "energy_model_pj")


@dataclass(frozen=True)
class Summary:
    """A network's rows and totals.

    Attributes:
        params: deployed parameters.
        params_1bit, params_32bit: of these widths.
        params_by_bits: of all widths, ``{"1": n, "32": n, ...}``.
        trainable: what an optimizer updates.
        keras_params: trainable and batch statistics, as Keras counts.
        non_trainable: their difference.
        memory_bytes: of the deployed parameters, bits rounded up to a byte.
        memory_bytes_8bit: the same with 8 bits for wider parameters, as Larq reports it.
        memory_bytes_float32: the same with 32 bits for each.
        macs: by bit width, ``{"1": n, "2": n, "32": n}`` and others in use, for one image.
        binary_macs_ratio, ternary_macs_ratio: share of the multiply-accumulates that are of
            operands of 1 bit, and of 2.
        ops: multiply-accumulates, those of 1 by 1 bit counted 1/64.
        ace: multiply-accumulates times both bit widths, see
            :func:`binjax.summary.arithmetic_effort`.
        energy_model_pj: a model, see :func:`binjax.summary.energy_model`.
        activations: bytes in training and inference.
    """

    rows: tuple[Row, ...]
    params: int
    params_1bit: int
    params_32bit: int
    params_by_bits: dict[str, int]
    trainable: int
    keras_params: int
    non_trainable: int
    memory_bytes: int
    memory_bytes_8bit: int
    memory_bytes_float32: int
    macs: dict[str, int]
    binary_macs_ratio: float
    ternary_macs_ratio: float
    ops: float
    ace: int
    energy_model_pj: Mapping[str, float]
    activations: Activations

    def as_json(self, *, macs: bool = True) -> dict[str, Any]:
        """The totals by name, and the layers as a list; multiply-accumulates if ``macs``."""
        left_out = {"rows"} if macs else {"rows", *_OF_MACS}
        totals = {k: v for k, v in asdict(self).items() if k not in left_out}
        layers = [
            asdict(row) | {"memory_bytes": row.memory_bytes, "mac_bits": row.mac_bits}
            for row in self.rows
        ]
        if not macs:
            layers = [
                {k: v for k, v in layer.items() if k not in ("macs", "mac_bits")}
                for layer in layers
            ]
        return totals | {"layers": layers}


def summarize(
    model: nnx.Module, input_shape: Sequence[int], *, batch: int | None = None
) -> Summary:
    """Count a network.

    Args:
        model: an NNX module called ``model(images, train=...)``; may be abstract
            (``nnx.eval_shape``), nothing is computed. What counts as a layer:
            :func:`binjax.summary.rows.rows_of`.
        input_shape: of one image, ``(height, width, channels)``.
        batch: images of the training steps whose kept activations are counted, at least 1; by
            default they are not, since that takes tracing four of them.

    Raises:
        ValueError: a batch below 1.
    """
    if batch is not None and batch < 1:
        raise ValueError(f"summarize: batch is {batch}, must be at least 1")
    traced = trace(model, tuple(input_shape))
    rows = rows_of(model, traced, products(model))
    macs = {"1": 0, "2": 0, "32": 0}
    by_bits = {"1": 0, "32": 0}
    for row in rows:
        macs[str(row.mac_bits)] = macs.get(str(row.mac_bits), 0) + row.macs
        for bits, count in row.params_by_bits.items():
            by_bits[str(bits)] = by_bits.get(str(bits), 0) + count
    work = [row.products for row in rows]
    memory = _bytes(by_bits, 32)
    trainable = sum(row.trainable for row in rows)
    keras = trainable + sum(row.non_trainable for row in rows)
    total_macs = max(sum(macs.values()), 1)
    quantized = input_bits(model)
    inference = {
        name: inference_bytes(traced, quantized, packed=name == "packed")
        for name in ("float", "packed")
    }
    training = {} if batch is None else training_bytes(model, input_shape, batch)
    return Summary(
        rows=rows,
        params=sum(by_bits.values()),
        params_1bit=by_bits["1"],
        params_32bit=by_bits["32"],
        params_by_bits=by_bits,
        trainable=trainable,
        keras_params=keras,
        non_trainable=keras - trainable,
        memory_bytes=memory,
        memory_bytes_8bit=_bytes(by_bits, 8),
        memory_bytes_float32=4 * sum(by_bits.values()),
        macs=macs,
        binary_macs_ratio=macs["1"] / total_macs,
        ternary_macs_ratio=macs["2"] / total_macs,
        ops=operations(work),
        ace=arithmetic_effort(work),
        energy_model_pj=energy_model(work, memory),
        activations=Activations(batch or 0, training, inference),
    )


def _bytes(by_bits: Mapping[str, int], widest: int) -> int:
    return math.ceil(sum(min(int(bits), widest) * n for bits, n in by_bits.items()) / 8)
