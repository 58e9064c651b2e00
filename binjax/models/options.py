"""Options that networks share: how they compute; normalization and initialization by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers import BatchNorm, ShiftBatchNorm
from binjax.layers.sequential import Memory


@dataclass(frozen=True)
class Compute:
    """How a network computes, as opposed to what.

    Attributes:
        backend: kernels of binary products, see :class:`binjax.layers.BinaryDense`.
        memory: what is kept for the backward pass, see :class:`binjax.layers.Sequential`.
        dtype: of activations and products; None is float32.
    """

    backend: str = "auto"
    memory: Memory = "full"
    dtype: DTypeLike | None = None


DEFAULT_COMPUTE = Compute()
_NORMS: Mapping[str, type[BatchNorm] | type[ShiftBatchNorm]] = {
    "batch": BatchNorm,
    "shift": ShiftBatchNorm,
}
DEFAULT_NORM: Mapping[str, Any] = {"kind": "batch"}


def make_norm(options: Mapping[str, Any], n: int) -> BatchNorm | ShiftBatchNorm:
    """``{"kind": "batch" | "shift", **arguments}`` over ``n`` channels."""
    arguments = {name: value for name, value in options.items() if name != "kind"}
    return _NORMS[_known("norm", options["kind"], _NORMS)](n, **arguments)


def make_last_norm(options: Mapping[str, Any], n: int) -> BatchNorm | ShiftBatchNorm:
    """The norm behind the last layer: an ordinary one even in shift-based networks."""
    return make_norm(options if options["kind"] == "batch" else DEFAULT_NORM, n)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)


_INITIALIZERS: Mapping[str, Callable[..., jax.Array]] = {
    "glorot_uniform": nnx.initializers.glorot_uniform(),
    "uniform": _uniform,
}


def make_initializer(name: str) -> Callable[..., jax.Array]:
    """``"glorot_uniform"``, or ``"uniform"`` in [-1, 1] as BinaryNet's Theano code."""
    return _INITIALIZERS[_known("kernel_init", name, _INITIALIZERS)]


def _known(what: str, name: str, table: Mapping[str, Any]) -> str:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return name


TORCH_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's initialization of kernels: uniform within ±1/sqrt(fan_in)."""


def torch_norm(n: int, *, affine: bool = True) -> BatchNorm:
    """Batch normalization with PyTorch's defaults, whose momentum .1 is the share of the new."""
    return BatchNorm(n, eps=1e-5, momentum=0.9, use_scale=affine, use_bias=affine)
