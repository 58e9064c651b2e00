"""The user's own sets: folders of pictures, .npz files, Python functions; STL-10's files."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from binjax.data import CUSTOM, DATASETS, Split, describe, from_arrays, load
from binjax.data.stl10 import read_stl10

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(30) % 3


def test_names():
    assert set(CUSTOM).isdisjoint(DATASETS)
    refused("did you mean folder", name="foldr")
    refused("train_files is only for", name="npz", train_files=["a"])


# Folders


@pytest.fixture
def folder(tmp_path):
    """Three classes; 10 pictures each to train on, 2 each to test."""
    root = tmp_path / "set"
    for i, (image, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        for part in ("train",) if i < 24 else ("train", "test"):
            path = root / part / ("cat", "Dog", "a b")[label] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def read(folder, **options):
    return load("folder", directory=folder, **{"image_size": (6, 5), **options})


def test_folder(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no picture")
    (folder / "train" / "cat" / ".hidden.png").write_text("no picture")
    (folder / "train" / ".cache").mkdir()
    inner = folder / "train" / "cat" / "more"
    inner.mkdir()
    (folder / "train" / "cat" / "00.png").rename(inner / "00.PNG")
    (folder / "train" / "cat" / "no picture.png").mkdir()
    found = read(folder)
    assert found.classes == ("Dog", "a b", "cat") and found.n_classes == 3
    assert found.image_shape == (6, 5, 3) and found.name == "folder"
    assert (len(found.train), len(found.validation), len(found.test)) == (30, 0, 6)
    assert found.train.images.dtype == np.uint8 and found.train.images.flags.c_contiguous
    known = {image.tobytes(): label for image, label in zip(PIXELS, LABELS, strict=True)}
    for split in (found.train, found.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert found.classes[label] == ("cat", "Dog", "a b")[known.pop(image.tobytes())]
        known = {image.tobytes(): label for image, label in zip(PIXELS, LABELS, strict=True)}
    assert np.array_equal(read(folder).train.images, found.train.images)


def test_folder_splits_are_mixed(folder):
    whole = read(folder)
    found = read(folder, validation=9, limit_train=15, limit_test=4)
    assert (len(found.train), len(found.validation), len(found.test)) == (15, 4, 4)
    assert np.array_equal(found.train.images, whole.train.images[:15])
    assert np.array_equal(found.validation.images, whole.train.images[21:25])
    assert set(found.train.labels) == {0, 1, 2} == set(read(folder, validation=9).validation.labels)
    assert describe("folder", directory=folder, image_size=(6, 5)).n_train == 30
    refused("from 0 to 29", call=read, folder=folder, validation=30)


def test_folder_with_val_or_with_both(folder):
    (folder / "test").rename(folder / "val")
    assert len(read(folder).test) == 6 and len(read(folder).validation) == 0
    both = folder / "test" / "cat"
    both.mkdir(parents=True)
    Image.fromarray(PIXELS[0]).save(both / "0.png")
    found = read(folder)
    assert (len(found.train), len(found.validation), len(found.test)) == (30, 6, 1)
    info = describe("folder", directory=folder, image_size=(6, 5))
    assert (info.n_train, info.default_validation, info.n_test) == (36, 6, 1)
    refused("leave data.validation out", call=read, folder=folder, validation=3)


def test_folder_fits_pictures(folder):
    target = folder / "train" / "cat"
    wide = RNG.integers(0, 256, (12, 30, 3), dtype=np.uint8)
    Image.fromarray(wide).save(target / "wide.png")
    gray = read(folder, channels=1).test.images
    assert gray.shape == (6, 6, 5, 1)
    luma = np.round(PIXELS[24:].astype(float) @ [0.299, 0.587, 0.114])
    order = [1, 4, 2, 5, 0, 3]  # Dog, a b, cat; within them by name
    assert np.max(np.abs(gray[..., 0].astype(int) - luma[order])) <= 1
    found = read(folder).train.images
    # Its middle, 10 of the 30 columns.
    part = Image.fromarray(wide).resize((5, 6), Image.Resampling.BILINEAR, (10, 0, 20, 12))
    assert any(np.array_equal(np.asarray(part), image) for image in found)


def test_folder_kinds_of_pictures(folder):
    target = folder / "train" / "cat"
    Image.new("P", (5, 6)).save(target / "palette.gif")
    Image.new("RGBA", (5, 6), (10, 20, 30, 0)).save(target / "clear.png")
    Image.new("1", (5, 6), 1).save(target / "bits.png")
    Image.new("RGB", (5, 6), (200, 0, 0)).save(target / "photo.jpg")
    images = read(folder).train.images
    assert len(images) == 34
    assert any((image == (10, 20, 30)).all() for image in images)


def test_folder_refusals(folder, tmp_path):
    refused("data.dir", name="folder")
    refused("does not exist", name="folder", directory=tmp_path / "no", image_size=(4, 4))
    refused("data.image_size", name="folder", directory=folder)
    refused("no folder train/", call=read, folder=tmp_path)
    refused("6x5x3 would take", "memory_gib", call=read, folder=folder, memory_gib=1e-6)
    (folder / "test" / "bird").mkdir()
    refused("bird", "train/ does not have", call=read, folder=folder)
    (folder / "test" / "bird").rmdir()
    (folder / "train" / "bird").mkdir()
    refused("bird", "holds no picture", call=read, folder=folder)
    (folder / "train" / "bird").rmdir()
    (folder / "test").rename(folder / "tests")
    (folder / "test" / "cat").mkdir(parents=True)
    refused("test: holds no picture", call=read, folder=folder)
    (folder / "test" / "cat").rmdir()
    (folder / "test").rmdir()
    refused("neither test/ nor val/", call=read, folder=folder)
    (folder / "test").mkdir()
    (folder / "empty" / "train").mkdir(parents=True)
    (folder / "empty" / "test").mkdir(parents=True)
    refused("no subfolders", call=read, folder=folder / "empty")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a picture", "no picture that can be read"),
        (b"", "no picture that can be read"),
        (lambda good: good[:-30], "damaged"),
        (lambda good: good[:60] + b"\xff" * 20 + good[80:], ""),
    ],
)
def test_a_picture_that_cannot_be_read_is_named(folder, content, words):
    path = folder / "train" / "Dog" / "01.png"
    path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))
    refused(path, words, call=read, folder=folder)


def test_deep_pictures_are_refused(folder):
    path = folder / "train" / "Dog" / "01.png"
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(path)
    refused(path, "more than 8 bits", call=read, folder=folder)
    path.write_bytes(deep_png(5, 6))  # in colour Pillow would cut it to 8
    refused(path, "more than 8 bits", call=read, folder=folder)


def test_tiff_files_are_pictures(folder):
    path = folder / "train" / "Dog" / "01.png"
    before = read(folder)
    Image.open(path).save(path.with_suffix(".TIFF"), compression="tiff_lzw")
    path.unlink()
    np.testing.assert_array_equal(read(folder).train.images, before.train.images)


def deep_png(wide, high):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", wide, high, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 6 * wide) * high))
    parts = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# Arrays in a file


def write(path, **changes):
    arrays = {
        "x_train": PIXELS[:20],
        "y_train": LABELS[:20],
        "x_test": PIXELS[20:],
        "y_test": LABELS[20:],
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_npz(tmp_path):
    path = write(tmp_path / "a.npz", y_train=LABELS[:20, None].astype(np.uint8), more=np.zeros(3))
    found = load("npz", file=path, validation=5, limit_test=4)
    assert (len(found.train), len(found.validation), len(found.test)) == (15, 4, 4)
    assert np.array_equal(found.train.images, PIXELS[:15])
    assert np.array_equal(found.validation.labels, LABELS[15:19])
    assert found.train.labels.dtype == np.int32 and found.n_classes == 3 and found.name == "npz"
    same = load("npz", directory=tmp_path, file="a.npz")
    assert len(same.train) == 20 and np.array_equal(same.test.images, PIXELS[20:])
    info = describe("npz", file=path)
    assert info.image_shape == (6, 5, 3)
    assert (info.n_classes, info.n_train, info.n_test) == (3, 20, 10)
    gray = write(tmp_path / "b.npz", x_train=PIXELS[:20, ..., 0], x_test=PIXELS[20:, ..., 0])
    assert describe("npz", file=gray).image_shape == load("npz", file=gray).image_shape == (6, 5, 1)
    wide = write(tmp_path / "c.npz", x_train=PIXELS[:20].astype(np.int64))
    assert np.array_equal(load("npz", file=wide).train.images, PIXELS[:20])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_test": None}, ["lacks x_test", "it holds x_train, y_test, y_train"]),
        ({"x_train": PIXELS[:19]}, ["y_train has shape (20,)", "each of the 19"]),
        ({"x_train": PIXELS[0]}, ["y_train has shape (20,)"]),
        ({"x_train": PIXELS[:20, 0, 0]}, ["x_train has shape (20, 3)"]),
        ({"x_test": PIXELS[20:, :4]}, ["x_train are 6x5x3", "x_test 4x5x3"]),
        ({"x_train": PIXELS[:20].astype(np.int64) * 2}, ["wanted 0..255"]),
        ({"x_train": PIXELS[:20] / 255}, ["hold float32", "uint8"]),
        ({"x_train": PIXELS[:20].astype(complex)}, ["holds complex128"]),
        ({"y_train": LABELS[:20] + 0.5}, ["y_train holds float64"]),
        ({"y_train": LABELS[:20] - 1}, ["labels from -1 to 1"]),
        ({"y_test": LABELS[20:] + 1}, ["y_test has label 3", "y_train only 0..2"]),
        ({"x_train": PIXELS[:0], "y_train": LABELS[:0]}, ["x_train holds no image"]),
        ({"x_test": PIXELS[:0], "y_test": LABELS[:0]}, ["x_test holds no image"]),
        ({"x_train": np.float32(3)}, ["x_train has shape ()"]),
        ({"x_test": np.float32(3)}, ["x_test has shape ()"]),
        ({"y_train": np.int32(3)}, ["y_train has shape ()"]),
        ({"y_train": LABELS[:20] * 10}, ["y_train has labels up to 20 for 20 images; number"]),
        ({"x_train": np.full((20, 6, 5, 3), 1e300)}, ["not finite in float32"]),
        ({"y_train": np.array([object()] * 20)}, ["y_train holds Python objects"]),
    ],
)
def test_npz_refusals(tmp_path, changes, words):
    path = write(tmp_path / "a.npz", **changes)
    refused(path, *words, name="npz", file=path)
    if "shape ()" in words[0] or "labels up to" in words[0] or words == ["x_test holds no image"]:
        refused(path, *words, call=describe, name="npz", file=path)


def test_npz_damage(tmp_path):
    path = write(tmp_path / "a.npz")
    good = path.read_bytes()
    refused("data.file", name="npz")
    refused("cannot be read", name="npz", file=tmp_path / "no.npz")
    refused("would take", name="npz", file=path, memory_gib=1e-6)
    for content in (b"", b"PK", good[:100], good[:-40], good[:300] + b"\xff" + good[301:]):
        path.write_bytes(content)
        refused(path, name="npz", file=path)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00 nonsense")
    refused("no readable .npz", name="npz", file=path)
    # A header that promises more than there is.
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 6, 5, 3)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", header.getvalue())
    refused("would take", name="npz", file=path)


def test_from_arrays_takes_lists():
    found = from_arrays("mine", [[[1, 2]], [[3, 4]]], [0, 1], [[[5, 6]]], [1])
    assert found.image_shape == (1, 2, 1) and isinstance(found.train, Split)
    refused("mine: train images has shape ()", call=lambda: from_arrays("mine", 1, 2, 3, 4))


# STL-10


def test_stl10(tmp_path):
    root = tmp_path / "stl10" / "stl10_binary"
    root.mkdir(parents=True)
    images = RNG.integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    for part in ("train", "test"):
        # channel by channel, column by column
        content = b"".join(
            image[:, x, c].tobytes() for image in images for c in range(3) for x in range(96)
        )
        (root / f"{part}_X.bin").write_bytes(content)
        (root / f"{part}_y.bin").write_bytes(bytes([1, 10, 5, 2]))
    found = load("stl10", directory=tmp_path, validation=1)
    assert np.array_equal(found.test.images, images) and len(found.train) == 3
    assert found.test.labels.tolist() == [0, 9, 4, 1] and found.test.labels.dtype == np.int32
    x, y = root / "train_X.bin", root / "train_y.bin"

    def call():
        read_stl10(x, y)

    y.write_bytes(bytes([1, 2, 3]))
    refused(x, "4 images", "3 labels", call=call)
    y.write_bytes(bytes([1, 2, 3, 0]))
    refused(y, "label 0 at index 3 is out of range 1..10", call=call)
    x.write_bytes(x.read_bytes()[:-1])
    refused(x, "multiple of 27648 bytes", call=call)
    x.unlink()
    refused(x, "cannot be read", call=call)
