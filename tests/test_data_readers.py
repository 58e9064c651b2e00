"""Readers: IDX, CIFAR, SVHN. The files are made here; nothing is downloaded."""

import functools
import gzip
import lzma
import struct

import numpy as np
import pytest

from binjax.data import DataError, read_cifar, read_idx, read_svhn


def idx(array, code=0x08):
    big_endian = array.astype(array.dtype.newbyteorder(">"))
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + big_endian.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
PACKERS = {"raw": bytes, "gz": lambda b: gzip.compress(b, mtime=0), "xz": lzma.compress}


@pytest.fixture(params=PACKERS)
def pack(request):
    return PACKERS[request.param]


def refused(path, *words, read=read_idx):
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    return message


def test_idx_is_recognised_by_content_not_name(tmp_path, pack):
    path = tmp_path / "no-suffix"
    path.write_bytes(pack(idx(IMAGES)))
    array = read_idx(str(path))
    assert array.dtype == np.uint8
    assert np.array_equal(array, IMAGES)


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
def test_idx_types(tmp_path, code, dtype):
    array = np.array([[1, -2, 100], [0, 3, 4]]).astype(dtype)
    (tmp_path / "a").write_bytes(idx(array, code))
    read = read_idx(tmp_path / "a")
    assert read.dtype == array.dtype and read.dtype.isnative
    assert np.array_equal(read, array)


def test_idx_without_elements(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack(idx(np.zeros((0, 28), np.uint8))))
    assert read_idx(tmp_path / "a").shape == (0, 28)


def test_idx_truncated_or_too_long(tmp_path, pack):
    whole = idx(IMAGES)  # 16 + 105 bytes
    path = tmp_path / "a"
    path.write_bytes(pack(whole[:-9]))
    refused(path, "expected 121", "found 112", "(7, 5, 3)")
    path.write_bytes(pack(whole + b"12"))
    refused(path, "expected 121", "found 123")
    path.write_bytes(pack(whole[:10]))
    refused(path, "header of 16 bytes, found 10")
    path.write_bytes(pack(whole[:3]))
    refused(path, "found 3 bytes")
    path.write_bytes(b"")
    refused(path, "found 0 bytes")


def test_idx_wrong_header(tmp_path):
    path = tmp_path / "a"
    for start, word in [
        (b"\x89PNG", "not an IDX file"),
        (b"\0\0\x07\x01", "not an IDX file"),
        (b"\0\0\x08\0", "0 dimensions"),
        (b"\0\0\x08\xff", "255 dimensions"),
    ]:
        path.write_bytes(start + bytes(100))
        refused(path, word)


def test_idx_absurd_sizes_are_refused_before_allocation(tmp_path, pack):
    path = tmp_path / "a"
    for shape in [(2**32 - 1,), (2**31, 2**31), (2**32 - 1,) * 3]:
        path.write_bytes(pack(struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + b"x"))
        refused(path, "wrong size", "get the file again")
    path.write_bytes(pack(struct.pack(">HBB4I", 0, 8, 4, 0, *(2**32 - 1,) * 3)))
    refused(path, "impossible shape")


@pytest.mark.parametrize("name", ["gz", "xz"])
def test_idx_corrupted_compression(tmp_path, name):
    whole = PACKERS[name](idx(IMAGES))
    path = tmp_path / "a"
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "end too early")
    path.write_bytes(whole[:-6])
    refused(path, "end too early")
    if name == "gz":  # xz files are read up to the last valid stream, as Python's lzma does
        path.write_bytes(whole + b"rubbish that is no stream")
        refused(path, "corrupted")
    position = len(whole) // 2
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 8]) + whole[position + 1 :])
    refused(path)


def test_idx_missing_file_or_folder(tmp_path):
    refused(tmp_path / "nothing", "cannot be read")
    refused(tmp_path, "cannot be read")


def test_idx_fuzz(tmp_path, pack):
    """Any cut or flipped byte gives a DataError or an array of the same shape: nothing else."""
    whole = pack(idx(IMAGES))
    path = tmp_path / "a"
    broken = [whole[:n] for n in range(len(whole))]
    for position in range(len(whole)):
        for bits in (0x01, 0x80, 0xFF):
            flipped = bytearray(whole)
            flipped[position] ^= bits
            broken.append(bytes(flipped))
    n_refused = 0
    for data in broken:
        path.write_bytes(data)
        try:
            assert read_idx(path).shape == IMAGES.shape
        except DataError:
            n_refused += 1
    assert n_refused >= len(whole)


def cifar(n=4, classes=10, seed=0):
    """Records, images NHWC and labels."""
    rng = np.random.default_rng(seed)
    planes = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, classes, n, dtype=np.uint8)
    coarse = rng.integers(0, 20, n, dtype=np.uint8)
    columns = [labels[:, None]] if classes == 10 else [coarse[:, None], labels[:, None]]
    records = np.concatenate([*columns, planes.reshape(n, -1)], axis=1)
    return records, np.moveaxis(planes, 1, -1), labels


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path, classes):
    records, expected, expected_labels = cifar(5, classes)
    (tmp_path / "a.bin").write_bytes(records.tobytes())
    images, labels = read_cifar(tmp_path / "a.bin", classes)
    assert images.dtype == np.uint8 and images.flags.c_contiguous
    assert labels.dtype == np.int32
    assert np.array_equal(images, expected)
    assert np.array_equal(labels, expected_labels)


def test_cifar_wrong_size(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(cifar()[0].tobytes()[:-5])
    refused(path, "multiple of 3073", "3 records + 3068 bytes", read=read_cifar)
    path.write_bytes(b"")
    refused(path, "found 0", read=read_cifar)
    refused(tmp_path / "nothing.bin", "cannot be read", read=read_cifar)


@pytest.mark.parametrize(("classes", "column", "label"), [(10, 0, 10), (100, 0, 20), (100, 1, 100)])
def test_cifar_label_out_of_range(tmp_path, classes, column, label):
    records = cifar(4, classes)[0]
    records[2, column] = label
    (tmp_path / "a.bin").write_bytes(records.tobytes())
    read = functools.partial(read_cifar, classes=classes)
    refused(tmp_path / "a.bin", f"label {label} of record 2", f"0..{label - 1}", read=read)


def test_cifar_pickles_are_refused_unopened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (tmp_path / "a.bin").write_bytes(b"\x80\x02}q\x01.")
    for path in (folder, tmp_path / "data_batch_1", tmp_path / "a.bin"):
        refused(path, "pickle can run any code", "cifar-10-binary.tar.gz", read=read_cifar)


@pytest.fixture
def savemat():
    return pytest.importorskip("scipy.io").savemat


def test_svhn(tmp_path, savemat):
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 10), dtype=np.uint8)
    y = np.arange(1, 11, dtype=np.uint8)[:, None]
    savemat(tmp_path / "a.mat", {"X": x, "y": y}, do_compression=True)
    images, labels = read_svhn(tmp_path / "a.mat")
    assert images.dtype == np.uint8 and images.flags.c_contiguous and labels.dtype == np.int32
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert np.array_equal(images[4], x[..., 4])


def test_svhn_errors(tmp_path, savemat):
    path = tmp_path / "a.mat"
    x, y = np.zeros((32, 32, 3, 2), np.uint8), np.array([[1], [10]], np.uint8)
    for content, words in [
        ({"X": x}, ["lacks y"]),
        ({"z": x}, ["lacks X and y"]),
        ({"X": x[:31], "y": y}, ["(31, 32, 3, 2)", "expected uint8 (32, 32, 3, n)"]),
        ({"X": x.astype(float), "y": y}, ["float64"]),
        ({"X": x, "y": y[:1]}, ["2 images"]),
        ({"X": x, "y": np.array([[3], [11]])}, ["label 11 of image 1"]),
        ({"X": x, "y": np.array([[0], [1]])}, ["label 0 of image 0"]),
    ]:
        savemat(path, content)
        refused(path, *words, read=read_svhn)
    refused(tmp_path / "nothing.mat", "cannot be read", read=read_svhn)
    savemat(path, {"X": x, "y": y}, do_compression=True)
    whole = path.read_bytes()
    for n in (0, 50, 130, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:n])
        refused(path, read=read_svhn)


@pytest.mark.parametrize("compressed", [True, False])
def test_svhn_fuzz(tmp_path, savemat, compressed):
    """Cut or flipped bytes give a DataError or arrays of the same shape (scipy's reader dies)."""
    path = tmp_path / "a.mat"
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)
    savemat(path, {"X": x, "y": np.array([[1], [10]])}, do_compression=compressed)
    whole = path.read_bytes()
    positions = [
        *range(110, 330),
        *range(330, len(whole), 397),
        *range(len(whole) - 40, len(whole)),
    ]
    n_refused = 0
    for position in positions:
        broken = [whole[:position]]
        for bits in (0x01, 0x80, 0xFF):
            flipped = bytearray(whole)
            flipped[position] ^= bits
            broken.append(bytes(flipped))
        for data in broken:
            path.write_bytes(data)
            try:
                images, labels = read_svhn(path)
                assert images.shape == (2, 32, 32, 3)
                assert labels.shape == (2,)
            except DataError:
                n_refused += 1
    assert n_refused >= len(positions)
    assert "7.3" in refused_message(path, b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def refused_message(path, data):
    path.write_bytes(data)
    return refused(path, read=read_svhn)
