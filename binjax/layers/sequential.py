"""A chain of named layers, which may keep little for its backward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
from flax import nnx

from binjax.layers.base import BinaryLayer, Factors, plus_bias, scaled
from binjax.layers.functional import apply, split
from binjax.layers.recording import record_passed
from binjax.ste import factors_of
from binjax.xnor.product import Keep, multiply_then

Memory = Literal["full", "int16", "lean"]
MEMORIES: tuple[str, ...] = get_args(Memory)


class Sequential(nnx.Module):
    """Layers one after the other, each an attribute under its name.

    The i-th layer gets ``fold_in(key, i)``, so random layers draw independently.

    Args:
        layers: name to layer, in order; a layer is called ``layer(x, train=..., key=...)``.
        memory: what a training step keeps of a packed product and of what follows it up to the
            next binary layer (pooling, normalization): ``"full"``, its floats; ``"int16"``, its
            sums as 16-bit integers; ``"lean"``, nothing but the bits of its operands, from which
            it is multiplied again. Values and gradients are the same.

    Raises:
        ValueError: unknown memory; ``"int16"`` for a layer with more than 32767 inputs.
    """

    def __init__(self, layers: Mapping[str, nnx.Module], *, memory: Memory = "full"):
        if memory not in MEMORIES:
            raise ValueError(f"memory is {memory!r}; choose {', '.join(map(repr, MEMORIES))}")
        self.names, self.memory = tuple(layers), memory
        for name, layer in layers.items():
            check_sums(name, layer, memory)
            setattr(self, name, layer)

    def __call__(
        self, x: jax.Array, *, train: bool = False, key: jax.Array | None = None
    ) -> jax.Array:
        """x: what the first layer takes."""
        for block in self._blocks(train):
            x = self._run(block, x, train, key)
            record_passed(self, self.names[block[-1]], x)
        return x

    def _blocks(self, train: bool) -> list[list[int]]:
        """Numbers of the layers: each alone, or one that keeps bits with those behind it."""
        layers = [getattr(self, name) for name in self.names]
        blocks: list[list[int]] = []
        for i, layer in enumerate(layers):
            begun = bool(blocks) and self._keeps_bits(layers[blocks[-1][0]], train)
            if begun and not isinstance(layer, BinaryLayer):
                blocks[-1].append(i)
            else:
                blocks.append([i])
        return blocks

    def _run(
        self, block: Sequence[int], x: jax.Array, train: bool, key: jax.Array | None
    ) -> jax.Array:
        first = getattr(self, self.names[block[0]])
        own = None if key is None else jax.random.fold_in(key, block[0])
        keeps = self._keeps_bits(first, train)
        if keeps and len(block) == 1:  # alone it keeps bits only, unless a scale needs its sums
            keeps = factors_of(first.kernel_quantizer) is not None
        if not keeps:
            out: jax.Array = first(x, train=train, key=own)
            return out
        first.check(x)
        factors = first.factors(x, train=train, key=own)
        return self._run_packed(first, factors, block[1:], key)

    def _keeps_bits(self, layer: nnx.Module, train: bool) -> bool:
        """Whether a layer begins a block that is computed again in the backward pass."""
        if self.memory == "full" or not train or not isinstance(layer, BinaryLayer):
            return False
        return layer.one_product and layer.floats_because(train=train) is None

    def _run_packed(
        self, first: BinaryLayer, factors: Factors, numbers: Sequence[int], key: jax.Array | None
    ) -> jax.Array:
        # The tail as a pure function: its modules are made anew from their variables inside.
        tail = [getattr(self, self.names[i]) for i in numbers]
        keys = [None if key is None else jax.random.fold_in(key, i) for i in numbers]
        parts = [split(module) for module in tail]
        bias = None if first.bias is None else first.bias[...]

        def run(result: jax.Array, rest: Any) -> tuple[jax.Array, list[Any]]:
            scale, bias, params, stats, keys = rest
            y, moved = plus_bias(scaled(result, scale), bias), []
            for (graphdef, _, _), *own in zip(parts, params, stats, keys, strict=True):
                y, new = apply(graphdef, own[0], own[1], y, train=True, key=own[2])
                moved.append(new)
            return y, moved

        rest = (factors.scale, bias, [p for _, p, _ in parts], [s for _, _, s in parts], keys)
        # Sums of pixels are not kept: they are quickly made again, and too large for 16 bits.
        keep: Keep = "int16" if self.memory == "int16" and not first.pixels else "lean"
        assert factors.product is not None
        y: jax.Array
        y, moved = multiply_then(factors.product, run, keep, factors.x, factors.kernel, rest)
        for module, new in zip(tail, moved, strict=True):
            nnx.update(module, new)
        return y


def check_sums(name: str, layer: nnx.Module, memory: str) -> None:
    """Refuse a layer whose sums ``memory`` cannot hold.

    Raises:
        ValueError: ``"int16"`` for a layer with more than 32767 inputs.
    """
    if memory != "int16" or not isinstance(layer, BinaryLayer) or layer.pixels:
        return
    if layer.floats_because(train=True) is None and layer.elements > 32767:
        raise ValueError(
            f'{name} sums {layer.elements} products, memory = "int16" holds up to 32767; '
            'take "full" or "lean"'
        )
