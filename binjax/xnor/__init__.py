"""Products of ±1 arrays: packed 32 to a word, exact in integers, fast on every platform.

Three back ends compute the same numbers: Triton kernels on CUDA devices, a native library on
CPUs, plain XLA everywhere. ``backend=None`` takes the best one of the platform that a program is
compiled for.
"""

from binjax.xnor.conv import binary_conv, xnor_conv
from binjax.xnor.dispatch import CUSTOM_CALLS, SlowerBackendWarning, backends
from binjax.xnor.matmul import (
    binary_matmul,
    packed_matmul,
    packed_matmul_affine,
    packed_matmul_threshold,
    xnor_matmul,
)
from binjax.xnor.pack import pack_bits
from binjax.xnor.packed_conv import (
    pack_conv_input,
    pack_conv_kernel,
    packed_conv,
    packed_conv_affine,
    packed_conv_threshold,
)
from binjax.xnor.pixels import pixel_conv, pixel_matmul
from binjax.xnor.pool import packed_max_pool

__all__ = [
    "CUSTOM_CALLS",
    "SlowerBackendWarning",
    "backends",
    "binary_conv",
    "binary_matmul",
    "pack_bits",
    "pack_conv_input",
    "pack_conv_kernel",
    "packed_conv",
    "packed_conv_affine",
    "packed_conv_threshold",
    "packed_matmul",
    "packed_matmul_affine",
    "packed_matmul_threshold",
    "packed_max_pool",
    "pixel_conv",
    "pixel_matmul",
    "xnor_conv",
    "xnor_matmul",
]
