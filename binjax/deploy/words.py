"""Bits in numpy: the order of :mod:`binjax.packing`, without a device."""

from __future__ import annotations

import numpy as np

from binjax.packing import WORD, words_for


def pack_last(bits: np.ndarray) -> np.ndarray:
    """Booleans ``[..., n]`` to ``uint32[..., ceil(n/32)]``."""
    missing = words_for(bits.shape[-1]) * WORD - bits.shape[-1]
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, missing)])
    octets = np.packbits(padded, axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view("<u4").astype(np.uint32)


def unpack_last(words: np.ndarray, n: int) -> np.ndarray:
    """Words ``uint32[..., ceil(n/32)]`` to booleans ``[..., n]``."""
    octets = np.ascontiguousarray(words.astype("<u4")).view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little")[..., :n].astype(bool)
