"""Image sets: reading, splitting, batching, downloading. Imports neither JAX nor anything heavy.

Augmentation inside jit is in `binjax.data.augment`, which imports JAX and is not re-exported.
"""

from binjax.data.batches import epoch_order, eval_batches, n_batches, train_batches
from binjax.data.checksums import FileStatus, verify
from binjax.data.cifar import read_cifar
from binjax.data.custom import CUSTOM
from binjax.data.dataset import Dataset, Info, Split
from binjax.data.datasets import DATASETS, INFO, describe, load
from binjax.data.errors import DataError
from binjax.data.fetch import fetch
from binjax.data.idx import read_idx
from binjax.data.labelled import from_arrays
from binjax.data.paths import default_directory, find_directory
from binjax.data.sources import SOURCES, RemoteFile, Source
from binjax.data.stl10 import read_stl10
from binjax.data.svhn import read_svhn

__all__ = [
    "CUSTOM",
    "DATASETS",
    "INFO",
    "SOURCES",
    "DataError",
    "Dataset",
    "FileStatus",
    "Info",
    "RemoteFile",
    "Source",
    "Split",
    "default_directory",
    "describe",
    "epoch_order",
    "eval_batches",
    "fetch",
    "find_directory",
    "from_arrays",
    "load",
    "n_batches",
    "read_cifar",
    "read_idx",
    "read_stl10",
    "read_svhn",
    "train_batches",
    "verify",
]
