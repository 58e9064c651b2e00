"""One JAX primitive per operation, and how each platform computes it.

Default: plain XLA. On CPUs: the native library, where it is loaded. On CUDA: Triton kernels,
where they can be compiled. The functions that bind them, with batching and partitioning rules,
are in ``ops.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import ManualAxisType, NamedSharding, PartitionSpec

from binjax.packing import words_for
from binjax.xnor import bridge, xla, xla_conv
from binjax.xnor.derivative import inside
from binjax.xnor.dispatch import choose, refuse
from binjax.xnor.geometry import Geometry
from binjax.xnor.xla import Epilogue

pack_rows_p = Primitive("binjax_pack_rows")
pack_columns_p = Primitive("binjax_pack_columns")
matmul_p = Primitive("binjax_matmul")
conv_p = Primitive("binjax_conv")
pack_rows_ste_p = Primitive("binjax_pack_rows_ste")
pack_columns_ste_p = Primitive("binjax_pack_columns_ste")
pack_rows_ste_p.multiple_results = pack_columns_ste_p.multiple_results = True


def result_like(operands: Sequence[ShapedArray], shape: Sequence[int], dtype: Any) -> ShapedArray:
    """Type of a result, varying over every manual mesh axis over which an operand varies."""
    meshes = [a.sharding.mesh for a in operands]
    mesh = next((m for m in meshes if not m.empty), meshes[0])
    varying = frozenset[Any]().union(*(a.manual_axis_type.varying for a in operands))
    return ShapedArray(
        shape,
        dtype,
        sharding=NamedSharding(mesh, PartitionSpec(*(None,) * len(shape))),
        manual_axis_type=ManualAxisType(varying=varying),
    )


def _pack_rows_type(x: ShapedArray, *, backend: str | None) -> ShapedArray:
    return result_like([x], (*x.shape[:-1], words_for(x.shape[-1])), jnp.uint32)


def _pack_columns_type(w: ShapedArray, *, backend: str | None) -> ShapedArray:
    taps, k, n = w.shape
    return result_like([w], (n, taps, words_for(k)), jnp.uint32)


def _pack_rows_ste_type(x: ShapedArray, *, backend: str | None) -> tuple[ShapedArray, ...]:
    return (_pack_rows_type(x, backend=backend),) * 2


def _pack_columns_ste_type(w: ShapedArray, *, backend: str | None) -> tuple[ShapedArray, ...]:
    return _pack_columns_type(w, backend=backend), _pack_rows_type(w, backend=backend)


def _matmul_type(
    xp: ShapedArray,
    wp: ShapedArray,
    *operands: ShapedArray,
    k: int,
    epilogue: Epilogue,
    backend: str | None,
) -> ShapedArray:
    shape = (xp.shape[0], xla.bits_width(wp.shape[0], epilogue))
    return result_like([xp, wp, *operands], shape, xla.result_dtype(epilogue))


def _conv_type(
    xp: ShapedArray,
    wp: ShapedArray,
    *operands: ShapedArray,
    geometry: Geometry,
    epilogue: Epilogue,
    backend: str | None,
) -> ShapedArray:
    high, wide = geometry.output(xp.shape[1:3], wp.shape[1:3])
    shape = (xp.shape[0], high, wide, xla.bits_width(wp.shape[0], epilogue))
    return result_like([xp, wp, *operands], shape, xla.result_dtype(epilogue))


# Native: target, attributes and operand-to-result aliases of the call

Call = tuple[str, dict[str, Any], dict[int, int]]


def _native_pack_rows(operands: Sequence[ShapedArray]) -> Call:
    return "binjax_pack_rows", {}, {}


def _native_pack_columns(operands: Sequence[ShapedArray]) -> Call:
    return "binjax_pack_columns", {}, {}


def _native_pack_rows_ste(operands: Sequence[ShapedArray]) -> Call:
    return "binjax_pack_rows_ste", {}, {}


def _native_pack_columns_ste(operands: Sequence[ShapedArray]) -> Call:
    return "binjax_pack_columns_ste", {}, {}


def _native_matmul(operands: Sequence[ShapedArray], *, k: int, epilogue: Epilogue) -> Call:
    attributes = {"k": np.int64(k)}
    if epilogue == "int32" and len(operands) == 3:
        return "binjax_matmul_int32_out", attributes, {2: 0}
    return f"binjax_matmul_{epilogue}", attributes, {}


def _native_conv(
    operands: Sequence[ShapedArray], *, geometry: Geometry, epilogue: Epilogue
) -> Call:
    return f"binjax_conv_{epilogue}", conv_attributes(geometry), {}


def conv_attributes(geometry: Geometry) -> dict[str, Any]:
    """A geometry as the attributes of a native call."""
    return {
        "channels": np.int64(geometry.channels),
        "strides": np.asarray(geometry.strides, np.int64),
        "dilation": np.asarray(geometry.dilation, np.int64),
        "padding": np.asarray(geometry.padding, np.int64),
        "pad_value": np.int64(geometry.pad_value),
    }


# Triton: functions that JAX can trace


def _triton_pack_rows_ste(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return bridge.pack_rows(x), inside(x)


def _triton_pack_columns_ste(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    return bridge.pack_columns(w), inside(w)


def _triton_matmul(
    xp: jax.Array, wp: jax.Array, *operands: jax.Array, k: int, epilogue: Epilogue
) -> jax.Array:
    if epilogue == "int32":  # memory offered for the result is not used
        return bridge.matmul(xp, wp, k, epilogue=epilogue)
    return bridge.matmul(xp, wp, k, *operands, epilogue=epilogue)


def _triton_conv(
    xp: jax.Array, wp: jax.Array, *operands: jax.Array, geometry: Geometry, epilogue: Epilogue
) -> jax.Array:
    def product(rows: jax.Array, columns: jax.Array, k: int) -> jax.Array:
        return bridge.matmul(rows, columns, k, epilogue="int32")

    return xla_conv.conv(xp, wp, *operands, geometry=geometry, epilogue=epilogue, product=product)


def register(
    primitive: Primitive,
    result_type: Callable[..., Any],
    portable: Callable[..., Any],
    native_call: Callable[..., Call | None],
    triton: Callable[..., Any],
) -> None:
    """Give a primitive its type and its lowerings.

    Args:
        primitive: takes arrays and the parameters of the functions below, and ``backend``.
        result_type: type of the result from those of the operands; a tuple where the primitive
            has several results.
        portable: the operation in JAX functions, for every platform.
        native_call: from the types of the operands, the FFI target, its attributes, its aliases;
            None where the portable form is faster.
        triton: the operation on CUDA, as a function that JAX can trace.
    """
    several = primitive.multiple_results
    by_xla = mlir.lower_fun(portable, multiple_results=several)
    by_triton = mlir.lower_fun(triton, multiple_results=several)

    def anywhere(ctx: Any, *operands: Any, backend: str | None, **params: Any) -> Any:
        if backend not in (None, "xla"):
            refuse("/".join(ctx.platforms or ctx.module_context.platforms), str(backend))
        return by_xla(ctx, *operands, **params)

    def on_cpu(ctx: Any, *operands: Any, backend: str | None, **params: Any) -> Any:
        if choose("cpu", backend) == "xla":
            return by_xla(ctx, *operands, **params)
        call = native_call(ctx.avals_in, **params)
        if call is None:
            return by_xla(ctx, *operands, **params)
        target, attributes, aliases = call
        rule = jax.ffi.ffi_lowering(target, operand_output_aliases=aliases)
        return rule(ctx, *operands, **attributes)

    def on_cuda(ctx: Any, *operands: Any, backend: str | None, **params: Any) -> Any:
        known = all(isinstance(size, int) for aval in ctx.avals_in for size in aval.shape)
        problem = None if known else "Triton kernels are compiled for sizes, and one is symbolic"
        lower = by_xla if choose("cuda", backend, problem) == "xla" else by_triton
        return lower(ctx, *operands, **params)

    def without_jit(*operands: jax.Array, **params: Any) -> Any:
        with jax.disable_jit(False):  # the lowering chooses the back end, so there has to be one
            return jax.jit(functools.partial(primitive.bind, **params))(*operands)

    primitive.def_abstract_eval(result_type)
    primitive.def_impl(without_jit)
    mlir.register_lowering(primitive, anywhere)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    mlir.register_lowering(primitive, on_cuda, platform="cuda")


register(pack_rows_p, _pack_rows_type, xla.pack_rows, _native_pack_rows, bridge.pack_rows)
register(
    pack_columns_p,
    _pack_columns_type,
    xla.pack_columns,
    _native_pack_columns,
    bridge.pack_columns,
)
register(
    pack_rows_ste_p,
    _pack_rows_ste_type,
    lambda x: (xla.pack_rows(x), inside(x)),
    _native_pack_rows_ste,
    _triton_pack_rows_ste,
)
register(
    pack_columns_ste_p,
    _pack_columns_ste_type,
    lambda w: (xla.pack_columns(w), inside(w)),
    _native_pack_columns_ste,
    _triton_pack_columns_ste,
)
register(matmul_p, _matmul_type, xla.matmul, _native_matmul, _triton_matmul)
register(conv_p, _conv_type, xla_conv.conv, _native_conv, _triton_conv)
