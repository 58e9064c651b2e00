"""The optimizer chain that a config asks for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
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
from binjax.optim.cases import Owner
from binjax.ste import precision
from binjax.train.rules import make_rule
from binjax.train.schedules import make_rate, refuse_decays
from binjax.train.selection import chosen, named

_FAR = 100.0


def make_schedule(
    options: optimizers.Optimizer, epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Learning rate as a function of the step.

    Raises:
        ConfigError: see :func:`binjax.train.schedules.make_rate`.
    """
    others = isinstance(options, optimizers.Bop)  # it has no learning rate of its own
    key = "optimizer.others.schedule" if others else "optimizer.schedule"
    return make_rate(key, options.learning_rate, options.schedule, epochs, steps_per_epoch)


def make_optimizer(
    options: optimizers.Optimizer,
    model: nnx.Module,
    epochs: int,
    steps_per_epoch: int,
) -> optax.GradientTransformation:
    """The gradients' norm clipped, the rules, what latent weights need; the parts asked for.

    Parameters that a case claims are trained by its rule, all others by the main one or by the two,
    that of binary weights and ``others``. Latent weights are scaled and clipped behind their rule,
    whichever it is.

    Args:
        options: the config's section.
        model: what it trains; may be abstract.
        epochs, steps_per_epoch: of the whole training, for schedules.

    Raises:
        ConfigError: a schedule or weight decay that makes no sense, a pattern that matches no
            parameter, a parameter that two cases claim, a case that claims none.
    """
    cases, behind = options.cases or (), _behind(options, model)
    transform = _main_rule(options, model, epochs, steps_per_epoch, () if cases else behind)
    if options.others is not None:
        binary = optim.variable_mask(model, BinaryWeight)
        key = "optimizer.others"
        others = make_rule(key, options.others, model, epochs, steps_per_epoch)
        transform = optax.chain(
            optax.masked(transform, binary),
            optax.masked(others, jax.tree.map(lambda flag: not flag, binary)),
        )
    if cases:
        owners = {
            f"case{i}": _owner(
                f"optimizer.cases.{i}", case, options, model, epochs, steps_per_epoch
            )
            for i, case in enumerate(cases)
        }
        transform = optax.chain(_partition(model, owners, transform), *behind)
    if options.clip_norm:
        transform = optax.chain(optax.clip_by_global_norm(options.clip_norm), transform)
    return transform


def _owner(
    key: str,
    case: optimizers.Case,
    options: optimizers.Optimizer,
    model: nnx.Module,
    epochs: int,
    steps_per_epoch: int,
) -> tuple[Owner, optax.GradientTransformation]:
    claimed = named(f"{key}.match", case.match, model)
    latent = [path for path, variable in claimed if isinstance(variable, BinaryWeight)]
    if latent and isinstance(options, optimizers.Bop):
        raise ConfigError(f"{key}.match: claims {latent[0]}, whose weights Bop flips; leave it out")
    rule = make_rule(key, case, model, epochs, steps_per_epoch)
    return functools.partial(chosen, case.match), rule


def _partition(
    model: nnx.Module,
    owners: dict[str, tuple[Owner, optax.GradientTransformation]],
    main: optax.GradientTransformation,
) -> optax.GradientTransformation:
    try:
        return optim.partition(model, owners, main)
    except ValueError as error:
        message = str(error).removeprefix("partition: ")
        raise ConfigError(f"optimizer.cases: {message}") from None


def _main_rule(
    options: optimizers.Optimizer,
    model: nnx.Module,
    epochs: int,
    steps_per_epoch: int,
    behind: Sequence[optax.GradientTransformation],
) -> optax.GradientTransformation:
    if not isinstance(options, optimizers.Bop):
        rule = make_rule("optimizer", options, model, epochs, steps_per_epoch)
        return optax.chain(rule, *behind)
    found = []
    for name in ("threshold", "gamma"):
        key, schedule = f"optimizer.{name}_schedule", getattr(options, f"{name}_schedule")
        refuse_decays(key, schedule)
        found.append(make_rate(key, getattr(options, name), schedule, epochs, steps_per_epoch))
    threshold, gamma = found
    if options.order == 1:
        return optim.bop(threshold, gamma)
    return optim.second_order_bop(threshold, gamma, options.sigma, unbiased=options.unbiased)


def _behind(options: optimizers.Optimizer, model: nnx.Module) -> list[optax.GradientTransformation]:
    if isinstance(options, optimizers.Bop):
        return []
    mask = optim.variable_mask(model, BinaryWeight)
    chain = []
    if options.glorot_scale != "none":
        power_of_two = options.glorot_scale == "power_of_two"
        chain.append(optim.scale_by_glorot(mask, power_of_two=power_of_two))
    if options.clip:
        chain.append(optim.clip_latent(options.clip, mask))
    return chain


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
