"""From a config to everything that trains it: model, state, jitted functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from binjax import data, metrics
from binjax.config import Config, ConfigError
from binjax.config.data import Data, StandardScaling, UnitScaling
from binjax.data.augment import normalize, random_crop, random_flip, scale_to_unit
from binjax.deploy.floats import PixelScaling
from binjax.layers import UNIT, BinaryWeight, PixelScale, products, split
from binjax.losses import LABEL_LOSSES
from binjax.models import MODELS
from binjax.models.options import Compute
from binjax.optim import variable_mask
from binjax.train.optimizer import make_optimizer, make_schedule
from binjax.train.parallel import ALONE, Placement, make_placement
from binjax.train.state import Totals, TrainState, binary_weights
from binjax.train.step import (
    Evaluate,
    Gradient,
    Preprocess,
    Step,
    make_begin_epoch,
    make_evaluate,
    make_gradient,
    make_step,
    make_telemetry,
)
from binjax.xnor.pixel_scale import LARGEST_K

# Apart from the small numbers that nnx.Rngs folds into the same seed for initialization.
_RUN_KEY = 2**31 - 1


@dataclass(frozen=True)
class Task:
    """A config made runnable. See :mod:`binjax.train.step` for the functions.

    ``products`` says per layer which kernel multiplies, and why floats do where they do.
    """

    config: Config
    graphdef: nnx.GraphDef[Any]
    init: Callable[[], TrainState]
    gradient: Gradient
    step: Step
    evaluate: Evaluate
    begin_epoch: Callable[[TrainState], TrainState]
    telemetry: Callable[[TrainState, Any], dict[str, dict[str, jax.Array]]]
    preprocess: Preprocess
    schedule: optax.Schedule
    steps_per_epoch: int
    batch_size: int
    placement: Placement
    products: dict[str, str]


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


def pixel_scale(config: Config) -> PixelScale | None:
    """What pixels stand for, where the network takes images as they are, uint8; None: scaled ones.

    Raises:
        ConfigError: its ``first_layer`` says so, but something else does not go with it.
    """
    model, scaling = config.model, config.data.scaling
    if model.first_layer == "float":
        return None
    problem, scale = None, UNIT
    if isinstance(scaling, StandardScaling):
        # A convolution's border would add a multiple of other weights at each place.
        if model.kind == "mlp" and len(scaling.mean) == len(scaling.std) == 1:
            scale = PixelScale.standard(scaling.mean[0], scaling.std[0])
            if max(map(abs, scale)) * LARGEST_K * 255 > np.finfo(np.float32).max:
                problem = "a deviation in data.scaling that float32 can divide by"
        elif model.kind == "mlp":
            problem = "one mean and one deviation in data.scaling"
        else:
            problem = 'data.scaling.kind = "unit" ([-1, 1])'
    if getattr(model, "kernel_quantizer", "ste_sign") == "noop":
        problem = "a model.kernel_quantizer that binarizes"
    if problem is not None and model.first_layer == "pixels":
        raise ConfigError(f'model.first_layer: "pixels" needs {problem}; "auto" does without')
    return scale if problem is None else None


def pixel_scaling(scaling: UnitScaling | StandardScaling) -> PixelScaling:
    """What :func:`make_preprocess` does to pixels, as arrays."""
    if isinstance(scaling, UnitScaling):
        return PixelScaling(np.full(1, 2), np.full(1, 255), np.full(1, 1 / 255))
    mean, std = (np.asarray(v, np.float32) for v in (scaling.mean, scaling.std))
    return PixelScaling(np.ones(1), mean, np.reciprocal(std))


def make_task(
    config: Config,
    image_shape: tuple[int, int, int],
    n_classes: int,
    n_train: int,
    placement: Placement = ALONE,
) -> Task:
    """Build the model's graph, the optimizer and the jitted functions; computes nothing.

    Raises:
        ConfigError: a back end of another platform, batch larger than the training set, image size
            that does not fit the model, crop larger than the image, scaling for another number of
            channels.
    """
    if config.batch_size > n_train:
        raise ConfigError(
            f"batch_size: {config.batch_size} is larger than the {n_train} training images"
        )
    if config.data.random_crop > min(image_shape[:2]):
        raise ConfigError(
            f"data.random_crop: {config.data.random_crop} is more than the images of "
            f"{image_shape[0]}x{image_shape[1]} allow"
        )
    platform = {"native": "cpu", "triton": "gpu"}.get(config.backend, jax.default_backend())
    if platform != jax.default_backend():
        raise ConfigError(
            f"backend: {config.backend!r} runs on {platform}s, this run would compute on "
            f"{jax.default_backend()}; choose auto, float or xla"
        )
    steps_per_epoch = n_train // config.batch_size
    preprocess = make_preprocess(config.data.scaling, image_shape[-1])
    if pixel_scale(config) is not None:
        preprocess = _as_they_are
    loss = LABEL_LOSSES[config.loss]

    def build() -> nnx.Module:
        return make_model(config, image_shape, n_classes, nnx.Rngs(config.seed))

    abstract = nnx.eval_shape(build)
    graphdef, _, _ = split(abstract)
    mask = variable_mask(abstract, BinaryWeight)
    schedule = make_schedule(config.optimizer, config.epochs, steps_per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule, mask)
    gradient = make_gradient(graphdef, loss, make_augment(config.data), preprocess)

    @jax.jit
    def init() -> TrainState:
        _, params, stats = split(build())
        return TrainState(
            params=params,
            stats=stats,
            opt_state=optimizer.init(params),
            key=jax.random.key_data(jax.random.fold_in(jax.random.key(config.seed), _RUN_KEY)),
            step=jnp.int32(0),
            totals=Totals.zero(),
            epoch_signs=metrics.pack_signs(binary_weights(params, mask)),
            failed_step=jnp.int32(-1),
        )

    return Task(
        config=config,
        graphdef=graphdef,
        init=init,
        gradient=gradient,
        step=make_step(gradient, optimizer),
        evaluate=make_evaluate(graphdef, loss, preprocess),
        begin_epoch=make_begin_epoch(mask),
        telemetry=make_telemetry(graphdef, mask, preprocess),
        preprocess=preprocess,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        placement=placement,
        products=products(abstract, config.batch_size // placement.n_devices),
    )


def setup(config: Config, n_train: int | None = None) -> tuple[TrainState, Step]:
    """Initial state and jitted step of a config, for a training loop of your own.

    Args:
        config: what to train; no image is read.
        n_train: training images, by which schedules count epochs; default those of the official
            data set less ``data.validation``. Needed with ``data.train_files``.

    Returns:
        ``(state, step)``; ``state, metrics = step(state, images, labels)`` donates the state.
        With several devices (``parallel.devices``) the state is on each of them, and ``step``
        splits its numpy batch, which in every process is the whole one.

    Raises:
        ConfigError: see :func:`make_task` and :func:`binjax.train.parallel.make_placement`.
    """
    info = data.INFO.get(config.data.name)
    if info is None:
        known = ", ".join(data.DATASETS)
        raise ConfigError(f"data.name: {config.data.name!r} is not one of {known}")
    if n_train is None and config.data.train_files is not None:
        raise ConfigError("data.train_files: setup needs n_train= with it")
    if n_train is None:
        validation = config.data.validation
        n_train = info.n_train - (info.default_validation if validation is None else validation)
        n_train = min(n_train, config.data.limit_train or n_train)
    placement = make_placement(config)
    task = make_task(config, info.image_shape, info.n_classes, n_train, placement)
    if placement.mesh is None:
        return task.init(), task.step

    def step(state: TrainState, images: Any, labels: Any) -> Any:
        return task.step(state, *placement.split(images, labels))

    return placement.replicate(task.init()), step


def load_data(config: Config) -> data.Dataset:
    """The config's data set, in memory."""
    options = config.data
    return data.load(
        options.name,
        directory=options.dir,
        validation=options.validation,
        train_files=options.train_files,
        limit_train=options.limit_train,
        limit_test=options.limit_test,
    )


def _as_they_are(images: jax.Array) -> jax.Array:
    return images


def make_preprocess(scaling: UnitScaling | StandardScaling, channels: int) -> Preprocess:
    """uint8 images ``[n, h, w, c]`` to the network's float32 input.

    Raises:
        ConfigError: as many means or standard deviations as there are neither channels nor one.
    """
    if isinstance(scaling, UnitScaling):
        return scale_to_unit
    for name, values in (("mean", scaling.mean), ("std", scaling.std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"data.scaling.{name}: wants one number or one for each of the {channels} "
                f"channels, got {len(values)}"
            )
    mean, std = (v[0] if len(v) == 1 else v for v in (scaling.mean, scaling.std))
    return lambda images: normalize(images, mean, std)


def make_augment(options: Data) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``augment(key, images)`` on uint8 images, inside jit."""

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        if options.random_crop:
            images = random_crop(jax.random.fold_in(key, 0), images, options.random_crop)
        if options.random_flip:
            images = random_flip(jax.random.fold_in(key, 1), images)
        return images

    return augment
