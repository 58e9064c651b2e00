"""`load`: finding files, splits, limits, and every refusal."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from binjax.data import (
    DATASETS,
    INFO,
    DataError,
    default_directory,
    embedded,
    find_directory,
    load,
    verify,
)

STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
TRAIN, TEST = 20, 6


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def arrays(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n)


def write_mnist(folder, change=(), name="{}-ubyte.gz"):
    """Four files; `change` maps a stem to another array."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = dict(zip(STEMS, (*arrays(TRAIN, 0), *arrays(TEST, 1)), strict=True)) | dict(change)
    for stem, array in contents.items():
        data = idx(array)
        file = name.format(stem)
        (folder / file).write_bytes(gzip.compress(data) if file.endswith(".gz") else data)
    return contents


def write_cifar(folder, names, n=10, classes=10):
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        records = np.random.default_rng(i).integers(0, 256, (n, 3073 if classes == 10 else 3074))
        records[:, : 1 if classes == 10 else 2] = i
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())


BATCHES = [f"data_batch_{i}.bin" for i in range(1, 6)]


def test_info():
    assert tuple(INFO) == DATASETS
    assert INFO["svhn"].n_train == 73_257 + 531_131
    assert all(info.default_validation < info.n_train for info in INFO.values())


def test_splits_come_from_the_end(tmp_path):
    files = write_mnist(tmp_path)
    data = load("mnist", directory=tmp_path, validation=5)
    assert (len(data.train), len(data.validation), len(data.test)) == (15, 5, 6)
    assert data.n_classes == 10 and data.image_shape == (28, 28, 1)
    for split in (data.train, data.validation, data.test):
        assert split.images.dtype == np.uint8 and split.images.shape == (len(split), 28, 28, 1)
        assert split.labels.dtype == np.int32 and split.images.flags.c_contiguous
    images, labels = files[STEMS[0]], files[STEMS[1]]
    assert np.array_equal(data.train.images[..., 0], images[:15])
    assert np.array_equal(data.validation.images[..., 0], images[15:])
    assert np.array_equal(data.validation.labels, labels[15:])
    assert np.array_equal(data.test.labels, files[STEMS[3]])


def test_empty_validation_and_limits(tmp_path):
    write_mnist(tmp_path)
    data = load("mnist", directory=tmp_path, validation=0)
    assert (len(data.train), len(data.validation)) == (20, 0)
    assert data.validation.images.shape == (0, 28, 28, 1)
    part = load("mnist", directory=tmp_path, validation=5, limit_train=3, limit_test=2)
    assert (len(part.train), len(part.validation), len(part.test)) == (3, 2, 2)
    assert np.array_equal(part.train.images, data.train.images[:3])
    assert np.array_equal(part.validation.images, data.train.images[15:17])
    for option in ("limit_train", "limit_test"):
        refused(option, "got 0", name="mnist", directory=tmp_path, **{option: 0})


@pytest.mark.parametrize("validation", [-1, 20, 21, None])
def test_validation_out_of_range(tmp_path, validation):
    write_mnist(tmp_path)
    refused("from 0 to 19", name="mnist", directory=tmp_path, validation=validation)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("joint", ["-idx", ".idx"])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_spellings_and_folders(tmp_path, suffix, joint, subfolder):
    folder = tmp_path / subfolder
    write_mnist(folder, name="{}-ubyte" + suffix)
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", joint)))
    assert len(load("mnist", directory=tmp_path, validation=1).train) == 19


def test_environment_and_cache(tmp_path, monkeypatch):
    write_mnist(tmp_path / "env" / "mnist")
    monkeypatch.setenv("BINJAX_DATA_DIR", str(tmp_path / "env"))
    assert default_directory() == tmp_path / "env"
    assert len(load("mnist", validation=0).train) == TRAIN
    monkeypatch.setenv("BINJAX_DATA_DIR", str(tmp_path / "gone"))
    refused("BINJAX_DATA_DIR", "gone does not exist", name="mnist")
    monkeypatch.delenv("BINJAX_DATA_DIR")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert default_directory() == tmp_path / "cache" / "binjax" / "data"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_directory() == tmp_path / ".cache" / "binjax" / "data"
        refused("missing", tmp_path / ".cache", name="mnist")


def test_explicit_directory_must_exist(tmp_path):
    refused("does not exist", "--data.dir", name="mnist", directory=tmp_path / "no")
    (tmp_path / "file").write_text("")
    refused("is not a folder", name="mnist", directory=tmp_path / "file")
    assert find_directory(tmp_path / "no", must_exist=False) == tmp_path / "no"


def test_missing_files_are_all_named(tmp_path):
    write_mnist(tmp_path)
    for stem in STEMS[1:3]:
        (tmp_path / f"{stem}-ubyte.gz").unlink()
    message = refused(
        "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz",
        tmp_path / "mnist",
        "`binjax data fetch mnist`",
        "--data.dir DIR",
        name="mnist",
        directory=tmp_path,
    )
    assert "train-images" not in message and "train-files" not in message


def test_unknown_name():
    refused("did you mean", "cifar10", name="cifar-10")
    refused("fashion-mnist-12k", name="zzz")


@pytest.mark.parametrize(
    ("stem", "array", "words"),
    [
        (STEMS[1], np.full(TRAIN, 10), ["label 10 at index 0", "0..9"]),
        (STEMS[1], np.zeros(TRAIN - 1), ["20 images", "19 labels"]),
        (STEMS[1], np.zeros((TRAIN, 1)), ["expected uint8 labels (n,)"]),
        (STEMS[0], np.zeros((TRAIN, 28, 27)), ["(20, 28, 27)", "28, 28"]),
        (STEMS[2], np.zeros(TEST), ["(6,)"]),
    ],
)
def test_inconsistent_idx_files(tmp_path, stem, array, words):
    write_mnist(tmp_path, {stem: array})
    refused(stem, *words, name="mnist", directory=tmp_path, validation=1)


def test_fashion_files_are_not_taken_for_mnist(tmp_path):
    labels = load("fashion-mnist-12k").test.labels[: TEST + 10]
    write_mnist(tmp_path, {STEMS[3]: labels, STEMS[2]: np.zeros((len(labels), 28, 28))})
    refused("asked for mnist", "fashion-mnist", name="mnist", directory=tmp_path, validation=1)
    assert len(load("fashion-mnist", directory=tmp_path, validation=1).test) == TEST + 10


@pytest.mark.parametrize("folder", ["", "cifar10", "cifar-10-batches-bin"])
def test_cifar10(tmp_path, folder):
    write_cifar(tmp_path / folder, [*BATCHES, "test_batch.bin"])
    data = load("cifar10", directory=tmp_path, validation=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    assert data.train.labels.tolist() == [i for i in range(4) for _ in range(10)]
    assert data.validation.labels.tolist() == [4] * 10
    assert data.train.images.flags.c_contiguous


def test_cifar10_in_part(tmp_path):
    write_cifar(tmp_path, ["data_batch_1.bin", "data_batch_3.bin", "test_batch.bin"])
    refused(
        "data_batch_2.bin, data_batch_4.bin, data_batch_5.bin",
        """--data.train-files '["data_batch_1.bin", "data_batch_3.bin"]'""",
        name="cifar10",
        directory=tmp_path,
    )
    data = load("cifar10", directory=tmp_path, validation=0, train_files=["data_batch_3.bin"])
    assert len(data.train) == 10


def test_cifar100(tmp_path):
    write_cifar(tmp_path / "cifar-100-binary", ["train.bin", "test.bin"], classes=100)
    data = load("cifar100", directory=tmp_path, validation=4)
    assert (len(data.train), data.n_classes, len(data.validation)) == (6, 100, 4)


def test_train_files_refusals(tmp_path):
    write_cifar(tmp_path, [*BATCHES, "test_batch.bin"])
    for files in (["data_batch_6.bin"], ["test_batch.bin"], ["../data_batch_1.bin"], [], "x"):
        refused("one or more of data_batch_1.bin", name="cifar10", train_files=files)
    refused("twice", name="cifar10", train_files=["data_batch_1.bin"] * 2)
    for name in ("mnist", "cifar100", "fashion-mnist-12k"):
        refused("only for cifar10 and svhn", name=name, train_files=["train.bin"])


def test_python_version_of_cifar_is_pointed_out(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for folder in (tmp_path, tmp_path / "cifar-10-batches-py"):
        refused("missing", "pickle can run any code", name="cifar10", directory=folder)


def test_svhn(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    for i, name in enumerate(("train", "extra", "test")):
        x = np.full((32, 32, 3, 4 + i), i, np.uint8)
        savemat(tmp_path / f"{name}_32x32.mat", {"X": x, "y": np.full((4 + i, 1), 10 - i)})
    data = load("svhn", directory=tmp_path, validation=2)
    assert data.train.labels.tolist() == [0] * 4 + [9] * 3
    assert data.validation.labels.tolist() == [9, 9] and len(data.test) == 6
    (tmp_path / "extra_32x32.mat").unlink()
    refused("""'["train_32x32.mat"]'""", name="svhn", directory=tmp_path)
    part = load("svhn", directory=tmp_path, validation=1, train_files=["train_32x32.mat"])
    assert len(part.train) == 3


def test_embedded_facts():
    data = load("fashion-mnist-12k")
    info = INFO["fashion-mnist-12k"]
    assert (len(data.train), len(data.validation), len(data.test)) == (9_000, 1_000, 2_000)
    assert data.image_shape == info.image_shape == (28, 28, 1)
    assert data.train.labels[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]
    assert data.test.labels[:8].tolist() == [9, 2, 1, 1, 6, 1, 4, 6]
    test_counts = np.bincount(data.test.labels, minlength=10).tolist()
    assert test_counts == [200, 203, 214, 190, 219, 195, 197, 200, 194, 188]
    whole = load("fashion-mnist-12k", validation=0).train
    assert len(whole) == info.n_train
    assert np.bincount(whole.labels).tolist() == HISTOGRAM
    assert [s.status for s in verify("fashion-mnist-12k")] == ["ok"] * 4
    assert "MIT License" in (embedded.folder() / "NOTICE").read_text()


HISTOGRAM = [942, 1027, 1016, 1019, 974, 989, 1021, 1022, 990, 1000]


def test_embedded_damage_is_found(monkeypatch):
    monkeypatch.setitem(embedded.SHA256, "t10k-labels-idx1-ubyte.gz", "0" * 64)
    refused("t10k-labels", "damaged", "install binjax again", name="fashion-mnist-12k")


def test_import_is_light():
    """Of binjax.data by itself: what `binjax/__init__.py` imports is kept out."""
    code = (
        "import sys, types\n"
        "package = sys.modules['binjax'] = types.ModuleType('binjax')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "import binjax.data as data\n"
        "heavy = {'jax', 'flax', 'scipy', 'pooch', 'requests', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(data.__all__) <= set(dir(data))\n"
    )
    package = Path(embedded.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(package)], check=True)


@pytest.mark.skipif(not os.environ.get("BINJAX_DATA_DIR"), reason="BINJAX_DATA_DIR is not set")
def test_real_mnist():
    try:
        data = load("mnist")
    except DataError as error:
        if "missing" in str(error):
            pytest.skip(f"no MNIST in BINJAX_DATA_DIR: {error}")
        raise
    assert (len(data.train), len(data.validation), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.train.labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(data.test.labels)[:3].tolist() == [980, 1135, 1032]
    assert {s.status for s in verify("mnist")} == {"ok"}
