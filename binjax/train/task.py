"""From a config to everything that trains it: model, state, jitted functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from binjax.config import Config, ConfigError
from binjax.data import Dataset
from binjax.layers import BinaryWeight, Progress, ProgressiveSign, products, split
from binjax.losses import LABEL_LOSSES, cross_entropy
from binjax.models import MODELS
from binjax.models.options import Compute
from binjax.optim import binarize_params, variable_mask
from binjax.train.distill import Distillation
from binjax.train.inputs import make_augment, make_preprocess, pixel_scale
from binjax.train.optimizer import free_weights_warning, make_optimizer, make_schedule
from binjax.train.parallel import ALONE, Placement, make_placement
from binjax.train.probe import Probe, make_probe
from binjax.train.sets import count_train, data_info, fit_scaling
from binjax.train.state import Totals, TrainState
from binjax.train.step import (
    Evaluate,
    Gradient,
    Preprocess,
    Step,
    make_advance,
    make_begin_epoch,
    make_end_epoch,
    make_evaluate,
    make_gradient,
    make_step,
)
from binjax.train.telemetry import make_flips, make_telemetry, pack_kernels

# Apart from the small numbers that nnx.Rngs folds into the same seed for initialization.
_RUN_KEY = 2**31 - 1


@dataclass(frozen=True)
class Task:
    """A config made runnable. See :mod:`binjax.train.step` and ``telemetry`` for the functions.

    ``products`` says per layer which kernel multiplies, and why floats do where they do;
    ``warning``, what will probably not train well; ``ready`` begins a run from a state whose
    parameters come from elsewhere; ``binary_from`` is the share of the run from which on all
    kernels are what their quantizers end as; ``probe``, if the config asks for it, see
    :func:`binjax.train.probe.make_probe`.
    """

    config: Config
    graphdef: nnx.GraphDef[Any]
    init: Callable[[], TrainState]
    ready: Callable[[TrainState], TrainState]
    gradient: Gradient
    step: Step
    evaluate: Evaluate
    begin_epoch: Callable[[TrainState], TrainState]
    end_epoch: Callable[[TrainState], TrainState]
    telemetry: Callable[[TrainState, Any], dict[str, dict[str, jax.Array]]]
    probe: Probe | None
    preprocess: Preprocess
    schedule: optax.Schedule
    steps_per_epoch: int
    batch_size: int
    placement: Placement
    products: dict[str, str]
    warning: str | None = None
    binary_from: float = 0.0


def make_model(
    config: Config, image_shape: tuple[int, int, int], n_classes: int, rngs: nnx.Rngs
) -> nnx.Module:
    """The network of a config.

    Raises:
        ConfigError: the image size does not fit the model.
    """
    options = config.model.model_dump(exclude={"kind", "first_layer"})
    pixels = pixel_scale(config)
    compute = Compute(config.backend, config.memory, jnp.dtype(config.dtype))
    try:
        return MODELS[config.model.kind](
            image_shape, n_classes, pixels=pixels or False, compute=compute, rngs=rngs, **options
        )
    except ValueError as error:
        raise ConfigError(f"model.kind {config.model.kind}: {error}") from None


def make_task(
    config: Config,
    image_shape: tuple[int, int, int],
    n_classes: int,
    n_train: int,
    placement: Placement = ALONE,
    distill: Distillation | None = None,
) -> Task:
    """Build the model's graph, the optimizer and the jitted functions; computes nothing.

    With ``distill`` the steps imitate that teacher.

    Raises:
        ConfigError: a back end of another platform, batch larger than the training set, image size
            that does not fit the model, crop larger than the image, scaling for another number of
            channels.
    """
    if config.batch_size > n_train:
        raise ConfigError(
            f"batch_size: {config.batch_size} is larger than the {n_train} training images"
        )
    platform = {"native": "cpu", "triton": "gpu"}.get(config.backend, jax.default_backend())
    if platform != jax.default_backend():
        raise ConfigError(
            f"backend: {config.backend!r} runs on {platform}s, this run would compute on "
            f"{jax.default_backend()}; choose auto, float or xla"
        )
    steps_per_epoch = n_train // config.batch_size
    preprocess, augment = make_preprocess(config, image_shape), make_augment(config, image_shape)
    loss = make_loss(config)

    def build() -> nnx.Module:
        return make_model(config, image_shape, n_classes, nnx.Rngs(config.seed))

    abstract = nnx.eval_shape(build)
    graphdef, _, _ = split(abstract)
    mask = variable_mask(abstract, BinaryWeight)
    schedule = make_schedule(config.optimizer, config.epochs, steps_per_epoch)
    optimizer = make_optimizer(config.optimizer, abstract, config.epochs, steps_per_epoch)
    flipping = config.optimizer.kind == "bop"
    flags = progress_flags(abstract)
    advance = make_advance(flags, steps_per_epoch, config.epochs)
    gradient = make_gradient(graphdef, loss, augment, preprocess, advance, distill)
    flips = make_flips(graphdef) if config.telemetry.ff_ratio else None
    step = make_step(gradient, optimizer, flips)
    if distill is not None:
        teacher = placement.replicate(distill.teacher.variables)
        gradient, step = _imitating(gradient, teacher), _imitating(step, teacher)

    def ready(state: TrainState) -> TrainState:
        # What an optimizer of flips takes is ±1.
        params = binarize_params(state.params, mask) if flipping else state.params
        signs = pack_kernels(nnx.merge(graphdef, params, state.stats))
        return state._replace(params=params, start_signs=signs)

    @jax.jit
    def init() -> TrainState:
        _, params, stats = split(build())
        params = binarize_params(params, mask) if flipping else params
        signs = pack_kernels(nnx.merge(graphdef, params, stats))
        return TrainState(
            params=params,
            stats=stats,
            opt_state=optimizer.init(params),
            key=jax.random.key_data(jax.random.fold_in(jax.random.key(config.seed), _RUN_KEY)),
            step=jnp.int32(0),
            totals=Totals.zero(),
            epoch_signs=signs,
            start_signs=jax.tree.map(jnp.copy, signs),  # a step donates both
            flips={} if flips is None else {layer: jnp.zeros([]) for layer in signs},
            failed_step=jnp.int32(-1),
        )

    return Task(
        config=config,
        graphdef=graphdef,
        init=init,
        ready=ready,
        gradient=gradient,
        step=step,
        evaluate=make_evaluate(graphdef, loss, preprocess),
        begin_epoch=make_begin_epoch(graphdef),
        end_epoch=make_end_epoch(flags, advance),
        telemetry=make_telemetry(graphdef, preprocess, config.optimizer, steps_per_epoch),
        probe=make_probe(abstract, loss, preprocess, advance)
        if config.telemetry.gradient_cosine
        else None,
        preprocess=preprocess,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        placement=placement,
        products=products(abstract, config.batch_size // placement.n_devices),
        warning=free_weights_warning(config.optimizer, abstract),
        binary_from=max(
            (m.until for _, m in nnx.iter_modules(abstract) if isinstance(m, ProgressiveSign)),
            default=0.0,
        ),
    )


def make_loss(config: Config) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The config's loss of (scores, integer labels).

    Raises:
        ConfigError: label smoothing of a loss that has none.
    """
    if config.label_smoothing == 0:
        return LABEL_LOSSES[config.loss]
    if config.loss != "cross_entropy":
        raise ConfigError(f'label_smoothing: wants loss = "cross_entropy", not {config.loss!r}')
    return lambda scores, labels: cross_entropy(scores, labels, config.label_smoothing)


def progress_flags(model: nnx.Module) -> Any:
    """Which of a model's variables other than parameters are ``Progress``; bools of their tree."""
    _, _, stats = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    flags = jax.tree.map(
        lambda v: isinstance(v, Progress), stats, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )
    return nnx.to_pure_dict(flags)


def _imitating(function: Callable[..., Any], teacher: Any) -> Callable[..., Any]:
    """A gradient or step with the teacher's variables behind its other arguments."""
    return lambda state, images, labels: function(state, images, labels, teacher)


def setup(
    config: Config, n_train: int | None = None, dataset: Dataset | None = None
) -> tuple[TrainState, Step]:
    """Initial state and jitted step of a config, for a training loop of your own.

    Args:
        config: what to train; no image is read.
        n_train: training images, by which schedules count epochs; default those of the official
            data set less ``data.validation``. Needed with ``data.train_files``.
        dataset: what it trains on, in place of ``data.name``: as :func:`binjax.train.load_data`
            or :func:`binjax.data.from_arrays` gives it; fits "fitted" scaling.

    Returns:
        ``(state, step)``; ``state, metrics = step(state, images, labels)`` donates the state.
        With several devices (``parallel.devices``) the state is on each of them, and ``step``
        splits its numpy batch, which in every process is the whole one.

    Warns:
        UserWarning: latent weights that nothing clips and no gradient would reach.

    Raises:
        ConfigError: see :func:`make_task` and :func:`binjax.train.parallel.make_placement`.
    """
    for key in ("distill", "init_from"):
        if getattr(config, key) is not None:
            raise ConfigError(f"{key}: belongs to `binjax train`; setup knows no other runs")
    if dataset is None:
        info = data_info(config)
        sizes = info.image_shape, info.n_classes
        n_train = count_train(config, info) if n_train is None else n_train
    else:
        config = fit_scaling(config, dataset)
        sizes = dataset.image_shape, dataset.n_classes
        n_train = len(dataset.train) if n_train is None else n_train
    placement = make_placement(config)
    task = make_task(config, *sizes, n_train, placement)
    if task.warning is not None:
        warnings.warn(task.warning, stacklevel=2)
    if placement.mesh is None:
        return task.init(), task.step

    def step(state: TrainState, images: Any, labels: Any) -> Any:
        return task.step(state, *placement.split(images, labels))

    return placement.replicate(task.init()), step
