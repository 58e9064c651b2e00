"""A fused multiply-add in numpy, to tell how a compiled expression was rounded."""

from __future__ import annotations

import numpy as np


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """``a * b + c`` of float32 arrays, rounded once.

    The product is exact in float64. The sum is rounded to odd there, after which a second rounding
    to float32 gives what one rounding would have given (Boldo and Melquiond 2008).
    """
    product, addend = np.broadcast_arrays(a.astype(np.float64) * b.astype(np.float64), c)
    addend = addend.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)  # exact, Knuth's two-sum
    even = (total.view(np.int64) & 1) == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & even, np.nextafter(total, towards), total)
    once: np.ndarray = odd.astype(np.float32)
    return once
