"""Learning rates and weight decays as functions of the step."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from binjax import optim
from binjax.config import ConfigError, optimizers


def make_rate(
    key: str, rate: float, schedule: optimizers.Schedule, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """What a schedule makes of a rate.

    Args:
        key: of the schedule in the config, for messages.
        rate: at its height, where the schedule does not say it.
        schedule: the config's section.
        epochs, steps_per_epoch: of the whole training.

    Raises:
        ConfigError: a piecewise schedule whose epochs and rates do not go together, a warm-up
            longer than the training, a factor that leads from zero.
    """
    warmup = getattr(schedule, "warmup_epochs", 0)
    if warmup >= epochs > 0 and warmup > 0:
        raise ConfigError(f"{key}.warmup_epochs: {warmup} leave nothing of {epochs} epochs")
    rises = warmup * steps_per_epoch
    then = _behind_warmup(key, rate, schedule, epochs, steps_per_epoch, rises)
    if warmup == 0:
        return then
    rise = optax.linear_schedule(0, then(rises), rises)
    return lambda step: jnp.where(step < rises, rise(step), then(step))


def make_decay(key: str, rule: optimizers.Rule, steps_per_epoch: int) -> optax.ScalarOrSchedule:
    """A rule's weight decay: a number, or by epoch if its piecewise schedule says so.

    Args:
        key: of the rule in the config, for messages.
        rule: the config's section.
        steps_per_epoch: of the training.

    Raises:
        ConfigError: a constant beside decays by epoch, or decays of another number than epochs.
    """
    schedule = rule.schedule
    if not isinstance(schedule, optimizers.PiecewiseSchedule) or schedule.weight_decays is None:
        return rule.weight_decay
    decays = schedule.weight_decays
    if rule.weight_decay:
        raise ConfigError(
            f"{key}.weight_decay: {rule.weight_decay} stands beside schedule.weight_decays; leave "
            "one of them out"
        )
    if len(decays) != len(schedule.epochs):
        raise ConfigError(
            f"{key}.schedule.weight_decays: {len(decays)} for {len(schedule.epochs)} epochs; give "
            "one for each"
        )
    return optim.piecewise(_starts(schedule, steps_per_epoch), decays)


def refuse_decays(key: str, schedule: optimizers.Schedule) -> None:
    """Refuse weight decays in the schedule of something else than a learning rate.

    Raises:
        ConfigError: there are some.
    """
    if getattr(schedule, "weight_decays", None) is not None:
        raise ConfigError(f"{key}.weight_decays: belong to the schedule of a learning rate")


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
            if rate == 0:
                raise ConfigError(f"{key}: no factor leads from 0 to {schedule.end:g}")
            return optim.exponential_epoch_decay(rate, schedule.end, epochs, steps_per_epoch)
        case optimizers.ShiftSchedule():
            return optim.shift_decay(rate, schedule.every_epochs * steps_per_epoch)
        case optimizers.StepSchedule():
            every = schedule.every_epochs * steps_per_epoch
            return optax.exponential_decay(rate, every, schedule.factor, staircase=True)
        case optimizers.PiecewiseSchedule():
            try:
                return optim.piecewise(_starts(schedule, steps_per_epoch), schedule.rates)
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


def _starts(schedule: optimizers.PiecewiseSchedule, steps_per_epoch: int) -> list[int]:
    return [epoch * steps_per_epoch for epoch in schedule.epochs]
