"""Compiled programs on two devices: where results lie, and what was communicated."""

import re

import jax
import pytest
from jax.sharding import AxisType, NamedSharding

COLLECTIVES = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")


def two_devices():
    """A mesh of two devices with the axis "d"; the test is skipped where there is one."""
    if len(jax.devices()) < 2:
        pytest.skip(f"needs two devices, found {jax.devices()}")
    return jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def run(mesh, function, operands, specs):
    """Results, their shardings' specs, and the collectives of the compiled program.

    Specs are a list where there are several results.
    """
    placed = [
        jax.device_put(a, NamedSharding(mesh, spec))
        for a, spec in zip(operands, specs, strict=True)
    ]
    compiled = jax.jit(function).lower(*placed).compile()
    out = jax.block_until_ready(compiled(*placed))
    found = [trimmed(getattr(a.sharding, "spec", ())) for a in jax.tree.leaves(out)]
    several = isinstance(out, tuple | list)
    return out, found if several else found[0], set(COLLECTIVES.findall(compiled.as_text()))


def trimmed(spec):
    """A spec without the axes at its end that are not split."""
    spec = tuple(spec)
    while spec and spec[-1] is None:
        spec = spec[:-1]
    return spec
