"""The optimizer chain and learning-rate schedule that a config asks for."""

from __future__ import annotations

from typing import Any

import optax

from binjax import optim
from binjax.config import optimizers


def make_schedule(
    options: optimizers.Optimizer, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Learning rate as a function of the step."""
    rate, schedule = options.learning_rate, options.schedule
    match schedule:
        case optimizers.ConstantSchedule():
            return optax.constant_schedule(rate)
        case optimizers.ExponentialSchedule():
            return optim.exponential_epoch_decay(rate, schedule.end, epochs, steps_per_epoch)
        case optimizers.ShiftSchedule():
            return optim.shift_decay(rate, schedule.every_epochs * steps_per_epoch)
        case optimizers.CosineSchedule():
            return optax.cosine_decay_schedule(rate, epochs * steps_per_epoch)
        case optimizers.InverseTimeSchedule():
            decay = schedule.decay
            return lambda step: rate / (1 + decay * step)


def make_optimizer(
    options: optimizers.Optimizer, schedule: optax.Schedule, mask: Any
) -> optax.GradientTransformation:
    """The rule, the Glorot scale on binary weights if asked for, clipping last.

    Args:
        options: the config's section.
        schedule: learning rate by step.
        mask: which parameters are latent weights, see ``optim.variable_mask``.
    """
    match options:
        case optimizers.Adam():
            rule = optax.adam(schedule, options.b1, options.b2, options.eps)
        case optimizers.Sgd():
            rule = optax.sgd(schedule, options.momentum)
        case optimizers.ShiftAdaMax():
            rule = optim.shift_adamax(
                schedule, options.b1, options.b2, options.eps, options.variant
            )
    chain = [rule]
    if options.glorot_scale != "none":
        power_of_two = options.glorot_scale == "power_of_two"
        chain.append(optim.scale_by_glorot(mask, power_of_two=power_of_two))
    return optax.chain(*chain, optim.clip_latent(options.clip, mask))
