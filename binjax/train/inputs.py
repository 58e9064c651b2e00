"""What happens to images between the data set and the network, as a config says."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from binjax.config import Config, ConfigError
from binjax.config.data import Data, StandardScaling, UnitScaling
from binjax.data.augment import normalize, random_crop, random_flip, scale_to_unit
from binjax.deploy.floats import PixelScaling
from binjax.layers import UNIT, PixelScale
from binjax.train.step import Preprocess
from binjax.xnor.pixel_scale import LARGEST_K


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
