"""Adam, SGD and shift-based AdaMax with their rates and weight decay, as a config asks for them."""

from __future__ import annotations

import optax
from flax import nnx

from binjax import optim
from binjax.config import optimizers
from binjax.train.schedules import make_decay, make_rate
from binjax.train.selection import named, select


def make_rule(
    key: str, options: optimizers.Rule, model: nnx.Module, epochs: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """One rule for all parameters it is given.

    Args:
        key: of the rule in the config, for messages.
        options: the config's section.
        model: what it trains; may be abstract.
        epochs, steps_per_epoch: of the whole training, for schedules.

    Raises:
        ConfigError: see :func:`make_rate`, :func:`make_decay` and :func:`select`.
    """
    rate = make_rate(
        f"{key}.schedule", options.learning_rate, options.schedule, epochs, steps_per_epoch
    )
    decay = make_decay(key, options, steps_per_epoch)
    match options:
        case optimizers.AdamRule():
            rule = optax.adam(rate, options.b1, options.b2, options.eps)
        case optimizers.SgdRule():
            rule = optax.sgd(rate, options.momentum, options.nesterov)
        case optimizers.ShiftAdaMaxRule():
            rule = optim.shift_adamax(rate, options.b1, options.b2, options.eps, options.variant)
    exceptions = options.decay_except or ()
    named(f"{key}.decay_except", exceptions, model)  # a pattern without a match is a mistake
    decaying = select(f"{key}.decay_on", options.decay_on, model, exceptions)
    if not callable(decay) and decay == 0:
        return rule
    if isinstance(options, optimizers.AdamRule) and options.decay == "decoupled":
        return optax.adamw(
            rate, options.b1, options.b2, options.eps, weight_decay=decay, mask=decaying
        )
    return optax.chain(optax.add_decayed_weights(decay, decaying), rule)
