"""Suite-wide settings: two CPU devices, no implicit rank promotion. Set before jax is imported."""

import os
from collections.abc import Iterator

DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=2".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def strict_promotion() -> Iterator[None]:
    """No implicit dtype promotion. For binjax's own functions: optax itself fails under it."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit types."""
    with jax.enable_x64(True):
        yield
