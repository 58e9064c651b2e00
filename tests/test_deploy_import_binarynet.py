"""Weights of BinaryNet's files: the filled networks against Lasagne's own semantics.

The reference takes the file's arrays and nothing of binjax: channel-first images and true
convolutions (scipy's). It is in float64, and none of its preactivations is near a sign's switch, so
that the signs of a float32 network are the same and its sums of signs are the same integers.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from imported import (
    INVERSE,
    check,
    convnet,
    fails,
    images,
    leaves,
    nonfinite,
    pooled,
    scaled,
    signs,
)
from scipy.signal import convolve2d

from binjax.deploy.importers import import_weights, load_binarynet
from binjax.layers import (
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    Repeat,
    Sequential,
)
from binjax.models import mlp


def lasagne_arrays(rng, shapes):
    """Per layer W, b; beta, gamma, mean, inv_std, as Lasagne creates them."""
    arrays = []
    for shape in shapes:
        n_out = shape[0] if len(shape) == 4 else shape[1]
        arrays.append(rng.uniform(-1, 1, shape))
        arrays.append(np.round(rng.normal(size=n_out)))  # integers: sums stay exact
        arrays.append(0.2 * rng.normal(size=n_out))
        arrays.append(rng.uniform(0.5, 2, n_out) * rng.choice([-1, 1], n_out))
        arrays.append(rng.normal(size=n_out))
        arrays.append(rng.uniform(0.05, 0.5, n_out))
    return [array.astype(np.float32) for array in arrays]


def true_convolution(x, w):
    """[n, in, h, w] by [out, in, kh, kw], zeros around: Lasagne's Conv2DLayer(pad=1)."""
    y = np.zeros((len(x), len(w), *x.shape[2:]))
    for n, out, c in np.ndindex(len(x), *w.shape[:2]):
        y[n, out] += convolve2d(x[n, c], w[out, c], mode="same")
    return y


def lasagne_net(arrays, x, pools):
    """Sums of each layer and scores, channel first; ``pools`` says behind which layers."""
    sums = []
    for i in range(0, len(arrays), 6):
        w, b, beta, gamma, mean, inv_std = (array.astype(np.float64) for array in arrays[i : i + 6])
        w = np.where(w >= 0, 1.0, -1.0)
        x = true_convolution(x, w) if w.ndim == 4 else x.reshape(len(x), -1) @ w
        like = (-1, *[1] * (x.ndim - 2))
        x = x + b.reshape(like)
        sums.append(x)
        if i // 6 in pools:
            x = pooled(x, (2, 3))
        x = (x - mean.reshape(like)) * (gamma * inv_std).reshape(like) + beta.reshape(like)
        x = signs(x) if i + 6 < len(arrays) else x
    return sums, x


CONVNET_SHAPES = [(4, 3, 3, 3), (4, 4, 3, 3), (96, 9), (9, 5)]


@pytest.fixture
def lasagne(tmp_path):
    arrays = lasagne_arrays(np.random.default_rng(17), CONVNET_SHAPES)

    def save(changed: dict[int, Any] | None = None, keep: int | None = None) -> Path:
        own = [(changed or {}).get(i, array) for i, array in enumerate(arrays)][:keep]
        np.savez(tmp_path / "net.npz", *own)
        return tmp_path / "net.npz"

    return arrays, save


def test_binarynet_convnet(lasagne):
    arrays, save = lasagne
    x = images()
    sums, scores = lasagne_net(arrays, scaled(x).transpose(0, 3, 1, 2), pools=(1,))
    names = ["conv1", "conv2", "dense3", "dense4"]
    last = [np.moveaxis(s, 1, -1) for s in sums]
    model = import_weights(convnet(), save())
    check(model, x, dict(zip(names, last, strict=True)), scores)


def test_binarynet_mlp(tmp_path):
    shape = (4, 5, 1)
    arrays = lasagne_arrays(np.random.default_rng(3), [(20, 16), (16, 7), (7, 4)])
    np.savez(tmp_path / "mnist_parameters.npz", *arrays)
    x = images(shape)
    sums, scores = lasagne_net(arrays, scaled(x).transpose(0, 3, 1, 2), pools=())
    model = mlp(shape, 4, widths=(16, 7), norm=INVERSE, pixels=True, rngs=nnx.Rngs(0))
    filled = load_binarynet(model, tmp_path / "mnist_parameters.npz")
    check(filled, x, dict(zip(("dense1", "dense2", "dense3"), sums, strict=True)), scores)


def test_the_model_given_stays_as_it_is(lasagne):
    _, save = lasagne
    model = convnet()
    before = [np.asarray(leaf).copy() for leaf in leaves(model)]
    filled = load_binarynet(model, save())
    for old, same, new in zip(before, leaves(model), leaves(filled), strict=True):
        np.testing.assert_array_equal(old, same)
        assert not np.array_equal(old, new)


def test_flattening_of_another_number_of_channels_in_nested_parts(tmp_path):
    plain = {"rngs": nnx.Rngs(0)}
    features = Sequential({"conv": BinaryConv(2, 3, (1, 1), **plain), "pool": MaxPool()})
    head = Sequential({"a": BinaryDense(18, 4, **plain), "b": BinaryDense(4, 6, **plain)})
    model = Sequential({"features": features, "flatten": Flatten(), "head": head})
    conv, a, b = (
        np.arange(n, dtype=np.float32).reshape(s)
        for n, s in ((6, (3, 2, 1, 1)), (72, (18, 4)), (24, (4, 6)))
    )
    np.savez(tmp_path / "net.npz", conv, a, b)
    filled = load_binarynet(model, tmp_path / "net.npz")
    np.testing.assert_array_equal(filled.features.conv.kernel[...][0, 0], conv[:, :, 0, 0].T)
    last = a.reshape(3, 2, 3, 4).transpose(1, 2, 0, 3).reshape(18, 4)  # maps of 2x3
    np.testing.assert_array_equal(filled.head.a.kernel[...], last)
    np.testing.assert_array_equal(filled.head.b.kernel[...], b)


def test_run_time_weights_and_float64(lasagne):
    arrays, save = lasagne
    ones = {i: np.where(a >= 0, 1.0, -1.0) for i, a in enumerate(arrays) if i % 6 == 0}
    x = jnp.asarray(images(n=3))
    expected = load_binarynet(convnet(), save())(x)
    np.testing.assert_array_equal(load_binarynet(convnet(), save(ones))(x), expected)


def test_a_weight_too_small_for_float32_keeps_its_sign(lasagne):
    arrays, save = lasagne
    weights = arrays[18].astype(np.float64)
    weights[0] = [-1e-60, 1e-60, -0.0, -1e-45, -1]
    kernel = load_binarynet(convnet(), save({18: weights})).dense4.kernel[...]
    np.testing.assert_array_equal(np.asarray(kernel[0]) < 0, [True, False, False, True, True])


def test_binarynet_refusals(lasagne):
    arrays, save = lasagne
    plain = convnet()
    fails(load_binarynet, plain, save(keep=23), "23 arrays", "takes 24")
    fails(load_binarynet, convnet(use_bias=False), save(), "24 arrays", "takes 20", "use_bias=True")
    fails(
        load_binarynet, convnet(channels=(5,)), save(),
        "arr_0 (W)", "(4, 3, 3, 3)", "conv1", "(5, 3, 3, 3)", "[out, in, kh, kw]",
    )  # fmt: skip
    fails(
        load_binarynet, convnet(widths=(8,)), save(), "arr_12 (W)", "(96, 9)", "dense3", "(96, 8)"
    )
    fails(load_binarynet, plain, save({3: nonfinite(arrays[3], np.nan)}), "arr_3 (gamma) is nan")
    fails(
        load_binarynet,
        convnet(),
        save({1: nonfinite(arrays[1], np.inf)}),
        "arr_1 (b) is inf at [2]",
    )
    fails(load_binarynet, plain, save({5: -arrays[5]}), "arr_5 (inv_std) is -0.")
    fails(load_binarynet, plain, save({2: arrays[2] > 0}), "arr_2 (beta) has dtype bool")
    fails(
        load_binarynet,
        plain,
        save({0: arrays[0] * np.float64(1e300)}),
        "arr_0 (W) is",
        "e+299 at [0, ",
    )


def test_binarynet_models_of_another_kind(lasagne):
    _, save = lasagne
    path = save()
    fails(load_binarynet, convnet(norm={"kind": "batch"}), path, "norm1", "variance", "inverse_std")
    fails(load_binarynet, convnet(norm={"kind": "shift"}), path, "norm1", "ShiftBatchNorm")
    loop = Repeat(2, lambda rngs: BinaryDense(3, 3, rngs=rngs), rngs=nnx.Rngs(0))
    fails(load_binarynet, Sequential({"loop": loop}), path, "loop is a Repeat")
    fails(load_binarynet, Sequential({"flatten": Flatten()}), path, "no layer")


def test_files_that_are_no_npz(lasagne, tmp_path):
    arrays, save = lasagne
    plain = convnet()
    path = save()
    fails(load_binarynet, plain, tmp_path / "none.npz", "none.npz", "No such file")
    whole = path.read_bytes()
    for name, content in (
        ("empty", b""),
        ("cut", whole[: len(whole) // 2]),
        ("text", b"no arrays here"),
        ("bits", whole[:300] + bytes(255 - b for b in whole[300:400]) + whole[400:]),
    ):
        (tmp_path / f"{name}.npz").write_bytes(content)
        fails(load_binarynet, plain, tmp_path / f"{name}.npz", f"{name}.npz", "damaged")
    np.savez(tmp_path / "names.npz", weights=arrays[0])
    fails(load_binarynet, plain, tmp_path / "names.npz", "holds weights", "arr_0")
    np.savez(tmp_path / "objects.npz", np.array([{}, None], object))
    fails(load_binarynet, plain, tmp_path / "objects.npz", "damaged", "allow_pickle=False")
    buffer = io.BytesIO()
    np.save(buffer, arrays[0])
    (tmp_path / "one.npz").write_bytes(buffer.getvalue())
    fails(load_binarynet, plain, tmp_path / "one.npz", "one array")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w"):
        pass
    fails(load_binarynet, plain, tmp_path / "zip.npz", "holds nothing")


# Larq
