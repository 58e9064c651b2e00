"""Images of a whole set at another size."""

from __future__ import annotations

import math
from dataclasses import replace

from binjax.data.dataset import Dataset, Split, check_memory


def resized(found: Dataset, size: tuple[int, int] | None, memory_gib: float) -> Dataset:
    """A set whose images have a size, see :func:`binjax.data.crops.fit`; itself if they have it.

    Args:
        found: the set.
        size: (height, width); None for that of its images.
        memory_gib: the most that the new images may take.

    Raises:
        DataError: they would take more.
    """
    if size is None or found.image_shape[:2] == size:
        return found
    from binjax.data.crops import fit  # imports JAX

    parts = (found.train, found.validation, found.test)
    shape = (*size, found.image_shape[2])
    n_bytes = math.prod(shape) * found.train.images.itemsize * sum(map(len, parts))
    check_memory(f"{found.name}: its images at {size[0]}x{size[1]}", n_bytes, memory_gib)
    train, validation, test = (Split(fit(part.images, size), part.labels) for part in parts)
    return replace(found, train=train, validation=validation, test=test, image_shape=shape)
