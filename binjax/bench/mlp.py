"""The MLP of figure 2: trained briefly, folded into integers, run with floats or packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from binjax import config as configs
from binjax import data, train
from binjax.bench.timing import Array
from binjax.xnor import pack_bits, packed_matmul, packed_matmul_threshold

_EPS = 1e-4  # of the networks' batch normalization

Product = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Size:
    """How large: the matrices, the hidden layers, the training.

    Attributes:
        matrix: rows, columns and depth of the product.
        widths: of the hidden layers.
        epochs: of training, enough for a network worth its name.
        train_images, test_images: as many of them are used.
        seconds: of timing, for each of the two.
        slow_seconds: the unoptimised kernel multiplies as many rows as take so long.
    """

    matrix: int = 8192
    widths: tuple[int, ...] = (4096, 4096, 4096)
    epochs: int = 3
    train_images: int = 10_000
    test_images: int = 10_000
    seconds: float = 5.0
    slow_seconds: float = 8.0


class Network(NamedTuple):
    """A trained MLP in integers.

    Layer i's sums d become ``+1 where sign[i] * (d - edge[i]) > 0, else -1``; edges are half
    integers, so that no sum lies on one. Scores are ``sums * scale + bias``.

    Attributes:
        kernels: ±1 float32 ``[n_in, n_out]``, one for each layer.
        edges, signs: float32 ``[n_out]``, for each layer but the last.
        scale, bias: float64 ``[classes]``.
    """

    kernels: Sequence[Array]
    edges: Sequence[Array]
    signs: Sequence[Array]
    scale: Array
    bias: Array


def train_network(config: configs.Config, dataset: data.Dataset) -> Network:
    """Train a config's MLP and fold it."""
    task = train.make_task(config, dataset.image_shape, dataset.n_classes, len(dataset.train))
    state = task.init()
    for epoch in range(config.epochs):
        for batch in data.train_batches(dataset.train, config.batch_size, config.seed, epoch):
            state, _ = task.step(state, *batch)
    return fold(state.params, state.stats, len(state.params) // 2 - 1)


def load_images(size: Size, data_dir: str | None) -> tuple[configs.Config, data.Dataset]:
    """How to train, and on what.

    Raises:
        DataError: no MNIST there.
    """
    images: dict[str, Any] = {"validation": 0, "limit_train": size.train_images}
    if data_dir:
        images |= {"name": "mnist", "dir": data_dir}
    table = {
        "epochs": size.epochs,
        "data": images,
        "model": {
            "kind": "mlp",
            "widths": list(size.widths),
            "input_dropout": 0.0,
            "hidden_dropout": 0.0,
            "use_bias": False,
            "norm": {"kind": "batch", "eps": _EPS},
        },
        "optimizer": {
            "kind": "adam",
            "learning_rate": 0.003,
            "glorot_scale": "exact",
            "schedule": {"kind": "exponential", "end": 1e-4},
        },
    }
    config = configs.validate(table, "figure 2")
    return config, train.load_data(config)


def fold(params: Any, stats: Any, n_hidden: int) -> Network:
    """Fold batch normalization and the scaling of pixels into edges.

    The layer's sum of pixels p times ±1 weights w stands for ``sum((2p/255 - 1) w)``.
    """
    kernels, edges, signs = [], [], []
    for i in range(1, n_hidden + 2):
        latent = np.asarray(params[f"dense{i}"]["kernel"])
        kernels.append(np.where(latent >= 0, np.float32(1), np.float32(-1)))
        norm = {name: np.asarray(v, np.float64) for name, v in params[f"norm{i}"].items()}
        mean, variance = (np.asarray(stats[f"norm{i}"][s], np.float64) for s in ("mean", "spread"))
        scale = norm["scale"] / np.sqrt(variance + _EPS)
        bias = norm["bias"] - mean * scale
        if i > n_hidden:
            break
        if i == 1:
            bias = bias - kernels[0].sum(0) * scale
            scale = scale * 2 / 255
        never = 2.0**23
        root = -bias / np.where(scale == 0, 1, scale)
        # sums >= root are +1 where scale > 0, sums <= root where scale < 0
        edge = np.where(scale > 0, np.ceil(root) - 0.5, np.floor(root) + 0.5)
        edge = np.where(scale == 0, np.where(bias >= 0, -never, never), edge)
        edges.append(np.clip(edge, -never + 0.5, never - 0.5).astype(np.float32))
        signs.append(np.where(scale < 0, np.float32(-1), np.float32(1)))
    return Network(kernels, edges, signs, scale, bias)


def float_sums(network: Network, images: Any, product: Product, xp: Any) -> Any:
    """The last layer's sums by float products; ``xp`` is ``numpy`` or ``jax.numpy``."""
    x = images
    for kernel, edge, sign in zip(network.kernels, network.edges, network.signs, strict=False):
        x = xp.where((product(x, kernel) - edge[None]) * sign[None] > 0, 1, -1).astype(xp.float32)
    return product(x, network.kernels[-1])


class Packed(NamedTuple):
    """A network for the binary kernels: words instead of floats, but in the first layer."""

    first: Any
    words: Sequence[Any]
    thresholds: Sequence[tuple[Any, Any]]


def pack_network(network: Network, backend: str) -> Packed:
    """Pack the weights, once and for all."""
    words = [pack_bits(jnp.asarray(k.T), backend=backend) for k in network.kernels[1:]]
    thresholds = []
    for kernel, edge, sign in zip(
        network.kernels[1:-1], network.edges[1:], network.signs[1:], strict=True
    ):
        k = kernel.shape[0]
        least = np.clip(np.ceil(edge), -k, k + 1).astype(np.int32)
        thresholds.append((jnp.asarray(least), jnp.asarray(sign < 0)))
    first = tuple(jnp.asarray(a[0]) for a in (network.kernels, network.edges, network.signs))
    return Packed(first, words, thresholds)


def packed_sums(packed: Packed, images: jax.Array, backend: str) -> jax.Array:
    """The last layer's sums by binary products."""
    kernel, edge, sign = packed.first
    xp = pack_bits((images @ kernel - edge[None]) * sign[None], backend=backend)
    k = kernel.shape[1]
    for words, (least, flip) in zip(packed.words, packed.thresholds, strict=False):
        xp = packed_matmul_threshold(xp, words, k, least, flip, backend=backend)
        k = words.shape[0]
    return packed_matmul(xp, packed.words[-1], k, backend=backend)
