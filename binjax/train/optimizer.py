"""The optimizer chain and learning-rate schedule that a config asks for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from binjax import metrics, optim
from binjax.config import ConfigError, optimizers
from binjax.layers import BinaryWeight, Progress
from binjax.layers.base import BinaryLayer
from binjax.layers.quantize import name_of
from binjax.ste import precision

_FAR = 100.0


def make_schedule(
    options: optimizers.Optimizer, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Learning rate as a function of the step.

    Raises:
        ConfigError: a piecewise schedule whose epochs and rates do not go together, a warm-up
            longer than the training.
    """
    others = isinstance(options, optimizers.Bop)  # it has no learning rate of its own
    key = "optimizer.others.schedule" if others else "optimizer.schedule"
    return _scheduled(key, options.learning_rate, options.schedule, epochs, steps_per_epoch)


def _scheduled(
    key: str, rate: float, schedule: optimizers.Schedule, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    warmup = getattr(schedule, "warmup_epochs", 0)
    if warmup >= epochs > 0 and warmup > 0:
        raise ConfigError(f"{key}.warmup_epochs: {warmup} leave nothing of {epochs} epochs")
    rises = warmup * steps_per_epoch
    then = _behind_warmup(key, rate, schedule, epochs, steps_per_epoch, rises)
    if warmup == 0:
        return then
    rise = optax.linear_schedule(0, then(rises), rises)
    return lambda step: jnp.where(step < rises, rise(step), then(step))


def _behind_warmup(
    key: str,
    rate: float,
    schedule: optimizers.Schedule,
    epochs: int,
    steps_per_epoch: int,
    rises: int,
) -> optax.Schedule:
    steps = epochs * steps_per_epoch
    match schedule:
        case optimizers.ConstantSchedule():
            return optax.constant_schedule(rate)
        case optimizers.ExponentialSchedule():
            return optim.exponential_epoch_decay(rate, schedule.end, epochs, steps_per_epoch)
        case optimizers.ShiftSchedule():
            return optim.shift_decay(rate, schedule.every_epochs * steps_per_epoch)
        case optimizers.StepSchedule():
            every = schedule.every_epochs * steps_per_epoch
            return optax.exponential_decay(rate, every, schedule.factor, staircase=True)
        case optimizers.PiecewiseSchedule():
            boundaries = [epoch * steps_per_epoch for epoch in schedule.epochs]
            try:
                return optim.piecewise(boundaries, schedule.rates)
            except ValueError:
                raise ConfigError(
                    f"{key}: epochs {list(schedule.epochs)} must ascend from 0, one "
                    f"for each of {len(schedule.rates)} rates"
                ) from None
        case optimizers.LinearSchedule():
            return optax.linear_schedule(rate, 0, steps - rises, rises)
        case optimizers.CosineSchedule():
            fall = optax.cosine_decay_schedule(rate, max(steps - rises, 1))
            return lambda step: fall(jnp.maximum(step - rises, 0))
        case optimizers.InverseTimeSchedule():
            decay = schedule.decay
            return lambda step: rate / (1 + decay * step)


def make_optimizer(
    options: optimizers.Optimizer,
    model: nnx.Module,
    epochs: int,
    steps_per_epoch: int,
) -> optax.GradientTransformation:
    """The rule, the Glorot scale on binary weights if asked for, clipping last; or two rules.

    Args:
        options: the config's section.
        model: what it trains; may be abstract.
        epochs, steps_per_epoch: of the whole training, for schedules.
    """
    schedule = make_schedule(options, epochs, steps_per_epoch)
    others = options.others
    if others is None:
        assert not isinstance(options, optimizers.Bop)
        return _latent(options, schedule, model)
    key = "optimizer.others.schedule"
    real = _scheduled(key, others.learning_rate, others.schedule, epochs, steps_per_epoch)
    binary = optim.variable_mask(model, BinaryWeight)
    return optax.chain(
        optax.masked(_binary_rule(options, schedule, model, epochs, steps_per_epoch), binary),
        optax.masked(_rule(others, real, model), jax.tree.map(lambda flag: not flag, binary)),
    )


def _binary_rule(
    options: optimizers.Optimizer,
    schedule: optax.Schedule,
    model: nnx.Module,
    epochs: int,
    steps_per_epoch: int,
) -> optax.GradientTransformation:
    if not isinstance(options, optimizers.Bop):
        return _latent(options, schedule, model)
    key = "optimizer.gamma_schedule"
    gamma = _scheduled(key, options.gamma, options.gamma_schedule, epochs, steps_per_epoch)
    if options.order == 1:
        return optim.bop(options.threshold, gamma)
    return optim.second_order_bop(
        options.threshold, gamma, options.sigma, unbiased=options.unbiased
    )


def _latent(
    options: optimizers.Adam | optimizers.Sgd | optimizers.ShiftAdaMax,
    schedule: optax.Schedule,
    model: nnx.Module,
) -> optax.GradientTransformation:
    mask = optim.variable_mask(model, BinaryWeight)
    chain = [_rule(options, schedule, model)]
    if options.glorot_scale != "none":
        power_of_two = options.glorot_scale == "power_of_two"
        chain.append(optim.scale_by_glorot(mask, power_of_two=power_of_two))
    if options.clip:
        chain.append(optim.clip_latent(options.clip, mask))
    return optax.chain(*chain)


def _rule(
    options: optimizers.AdamRule | optimizers.SgdRule | optimizers.ShiftAdaMaxRule,
    schedule: optax.Schedule,
    model: nnx.Module,
) -> optax.GradientTransformation:
    match options:
        case optimizers.AdamRule():
            rule = optax.adam(schedule, options.b1, options.b2, options.eps)
        case optimizers.SgdRule():
            rule = optax.sgd(schedule, options.momentum, options.nesterov)
        case optimizers.ShiftAdaMaxRule():
            rule = optim.shift_adamax(
                schedule, options.b1, options.b2, options.eps, options.variant
            )
    if not options.weight_decay:
        return rule
    decaying = decay_mask(model, options.decay_on)
    if isinstance(options, optimizers.AdamRule) and options.decay == "decoupled":
        return optax.adamw(
            schedule,
            options.b1,
            options.b2,
            options.eps,
            weight_decay=options.weight_decay,
            mask=decaying,
        )
    return optax.chain(optax.add_decayed_weights(options.weight_decay, decaying), rule)


def decay_mask(model: nnx.Module, which: str) -> dict[str, Any]:
    """Which parameters decay: a plain dict of bools.

    Args:
        model: may be abstract.
        which: ``"all"``; ``"kernels"``, of two axes or more; of these those of real layers,
            ``"real"``, or latent weights, ``"binary"`` (Liu et al. 2021, "How do Adam and training
            strategies help BNNs optimization", §4.2, lets latent weights free in their last stage).
    """

    def decays(variable: nnx.Variable[Any]) -> bool:
        kernel = bool(variable.ndim >= 2)
        binary = isinstance(variable, BinaryWeight)
        return {"all": True, "kernels": kernel, "real": kernel and not binary, "binary": binary}[
            which
        ]

    params = nnx.state(model, nnx.Param)
    flags = jax.tree.map(decays, params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    return nnx.to_pure_dict(flags)


def free_weights_warning(options: optimizers.Optimizer, model: nnx.Module) -> str | None:
    """Why latent weights that nothing clips may stop learning, and what to change; else None.

    Args:
        options: the config's section.
        model: what it trains; may be abstract.
    """
    if isinstance(options, optimizers.Bop) or 0 < options.clip <= 1:
        return None
    reach = options.clip or _FAR
    for path, layer in nnx.iter_modules(model):
        if isinstance(layer, BinaryLayer) and _saturates(layer, reach):
            name = "/".join(map(str, path))
            return (
                f"{name}: the kernel quantizer {name_of(layer.kernel_quantizer)} passes no "
                f"gradient to latent weights where optimizer.clip = {options.clip:g} lets them "
                'go; take optimizer.clip = 1, or a kernel_quantizer with clip_value = "none"'
            )
    return None


def _saturates(layer: BinaryLayer, reach: float) -> bool:
    quantizer = layer.kernel_quantizer
    if quantizer is None or precision(quantizer) not in (1, 2):
        return False
    if isinstance(quantizer, nnx.Module):
        quantizer = _at_the_start(quantizer)
    shape = (1,) * (layer.kernel.ndim - 2) + (8, layer.n_out)
    far = jnp.resize(jnp.asarray([reach, -reach, -reach]), shape)
    return bool(jnp.all(metrics.unreached(quantizer, far)))


def _at_the_start(quantizer: Any) -> Any:
    """An abstract quantizer with factors of 1, and no part of the training done."""
    graphdef, state = nnx.split(quantizer)
    fill = lambda v: v.replace(  # noqa: E731
        jnp.full(v.shape, 0 if isinstance(v, Progress) else 1, v.dtype)
    )
    is_leaf = lambda v: isinstance(v, nnx.Variable)  # noqa: E731
    return nnx.merge(graphdef, jax.tree.map(fill, state, is_leaf=is_leaf))
