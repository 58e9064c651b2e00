"""What happens to images between the data set and the network, as a config says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from binjax import data
from binjax.config import Config, ConfigError
from binjax.config.data import FittedScaling, NoScaling, StandardScaling, UnitScaling
from binjax.data.augment import normalize, random_crop, random_flip, scale_to_unit
from binjax.data.color import color_jitter, lighting
from binjax.data.contrast import mean_and_deviation
from binjax.data.crops import center_crop, random_resized_crop
from binjax.data.pixels import as_floats, as_pixels
from binjax.data.prepare import prepare
from binjax.deploy.floats import PixelScaling
from binjax.layers import UNIT, PixelScale
from binjax.layers.quantize import resolve_quantizer
from binjax.ste import is_sign
from binjax.train.step import Augment, Preprocess
from binjax.xnor.pixel_scale import LARGEST_K

Scaling = UnitScaling | StandardScaling | FittedScaling | NoScaling
Shape = tuple[int, int, int]


def load_data(config: Config, warn: Callable[[str], None] = warnings.warn) -> data.Dataset:
    """The config's data set in memory, prepared as ``data.prepare`` says.

    ``image_shape`` is what the network sees; images may be larger (``data.crop_size``).

    Args:
        config: of a run.
        warn: told of a damaged file in the cache, which was not used.

    Raises:
        ConfigError, DataError: no such set, files missing or damaged, too much for memory, a crop
            larger than the images.
    """
    options = config.data
    found = data.load(
        options.name,
        directory=options.dir,
        validation=options.validation,
        train_files=options.train_files,
        limit_train=options.limit_train,
        limit_test=options.limit_test,
        file=options.file,
        function=options.function,
        image_size=options.image_size,
        channels=options.channels,
        memory_gib=options.memory_gib,
    )
    shape = _seen(config, found.image_shape)
    if found.train.images.dtype != np.uint8 and options.scaling.kind != "none":
        raise ConfigError(
            f'data.scaling: "{options.scaling.kind}" is for pixels in uint8; the images of '
            f'{options.function or options.file} are floats: say data.scaling.kind = "none"'
        )
    found = prepare(found, options.prepare, warn=warn, memory_gib=options.memory_gib)
    return replace(found, image_shape=shape)


def data_info(config: Config) -> data.Info:
    """Size and classes of the config's data set, from its table or files.

    Raises:
        ConfigError, DataError: no such set; one of the user's own that is not as it should be.
    """
    options = config.data
    if options.name not in (*data.DATASETS, *data.CUSTOM):
        known = ", ".join((*data.DATASETS, *data.CUSTOM))
        raise ConfigError(f"data.name: {options.name!r} is not one of {known}")
    info = data.describe(
        options.name,
        directory=options.dir,
        file=options.file,
        function=options.function,
        image_size=options.image_size,
        channels=options.channels,
    )
    return replace(info, image_shape=_seen(config, info.image_shape))


def count_train(config: Config, info: data.Info) -> int:
    """Training images of the whole set, less those of validation.

    Raises:
        ConfigError: a choice of files, whose images only reading them tells.
    """
    options = config.data
    if options.train_files is not None:
        raise ConfigError("data.train_files: setup needs n_train= with it")
    held_out = info.default_validation if options.validation is None else options.validation
    n_train = info.n_train - held_out
    return min(n_train, options.limit_train or n_train)


def fit_scaling(config: Config, dataset: data.Dataset) -> Config:
    """The config with numbers for "fitted" scaling: "standard", of the set's training images.

    Raises:
        ConfigError: training images of one value.
    """
    scaling = config.data.scaling
    if not isinstance(scaling, FittedScaling):
        return config
    mean, std = mean_and_deviation(dataset.train.images, per_channel=scaling.per == "channel")
    if min(std) == 0:
        raise ConfigError(
            f'data.scaling: "fitted": all pixels of channel {std.index(0)} of the training images '
            "are the same; take another scaling"
        )
    fitted = StandardScaling(mean=tuple(mean), std=tuple(std))
    return config.model_copy(update={"data": config.data.model_copy(update={"scaling": fitted})})


def pixel_scale(config: Config) -> PixelScale | None:
    """What pixels stand for, where the network takes images as they are, uint8; None: scaled ones.

    Raises:
        ConfigError: its ``first_layer`` says so, but something else does not go with it.
    """
    model, scaling = config.model, config.data.scaling
    first_layer = getattr(model, "first_layer", "float")
    if first_layer == "float":
        return None
    problem, scale = None, UNIT
    if config.data.prepare:
        problem = "pixels, not what data.prepare makes of them"
    elif not isinstance(scaling, UnitScaling):
        # A convolution's border would add a multiple of other weights at each place.
        problem = 'data.scaling.kind = "unit" ([-1, 1])'
        if model.kind == "mlp":
            problem = "one mean and one deviation in data.scaling"
            numbers = _numbers(scaling)
            if numbers is not None:
                scale, problem = PixelScale.standard(*numbers), None
                if max(map(abs, scale)) * LARGEST_K * 255 > np.finfo(np.float32).max:
                    problem = "a deviation in data.scaling that float32 can divide by"
    quantizer = getattr(model, "kernel_quantizer", None)
    if quantizer is not None and not is_sign(resolve_quantizer(quantizer.model_dump(), 1)):
        problem = "a model.kernel_quantizer that binarizes"
    if problem is not None and first_layer == "pixels":
        raise ConfigError(f'model.first_layer: "pixels" needs {problem}; "auto" does without')
    return scale if problem is None else None


def _numbers(scaling: Scaling) -> tuple[float, float] | None:
    """The one mean and the one deviation; any, where they are not fitted yet."""
    if isinstance(scaling, StandardScaling) and len(scaling.mean) == len(scaling.std) == 1:
        return scaling.mean[0], scaling.std[0]
    return (0.0, 1.0) if isinstance(scaling, FittedScaling) and scaling.per == "set" else None


def pixel_scaling(scaling: Scaling) -> PixelScaling:
    """What :func:`make_preprocess` does to pixels, as arrays.

    Raises:
        ConfigError: numbers that aren't fitted yet.
    """
    if isinstance(scaling, UnitScaling):
        return PixelScaling(np.full(1, 2), np.full(1, 255), np.full(1, 1 / 255))
    if isinstance(scaling, NoScaling):
        return PixelScaling(np.ones(1), np.zeros(1), np.ones(1))
    if not isinstance(scaling, StandardScaling):
        raise _without_numbers()
    mean, std = (np.asarray(v, np.float32) for v in (scaling.mean, scaling.std))
    return PixelScaling(np.ones(1), mean, np.reciprocal(std))


def make_preprocess(config: Config, image_shape: Shape) -> Preprocess:
    """Images ``[n, h, w, c]`` to what the network takes: scaled float32, or pixels as they are.

    Images that are larger than ``image_shape`` are cut to their centre.

    Raises:
        ConfigError: as many means or standard deviations as there are neither channels nor one,
            none yet, or a scaling that does not go with ``data.prepare``; see also
            :func:`pixel_scale`.
    """
    scale = _make_scale(config, image_shape[2])
    size = image_shape[:2]

    def preprocess(images: jax.Array) -> jax.Array:
        return scale(images if images.shape[1:3] == size else center_crop(images, size))

    return preprocess


def _make_scale(config: Config, channels: int) -> Preprocess:
    scaling = config.data.scaling
    if isinstance(scaling, UnitScaling) and config.data.prepare:
        raise ConfigError(
            'data.scaling: "unit" is for pixels of 0 to 255, not for what data.prepare makes of '
            'them: leave it out, or say "none"'
        )
    as_they_are = pixel_scale(config) is not None
    if isinstance(scaling, FittedScaling):
        raise _without_numbers()
    if isinstance(scaling, StandardScaling):
        for name, values in (("mean", scaling.mean), ("std", scaling.std)):
            if len(values) not in (1, channels):
                raise ConfigError(
                    f"data.scaling.{name}: wants one number or one for each of the {channels} "
                    f"channels, got {len(values)}"
                )
    if as_they_are:
        return lambda images: images
    if isinstance(scaling, UnitScaling):
        return scale_to_unit
    if isinstance(scaling, NoScaling):
        return as_floats
    mean, std = (v[0] if len(v) == 1 else v for v in (scaling.mean, scaling.std))
    return lambda images: normalize(images, mean, std)


def make_augment(config: Config, image_shape: Shape) -> Augment:
    """``augment(key, images)``, inside jit: images of the network's size, of the same dtype.

    In this order, each with a key of its own: crop, mirror, colours, lighting. uint8 images are
    rounded once, after the colours.

    Raises:
        ConfigError: a crop larger than the image, two crops, colours of prepared images or of
            images without colours.
    """
    options = config.data
    size = image_shape[:2]
    colored = options.color_jitter is not None or options.lighting > 0
    _check_augmentation(config, image_shape)

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        dtype = images.dtype
        if options.resized_crop is not None:
            crop = options.resized_crop
            images = random_resized_crop(
                jax.random.fold_in(key, 0), images, size, crop.scale, crop.ratio
            )
        elif options.random_crop or images.shape[1:3] != size:
            images = random_crop(jax.random.fold_in(key, 0), images, options.random_crop, size=size)
        if options.random_flip:
            images = random_flip(jax.random.fold_in(key, 1), images)
        if not colored:
            return images
        x: Any = as_floats(images)
        if options.color_jitter is not None:
            jitter = options.color_jitter
            x = color_jitter(
                jax.random.fold_in(key, 2), x, jitter.brightness, jitter.contrast, jitter.saturation
            )
        if options.lighting:
            x = lighting(jax.random.fold_in(key, 3), x, options.lighting)
        return as_pixels(x, dtype)

    return augment


def _check_augmentation(config: Config, image_shape: Shape) -> None:
    options, (height, width, channels) = config.data, image_shape
    if options.random_crop > min(height, width):
        raise ConfigError(
            f"data.random_crop: {options.random_crop} is more than the images of "
            f"{height}x{width} allow"
        )
    if options.random_crop and options.resized_crop is not None:
        raise ConfigError("data.random_crop and data.resized_crop both crop: leave one out")
    for name, wanted in (("color_jitter", options.color_jitter), ("lighting", options.lighting)):
        if wanted and (options.prepare or options.scaling.kind == "none"):
            other = "data.prepare" if options.prepare else 'data.scaling.kind = "none"'
            raise ConfigError(
                f"data.{name}: changes pixels of 0 to 255, and {other} goes with other numbers; "
                "leave one out"
            )
    if options.color_jitter is not None and channels not in (1, 3):
        raise ConfigError(f"data.color_jitter: wants 1 or 3 channels, the images have {channels}")
    if options.lighting and channels != 3:
        raise ConfigError(
            f"data.lighting: wants red, green and blue, the images have {channels} channels"
        )


def _seen(config: Config, held: Shape) -> Shape:
    """The shape of what the network sees of images in memory."""
    size = config.data.crop_size
    if size is None:
        return held
    if size[0] > held[0] or size[1] > held[1]:
        raise ConfigError(
            f"data.crop_size: {size[0]}x{size[1]} is larger than the images of {held[0]}x{held[1]}"
        )
    return (*size, held[2])


def _without_numbers() -> ConfigError:
    return ConfigError(
        'data.scaling: "fitted" has no mean and deviation here; a run that has begun has them in '
        "its config.toml, binjax.train.fit_scaling(config, load_data(config)) makes them"
    )
