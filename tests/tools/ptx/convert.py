"""Conversions between types: ``cvt``."""

import numpy as np

from tools.ptx.arithmetic import Values, elementwise
from tools.ptx.parse import TYPES, UNSIGNED
from tools.ptx.table import Action, Table

TABLE = Table()
INTEGER = r"([su](?:8|16|32|64))"
FLOAT = r"(bf16|f16|f32|f64)"
ROUND = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@TABLE(rf"cvt\.{INTEGER}\.{INTEGER}")
def between_integers(target: str, source: str) -> Action:
    return elementwise(lambda x: x.astype(TYPES[target]), TYPES[source])


@TABLE(rf"cvt\.rn\.(f16|f32|f64)\.{INTEGER}")
def from_integer(target: str, source: str) -> Action:
    return elementwise(lambda x: x.astype(TYPES[target]), TYPES[source])


@TABLE(rf"cvt\.(rni|rzi|rmi|rpi)(?:\.sat)?\.{INTEGER}\.(f32|f64)")
def to_integer(rounding: str, target: str, source: str) -> Action:
    dtype = TYPES[target]
    limits = np.iinfo(dtype)

    def rounded(x: Values) -> Values:
        # Saturates, and NaN gives 0. The limits of 64 bits are no floats: compared, not clipped.
        x = ROUND[rounding](x.astype("f8"))
        inside = (x >= float(limits.min)) & (x < float(limits.max) + (dtype.itemsize < 8))
        value = np.where(inside, x, 0).astype(dtype)
        edge = np.where(x > 0, dtype.type(limits.max), dtype.type(limits.min))
        return np.where(inside | np.isnan(x), value, edge)

    return elementwise(rounded, TYPES[source])


@TABLE(rf"cvt(\.rn)?\.{FLOAT}\.{FLOAT}")
def between_floats(rounding: str | None, target: str, source: str) -> Action | None:
    narrows = TYPES[target].itemsize < TYPES[source].itemsize
    if narrows != (rounding is not None) or (source, target) == ("f64", "bf16"):
        return None  # numpy rounds float64 to bfloat16 twice
    return elementwise(lambda x: x.astype(TYPES[target]), TYPES[source])


@TABLE(r"cvt\.rn\.(bf16|f16)x2\.f32")
def pack_two_floats(kind: str) -> Action:
    """``d, a, b``: a to the upper half."""

    def packed(high: Values, low: Values) -> Values:
        high, low = (x.astype(TYPES[kind]).view(UNSIGNED[2]) for x in (high, low))
        return (high.astype(UNSIGNED[4]) << UNSIGNED[4].type(16)) | low

    return elementwise(packed, TYPES["f32"], TYPES["f32"])
