"""Make the embedded set from the original Fashion-MNIST files.

    python scripts/make_embedded.py --source DIR_WITH_THE_FOUR_IDX_FILES [--out DIR]

Keeps the first 10,000 training and the first 2,000 test images and their labels, as gzip IDX
files with no time stamp and no file name inside: running it twice gives the same bytes (with the
same zlib). Prints the sha256 of each file, for `binjax/data/embedded.py`.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import struct
from pathlib import Path

import numpy as np

from binjax.data.checksums import file_status
from binjax.data.errors import DataError
from binjax.data.idx import read_idx
from binjax.data.sources import SOURCES

KEEP = {"train": 10_000, "t10k": 2_000}
DEFAULT_OUT = Path(__file__).parents[1] / "binjax" / "data" / "fashion_mnist_12k"


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX form of a uint8 array."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    return header + array.tobytes()


def gzip_bytes(data: bytes) -> bytes:
    """Gzip without name or time; `gzip.compress` writes a header that varies with the Python."""
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(data)
    return buffer.getvalue()


def make(source: Path, out: Path) -> dict[str, str]:
    """Write the four files into `out`; return file name → sha256."""
    out.mkdir(parents=True, exist_ok=True)
    sums = {}
    for file in SOURCES["fashion-mnist"].files:
        status = file_status(file, [source], source)
        if status.status != "ok":
            raise DataError(f"{status.path}: {status.status}: not the original Fashion-MNIST file")
        kept = read_idx(status.path)[: KEEP[file.name.split("-")[0]]]
        data = gzip_bytes(idx_bytes(kept))
        (out / file.name).write_bytes(data)
        sums[file.name] = hashlib.sha256(data).hexdigest()
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the original files")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()
    try:
        sums = make(args.source, args.out)
    except DataError as error:
        parser.exit(2, f"{error}\n")
    for name, sha256 in sums.items():
        print(f"{sha256}  {name}")


if __name__ == "__main__":
    main()
