"""What happens to images between the data set and the network, as a config says."""

from __future__ import annotations

import jax
import numpy as np

from binjax import data
from binjax.config import Config, ConfigError
from binjax.config.data import StandardScaling, UnitScaling
from binjax.data.augment import normalize, random_crop, random_flip, scale_to_unit
from binjax.deploy.floats import PixelScaling
from binjax.layers import UNIT, PixelScale
from binjax.train.step import Augment, Preprocess
from binjax.xnor.pixel_scale import LARGEST_K


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
    if problem is not None and first_layer == "pixels":
        raise ConfigError(f'model.first_layer: "pixels" needs {problem}; "auto" does without')
    return scale if problem is None else None


def pixel_scaling(scaling: UnitScaling | StandardScaling) -> PixelScaling:
    """What :func:`make_preprocess` does to pixels, as arrays."""
    if isinstance(scaling, UnitScaling):
        return PixelScaling(np.full(1, 2), np.full(1, 255), np.full(1, 1 / 255))
    mean, std = (np.asarray(v, np.float32) for v in (scaling.mean, scaling.std))
    return PixelScaling(np.ones(1), mean, np.reciprocal(std))


def make_preprocess(config: Config, image_shape: tuple[int, int, int]) -> Preprocess:
    """Images ``[n, h, w, c]`` to what the network takes: scaled float32, or pixels as they are.

    Raises:
        ConfigError: as many means or standard deviations as there are neither channels nor one;
            see also :func:`pixel_scale`.
    """
    scaling, channels = config.data.scaling, image_shape[2]
    as_they_are = pixel_scale(config) is not None
    if isinstance(scaling, UnitScaling):
        return (lambda images: images) if as_they_are else scale_to_unit
    for name, values in (("mean", scaling.mean), ("std", scaling.std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"data.scaling.{name}: wants one number or one for each of the {channels} "
                f"channels, got {len(values)}"
            )
    if as_they_are:
        return lambda images: images
    mean, std = (v[0] if len(v) == 1 else v for v in (scaling.mean, scaling.std))
    return lambda images: normalize(images, mean, std)


def make_augment(config: Config, image_shape: tuple[int, int, int]) -> Augment:
    """``augment(key, images)``, inside jit.

    Raises:
        ConfigError: a crop larger than the image.
    """
    options = config.data
    if options.random_crop > min(image_shape[:2]):
        raise ConfigError(
            f"data.random_crop: {options.random_crop} is more than the images of "
            f"{image_shape[0]}x{image_shape[1]} allow"
        )

    def augment(key: jax.Array, images: jax.Array) -> jax.Array:
        if options.random_crop:
            images = random_crop(jax.random.fold_in(key, 0), images, options.random_crop)
        if options.random_flip:
            images = random_flip(jax.random.fold_in(key, 1), images)
        return images

    return augment


def data_info(config: Config) -> data.Info:
    """Size and classes of the config's data set.

    Raises:
        ConfigError: no such set.
    """
    info = data.INFO.get(config.data.name)
    if info is None:
        known = ", ".join(data.DATASETS)
        raise ConfigError(f"data.name: {config.data.name!r} is not one of {known}")
    return info


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
