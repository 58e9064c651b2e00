"""Contrast normalisation and whitening against plain numpy written from the formulas."""

import sys

import numpy as np
import pytest

from binjax import data
from binjax.config.data import GCN, LCN, ZCA
from binjax.data import contrast
from binjax.data.contrast import fit_zca, gcn, lcn, mean_and_deviation, whiten
from binjax.data.kept import kept
from binjax.data.prepare import prepare

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 7, 6, 3), dtype=np.uint8)
IMAGES[3] = 200  # of one colour
IMAGES[4] = 0


@pytest.fixture(autouse=True, params=[2**27, 5000], ids=["whole", "chunks"])
def chunks(request, monkeypatch):
    """All at once, and in chunks of a few images with a rest."""
    monkeypatch.setattr(contrast, "_BYTES", request.param)


# Global contrast normalisation


@pytest.mark.parametrize("subtract_mean", [True, False])
@pytest.mark.parametrize("use_std", [True, False])
@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (55.0, 10.0)])
def test_gcn(subtract_mean, use_std, scale, bias):
    options = {"subtract_mean": subtract_mean, "use_std": use_std}
    found = gcn(IMAGES, scale=scale, sqrt_bias=bias, **options)
    assert found.dtype == np.float32
    for image, result in zip(IMAGES.astype(np.float64), found, strict=True):
        x = image - image.mean() if subtract_mean else image
        spread = image.var(ddof=1) if use_std else (x**2).sum()
        expected = scale * x / max(np.sqrt(bias + spread), 1e-8)
        np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6)


def test_gcn_makes_deviation_one_and_leaves_one_colour_at_zero():
    found = gcn(IMAGES).astype(np.float64)
    assert np.array_equal(found[3:5], np.zeros((2, 7, 6, 3)))
    rest = np.delete(found, [3, 4], 0)
    np.testing.assert_allclose(rest.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(rest.std((1, 2, 3), ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.linalg.norm(gcn(IMAGES[:3], use_std=False, scale=55).reshape(3, -1), axis=1),
        55,
        rtol=1e-6,
    )
    assert gcn(IMAGES[:0]).shape == (0, 7, 6, 3)
    assert np.array_equal(gcn(np.full((1, 1, 1, 1), 9, np.uint8)), np.zeros((1, 1, 1, 1)))


# Local contrast normalisation


def smoothed(plane, size, sigma):
    """Gaussian weights that add up to 1 over the window, zeros beyond the border; loops."""
    half = size // 2
    window = {
        (i, j): np.exp(-(i * i + j * j) / (2 * sigma**2))
        for i in range(-half, half + 1)
        for j in range(-half, half + 1)
    }
    total = sum(window.values())
    height, width = plane.shape
    found = np.zeros_like(plane)
    for y in range(height):
        for x in range(width):
            for (i, j), weight in window.items():
                if 0 <= y + i < height and 0 <= x + j < width:
                    found[y, x] += weight / total * plane[y + i, x + j]
    return found


@pytest.mark.parametrize(("size", "sigma"), [(9, 2.0), (3, 0.7)])
def test_lcn_of_every_channel(size, sigma):
    images = IMAGES[1:5]
    found = lcn(images, size=size, sigma=sigma)
    assert found.dtype == np.float32
    for image, result in zip(images.astype(np.float64), found, strict=True):
        for channel in range(3):
            plane = image[..., channel]
            centred = plane - smoothed(plane, size, sigma)
            deviation = np.sqrt(smoothed(centred**2, size, sigma))
            divisor = np.maximum(np.maximum(deviation, deviation.mean()), 1e-4)
            np.testing.assert_allclose(result[..., channel], centred / divisor, atol=2e-5)


def test_lcn_treats_channels_alike():
    gray = np.repeat(IMAGES[:3, :, :, :1], 3, 3)
    found = lcn(gray)
    assert np.array_equal(found[..., 0], found[..., 1])
    assert np.array_equal(found[..., 0], found[..., 2])
    assert np.array_equal(lcn(np.zeros((1, 4, 4, 2))), np.zeros((1, 4, 4, 2)))


# Whitening


def textbook(images, bias):
    """By the singular values of the centred images, in float64."""
    x = images.reshape(len(images), -1).astype(np.float64)
    mean = x.mean(0)
    _, values, rows = np.linalg.svd((x - mean) / np.sqrt(len(x)), full_matrices=True)
    spectrum = np.zeros(x.shape[1])
    spectrum[: len(values)] = values**2
    return mean, rows.T @ np.diag(1 / np.sqrt(spectrum + bias)) @ rows


@pytest.mark.parametrize("n", [1, 10, 47, 48, 49, 300])  # below, at and above the 48 numbers
@pytest.mark.parametrize("bias", [0.1, 1e-3])
def test_zca(n, bias):
    images = RNG.normal(size=(n, 4, 4, 3)) @ RNG.normal(size=(3, 3))
    mean, matrix = textbook(images, bias)
    found = fit_zca(images, filter_bias=bias)
    assert found.mean.dtype == found.matrix.dtype == np.float32
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-5 / np.sqrt(bias))
    np.testing.assert_allclose(found.matrix, found.matrix.T, atol=1e-6 / np.sqrt(bias))
    expected = (images.reshape(n, -1) - mean) @ matrix
    np.testing.assert_allclose(whiten(images, found).reshape(n, -1), expected, atol=2e-4)


def test_zca_whitens():
    images = (RNG.normal(size=(4000, 12)) @ RNG.normal(size=(12, 12)) * 30).reshape(-1, 2, 2, 3)
    white = whiten(images, fit_zca(images, filter_bias=1e-6)).reshape(4000, 12)
    np.testing.assert_allclose(white.T @ white / 4000, np.eye(12), atol=1e-3)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)


def test_zca_refusals():
    with pytest.raises(data.DataError, match="have 27,648 numbers, more than 12,288"):
        fit_zca(np.zeros((2, 96, 96, 3), np.uint8))
    with pytest.raises(data.DataError, match="not finite"):
        fit_zca(np.full((2, 2, 2, 1), np.nan))


# Mean and deviation


@pytest.mark.parametrize("images", [IMAGES, IMAGES.astype(np.float32) * 1e-3 + 1000])
def test_mean_and_deviation(images):
    mean, deviation = mean_and_deviation(images, per_channel=True)
    exact = images.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(deviation, exact.std((0, 1, 2)), rtol=1e-10)
    mean, deviation = mean_and_deviation(images, per_channel=False)
    np.testing.assert_allclose((mean, deviation), ([exact.mean()], [exact.std()]), rtol=1e-10)


# Kept in a file


def test_kept_is_read_again_and_damage_is_never_used(tmp_path):
    path, told, computed = tmp_path / "a" / "b.bin", [], []

    def compute():
        computed.append(1)
        return {"mean": np.arange(3.0), "matrix": np.eye(2, dtype=np.float32)}

    first = kept(path, compute, told.append)
    again = kept(path, compute, told.append)
    assert len(computed) == 1 and not told
    for name, array in first.items():
        assert again[name].dtype == array.dtype and np.array_equal(again[name], array)
    good = path.read_bytes()
    for at in (0, 31, 32, 100, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert np.array_equal(kept(path, compute, told.append)["mean"], np.arange(3.0))
        assert path.read_bytes() == good
    for part in (b"", good[:20], good[:-1], good + b"x"):
        path.write_bytes(part)
        kept(path, compute, told.append)
        assert path.read_bytes() == good
    assert len(computed) == len(told) + 1 == 10
    assert all(str(path) in line and "damaged" in line and "\n" not in line for line in told)
    assert [p.name for p in path.parent.iterdir()] == ["b.bin"]


def test_kept_survives_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    told = []
    found = kept(tmp_path / "file" / "x.bin", lambda: {"a": np.ones(2)}, told.append)
    assert np.array_equal(found["a"], np.ones(2))
    assert told and "computed again next time" in told[-1]


# A whole set


def a_set(seed=0):
    rng = np.random.default_rng(seed)

    def split(n):
        images = rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
        return data.Split(images, rng.integers(0, 2, n).astype(np.int32))

    return data.Dataset("mine", split(30), split(5), split(7), 2, (4, 4, 3))


def test_prepare_fits_on_the_training_images_alone(tmp_path):
    raw, told = a_set(), []
    done = prepare(raw, (GCN(), ZCA(filter_bias=0.2)), warn=told.append, cache=tmp_path)
    contrasted = gcn(raw.train.images)
    mean, matrix = textbook(contrasted, 0.2)
    for part in ("train", "validation", "test"):
        before, after = getattr(raw, part), getattr(done, part)
        flat = gcn(before.images).reshape(len(before), -1)
        np.testing.assert_allclose(
            after.images.reshape(len(before), -1), (flat - mean) @ matrix, atol=1e-4
        )
        assert after.images.dtype == np.float32 and after.labels is before.labels
    assert not told and len(list(tmp_path.iterdir())) == 1
    again = prepare(raw, (GCN(), ZCA(filter_bias=0.2)), warn=told.append, cache=tmp_path)
    assert np.array_equal(again.test.images, done.test.images)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    again = prepare(raw, (GCN(), ZCA(filter_bias=0.2)), warn=told.append, cache=tmp_path)
    assert np.array_equal(again.test.images, done.test.images) and len(told) == 1


def test_prepare_keeps_other_sets_and_steps_apart(tmp_path):
    raw, other = a_set(), a_set(1)
    chains = [(ZCA(),), (ZCA(filter_bias=0.3),), (GCN(), ZCA()), (LCN(size=3), ZCA())]
    sets = [prepare(raw, steps, warn=print, cache=tmp_path) for steps in chains]
    sets.append(prepare(other, (ZCA(),), warn=print, cache=tmp_path))
    assert len(list(tmp_path.iterdir())) == 5
    prints = [found.fingerprint() for found in (raw, other, *sets)]
    assert len(set(prints)) == 7
    assert prepare(raw, (), warn=print) is raw
    swapped = prepare(raw, (ZCA(), GCN()), warn=print, cache=tmp_path)
    assert swapped.fingerprint() not in prints
    expected = gcn(whiten(raw.test.images, fit_zca(raw.train.images)))
    np.testing.assert_allclose(swapped.test.images, expected, atol=1e-6)


def test_prepare_counts_memory(tmp_path):
    with pytest.raises(data.DataError, match=r"memory_gib = 1e-06 allows"):
        prepare(a_set(), (GCN(),), warn=print, memory_gib=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="the cache's place depends on the system")
def test_the_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prepare(a_set(), (ZCA(),), warn=print)
    found = [p.relative_to(tmp_path).parts[:-1] for p in tmp_path.rglob("zca-*.bin")]
    assert found == [("binjax", "prepared")]
