"""Checkpoints that are whole or not there: orbax files behind a sha256 manifest.

A checkpoint is a folder ``<root>/<step, 9 digits>`` with ``state/`` (orbax) and
``manifest.json`` (step, metadata, size and sha256 of every file, sha256 of itself). It is written
under a temporary name and renamed when complete. Orbax alone restores a flipped byte silently, so
every file is checked before it is believed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

_MANIFEST = "manifest.json"
_STATE = "state"
_FORMAT = 1
_NICE = 10


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or believed; the message is one line."""


class MismatchError(CheckpointError):
    """A good checkpoint of another model or optimizer."""


@dataclass(frozen=True)
class Restored:
    """A checkpoint read back: its step, the saved tree of numpy arrays, its metadata."""

    step: int
    tree: Any
    meta: dict[str, Any]


def save(root: Path, step: int, tree: Any, meta: Mapping[str, Any]) -> Path:
    """Write one checkpoint; an existing one of the same step is replaced.

    Args:
        root: folder of the run's checkpoints, made if missing.
        step: ≥ 0, names the checkpoint.
        tree: pytree of non-empty arrays (containers: dict, list, tuple, named tuple).
        meta: anything JSON can hold.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    target = root / f"{step:09d}"
    temporary = root / f".{target.name}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        temporary.mkdir(parents=True)
        _orbax_save(temporary / _STATE, jax.tree.map(np.asarray, _plain(tree)))
        manifest: dict[str, Any] = {
            "format": _FORMAT,
            "step": step,
            "meta": dict(meta),
            "files": {name: _digest(temporary / name) for name in _files(temporary)},
        }
        manifest["sha256"] = _canonical_digest(manifest)
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        _sync(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        _sync_path(root)
    except (OSError, ValueError, RuntimeError) as error:
        # Orbax reports a full disk as a ValueError of many lines.
        why = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{root}: cannot write a checkpoint: {why}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def steps(root: Path) -> list[int]:
    """Steps of the checkpoints under ``root``, oldest first, damaged ones included."""
    if not root.is_dir():
        return []
    return sorted(int(p.name) for p in root.iterdir() if p.is_dir() and p.name.isdigit())


def restore(root: Path, step: int, like: Any) -> Restored:
    """Read one checkpoint after checking every byte of it.

    Args:
        root: folder of the run's checkpoints.
        step: which one.
        like: a pytree of arrays or shapes to check the saved one against.

    Raises:
        CheckpointError: missing or damaged.
        MismatchError: of another structure, shape or dtype.
    """
    folder = root / f"{step:09d}"
    manifest = _read_manifest(folder)
    found = _files(folder)
    for name in sorted({*manifest["files"], *found}):
        if name not in found:
            raise CheckpointError(f"{folder}: damaged: {name} is missing")
        if name not in manifest["files"]:
            raise CheckpointError(f"{folder}: damaged: {name} does not belong to it")
        if _digest(folder / name) != manifest["files"][name]:
            raise CheckpointError(f"{folder}: damaged: {name} is not what was written (sha256)")
    plain = _plain(like)
    tree = _orbax_restore(folder / _STATE)
    _check_same(folder, plain, tree)
    restored = jax.tree.unflatten(jax.tree.structure(like), [tree[name] for name in plain])
    return Restored(manifest["step"], restored, manifest["meta"])


def restore_latest(root: Path, like: Any) -> tuple[Restored | None, list[str]]:
    """The newest good checkpoint, or None where there is none at all, and what was skipped.

    Raises:
        CheckpointError: there are checkpoints but each is damaged.
        MismatchError: the newest good one is of another model.
    """
    problems: list[str] = []
    for step in reversed(steps(root)):
        try:
            return restore(root, step, like), problems
        except MismatchError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(
            f"{root}: no checkpoint can be used ({problems[0]}); start anew in another folder"
        )
    return None, problems


def set_aside(root: Path, step: int) -> None:
    """Rename checkpoints after ``step``, which a run that goes on from there will write anew."""
    for later in steps(root):
        if later > step:
            folder = root / f"{later:09d}"
            folder.rename(folder.with_suffix(f".{uuid.uuid4().hex[:8]}.damaged"))


def prune(root: Path, keep: int, also: int | None = None) -> None:
    """Delete all but the newest ``keep`` checkpoints and that of step ``also``."""
    for step in steps(root)[:-keep]:
        if step != also:
            shutil.rmtree(root / f"{step:09d}", ignore_errors=True)
    for leftover in root.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


class Writer:
    """Writes checkpoints in a thread, one at a time, so that training goes on meanwhile.

    The arrays handed to :meth:`submit` must not be donated afterwards: pass copies. An error in
    the thread is raised by the next :meth:`submit` or :meth:`wait`.
    """

    def __init__(self, root: Path, keep: int):
        self._root, self._keep = root, keep
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def submit(
        self, step: int, tree: Any, meta: Mapping[str, Any], also_keep: int | None = None
    ) -> None:
        """Begin to write ``tree``; waits for the previous write first."""
        self.wait()
        self._thread = threading.Thread(
            target=self._write, args=(step, tree, meta, also_keep), name="checkpoint"
        )
        self._thread.start()

    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Return when nothing is being written.

        Raises:
            CheckpointError: the last write failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, step: int, tree: Any, meta: Mapping[str, Any], also_keep: int | None) -> None:
        try:
            if sys.platform == "linux":  # where a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            save(self._root, step, tree, meta)
            prune(self._root, self._keep, also_keep)
        except Exception as error:
            self._error = error


def _plain(tree: Any) -> dict[str, Any]:
    """Leaves by their path: the same names whatever container types a library version uses."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _check_same(folder: Path, like: Mapping[str, Any], tree: Mapping[str, Any]) -> None:
    advice = "it belongs to another model or optimizer; give --out another folder"
    for name in {**like, **tree}:
        if name not in tree or name not in like:
            has = "has no" if name not in tree else "has an extra"
            raise MismatchError(f"{folder}: {has} {name}: {advice}")
        want, got = like[name], tree[name]
        if want.shape != got.shape or want.dtype != got.dtype:
            raise MismatchError(
                f"{folder}: {name} is {got.dtype}{list(got.shape)}, "
                f"not {want.dtype}{list(want.shape)}: {advice}"
            )


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any]
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        digest = manifest.pop("sha256")
        complete = digest == _canonical_digest(manifest) and isinstance(manifest["files"], dict)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        complete = False
    if not complete:
        raise CheckpointError(f"{folder}: damaged: {_MANIFEST} is missing or not what was written")
    if manifest["format"] != _FORMAT:
        raise CheckpointError(f"{folder}: written by another version (format {manifest['format']})")
    return manifest


def _files(folder: Path) -> list[str]:
    found = (p for p in folder.rglob("*") if p.is_file())
    names = (p.relative_to(folder).as_posix() for p in found)
    return sorted(name for name in names if name != _MANIFEST)


def _digest(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _canonical_digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_path(path)
    _sync_path(folder)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _orbax_save(folder: Path, tree: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    # Orbax warns that there is nothing to merge when one process writes, and logs what it raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Weights do not compress, and trying costs as much as all the rest.
    with _checkpointer(use_compression=False) as checkpointer:
        checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave(tree))


def _orbax_restore(folder: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer:
        metadata = checkpointer.metadata(folder.absolute()).item_metadata
        kinds = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in metadata}
        args = ocp.args.PyTreeRestore(restore_args=kinds)
        return dict(checkpointer.restore(folder.absolute(), args=args))


def _checkpointer(**options: Any) -> Any:
    """Of this process: orbax shall not wait for others."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(me, {me}, str(me))
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, **options)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)
