"""Executes the compiled PTX of Triton and Gluon kernels on the CPU, in numpy.

What runs is the text that the GPU driver would get, so what Triton and LLVM made of a kernel is
tested too: layouts, predicates, addresses, fragments of the tensor cores.

- :class:`Kernel` parses one kernel and launches it on numpy arrays.
- Every access of global and shared memory is checked for bounds and alignment; reading shared
  memory or a register that nothing has written, shared memory exchanged between warps without a
  barrier, and warp-wide instructions that part of a warp reaches raise :class:`Fault`.
- An instruction it does not know raises NotImplementedError, with its name, when the kernel is
  parsed.

All threads of some CTAs run each instruction together. Threads that branch apart are run in the
order of their positions in the program, the first one first, until they meet. So threads of one
warp cannot race here; the scheduling, caches and timing of a GPU are not modelled. Of PTX it knows
what Triton emits for sm_80. The meaning of each instruction follows the PTX ISA, version 8.7
(https://docs.nvidia.com/cuda/parallel-thread-execution/).
"""

from tools.ptx.kernel import Kernel
from tools.ptx.memory import Fault

__all__ = ["Fault", "Kernel"]
