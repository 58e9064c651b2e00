"""Triton kernels for products of packed ±1 matrices, compiled with or without a GPU.

- ``tiles``: which kernel and which block sizes for which GPU and shape (data and a chooser).
- ``launch``: a kernel with its argument types, constants and grid, as plain data.
- ``aot``: compiles a launch to PTX and cubin for a given compute capability; needs no GPU.
- ``autotune``: picks the fastest tile by a timing function of yours, where a GPU exists.
- ``gradient_tiles``, ``gradient_launch``: the same as the first two for gradients.
- ``xnor_gemm``, ``bmma``, ``int8_gemm``, ``pack``, ``gradient``: the kernels; ``ordering``,
  ``epilogue`` and ``float_product`` are what they are made of.

Packed words: uint32; bit j of word i, least significant first, holds element 32·i + j; 1 means
+1; padding bits are 0 on both operands, so ``dot = K - 2·popcount(x ^ w)``.

Importing the package, the tables, the launches and ``autotune`` does not import triton; ``aot`` and
the kernel modules do. Kernel modules import each other relatively, so that a copy of the package
loaded under another name (for Triton's interpreter) is complete.
"""
