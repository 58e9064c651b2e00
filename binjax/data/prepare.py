"""What a config has done to a whole set, once, before training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from binjax.config.data import GCN, LCN, ZCA, Step
from binjax.data.contrast import Images, Whitening, fit_zca, gcn, lcn, whiten
from binjax.data.dataset import Dataset, Split, check_memory
from binjax.data.kept import kept
from binjax.data.paths import cache_directory

_VERSION = 1  # of what is computed; raise it when results change


def prepare(
    dataset: Dataset,
    steps: Sequence[Step],
    *,
    warn: Callable[[str], None],
    memory_gib: float = 8.0,
    cache: Path | None = None,
) -> Dataset:
    """A set whose images went through steps, in order; statistics are the training images' alone.

    Args:
        dataset: images uint8 or float32.
        steps: sections of a config's ``data.prepare``; none: the set itself.
        warn: told of a damaged file in the cache, which is not used.
        memory_gib: the most that the prepared images may take.
        cache: folder of what was fitted; default `binjax/prepared` in the user's cache folder.

    Returns:
        The set with images float32 [n, h, w, c]; its fingerprint is that of ``dataset`` and of
        the steps.

    Raises:
        DataError: too many images for memory, or images that are too large for ZCA.
    """
    if not steps:
        return dataset
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    n_bytes = 4 * sum(split.images.size for split in splits.values())
    check_memory(f"data.prepare: {dataset.name} in float32", n_bytes, memory_gib)
    cache = cache_directory() / "prepared" if cache is None else cache
    images = {name: split.images for name, split in splits.items()}
    made = ""
    for step in steps:
        made += step.model_dump_json()
        do = _function(step, images["train"], dataset.train.images, made, cache, warn)
        images = {name: do(part) for name, part in images.items()}
    origin = hashlib.sha256((dataset.fingerprint() + made).encode()).hexdigest()
    return replace(
        dataset,
        **{name: Split(images[name], split.labels) for name, split in splits.items()},  # type: ignore[arg-type]
        origin=origin,
    )


def _function(
    step: Step, train: Images, raw: Images, made: str, cache: Path, warn: Callable[[str], None]
) -> Callable[[Images], Images]:
    """What a step does to images, fitted on ``train``, which ``made`` has made of ``raw``."""
    options = step.model_dump(exclude={"kind"})
    if isinstance(step, GCN):
        return lambda images: gcn(images, **options)
    if isinstance(step, LCN):
        return lambda images: lcn(images, **options)
    assert isinstance(step, ZCA)
    digest = hashlib.sha256(f"{_VERSION} {raw.shape} {raw.dtype} {made}".encode())
    digest.update(np.ascontiguousarray(raw).data)
    path = cache / f"zca-{digest.hexdigest()[:32]}.bin"
    found = kept(path, lambda: fit_zca(train, **options)._asdict(), warn)
    whitening = Whitening(found["mean"], found["matrix"])
    return lambda images: whiten(images, whitening)
