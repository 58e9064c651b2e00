"""The Triton back end: compiled kernels as custom calls in JAX programs for NVIDIA GPUs.

A kernel is compiled ahead of time, to PTX, and travels inside the program as the payload of the
custom call ``triton_kernel_call_ffi``, which JAX's CUDA plugin (``jax-cuda12-plugin`` or
``jax-cuda13-plugin``) implements. Lowering for CUDA needs triton and the plugin's Python package,
but no GPU. This is the only module that touches private names of JAX; importing it imports
neither triton nor a JAX back end.

:func:`matmul`, :func:`pack_rows` and :func:`pack_columns` take and return the same arrays as
their namesakes in ``binjax.xnor.xla``. They are traceable everywhere but lower for CUDA only: the
``cuda`` lowering of a primitive is ``mlir.lower_fun(bridge.matmul, multiple_results=False)``.
Where something is missing, lowering raises :class:`TritonUnavailable`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from binjax.packing import words_for
from binjax.xnor import xla
from binjax.xnor.xla import Epilogue

if TYPE_CHECKING:
    from kernels_triton.launch import Epilogue as KernelEpilogue
    from kernels_triton.launch import Launch

CUSTOM_CALL = "triton_kernel_call_ffi"
"""The custom call's name: what ``jax.export`` must be told to accept (``DisabledSafetyCheck``)."""

TARGET_VARIABLE = "BINJAX_TARGET_CC"  # compute capability to compile for
DEFAULT_TARGET = 90  # where neither a GPU nor the environment names one
PACKABLE = ("float32", "float16", "bfloat16")
POINTER_ALIGNMENT = 16  # bytes: what XLA guarantees, and what the kernels are compiled for
_BYTES = {"*i1": 1, "*u16": 2, "*i32": 4, "*u32": 4, "*fp32": 4}  # elements behind a pointer
_KERNEL_EPILOGUE: Mapping[Epilogue, KernelEpilogue] = {
    "int32": "dot",
    "affine": "affine",
    "threshold": "threshold",
}


class TritonUnavailable(RuntimeError):
    """The Triton back end cannot be used here. The message says what is missing."""


@dataclass(frozen=True)
class Status:
    """Whether something is usable, and what was found."""

    usable: bool
    reason: str


# What is there


def status() -> Status:
    """Whether kernels run in this process: triton, the plugin, and a GPU that is new enough.

    Initialises JAX's back ends if triton and the plugin are there.
    """
    target = target_status()
    if not target.usable or _device_capabilities():
        return target
    return Status(False, f"JAX finds no CUDA device, only {jax.default_backend()}")


def target_status() -> Status:
    """Whether programs can be compiled for this machine's GPU, or for a GPU where there is none.

    Initialises JAX's back ends if triton and the plugin are there.
    """
    compiler = compiler_status()
    if not compiler.usable:
        return compiler
    from kernels_triton.tiles import LOWEST_CAPABILITY

    try:
        target = target_capability()
    except (TritonUnavailable, ValueError) as error:
        return Status(False, str(error))
    lowest = min([target, *_device_capabilities()])
    if lowest < LOWEST_CAPABILITY:
        needed = f"the kernels need {_dotted(LOWEST_CAPABILITY)}"
        return Status(False, f"the GPU's compute capability is {_dotted(lowest)}; {needed}")
    return Status(True, f"CUDA device of compute capability {_dotted(target)}")


def compiler_status() -> Status:
    """Whether programs can be lowered for CUDA: triton and the plugin, with or without a GPU."""
    if importlib.util.find_spec("triton") is None:
        return Status(False, "triton is not installed (pip install triton)")
    try:
        _plugin()
    except TritonUnavailable as error:
        return Status(False, str(error))
    return Status(True, "triton and JAX's CUDA plugin are installed")


def target_capability(explicit: int | None = None) -> int:
    """The compute capability to compile for, as 10 · major + minor.

    The first of: the argument, the environment variable ``BINJAX_TARGET_CC``, the GPU's own, 90.

    Raises:
        ValueError: the environment variable is not such a number.
        TritonUnavailable: GPUs of several compute capabilities.
    """
    if explicit is not None:
        return explicit
    wanted = os.environ.get(TARGET_VARIABLE)
    if wanted is not None:
        if wanted.isdecimal():
            return int(wanted)
        raise ValueError(
            f"{TARGET_VARIABLE}={wanted!r}: expected 10 · major + minor, such as 90 for 9.0"
        )
    found = _device_capabilities()
    if len(found) > 1:
        raise TritonUnavailable(
            f"GPUs of several compute capabilities, {', '.join(map(_dotted, found))}; make equal "
            f"ones visible (CUDA_VISIBLE_DEVICES) or set {TARGET_VARIABLE}"
        )
    return found[0] if found else DEFAULT_TARGET


def _device_capabilities() -> list[int]:
    """The distinct compute capabilities of the local GPUs, in order."""
    try:
        devices = jax.local_devices(backend="cuda")
    except RuntimeError:  # what JAX raises for a platform that is not there
        return []
    versions = [device.compute_capability.split(".") for device in devices]
    return sorted({10 * int(major) + int(minor) for major, minor in versions})


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def _plugin() -> Any:
    """JAX's private module for Triton kernels, the one place that imports it."""
    try:
        from jaxlib import gpu_triton
    except ImportError:
        raise TritonUnavailable(
            f"no module jaxlib.gpu_triton: this is jax {jax.__version__}, binjax knows 0.10 to "
            "0.12; use another back end or another jax"
        ) from None
    if not hasattr(gpu_triton, "TritonKernel"):
        raise TritonUnavailable(
            f"JAX's CUDA plugin is not installed, or not of jax's version {jax.__version__} "
            "(pip install 'jax[cuda13]' or 'jax[cuda12]')"
        )
    return gpu_triton


# The custom call


@functools.lru_cache(maxsize=512)
def payload(launch: Launch, compute_capability: int) -> bytes:
    """The serialized call of a launch, its kernel compiled; each distinct one only once.

    Raises:
        TritonUnavailable: without triton or the plugin, or where the plugin's interface is new.
        ValueError: a compute capability that the kernel is not for.
    """
    compiler = compiler_status()
    if not compiler.usable:
        raise TritonUnavailable(compiler.reason)
    plugin = _plugin()
    try:
        from kernels_triton.aot import compile_launch

        c = compile_launch(launch, compute_capability)
    except ImportError as error:
        raise TritonUnavailable(
            f"this triton lacks what the kernels use: {error}; use another back end or triton 3.9"
        ) from error
    try:
        sizes = (c.num_warps, c.num_ctas, c.shared_bytes)
        kernel = plugin.TritonKernel(c.name, *sizes, c.ptx, c.ttir, compute_capability)
        parameters = [
            plugin.create_array_parameter(0, POINTER_ALIGNMENT)
            if argument.value is None
            else plugin.create_scalar_parameter(argument.value, argument.type)
            for argument in launch.arguments
        ]
        call = plugin.TritonKernelCall(kernel, *launch.grid, parameters)
        return zlib.compress(call.to_proto(f"binjax_{launch.kernel}", b""))
    except (TypeError, AttributeError) as error:
        raise TritonUnavailable(
            f"the Triton interface of jax {jax.__version__} is not the one of jax 0.10 to 0.12: "
            f"{error}; use another back end or another jax"
        ) from error


def lower(
    ctx: mlir.LoweringRuleContext, *operands: Any, launch: Launch, compute_capability: int
) -> Sequence[Any]:
    """Lowering rule of :data:`triton_call`: the custom call with its payload."""
    rule = jax.ffi.ffi_lowering(CUSTOM_CALL)
    results: Sequence[Any] = rule(ctx, *operands, opaque=payload(launch, compute_capability))
    return results


triton_call = Primitive("triton_call")
"""A compiled kernel: operands are the launch's pointers but the last, which is the result."""


def _output(*operands: Any, launch: Launch, compute_capability: int) -> jax.core.ShapedArray:
    pointers = [argument.type for argument in launch.arguments if argument.value is None]
    wanted = [_BYTES[pointer] for pointer in pointers[:-1]]
    found = [operand.dtype.itemsize for operand in operands]
    if found != wanted:
        raise TypeError(f"{launch.kernel} takes arrays of elements of {wanted} bytes, got {found}")
    return jax.core.ShapedArray(launch.out_shape, jnp.dtype(launch.out_dtype))


triton_call.def_abstract_eval(_output)
mlir.register_lowering(triton_call, lower, platform="cuda")


# Operations


def matmul(
    xp: jax.Array,
    wp: jax.Array,
    k: int,
    *operands: jax.Array,
    epilogue: Epilogue,
    compute_capability: int | None = None,
) -> jax.Array:
    """``uint32[M, W]`` by ``uint32[N, W]`` words: the dot products of M rows and N columns.

    Args:
        xp, wp: packed along the last axis, padding bits (at the end or in between) 0 on both.
        k: elements per row, or 0 for ``-2 popcount(x ^ w)``, what shards of K sum.
        operands: the epilogue's column operands, as for ``binjax.xnor.xla.finish``.
        epilogue: ``"int32"``, ``"affine"`` or ``"threshold"``.
        compute_capability: see :func:`target_capability`.

    Returns:
        int32[M, N], float32[M, N] or uint32[M, ceil(N/32)].
    """
    from kernels_triton.launch import gemm

    m, n, words = xp.shape[0], wp.shape[0], xp.shape[1]
    if 0 in (m, n, words):
        return xla.finish(jnp.full((m, n), k, jnp.int32), *operands, epilogue=epilogue)
    if k == 0:
        # Taken as whole words: equal padding bits count as products of +1.
        whole = 32 * words
        dot = matmul(xp, wp, whole, epilogue="int32", compute_capability=compute_capability)
        return xla.finish(dot - jnp.int32(whole), *operands, epilogue=epilogue)
    capability = target_capability(compute_capability)
    kind = _KERNEL_EPILOGUE[epilogue]
    launch = gemm(m, n, k, kind, words=words, compute_capability=capability)
    arrays = [_arranged(packed, launch) for packed in (xp, wp)]
    if launch.popcounts:
        ones = [jnp.sum(jax.lax.population_count(packed), 1) for packed in (xp, wp)]
        arrays += [count.astype(jnp.int32) for count in ones]
    return _call(launch, capability, *arrays, *operands)


def _arranged(packed: jax.Array, launch: Launch) -> jax.Array:
    """Packed rows in the layout of a launch, with zero words up to its length."""
    packed = jnp.pad(packed, ((0, 0), (0, launch.words - packed.shape[1])))
    return packed.T if launch.layout == "word-major" else packed


def _call(launch: Launch, capability: int, *operands: jax.Array) -> jax.Array:
    result: jax.Array = triton_call.bind(*operands, launch=launch, compute_capability=capability)
    return result


def pack_rows(x: jax.Array, *, compute_capability: int | None = None) -> jax.Array:
    """Signs of ``[..., n]``, packed along the last axis: ``uint32[..., ceil(n/32)]``."""
    from kernels_triton.launch import pack

    if x.size == 0 or x.dtype.name not in PACKABLE:
        return xla.pack_rows(x)
    capability = target_capability(compute_capability)
    n = x.shape[-1]
    launch = pack(x.size // n, n, x.dtype.name)
    return _call(launch, capability, x).reshape(*x.shape[:-1], words_for(n))


def pack_columns(w: jax.Array, *, compute_capability: int | None = None) -> jax.Array:
    """Signs of ``[T, K, N]``, packed along K: ``uint32[N, T, ceil(K/32)]``."""
    from kernels_triton.launch import pack

    taps, k, n = w.shape
    # With whole words per tap the taps are one long K; else XLA packs, tap by tap.
    if w.size == 0 or w.dtype.name not in PACKABLE or (taps > 1 and k % 32):
        return xla.pack_columns(w)
    capability = target_capability(compute_capability)
    launch = pack(n, taps * k, w.dtype.name, row_stride=1, column_stride=n)
    return _call(launch, capability, w).reshape(n, taps, words_for(k))
