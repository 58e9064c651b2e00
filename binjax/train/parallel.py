"""Training over several devices: the state on each of them, every batch split between them.

The step is the one of a single device. XLA's partitioner makes each device compute its rows of the
batch and adds up what is summed over the batch: gradients, batch statistics, loss. With several
processes, process 0 leads: it alone reads and writes the run folder.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from binjax.config import Config, ConfigError
from binjax.train.rundir import RunError

AXIS = "data"
_VOTE_SECONDS = 0.5
_MOST_STEPS = 1000


@dataclass(frozen=True)
class Placement:
    """Where arrays are put.

    Attributes:
        mesh: one axis, over which batches are split; None for JAX's default device alone, where
            nothing is put anywhere.
        processes: how many train together; each calls the same functions in the same order.
        lead: whether this is process 0.
    """

    mesh: Mesh | None = None
    processes: int = 1
    lead: bool = True

    @property
    def n_devices(self) -> int:
        """Over how many devices batches are split."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def blocks(self) -> bool:
        """Whether to wait for each step: CPU devices of one process share the threads in which
        they wait for one another, and steps in flight can use them up.
        """
        return self.mesh is not None and jax.local_devices()[0].platform == "cpu"

    def split(self, *arrays: Any) -> tuple[Any, ...]:
        """Numpy arrays ``[n, ...]``, split by rows, or whole on each device if n does not divide.

        Every process gives all rows and keeps its own.
        """
        if self.mesh is None:
            return arrays
        divides = all(len(array) % self.mesh.size == 0 for array in arrays)
        spec = PartitionSpec(AXIS) if divides else PartitionSpec()
        return tuple(_put(array, NamedSharding(self.mesh, spec)) for array in arrays)

    def replicate(self, tree: Any) -> Any:
        """A pytree of arrays of this process, the same in all processes, onto each device."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, tree)
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: _put(np.asarray(leaf), sharding), tree)

    def local(self, tree: Any) -> Any:
        """What :meth:`replicate` gave, or a step made of it, on this process's first device."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def lead_does(
        self, work: Callable[[], tuple[dict[str, Any], Any]], like: Any
    ) -> tuple[dict[str, Any], Any]:
        """What ``work()`` returns in process 0: notes for JSON, and a pytree like ``like``.

        Raises:
            RunError: ``work`` raised in process 0, and this is another one.
            ValueError: raised by ``work``.
        """
        if self.processes == 1:
            return work()
        if not self.lead:
            notes = json.loads(_broadcast(b""))
            if notes is None:
                raise RunError(f"process {jax.process_index()}: ends with process 0, see there")
            return notes, _broadcast_tree(like)
        try:
            notes, tree = work()
        except BaseException:
            _broadcast(b"null")
            raise
        _broadcast(json.dumps(notes).encode())
        return notes, _broadcast_tree(jax.tree.map(np.asarray, tree))

    def check_same(self, what: str, value: Any) -> None:
        """Compare something that JSON can hold between all processes.

        Raises:
            RunError: it is not the same in all (raised in each of them).
        """
        if self.processes == 1:
            return
        mine = json.dumps(value, sort_keys=True).encode()
        same = _broadcast(mine) == mine
        found = np.ravel(multihost_utils.process_allgather(np.asarray([same])))
        if not found.all():
            others = ", ".join(map(str, np.flatnonzero(~found)))
            raise RunError(f"--distributed: process {others} has other {what} than process 0")


ALONE = Placement()


def make_placement(config: Config) -> Placement:
    """The placement that a config asks for.

    Touches no device if that is the default one and ``jax.distributed`` has not been initialized.

    Raises:
        ConfigError: fewer devices than that, shares that are not equal.
    """
    wanted, batch = config.parallel.devices, config.batch_size
    distributed = jax.distributed.is_initialized()
    if wanted in (None, 1) and not distributed:
        return ALONE
    processes = jax.process_count()
    n = jax.device_count() if wanted in (None, 0) else wanted
    assert n is not None
    share, left = divmod(n, processes)
    chosen = [_devices_of(process)[:share] for process in range(processes)]
    if left:
        raise ConfigError(
            f"parallel.devices: {n} devices cannot be shared by {processes} processes; "
            f"wants a multiple of {processes}, or 0 for all"
        )
    if any(len(devices) < share for devices in chosen):
        fewest = min(map(len, chosen))
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ConfigError(
            f"parallel.devices: wants {share}{each}, but there is only {fewest} "
            f"({jax.default_backend()})"
        )
    if batch % n:
        raise ConfigError(
            f"batch_size: {batch} images cannot be split over {n} devices; "
            f"{_near(batch, n)} can (or set parallel.devices)"
        )
    lead = jax.process_index() == 0
    if n == 1:
        return Placement(None, processes, lead)
    devices = [device for some in chosen for device in some]
    mesh = jax.make_mesh((n,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return Placement(mesh, processes, lead)


class Agreement:
    """Turns "this process was asked to stop" into "all stop now", after the same step in each.

    The processes vote about twice a second; how many steps that is, they agree on in each vote.
    """

    def __init__(self, placement: Placement, stop: threading.Event):
        self._placement, self._stop = placement, stop
        self._left, self._period, self._voted = 1, 1, time.perf_counter()
        if placement.mesh is not None:
            replicated = NamedSharding(placement.mesh, PartitionSpec())
            self._most = jax.jit(lambda votes: jnp.max(votes, 0), out_shardings=replicated)

    def reached(self) -> bool:
        """To be called by every process after each step. With one process, simply its flag."""
        if self._placement.processes == 1:
            return self._stop.is_set()
        self._left -= 1
        if self._left:
            return False
        now = time.perf_counter()
        by_time = int(_VOTE_SECONDS * self._period / max(now - self._voted, 1e-9))
        period = min(max(by_time, 1), 2 * self._period, _MOST_STEPS)
        stopping, negative = self._vote([int(self._stop.is_set()), -period])
        self._left = self._period = -negative
        self._voted = now
        return bool(stopping)

    def _vote(self, mine: list[int]) -> list[int]:
        mesh = self._placement.mesh
        assert mesh is not None
        row = np.asarray([mine], np.int32)
        votes = jax.make_array_from_callback(
            (mesh.size, len(mine)), NamedSharding(mesh, PartitionSpec(AXIS)), lambda _: row
        )
        return [int(value) for value in np.asarray(self._most(votes))]


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(array.shape, sharding, lambda rows: array[rows])


def _devices_of(process: int) -> list[jax.Device]:
    return [device for device in jax.devices() if device.process_index == process]


def _near(batch: int, n: int) -> str:
    below = batch // n * n
    return f"{below} or {below + n}" if below else str(n)


def _broadcast(content: bytes) -> bytes:
    """Process 0's bytes, in all processes."""
    size = multihost_utils.broadcast_one_to_all(np.asarray([len(content)], np.int32))
    buffer = np.zeros(int(size[0]), np.uint8)
    mine = np.frombuffer(content, np.uint8)[: len(buffer)]
    buffer[: len(mine)] = mine
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()


def _broadcast_tree(tree: Any) -> Any:
    """Process 0's arrays, in all processes, whose own give the structure, shapes and dtypes.

    As bytes: the broadcast is a sum with zeros, which would turn -0.0 into 0.0.
    """
    leaves, structure = jax.tree.flatten(tree)
    sizes = [int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves]
    mine = [
        np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        if isinstance(leaf, np.ndarray)
        else np.zeros(size, np.uint8)
        for leaf, size in zip(leaves, sizes, strict=True)
    ]
    found = multihost_utils.broadcast_one_to_all(mine)
    return jax.tree.unflatten(
        structure,
        [
            np.asarray(content).astype(np.uint8).view(leaf.dtype).reshape(leaf.shape)
            for content, leaf in zip(found, leaves, strict=True)
        ],
    )
