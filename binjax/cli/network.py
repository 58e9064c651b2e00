"""The networks that commands deploy: of a run, or of another framework's weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flax import nnx

from binjax import config as configs
from binjax import deploy
from binjax.cli.progress import warn
from binjax.config import Config, ConfigError
from binjax.data.crops import center_crop
from binjax.deploy.importers import import_weights
from binjax.deploy.pack import blocks_of
from binjax.deploy.prove import Certificate, prove
from binjax.layers import split
from binjax.summary import summarize
from binjax.train import (
    RunFolder,
    Trained,
    data_info,
    load_data,
    make_task,
    pixel_scaling,
    restore_run,
)

_FLOAT_MACS = 2e12
"""Multiply-accumulates of float products of each set of images in a proof: 10 s and more."""


@dataclass(frozen=True)
class Network:
    """A trained network to deploy.

    Attributes:
        config: with which it evaluates.
        trained: its variables in the network of a config like that one.
        test_images: uint8 ``[n, h, w, c]``, perhaps none.
        image_shape: of one image.
    """

    config: Config
    trained: Callable[[Config], Trained]
    test_images: np.ndarray
    image_shape: tuple[int, int, int]

    def pack(self, *, allow_float: bool) -> deploy.PackedModel:
        """The packed model of uint8 images."""
        return deploy.pack(
            self.trained(self.config).model(),
            self.image_shape,
            scaling=self.config.data.scaling.model_dump_json(),
            allow_float=allow_float,
            pixel_scaling=pixel_scaling(self.config.data.scaling),
        )

    def float_layers(self, packed: deploy.PackedModel) -> dict[str, str]:
        """Why layers of a packed model multiply floats."""
        if not packed.graph.float_layers:
            return {}
        model, image = self.trained(self.config).model(), packed.graph.image
        blocks, _, _ = blocks_of(model, image.shape, image.scaling, pixels=True, allow_float=True)
        return {block.op.name: block.floats for block in blocks if block.floats is not None}

    def prove(self, packed: deploy.PackedModel, n_random: int) -> Certificate:
        """The certificate of :func:`binjax.deploy.prove.prove`."""
        trained = self.trained(self.config)
        floats = self.trained(self.config.model_copy(update={"backend": "float"}))
        model = trained.model()
        macs = sum(summarize(model, self.image_shape).macs.values())
        return prove(
            model,
            packed,
            floats.scores(),
            {"test": self.test_images} if len(self.test_images) else {},
            pixel_scaling=pixel_scaling(self.config.data.scaling),
            kernels=trained.scores(),
            in_floats=int(_FLOAT_MACS / macs),
            n_random=n_random,
        )


def of_run(root: Path, data_dir: str | None, *, last: bool) -> Network:
    """The network of a run's best or last epoch.

    Raises:
        ConfigError, DataError, CheckpointError: no such run, its data set is not there, no usable
            checkpoint.
    """
    path = root / "config.toml"
    if not path.exists():
        raise ConfigError(f"{root}: is neither a run folder (no config.toml) nor a file")
    config = _for_deployment(configs.load(path, ["--data.dir", data_dir] if data_dir else []), root)
    dataset = load_data(config, warn)
    once = restore_run(config, RunFolder(root), dataset, warn, last=last)

    def trained(config: Config) -> Trained:
        task = make_task(config, dataset.image_shape, dataset.n_classes, len(dataset.train))
        return replace(once, task=task)

    if dataset.test.images.dtype != np.uint8:
        raise ConfigError(f"{root}: its images are floats; only a network of pixels can be packed")
    test_images = center_crop(dataset.test.images, dataset.image_shape[:2])
    return Network(config, trained, test_images, dataset.image_shape)


def of_weights(path: Path, weights: Path) -> Network:
    """The network of a config with the weights of another framework's file.

    Raises:
        ConfigError, DeployError: a config, or a file, that cannot be read or does not fit.
    """
    config = _for_deployment(configs.load(path), path)
    info = data_info(config)

    def trained(config: Config) -> Trained:
        task = make_task(config, info.image_shape, info.n_classes, info.n_train)
        state = task.init()
        model = import_weights(nnx.merge(task.graphdef, state.params, state.stats), weights)
        _, params, stats = split(model)
        return Trained(task, params, stats, epoch=0, step=0)

    none = np.zeros((0, *info.image_shape), np.uint8)
    return Network(config, trained, none, info.image_shape)


def _for_deployment(config: Config, source: Path) -> Config:
    """The same network on one device, in float32."""
    if config.data.prepare:
        steps = ", ".join(step.kind for step in config.data.prepare)
        raise ConfigError(
            f"{source}: its images went through data.prepare ({steps}), which a packed model does "
            "not do; only a network of pixels, without it, can be packed"
        )
    if config.dtype != "float32":
        print(
            f"binjax: {source} computes in {config.dtype}; its network is deployed in float32",
            file=sys.stderr,
        )
    return config.model_copy(update={"dtype": "float32", "backend": "auto"})
