"""The jitted functions of training: step, evaluation, ends of epochs. All are pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from binjax.layers import apply, apply_watched
from binjax.train.distill import Distillation
from binjax.train.state import Totals, TrainState
from binjax.train.telemetry import Flips, pack_kernels

Loss = Callable[[jax.Array, jax.Array], jax.Array]
Preprocess = Callable[[jax.Array], jax.Array]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
Gradient = Callable[..., Any]
Advance = Callable[[Any, jax.Array], Any]
Step = Callable[..., tuple[TrainState, dict[str, jax.Array]]]
Evaluate = Callable[[Any, Any, Totals, Any, Any, Any], Totals]


def make_advance(flags: Any, steps_per_epoch: int, epochs: int) -> Advance:
    """``advance(stats, step)``: every ``Progress`` set to the share of epochs that are over.

    Args:
        flags: bools of the structure of ``stats``, true for ``Progress`` variables.
        steps_per_epoch, epochs: of the whole training.
    """

    def advance(stats: Any, step: jax.Array) -> Any:
        share = ((step // steps_per_epoch) / epochs).astype(jnp.float32)
        fill = lambda leaf, flag: jnp.full_like(leaf, share) if flag else leaf  # noqa: E731
        return jax.tree.map(fill, stats, flags)

    return advance


def make_gradient(
    graphdef: nnx.GraphDef[Any],
    loss: Loss,
    augment: Augment,
    preprocess: Preprocess,
    advance: Advance = lambda stats, step: stats,
    distill: Distillation | None = None,
) -> Gradient:
    """``gradient(state, images, labels) -> ((loss, (scores, stats)), gradients)`` of a step.

    With ``distill`` it takes the teacher's variables as a fourth argument.
    """
    watched = () if distill is None else distill.watched

    def objective(
        params: Any, stats: Any, images: jax.Array, labels: jax.Array, key: jax.Array, target: Any
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        if watched:
            scores, stats, seen = apply_watched(
                graphdef, params, stats, images, watched, train=True, key=key
            )
        else:
            seen = {}
            scores, stats = apply(graphdef, params, stats, images, train=True, key=key)
        scores = scores.astype(jnp.float32)
        value = loss(scores, labels)
        if distill is not None:
            value = distill.loss(value, scores, seen, target)
        return value, (scores, stats)

    def gradient(
        state: TrainState, images: jax.Array, labels: jax.Array, teacher: Any = None
    ) -> Any:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        images = augment(jax.random.fold_in(key, 0), images)
        target = None if distill is None else distill.target(teacher, images)
        return jax.value_and_grad(objective, has_aux=True)(
            state.params,
            advance(state.stats, state.step),
            preprocess(images),
            labels,
            jax.random.fold_in(key, 1),
            target,
        )

    return gradient


def make_step(
    gradient: Gradient, optimizer: optax.GradientTransformation, flips: Flips | None = None
) -> Step:
    """``step(state, images, labels) -> (state, metrics)``, jitted; the state is donated.

    Images are uint8 ``[n, h, w, c]``, labels int32 ``[n]``; metrics are scalars on the device:
    ``loss``, ``accuracy``, ``failed_step``. A step whose loss or gradient is not finite, and
    every step after it, leaves the weights alone; the first is noted in ``failed_step``. What
    further arguments it is given, it hands to ``gradient``. With ``flips``, see
    :func:`binjax.train.telemetry.make_flips`, it counts them into the state's.
    """

    def step(
        state: TrainState, images: jax.Array, labels: jax.Array, *more: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        (value, (scores, stats)), grads = gradient(state, images, labels, *more)
        good = _all_finite(value, grads) & (state.failed_step < 0)

        def update(params: Any, opt_state: Any) -> Any:
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), stats, opt_state

        def keep(params: Any, opt_state: Any) -> Any:
            return params, state.stats, opt_state

        # A select between new and old would be computed for every parameter: three times slower.
        params, stats, opt_state = jax.lax.cond(good, update, keep, state.params, state.opt_state)
        counted = state.flips
        if flips is not None:
            found = flips((state.params, state.stats), (params, stats))
            counted = jax.tree.map(jnp.add, counted, found)
        correct = jnp.sum(jnp.argmax(scores, -1) == labels, dtype=jnp.int32)
        failed_step = jnp.where(good | (state.failed_step >= 0), state.failed_step, state.step)
        state = state._replace(
            params=params,
            stats=stats,
            opt_state=opt_state,
            step=state.step + 1,
            totals=_add(state.totals, value * labels.size, correct, labels.size),
            flips=counted,
            failed_step=failed_step,
        )
        accuracy = correct / labels.size
        return state, {"loss": value, "accuracy": accuracy, "failed_step": failed_step}

    return jax.jit(step, donate_argnums=0)


def make_evaluate(graphdef: nnx.GraphDef[Any], loss: Loss, preprocess: Preprocess) -> Evaluate:
    """``evaluate(params, stats, totals, images, labels, valid) -> totals``, jitted.

    Only the first ``valid`` examples count, so that a padded last batch has the others' shape.
    """

    def evaluate(
        params: Any,
        stats: Any,
        totals: Totals,
        images: jax.Array,
        labels: jax.Array,
        valid: jax.Array,
    ) -> Totals:
        scores, _ = apply(graphdef, params, stats, preprocess(images), train=False)
        scores = scores.astype(jnp.float32)
        counted = jnp.arange(labels.size) < valid
        losses = jax.vmap(loss)(scores, labels)
        correct = (jnp.argmax(scores, -1) == labels) & counted
        return _add(
            totals,
            jnp.sum(jnp.where(counted, losses, 0)),
            jnp.sum(correct, dtype=jnp.int32),
            jnp.asarray(valid, jnp.int32),
        )

    return jax.jit(evaluate)


def make_end_epoch(flags: Any, advance: Advance) -> Callable[[TrainState], TrainState]:
    """``end_epoch(state)``: ``Progress`` as of the steps taken, for evaluation; donates.

    Args:
        flags, advance: see :func:`make_advance`.
    """
    if not any(jax.tree.leaves(flags)):
        return lambda state: state

    def end_epoch(state: TrainState) -> TrainState:
        return state._replace(stats=advance(state.stats, state.step))

    return jax.jit(end_epoch, donate_argnums=0)


def make_begin_epoch(graphdef: nnx.GraphDef[Any]) -> Callable[[TrainState], TrainState]:
    """``begin_epoch(state)``: totals to zero, the signs of the binary kernels noted; donates.

    Parameters are looked at here: a step would not notice a latent weight that is NaN, since it
    multiplies its sign. Steps themselves never make one.
    """

    def begin_epoch(state: TrainState) -> TrainState:
        signs = pack_kernels(nnx.merge(graphdef, state.params, state.stats))
        good = _all_finite(jnp.float32(0), state.params) | (state.failed_step >= 0)
        failed_step = jnp.where(good, state.failed_step, state.step)
        return state._replace(
            totals=Totals.zero(),
            epoch_signs=signs,
            flips=jax.tree.map(jnp.zeros_like, state.flips),
            failed_step=failed_step,
        )

    return jax.jit(begin_epoch, donate_argnums=0)


def _all_finite(value: jax.Array, grads: Any) -> jax.Array:
    """Whether the loss and every gradient are finite."""
    found = [jnp.isfinite(value)]
    for leaf in jax.tree.leaves(grads):
        if leaf.ndim < 2:
            found.append(jnp.all(jnp.isfinite(leaf)))
        else:
            # 0 * inf is NaN: a matrix-vector product reads a large gradient four times as fast
            # as a reduction does on CPUs. A loss that is not finite is refused anyway.
            rows = leaf.reshape(-1, leaf.shape[-1])
            zeros = jnp.broadcast_to(value * 0, rows.shape[:1]).astype(leaf.dtype)
            found.append(jnp.all(jnp.isfinite(zeros @ rows)))
    return jnp.all(jnp.stack(found))


def _add(totals: Totals, loss: Any, correct: Any, images: Any) -> Totals:
    return Totals(totals.loss + loss, totals.correct + correct, totals.images + images)
