"""What happens to images between memory and the network, in jit, as a config says."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from binjax.config import Config, ConfigError
from binjax.config.data import FittedScaling, NoScaling, StandardScaling, UnitScaling
from binjax.data.augment import normalize, random_crop, random_flip, scale_to_unit
from binjax.data.color import color_jitter, lighting
from binjax.data.crops import center_crop, random_resized_crop
from binjax.data.pixels import as_floats, as_pixels
from binjax.deploy.floats import PixelScaling
from binjax.layers import UNIT, PixelScale
from binjax.layers.quantize import resolve_quantizer
from binjax.ste import is_sign
from binjax.train.step import Augment, Preprocess
from binjax.xnor.pixel_scale import LARGEST_K

Scaling = UnitScaling | StandardScaling | FittedScaling | NoScaling
Shape = tuple[int, int, int]


def pixel_scale(config: Config) -> PixelScale | None:
    """What pixels stand for, where the network takes images as they are, uint8; None: scaled ones.

    Raises:
        ConfigError: its ``first_layer`` says so, but something else does not go with it; a kernel
            quantizer whose parameters do not go together.
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
    if quantizer is not None:
        try:
            signs = is_sign(resolve_quantizer(quantizer.model_dump(), 1))
        except ValueError as error:
            raise ConfigError(f"model.kernel_quantizer: {error}") from None
        problem = problem if signs else "a model.kernel_quantizer that binarizes"
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


def _without_numbers() -> ConfigError:
    return ConfigError(
        'data.scaling: "fitted" has no mean and deviation here; a run that has begun has them in '
        "its config.toml, binjax.train.fit_scaling(config, load_data(config)) makes them"
    )
