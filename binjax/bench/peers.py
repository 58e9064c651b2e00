"""A deployed network as others compute it: torch, bnn-lab's kernels, processes that run Larq."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from binjax.bench.deployed import Array
from binjax.deploy.graph import Graph
from binjax.deploy.operations import (
    AFFINE,
    PIXEL_LEVELS,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Threshold,
)

Predict = Callable[[Array], Array]
"""uint8 images ``[n, h, w, c]`` to scores ``float32[n, classes]``."""


class LeftOut(RuntimeError):
    """A contestant that cannot take part here; the message says why, in one line."""


def torch_predict(graph: Graph, arrays: Mapping[str, Array], threads: int) -> Predict:
    """The network in torch, float32; convolutions with channels last in memory.

    Raises:
        LeftOut: torch is not installed.
    """
    torch = _imported("torch")
    functional = importlib.import_module("torch.nn.functional")
    torch.set_num_threads(threads)
    order = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}  # kernels as torch has them
    placed: dict[str, Any] = {
        name: torch.from_numpy(np.array(array.transpose(order[array.ndim]), order="C"))
        for name, array in arrays.items()
    }
    for name, kernel in placed.items():
        if kernel.ndim == 4:
            placed[name] = kernel.contiguous(memory_format=torch.channels_last)

    def part(x: Any, op: Any, name: str) -> Any:
        return placed[f"{op.name}.{name}"].reshape((1, -1) + (1,) * (x.ndim - 2))

    def predict(images: Array) -> Array:
        with torch.inference_mode():
            x = torch.from_numpy(images).permute(0, 3, 1, 2)
            for op in graph.ops:
                if isinstance(op, Flatten):
                    x = x.permute(0, 2, 3, 1).reshape(len(images), -1)
                elif isinstance(op, MaxPool):
                    x = functional.max_pool2d(x, op.window, op.strides)
                    x = x * part(x, op, "sign")
                else:
                    assert isinstance(op, Dense | Conv)
                    kernel = placed[f"{op.name}.kernel"]
                    if op.operand == "pixels":
                        x = 2.0 * x.float() - PIXEL_LEVELS
                    if isinstance(op, Dense):
                        x = functional.linear(x, kernel)
                    else:
                        border = op.geometry.padding[::2]
                        x = functional.conv2d(x, kernel, None, op.geometry.strides, border)
                    if isinstance(op.rule, Threshold):
                        sign = part(x, op, "sign")
                        x = torch.where(x >= part(x, op, "limit"), sign, -sign)
                    else:
                        bias, mean, factor, offset = (part(x, op, name) for name in AFFINE)
                        x = ((x * op.rule.scale + bias) - mean) * factor + offset
            return np.asarray(x.reshape(len(images), -1))

    return predict


def bnn_lab_predict(graph: Graph, arrays: Mapping[str, Array], threads: int) -> Predict:
    """An MLP with bnn-lab's packed products; the first layer, and thresholds, in torch.

    Raises:
        LeftOut: bnn-lab, its native kernel or torch is not installed; the network has convolutions.
    """
    if any(isinstance(op, Conv) for op in graph.ops):
        raise LeftOut("its kernels were tried on dense layers only")
    torch = _imported("torch")
    _imported("bnn")
    kernels = importlib.import_module("bnn.kernels")
    if not kernels.native_kernel_available():
        raise LeftOut("its native kernel cannot be used")
    torch.set_num_threads(threads)
    kernels.set_num_threads(threads)
    layers = [op for op in graph.ops if isinstance(op, Dense)]
    first, last = layers[0], layers[-1]
    real = torch.from_numpy(np.ascontiguousarray(arrays[f"{first.name}.kernel"].T))
    words = {
        op.name: kernels.pack_binary_pm1(arrays[f"{op.name}.kernel"], axis=0) for op in layers[1:]
    }
    signs = {op.name: torch.from_numpy(arrays[f"{op.name}.sign"]).char() for op in layers[:-1]}
    limits = {op.name: torch.from_numpy(arrays[f"{op.name}.limit"]) for op in layers[:-1]}
    bias, mean, factor, offset = (arrays[f"{last.name}.{part}"] for part in AFFINE)

    def predict(images: Array) -> Array:
        with torch.inference_mode():
            x = 2.0 * torch.from_numpy(images.reshape(len(images), -1)).float() - PIXEL_LEVELS
            sums = torch.nn.functional.linear(x, real)
            for before, op in itertools.pairwise(layers):
                sign = signs[before.name]
                bits = torch.where(sums >= limits[before.name], sign, -sign).numpy()
                packed, k = kernels.pack_binary_pm1(bits)
                product = kernels.binary_gemm_native_prepacked(packed, words[op.name][0], k)
                sums = torch.from_numpy(product)
            return np.asarray((sums.numpy() + bias - mean) * factor + offset)

    return predict


def _imported(name: str) -> Any:
    """A module that need not be there."""
    if importlib.util.find_spec(name) is None:
        raise LeftOut(f"{name} is not installed")
    return importlib.import_module(name)


# Other Pythons


class Server:
    """A process that answers each batch size on a line with the number of images it predicted.

    Before that it says, in a line of JSON, its ``version`` and ``notes``, or its ``error``.

    Attributes:
        version: of what it runs.
        notes: what else a reader has to know.
    """

    def __init__(self, command: Sequence[str], network: Mapping[str, Any]):
        """Start it.

        Args:
            command: its program and arguments; the network follows as JSON.
            network: what it should build.

        Raises:
            LeftOut: it ended, or cannot run the network.
        """
        self._process = subprocess.Popen(
            [*command, json.dumps(network)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            said = json.loads(self._line())
            if "error" in said:
                raise LeftOut(said["error"])
        except BaseException:
            self.close()
            raise
        self.version = str(said["version"])
        self.notes = tuple(said["notes"])

    def predict(self, batch: int) -> int:
        """Have one batch predicted; 0 images cost the exchange of two lines alone.

        Raises:
            LeftOut: it cannot do it, or ended.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer tells
            self._process.stdin.write(f"{batch}\n")
            self._process.stdin.flush()
        answer = self._line().strip()
        if not answer.isdecimal():
            raise LeftOut(answer)
        return int(answer)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LeftOut("its process ended")
        return line
