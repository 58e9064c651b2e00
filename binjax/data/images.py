"""Images from files as users have them: PNG, JPEG, numpy arrays, IDX, a folder of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from binjax.data.errors import DataError, unreadable
from binjax.data.idx import read_idx
from binjax.data.paths import PICTURES

ARRAYS = (".npy",)
_MODES = {1: "L", 3: "RGB"}


def read_images(path: str | Path, shape: Sequence[int], dtype: str) -> tuple[np.ndarray, list[str]]:
    """All images of a file or folder.

    Args:
        path: a picture (made gray or RGB as ``shape`` says), a ``.npy`` file, an IDX file (plain,
            gzip or xz), or a folder of pictures and arrays, taken by name.
        shape: of one image, (height, width, channels). Images are neither cut nor resized.
        dtype: ``"uint8"`` or ``"float32"``; pictures and IDX files hold uint8.

    Returns:
        ``[n, height, width, channels]`` and a name for each: the file's, with a number where it
        holds several.

    Raises:
        DataError: a missing or damaged file, images of another size or dtype, no image at all.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in (*PICTURES, *ARRAYS))
        if not files:
            raise DataError(f"{path}: holds no image ({', '.join((*PICTURES, *ARRAYS))})")
    else:
        files = [path]
    arrays, names = [], []
    for file in files:
        found = _fitting(file, _read(file, shape[2]), shape, dtype)
        arrays.append(found)
        several = len(found) > 1
        names += [f"{file.name}[{i}]" if several else file.name for i in range(len(found))]
    images = np.concatenate(arrays)
    if not len(images):
        raise DataError(f"{path}: holds no image")
    return images, names


def _read(path: Path, channels: int) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix in ARRAYS:
        return _read_array(path)
    if suffix in PICTURES:
        return _read_picture(path, channels)
    return np.asarray(read_idx(path))


def _read_array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, EOFError, SyntaxError, TokenError, MemoryError) as error:
        why = (str(error).splitlines() or ["it is damaged"])[0]
        raise DataError(f"{path}: is no readable .npy file: {why}") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: is an archive of arrays (.npz); give one array as .npy")
    return found


def _read_picture(path: Path, channels: int) -> np.ndarray:
    if channels not in _MODES:
        raise DataError(
            f"{path}: the network takes {channels} channels, pictures have 1 or 3; give a .npy file"
        )
    with _opened(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{path}: holds several pictures; save the one you mean")
        clear = image.has_transparency_data
        if clear and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise DataError(f"{path}: has transparent pixels; save it on a ground")
        found = np.asarray(image.convert(_MODES[channels]))
    return found.reshape(*found.shape[:2], channels)


def read_resized(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """One picture, made to fit.

    Args:
        path: of 8 bits a channel; of several pictures the first counts, transparency is dropped.
        shape: (height, width, channels), 1 or 3 channels. A picture of another size is cut to the
            shape's proportions, around its middle, and resized (bilinear, over an area where it
            shrinks).

    Returns:
        uint8 of the shape.

    Raises:
        DataError: missing, damaged, no picture.
    """
    high, wide, channels = shape
    with _opened(path) as image:
        found = image.convert(_MODES[channels])
        if found.size != (wide, high):
            found = ImageOps.fit(found, (wide, high), Image.Resampling.BILINEAR)
        return np.asarray(found).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture; what Pillow raises becomes one line."""
    try:
        with Image.open(path) as image:
            # Pillow makes 8 bits of a colour PNG's 16 without a word.
            if image.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in image.tile):
                raise DataError(f"{path}: has more than 8 bits a channel; the network takes 8")
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: is no picture that can be read") from None
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from None
    except OSError as error:
        if error.errno is None:  # Pillow's own, of a truncated file
            raise DataError(f"{path}: is damaged: {error}") from None
        raise unreadable(path, error) from None


def _fitting(path: Path, found: np.ndarray, shape: Sequence[int], dtype: str) -> np.ndarray:
    """The array with all four axes, if it can be understood so."""
    high, wide, channels = shape
    size = found.shape
    if channels == 1 and size[-2:] == (high, wide) and len(size) in (2, 3):
        found, size = found[..., None], (*size, 1)
    if len(size) == 3 and size == (high, wide, channels):
        found, size = found[None], (1, *size)
    if len(size) != 4 or size[1:] != (high, wide, channels):
        raise DataError(
            f"{path}: holds an array of shape {found.shape}; the network takes images of "
            f"{high}x{wide}x{channels} (height, width, channels)"
        )
    if found.dtype != dtype:
        hint = "; divide by nothing: it takes pixels of 0 to 255" if dtype == "uint8" else ""
        raise DataError(f"{path}: holds {found.dtype}; the network takes {dtype}{hint}")
    return found
