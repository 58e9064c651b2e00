"""The Triton back end: compiled kernels as custom calls in JAX programs for NVIDIA GPUs.

A kernel is compiled ahead of time, to PTX, and travels inside the program as the payload of the
custom call ``triton_kernel_call_ffi``, which JAX's CUDA plugin (``jax-cuda12-plugin`` or
``jax-cuda13-plugin``) implements. Lowering for CUDA needs triton and the plugin's Python package,
but no GPU. This is the only module that touches private names of JAX; importing it imports
neither triton nor a JAX back end.

:func:`matmul`, :func:`pack_rows` and :func:`pack_columns` take and return the same arrays as
their namesakes in ``binjax.xnor.xla``. They and the gradients are traceable everywhere but lower
for CUDA only: the ``cuda`` lowering of a primitive is
``mlir.lower_fun(bridge.matmul, multiple_results=False)``. Where something is missing, lowering
raises :class:`TritonUnavailable`.
"""

from __future__ import annotations

import functools
import importlib.util
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import mlir

from binjax.packing import words_for
from binjax.xnor import xla
from binjax.xnor.launches import (
    KERNEL_EPILOGUE,
    PACKABLE,
    element_sizes,
    gradient_launch,
    product_operands,
)
from binjax.xnor.target import TARGET_VARIABLE as TARGET_VARIABLE
from binjax.xnor.target import (
    Status,
    TritonUnavailable,
    choose_capability,
    dotted,
)
from binjax.xnor.target import device_capabilities as _device_capabilities
from binjax.xnor.xla import Epilogue

if TYPE_CHECKING:
    from kernels_triton.gradient_launch import Gradient
    from kernels_triton.launch import Launch

CUSTOM_CALL = "triton_kernel_call_ffi"
"""The custom call's name: what ``jax.export`` must be told to accept (``DisabledSafetyCheck``)."""

POINTER_ALIGNMENT = 16  # bytes: what XLA guarantees, and what the kernels are compiled for


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
        needed = f"the kernels need {dotted(LOWEST_CAPABILITY)}"
        return Status(False, f"the GPU's compute capability is {dotted(lowest)}; {needed}")
    return Status(True, f"CUDA device of compute capability {dotted(target)}")


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
    Raises ValueError for another variable, TritonUnavailable for GPUs of several capabilities.
    """
    return choose_capability(explicit, _device_capabilities)


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
    wanted = element_sizes(launch)
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
    kind = KERNEL_EPILOGUE[epilogue]
    launch = gemm(m, n, k, kind, words=words, compute_capability=capability)
    return _call(launch, capability, *product_operands(xp, wp, launch), *operands)


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


def input_gradient(
    g: jax.Array,
    wp: jax.Array,
    k: int,
    mask: jax.Array | None = None,
    *,
    compute_capability: int | None = None,
) -> jax.Array:
    """Gradient of x in ``x [M, k] @ w [k, N]``: ``g @ w.T``, ``float32[M, k]``.

    Args:
        g: gradient of the result ``[M, N]``: float32, bfloat16 or float16, multiplied exactly and
            summed in float32. An infinity in float32 gives NaN.
        wp: words of w ``uint32[N, ceil(k/32)]``, ±1 packed along k.
        k: elements per row.
        mask: words ``uint32[M, ceil(k/32)]``; where a bit is 0 the gradient is 0.
        compute_capability: see :func:`target_capability`.

    Raises:
        TypeError, ValueError: g of another dtype; shapes that do not fit; N or k beyond 2^22.
    """
    return _gradient("input_gradient", g, wp, k, mask, compute_capability)


def weight_gradient(
    g: jax.Array,
    xp: jax.Array,
    k: int,
    mask: jax.Array | None = None,
    *,
    compute_capability: int | None = None,
) -> jax.Array:
    """Gradient of w in ``x [M, k] @ w [k, N]``: ``x.T @ g``, ``float32[k, N]``.

    As :func:`input_gradient`, with words ``xp uint32[M, ceil(k/32)]`` of x, and a mask
    ``uint32[k, ceil(N/32)]``.
    """
    return _gradient("weight_gradient", g, xp, k, mask, compute_capability)


def _gradient(
    kind: Gradient,
    g: jax.Array,
    packed: jax.Array,
    k: int,
    mask: jax.Array | None,
    compute_capability: int | None,
) -> jax.Array:
    capability = target_capability(compute_capability)
    launch = gradient_launch(kind, g, packed, k, mask, capability)
    if launch is None:
        shape = (g.shape[0], k) if kind == "input_gradient" else (k, g.shape[1])
        return jnp.zeros(shape, jnp.float32)
    return _call(launch, capability, g, packed, *(() if mask is None else (mask,)))
