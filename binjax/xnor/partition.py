"""How products are split over devices, under XLA's automatic partitioner.

Rows and columns of a product (images and output channels of a convolution) stay where they are,
with nothing gathered. Shards of K give partial sums that are added up. Other axes are gathered.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from binjax.packing import WORD
from binjax.xnor.xla import Epilogue, finish

Axes = str | tuple[str, ...] | None
Function = Callable[..., Any]


def pack_rows(local: Function, shape: Sequence[int], results: int = 1) -> Function:
    """Every axis passes through, the packed one if it holds whole words on every device.

    With several results, all are of the same shape.
    """
    before, n = shape[:-1], shape[-1]
    packed = _features(n, "threshold")

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        (x,) = operands
        axes = [_kept(mesh, x, axis, size) for axis, size in enumerate(before)]
        axes.append(_kept(mesh, x, len(before), packed.parts))
        sharded = _sharded(mesh, *axes)
        return mesh, local, sharded if results == 1 else (sharded,) * results, (sharded,)

    names = [f"a{axis}" for axis in range(len(before))]
    result = ", ".join([" ".join([*names, packed.result])] * results)
    rule = f"{' '.join([*names, packed.operand])} -> {result}"
    return _define(local, split, rule, {*names, *packed.passing}, sizes=packed.sizes)


def pack_columns(local: Function, shape: Sequence[int]) -> Function:
    """As :func:`pack_rows`, from ``[T, K, N]`` to ``[N, T, words]``."""
    taps, k, n = shape
    packed = _features(k, "threshold")

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        (w,) = operands
        t, columns = _kept(mesh, w, 0, taps), _kept(mesh, w, 2, n)
        words = _kept(mesh, w, 1, packed.parts)
        return mesh, local, _sharded(mesh, columns, t, words), (_sharded(mesh, t, words, columns),)

    rule = f"t {packed.operand} m -> m t {packed.result}"
    return _define(local, split, rule, {"t", "m", *packed.passing}, sizes=packed.sizes)


def pack_columns_ste(local: Function, shape: Sequence[int]) -> Function:
    """``[T, K, N]`` to ``[N, T, words of K]`` and ``[T, K, words of N]``.

    T passes through, K and N if they hold whole words on every device.
    """
    taps, k, n = shape
    columns = _features(n, "threshold")
    whole = k % WORD == 0 and k > WORD
    before, after = ("(k y)", "k") if whole else ("k", "v")
    sizes = columns.sizes | ({"y": WORD} if whole else {})

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        (w,) = operands
        t, own = _kept(mesh, w, 0, taps), _kept(mesh, w, 2, columns.parts)
        words = _kept(mesh, w, 1, k // WORD if whole else 1)
        operand = _sharded(mesh, t, words, own)
        return mesh, local, (_sharded(mesh, own, t, words), operand), (operand,)

    left = f"t {before} {columns.operand}"
    rule = f"{left} -> {columns.operand} t {after}, t {before} {columns.result}"
    passing = {"t", *columns.passing, *("k" if whole else "")}
    return _define(local, split, rule, passing, sizes=sizes)


def matmul(
    local: Function, partial_sums: Function, n: int, n_operands: int, k: int, epilogue: Epilogue
) -> Function:
    """M and N pass through, shards of the words are summed.

    Args:
        local: ``(xp, wp, *operands)`` to the result, on one device.
        partial_sums: ``(xp, wp)`` to ``-2 popcount(x ^ w)``.
        n, n_operands, k, epilogue: of the whole product.
    """
    features = _features(n, epilogue)

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        xp, wp, *rest = operands
        rows = _kept(mesh, xp, 0, xp.shape[0])
        columns = _unless_used(_kept(mesh, wp, 0, features.parts), rows)
        words = _unless_used(_kept(mesh, xp, 1, xp.shape[1]), rows, columns)
        sharded = _sharded(mesh, rows, columns)
        wanted = [_sharded(mesh, rows, words), _sharded(mesh, columns, words)]
        wanted += [sharded if len(a.shape) == 2 else _sharded(mesh, columns) for a in rest]

        def summed(xp: jax.Array, wp: jax.Array, *rest: jax.Array) -> jax.Array:
            dot = jnp.int32(k) + lax.psum(partial_sums(xp, wp), words)
            return finish(dot, *rest, epilogue=epilogue)

        return mesh, local if words is None else summed, sharded, tuple(wanted)

    # The int32 form's only operand is memory for the result.
    rest = "m n" if epilogue == "int32" else features.operand
    left = ", ".join(["m w", f"{features.operand} w", *[rest] * n_operands])
    rule = f"{left} -> m {features.result}"
    return _define(local, split, rule, {"m", *features.passing}, ("w",), features.sizes)


def conv(local: Function, n: int, groups: int, n_operands: int, epilogue: Epilogue) -> Function:
    """Images and output channels pass through; with groups, whole groups of channels do.

    Args:
        local: ``(xp, wp, *operands)`` to the result, on one device.
        n, groups, n_operands, epilogue: of the whole convolution; ``n`` output channels.
    """
    group, features = _grouped_features(n, groups, epilogue)

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        xp, wp, *rest = operands
        images = _kept(mesh, xp, 0, xp.shape[0])
        channels = _unless_used(_kept(mesh, wp, 0, features.parts), images)
        own_groups = channels if group in features.passing else None
        wanted = [_sharded(mesh, images, None, None, own_groups), _sharded(mesh, channels)]
        wanted += [_sharded(mesh, channels) for _ in rest]
        return mesh, local, _sharded(mesh, images, None, None, channels), tuple(wanted)

    operands = [f"b h w {group} c", f"{features.operand} i j c", *[features.operand] * n_operands]
    rule = f"{', '.join(operands)} -> b y x {features.result}"
    return _define(local, split, rule, {"b", *features.passing}, sizes=features.sizes)


def input_gradient(local: Function, n_masks: int) -> Function:
    """Images pass through: ``(g, wp, mask)`` to the gradient of the images."""

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        g, _, *masks = operands
        sharded = _sharded(mesh, _kept(mesh, g, 0, g.shape[0]))
        return mesh, local, sharded, (sharded, _sharded(mesh), *(sharded for _ in masks))

    rule = ", ".join(["b y x n", "m i j c", *["b h w g c"] * n_masks]) + " -> b h w k"
    return _define(local, split, rule, {"b"})


def kernel_gradient(local: Function, n_masks: int) -> Function:
    """Shards of the images give partial sums: ``(g, xp, mask)`` to the gradient of the kernels."""

    def split(mesh: Mesh, operands: Any, result: Any) -> Any:
        g, _, *masks = operands
        images = _kept(mesh, g, 0, g.shape[0])

        def summed(*operands: jax.Array) -> jax.Array:
            total: jax.Array = lax.psum(local(*operands), images)
            return total

        lower = local if images is None else summed
        sharded, whole = _sharded(mesh, images), _sharded(mesh)
        return mesh, lower, whole, (sharded, sharded, *(whole for _ in masks))

    rule = ", ".join(["b y x n", "b h w g c", *["i j k m"] * n_masks]) + " -> i j k n"
    return _define(local, split, rule, set(), ("b",))


class _Features(NamedTuple):
    """How output features stand in a sharding rule.

    Attributes:
        operand, result: the dimension in operands with one value per feature, and in the result.
        passing: names of the factors that pass through.
        sizes: of the factors that only stand in compounds.
        parts: into how many parts the features can be split.
    """

    operand: str
    result: str
    passing: frozenset[str]
    sizes: dict[str, int]
    parts: int


def _features(n: int, epilogue: Epilogue) -> _Features:
    """N features: bits are split in whole words only. Shardy refuses compounds with a 1."""
    if epilogue != "threshold":
        return _Features("n", "n", frozenset("n"), {}, n)
    if n % WORD or n <= WORD:
        return _Features("n", "p", frozenset(), {}, 1)
    return _Features("(n z)", "n", frozenset("n"), {"z": WORD}, n // WORD)


def _grouped_features(n: int, groups: int, epilogue: Epilogue) -> tuple[str, _Features]:
    """The images' group axis, and N channels, which are split by whole groups."""
    if groups == 1:
        return "g", _features(n, epilogue)
    each = n // groups
    bits = epilogue == "threshold"
    if bits and each % WORD:
        return "g", _Features("n", "p", frozenset(), {}, 1)
    sizes = {"o": each // WORD if bits else each, "z": WORD if bits else 1}
    sizes = {name: size for name, size in sizes.items() if size > 1}
    inside = ["n", *(name for name in sizes if name == "o")]
    return "n", _Features(_compound("n", *sizes), _compound(*inside), frozenset("n"), sizes, groups)


def _compound(*names: str) -> str:
    return names[0] if len(names) == 1 else f"({' '.join(names)})"


def _define(
    local: Function,
    split: Callable[..., Any],
    rule: str,
    passing: set[str],
    reduced: tuple[str, ...] = (),
    sizes: dict[str, int] | None = None,
) -> Function:
    """``local`` with its rule; factors neither passing nor reduced are gathered."""
    if jax.sharding.get_abstract_mesh().manual_axes:
        # Inside shard_map the split is the caller's. Over part of the mesh's axes JAX's
        # partitioner would fail here; the other axes then see an operation they cannot split.
        return local
    names = dict.fromkeys(re.findall(r"[a-z]\d*", rule))  # Shardy wants their order
    special: dict[str, Any] = {
        "reduction_factors": reduced,
        "need_replication_factors": tuple(f for f in names if f not in passing | {*reduced}),
    }
    function = custom_partitioning(local)
    function.def_partition(split, sharding_rule=rule, **special, **(sizes or {}))
    return function


def _kept(mesh: Mesh, array: Any, axis: int, parts: int) -> Axes:
    """Mesh axes of an operand's axis, or None where they don't split it evenly."""
    spec = getattr(array.sharding, "spec", ())  # a sharding without a mesh has none: gather
    axes: Axes = spec[axis] if axis < len(spec) else None
    size = math.prod(mesh.shape[name] for name in _names(axes))
    return axes if parts % size == 0 else None


def _unless_used(axes: Axes, *others: Axes) -> Axes:
    used = {name for other in others for name in _names(other)}
    return None if used & {*_names(axes)} else axes


def _names(axes: Axes) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def _sharded(mesh: Mesh, *axes: Axes) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(*axes))
