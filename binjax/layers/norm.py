"""Batch normalization, ordinary and shift-based. Channels are the last axis."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from binjax.layers.regular import check_rate
from binjax.rounding import apart
from binjax.shift import ap2
from binjax.ste.arguments import integer, number
from binjax.ste.core import floating

Running = Literal["variance", "inverse_std"]


class BatchNorm(nnx.Module):
    """``(x - mean)·inverse_std·scale + bias`` per channel, statistics in float32 at least.

    Args:
        n: channels.
        eps: added to the (biased) batch variance; BinaryNet uses 1e-4.
        momentum: share of the *old* running statistics kept at a training step; BinaryNet .9.
        running: what is averaged for evaluation: the variance, or the inverse standard deviation
            ``1/sqrt(variance + eps)`` as in BinaryNet's Theano code.
        use_scale, use_bias: learn gamma, beta.
    """

    def __init__(
        self,
        n: int,
        *,
        eps: float = 1e-4,
        momentum: float = 0.9,
        running: Running = "variance",
        use_scale: bool = True,
        use_bias: bool = True,
        param_dtype: DTypeLike = jnp.float32,
    ):
        _check("BatchNorm", n, eps, momentum)
        if running not in ("variance", "inverse_std"):
            raise ValueError(f'BatchNorm running is "variance" or "inverse_std", not {running!r}')
        self.n, self.eps, self.momentum, self.running = n, eps, momentum, running
        self.mean = nnx.BatchStat(jnp.zeros(n, param_dtype))
        self.spread = nnx.BatchStat(jnp.ones(n, param_dtype))
        self.scale = nnx.Param(jnp.ones(n, param_dtype)) if use_scale else None
        self.bias = nnx.Param(jnp.zeros(n, param_dtype)) if use_bias else None

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n]``. Training uses the batch's statistics and moves the running ones.

        ``key`` is not used; it is there so that all layers are called alike.
        """
        _check_channels("BatchNorm", x, self.n)
        wide = _at_least_float32(x)
        scale = jnp.ones(self.n, wide.dtype) if self.scale is None else self.scale[...]
        bias = jnp.zeros(self.n, wide.dtype) if self.bias is None else self.bias[...]
        if train:
            eps = jnp.asarray(self.eps, wide.dtype)
            y, mean, variance = normalize(wide, scale, bias, eps)
            as_variance = self.running == "variance"
            spread = variance if as_variance else jax.lax.rsqrt(variance + self.eps)
            _move(self.mean, mean, self.momentum)
            _move(self.spread, spread, self.momentum)
            return y.astype(x.dtype)
        mean, spread = self.mean[...], self.spread[...]
        inverse_std = jax.lax.rsqrt(spread + self.eps) if self.running == "variance" else spread
        factor = _per_channel(inverse_std * scale, x)
        # Rounded twice wherever it is compiled: thresholds are folded from these very values.
        product = apart((wide - _per_channel(mean, x)) * factor)
        return (product + _per_channel(bias, x)).astype(x.dtype)


@jax.custom_jvp
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalization over all axes but the last.

    Its derivative is written out: of what the compiler makes of the expression's own, whole
    arrays are kept that two sums per channel can replace.

    Args:
        x: ``[..., n]``.
        scale, bias: ``[n]``.
        eps: scalar; no derivative.

    Returns:
        y of x's shape, the mean and the biased variance ``[n]``.
    """
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    centered = x - _per_channel(mean, x)
    variance = jnp.mean(jnp.square(centered), axes)
    factor = _per_channel(jax.lax.rsqrt(variance + eps) * scale, x)
    return centered * factor + _per_channel(bias, x), mean, variance


@normalize.defjvp
def _normalize_jvp(primals: Any, tangents: Any) -> Any:
    x, scale, _, eps = primals
    tx, tscale, tbias, _ = tangents
    y, mean, variance = normalize(*primals)
    axes = tuple(range(x.ndim - 1))
    inverse_std = jax.lax.rsqrt(variance + eps)
    centered = x - _per_channel(mean, x)
    tmean = jnp.mean(tx, axes)
    along = jnp.mean(centered * tx, axes)
    # inverse_std moves by -inverse_std^3 along
    per_centered = inverse_std * tscale - scale * inverse_std**3 * along
    ty = (tx - _per_channel(tmean, x)) * _per_channel(scale * inverse_std, x)
    ty = ty + centered * _per_channel(per_centered, x) + _per_channel(tbias, x)
    return (y, mean, variance), (ty, tmean, 2 * along)


class ShiftBatchNorm(nnx.Module):
    """Shift-based batch normalization: every product is by a power of two.

    Training: ``c = x - mean(x)``, ``s = (mean(AP2(c)·c) + eps)^(-1/2)``,
    ``y = c·AP2(s)·AP2(scale) + bias``. Evaluation uses the running mean and the running,
    un-rounded inverse standard deviation s. The gradient is the Torch code's and not the true
    derivative::

        gx = (g - mean(g) - AP2(c)·mean(AP2(c)·g)·AP2(s)^2)·AP2(s)·AP2(scale)
        gscale = sum(AP2(c·AP2(s))·g);  gbias = sum(g)

    The running inverse standard deviation starts at 1 (the Torch code's spatial version starts
    at 0, a defect). Source: Courbariaux, Hubara et al. 2016, algorithm 3; itayhubara/BinaryNet
    ``BatchNormalizationShiftPow2.lua``.

    Args:
        n: channels.
        eps: added to the mean of ``AP2(c)·c``.
        momentum: share of the old running statistics kept at a training step.
    """

    def __init__(
        self,
        n: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.875,
        param_dtype: DTypeLike = jnp.float32,
    ):
        _check("ShiftBatchNorm", n, eps, momentum)
        self.n, self.eps, self.momentum = n, eps, momentum
        self.mean = nnx.BatchStat(jnp.zeros(n, param_dtype))
        self.inverse_std = nnx.BatchStat(jnp.ones(n, param_dtype))
        self.scale = nnx.Param(jnp.ones(n, param_dtype))
        self.bias = nnx.Param(jnp.zeros(n, param_dtype))

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: ``[..., n]``. Training uses the batch's statistics and moves the running ones.

        ``key`` is not used; it is there so that all layers are called alike.
        """
        _check_channels("ShiftBatchNorm", x, self.n)
        wide = _at_least_float32(x)
        if train:
            scale, bias = (p[...].astype(wide.dtype) for p in (self.scale, self.bias))
            eps = jnp.asarray(self.eps, wide.dtype)
            y, mean, inverse_std = shift_normalize(wide, scale, bias, eps)
            _move(self.mean, mean, self.momentum)
            _move(self.inverse_std, inverse_std, self.momentum)
        else:
            factor = ap2(self.inverse_std[...]) * ap2(self.scale[...])
            centered = wide - _per_channel(self.mean[...], x)
            y = centered * _per_channel(factor, x) + _per_channel(self.bias[...], x)
        return y.astype(x.dtype)


@jax.custom_vjp
def shift_normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Shift-based normalization over all axes but the last, with the Torch code's gradient.

    Args:
        x: ``[..., n]``.
        scale, bias: ``[n]``.
        eps: scalar.

    Returns:
        y of x's shape, mean ``[n]`` and un-rounded inverse standard deviation ``[n]``; gradients
        flow through y only.
    """
    return _shift_normalize_fwd(x, scale, bias, eps)[0]


_Kept = tuple[jax.Array, jax.Array, jax.Array]
_Out = tuple[jax.Array, jax.Array, jax.Array]


def _shift_normalize_fwd(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: jax.Array
) -> tuple[_Out, _Kept]:
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    centered = x - _per_channel(mean, x)
    inverse_std = jax.lax.rsqrt(jnp.mean(ap2(centered) * centered, axes) + eps)
    factor = ap2(inverse_std) * ap2(scale)
    y = centered * _per_channel(factor, x) + _per_channel(bias, x)
    return (y, mean, inverse_std), (centered, ap2(inverse_std), ap2(scale))


def _shift_normalize_bwd(kept: _Kept, gradients: _Out) -> tuple[jax.Array, ...]:
    centered, shift, scale = kept
    g = gradients[0]
    axes = tuple(range(g.ndim - 1))
    rounded = ap2(centered)
    along = jnp.mean(rounded * g, axes) * jnp.square(shift)
    inner = g - _per_channel(jnp.mean(g, axes), g) - rounded * _per_channel(along, g)
    gx = inner * _per_channel(shift * scale, g)
    gscale = jnp.sum(ap2(centered * _per_channel(shift, g)) * g, axes)
    return gx, gscale, jnp.sum(g, axes), jnp.zeros_like(shift, shape=())


shift_normalize.defvjp(_shift_normalize_fwd, _shift_normalize_bwd)


def _move(running: nnx.BatchStat[jax.Array], batch: jax.Array, momentum: float) -> None:
    old = running[...]
    new = momentum * old + (1 - momentum) * jax.lax.stop_gradient(batch).astype(old.dtype)
    running[...] = new


def _at_least_float32(x: jax.Array) -> jax.Array:
    bits = jnp.finfo(x.dtype).bits  # type: ignore[no-untyped-call]
    return x if bits >= 32 else x.astype(jnp.float32)


def _per_channel(values: jax.Array, like: jax.Array) -> jax.Array:
    return values.reshape((1,) * (like.ndim - 1) + (-1,))


def _check(layer: str, n: int, eps: float, momentum: float) -> None:
    integer(f"{layer}: n", n)
    number(f"{layer}: eps", eps)
    check_rate(momentum, f"{layer}: momentum")


def _check_channels(layer: str, x: jax.Array, n: int) -> None:
    if x.ndim < 2 or x.shape[-1] != n:
        raise ValueError(f"{layer} takes [..., {n}] inputs with a batch axis, got shape {x.shape}")
    floating(layer, x)
