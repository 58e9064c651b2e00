"""The same networks and training step in PyTorch, as BinaryNet.pytorch writes them.

After itayhubara/BinaryNet.pytorch: the sign of weights and inputs is multiplied as floats, latent
weights are clamped after the optimizer's step.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from binjax.bench.plain import Net


def make_step(net: Net, params: Any, threads: int, library: str = "torch") -> Callable[..., float]:
    """``step(images, labels) -> loss``; images float32 NHWC, labels int32, numpy.

    Args:
        net: what to build.
        params: initial parameters, by binjax's names.
        threads: that torch uses.
        library: ``"torch"``, or ``"bnn-lab"`` for its layers behind the first, whose input is real.

    Raises:
        ImportError: torch, or bnn-lab, is not installed.
    """
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(threads)

    class Sign(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return torch.where(x >= 0, 1.0, -1.0)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * (x.abs() <= 1)

    binary = Sign.apply
    lab = None
    if library == "bnn-lab":
        lab = importlib.import_module("bnn.layers")
        binary = importlib.import_module("bnn.ste").binary_sign
    kernels, norms = nn.ParameterList(), nn.ModuleList()
    modules: list[Any] = []
    scales: list[Any] = []
    for i, layer in enumerate(net.layers):
        kernel = np.asarray(params[f"{layer.kind}{layer.number}"]["kernel"])
        order = (1, 0) if layer.kind == "dense" else (3, 2, 0, 1)
        kernels.append(nn.Parameter(torch.tensor(np.ascontiguousarray(kernel.transpose(order)))))
        modules.append(None)
        if lab is not None and i:
            made = lab.BinaryLinear if layer.kind == "dense" else lab.BinaryConv2d
            modules[i] = made(*kernel.shape[-2:])
            modules[i].weight = kernels[i]
            scales.append(modules[i].alpha)
            nn.init.ones_(modules[i].alpha)
        norm = nn.BatchNorm1d if layer.kind == "dense" else nn.BatchNorm2d
        norms.append(norm(kernel.shape[-1], eps=net.eps, momentum=1 - net.momentum))
    own = [*kernels.parameters(), *norms.parameters(), *scales]
    optimizer = torch.optim.Adam(own, lr=1e-3)

    def step(images: Any, labels: Any) -> float:
        x = torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2)
        for i, (layer, kernel, norm) in enumerate(zip(net.layers, kernels, norms, strict=True)):
            x = binary(x) if i and lab is None else x
            if layer.flatten:  # channels last, as the others do
                x = (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).reshape(x.shape[0], -1)
            if modules[i] is not None:
                x = modules[i](x)
            elif layer.kind == "dense":
                x = functional.linear(x, binary(kernel))
            else:
                x = functional.conv2d(x, binary(kernel), padding=int(layer.padding == "SAME"))
            x = norm(functional.max_pool2d(x, 2) if layer.pool else x)
        signs = 2.0 * functional.one_hot(torch.from_numpy(np.asarray(labels)).long(), x.shape[1])
        loss = torch.clamp(1.0 - (signs - 1.0) * x, min=0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kernel in kernels:
                kernel.clamp_(-1, 1)
        return float(loss.detach())

    return step
