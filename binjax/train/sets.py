"""The data set of a config: its facts, its images in memory, the numbers fitted to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from binjax import data
from binjax.config import Config, ConfigError
from binjax.config.data import FittedScaling, StandardScaling
from binjax.data.contrast import mean_and_deviation
from binjax.data.prepare import prepare

Shape = tuple[int, int, int]


def load_data(config: Config, warn: Callable[[str], None] = warnings.warn) -> data.Dataset:
    """The config's data set in memory, prepared as ``data.prepare`` says.

    ``image_shape`` is what the network sees; images may be larger (``data.crop_size``).

    Args:
        config: of a run.
        warn: told of a damaged file in the cache, which was not used, and of keys that another data
            set has.

    Raises:
        ConfigError, DataError: no such set, files missing or damaged, too much for memory, a crop
            larger than the images.
    """
    options = config.data
    for key, idle, name in (
        ("file", options.file is None, "npz"),
        ("function", options.function is None, "python"),
        ("channels", options.channels == 3, "folder"),
    ):
        if not idle and options.name != name:
            warn(f'data.{key} is of the data set "{name}"; "{options.name}" does not use it')
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
