"""What a network's multiplications cost: operations, arithmetic effort, and a model of energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

PJ_PER_FLOAT_MAC = 0.9 + 3.7
PJ_PER_INT8_MAC = 0.03 + 0.2
PJ_PER_INT32_ADD = 0.1
PJ_PER_DRAM_READ = 1300.0  # of 64 bits, the lower end
"""Horowitz 2014, "Computing's energy problem", 45 nm, picojoules."""


class Products(NamedTuple):
    """Multiply-accumulates of one layer, and the bits of what they multiply.

    Bits are those of the numbers that meet in the product, so of a first layer they depend on how
    it takes images: 8-bit pixels (``pixels=...``) are multiplied as they are and have 8; scaled
    to floats they have 32, though as many values. A quantizer's are what it declares, of other
    inputs and kernels 32.
    """

    macs: int
    input_bits: int
    kernel_bits: int


def operations(products: Iterable[Products]) -> float:
    """OPs: multiply-accumulates, those of 1 by 1 bit counted 1/64 (Rastegari et al. 2016, §4.1)."""
    return sum(p.macs / 64 if p.input_bits == p.kernel_bits == 1 else p.macs for p in products)


def arithmetic_effort(products: Iterable[Products]) -> int:
    """ACE: multiply-accumulates times both bit widths (Zhang et al. 2022, PokeBNN, eq. 1).

    With 1-bit kernels a first layer costs 8 for each one on pixels, 32 on floats.
    """
    return sum(p.macs * p.input_bits * p.kernel_bits for p in products)


def energy_model(products: Iterable[Products], memory_bytes: float) -> Mapping[str, float]:
    """A model, not a measurement: picojoules for one image, from energies per operation.

    A float multiply-accumulate is one of float32; one of up to 8 bits, of int8; 32 of 1 by 1 bit
    are an exclusive or and an addition of 32 bits each. Weights are read once from memory; caches,
    activations and control are left out.

    Returns:
        ``{"arithmetic": ..., "weights_from_dram": ...}``.
    """
    total = 0.0
    for macs, input_bits, kernel_bits in products:
        wide = max(input_bits, kernel_bits)
        if wide == 1:
            total += macs * 2 * PJ_PER_INT32_ADD / 32
        else:
            total += macs * (PJ_PER_INT8_MAC if wide <= 8 else PJ_PER_FLOAT_MAC)
    return {"arithmetic": total, "weights_from_dram": memory_bytes / 8 * PJ_PER_DRAM_READ}
