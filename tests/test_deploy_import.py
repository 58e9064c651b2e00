"""Weights of Larq and BinaryNet files: the filled networks against each source's own semantics.

The references take the file's arrays and nothing of binjax: for BinaryNet channel-first images and
true convolutions (scipy's), for Keras correlations over windows. Both are in float64, and none of
their preactivations is near a sign's switch, so that the signs of a float32 network are the same
and its sums of signs are the same integers.
"""

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx
from scipy.signal import convolve2d

from binjax import deploy
from binjax.deploy import DeployError
from binjax.deploy.importers import IMPORTERS, import_weights, load_binarynet, load_larq
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    Repeat,
    Sequential,
    ShiftBatchNorm,
    capture,
)
from binjax.models import cifar10_convnet, mlp

IMAGE = (8, 12, 3)  # not square: a flattening in the wrong order would pass unseen
MARGIN = 1e-4
INVERSE = {"kind": "batch", "running": "inverse_std"}


def images(shape=IMAGE, n=24):
    return np.random.default_rng(7).integers(0, 256, (n, *shape)).astype(np.uint8)


def scaled(pixels):
    return 2.0 * pixels / 255 - 1


def pooled(x, axes):
    """Maxima of 2x2 windows over two axes."""
    for axis in axes:
        x = np.maximum(
            x.take(range(0, x.shape[axis], 2), axis), x.take(range(1, x.shape[axis], 2), axis)
        )
    return x


def signs(x):
    """Of preactivations, which have to be clear."""
    assert np.abs(x).min() > MARGIN
    return np.where(x >= 0, 1.0, -1.0)


def check(model, x, sums, scores):
    """Sums of signs exactly, scores but for rounding; and again packed."""
    found = {name: rows["output"] for name, rows in capture(model, jnp.asarray(x)).items()}
    assert list(found) == list(sums)
    for i, (name, expected) in enumerate(sums.items()):
        if i:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        else:  # pixels: integers over 255
            np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
    packed = np.asarray(deploy.pack(model, x.shape[1:])(x))
    for ours in (np.asarray(model(jnp.asarray(x))), packed):
        np.testing.assert_allclose(ours, scores, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(ours.argmax(1), scores.argmax(1))
    assert len(set(scores.argmax(1))) > 1
    assert all(leaf.dtype == jnp.float32 for leaf in leaves(model))


def leaves(model):
    return [variable[...] for _, variable in nnx.to_flat_state(nnx.state(model))]


def fails(load, model, path, *parts):
    with pytest.raises(DeployError) as caught:
        load(model, path)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


# BinaryNet


def convnet(**options):
    options = {"channels": (4,), "widths": (9,), "norm": INVERSE, "pixels": True} | options
    return cifar10_convnet(IMAGE, 5, rngs=nnx.Rngs(0), **options)


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


def nonfinite(array, value):
    broken = array.copy()
    broken.flat[2] = value
    return broken


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


def larq_model(**changes):
    options = {"stride": (2, 1), "padding": "SAME", "eps": 1e-3, "use_scale": True} | changes
    bias: dict[str, Any] = {"use_bias": True, "rngs": nnx.Rngs(0)}
    plain: dict[str, Any] = {"rngs": nnx.Rngs(0)}
    return Sequential(
        {
            "conv1": BinaryConv(3, 4, padding="VALID", pixels=True, **plain),
            "norm1": BatchNorm(4, eps=1e-3, use_scale=False),
            "conv2": BinaryConv(
                4, 6, strides=options["stride"], padding=options["padding"], **bias
            ),
            "pool2": MaxPool((1, 2)),
            "norm2": BatchNorm(6, eps=options["eps"], use_scale=options["use_scale"]),
            "flatten": Flatten(),
            "dense3": BinaryDense(90, 11, **bias),
            "norm3": BatchNorm(11, eps=1e-3, use_bias=False),
            "dense4": BinaryDense(11, 5, **plain),
            "norm4": BatchNorm(5, eps=1e-3, use_scale=False),
        }
    )


def keras_layers():
    """(name, arrays) of a Sequential as Keras lists them, those without arrays too."""
    rng = np.random.default_rng(5)

    def norm(n, *names):
        values = {
            "gamma": rng.uniform(0.5, 2, n) * rng.choice([-1, 1], n),
            "beta": 0.2 * rng.normal(size=n),
            "moving_mean": rng.normal(size=n),
            "moving_variance": rng.uniform(4, 16, n),
        }
        return {name: values[name] for name in (*names, "moving_mean", "moving_variance")}

    def weights(*shape, bias=False):
        kernel = rng.uniform(-1.5, 1.5, shape)  # outside [-1, 1] too
        kernel[..., :2, 0] = (0.0, -0.0)
        return {"kernel": kernel} | ({"bias": np.round(rng.normal(size=shape[-1]))} if bias else {})

    layers = [
        ("quant_conv2d", weights(3, 3, 3, 4)),
        ("batch_normalization", norm(4, "beta")),
        ("quant_conv2d_1", weights(3, 3, 4, 6, bias=True)),
        ("max_pooling2d", {}),
        ("batch_normalization_1", norm(6, "gamma", "beta")),
        ("flatten", {}),
        ("quant_dense", weights(90, 11, bias=True)),
        ("batch_normalization_2", norm(11, "gamma")),
        ("quant_dense_1", weights(11, 5)),
        ("batch_normalization_3", norm(5, "beta")),
        ("activation", {}),
    ]
    return [
        (name, {key: value.astype(np.float32) for key, value in arrays.items()})
        for name, arrays in layers
    ]


def keras_net(layers, x):
    """Sums of each layer and scores of that network."""
    sums, h = {}, scaled(x)
    of = {name: {k: v.astype(np.float64) for k, v in arrays.items()} for name, arrays in layers}

    def conv(h, name, strides, padding):
        kernel = np.where(of[name]["kernel"] >= 0, 1.0, -1.0)
        return reference.conv(h, kernel, strides, padding, 0) + of[name].get("bias", 0)

    def norm(h, name):
        values = of[name]
        factor = values.get("gamma", 1) / np.sqrt(values["moving_variance"] + 1e-3)
        return (h - values["moving_mean"]) * factor + values.get("beta", 0)

    def dense(h, name):
        return h @ np.where(of[name]["kernel"] >= 0, 1.0, -1.0) + of[name].get("bias", 0)

    sums["conv1"] = conv(h, "quant_conv2d", (1, 1), "VALID")
    h = signs(norm(sums["conv1"], "batch_normalization"))
    sums["conv2"] = conv(h, "quant_conv2d_1", (2, 1), "SAME")
    h = signs(norm(pooled(sums["conv2"], (2,)), "batch_normalization_1"))
    sums["dense3"] = dense(h.reshape(len(h), -1), "quant_dense")
    h = signs(norm(sums["dense3"], "batch_normalization_2"))
    sums["dense4"] = dense(h, "quant_dense_1")
    return sums, norm(sums["dense4"], "batch_normalization_3")


def write_group(group, layers, *, chunks=1):
    """As Keras 2 ``save_weights_to_hdf5_group``; a long list of names it cuts into chunks."""
    names = np.array([name.encode() for name, _ in layers])
    if chunks == 1:
        group.attrs["layer_names"] = names
    for i, part in enumerate(np.array_split(names, chunks) if chunks > 1 else ()):
        group.attrs[f"layer_names{i}"] = part
    group.attrs["backend"], group.attrs["keras_version"] = "tensorflow", "2.15.0"
    for name, arrays in sorted(layers, key=lambda layer: layer[0]):
        own = group.create_group(name)
        own.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in arrays]
        for key, value in arrays.items():
            own.create_dataset(f"{name}/{key}:0", data=value)
    group.create_group("top_level_model_weights").attrs["weight_names"] = np.array([])


def write_keras(path, layers, *, layout="weights", settings=None):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (the extra 'larq')")
    with h5py.File(path, "w") as file:
        if layout == "numbers":
            for name, arrays in layers:
                own = file.create_group(f"layers/{name}/vars")
                for i, value in enumerate(arrays.values()):
                    own.create_dataset(str(i), data=value)
            file.create_group("vars")
        elif layout == "model":
            write_group(file.create_group("model_weights"), layers)
            configs = [
                {"class_name": "", "config": {"name": name} | (settings or {}).get(name, {})}
                for name, _ in layers
            ]
            file.attrs["model_config"] = json.dumps({"config": {"layers": configs}})
        else:
            write_group(file, layers, chunks=3 if layout == "chunks" else 1)
    return path


SIGN = {"class_name": "SteSign", "config": {"clip_value": 1.0}}
SETTINGS = {
    "quant_conv2d": {
        "padding": "valid",
        "strides": [1, 1],
        "pad_values": 0.0,
        "kernel_quantizer": SIGN,
    },
    "quant_conv2d_1": {
        "padding": "same",
        "strides": [2, 1],
        "pad_values": 0.0,
        "dilation_rate": [1, 1],
        "data_format": "channels_last",
        "kernel_quantizer": SIGN,
    },
    "batch_normalization_1": {"epsilon": 0.001},
    "quant_dense": {"kernel_quantizer": SIGN},
    "quant_dense_1": {"kernel_quantizer": "ste_sign"},
}


@pytest.mark.parametrize("layout", ["weights", "chunks", "model", "numbers"])
def test_larq(tmp_path, layout):
    layers, x = keras_layers(), images()
    path = write_keras(tmp_path / "net.h5", layers, layout=layout, settings=SETTINGS)
    model = import_weights(larq_model(), path)
    check(model, x, *keras_net(layers, x))
    np.testing.assert_array_equal(model.conv2.kernel[...], dict(layers)["quant_conv2d_1"]["kernel"])


def test_tenth_layers_stand_behind_second_ones(tmp_path):
    rng = np.random.default_rng(0)
    layers = [
        (f"dense_{i}" if i else "dense", {"kernel": rng.normal(size=(3, 3))}) for i in range(12)
    ]
    path = write_keras(tmp_path / "net.weights.h5", layers, layout="numbers")
    blank = {f"d{i}": BinaryDense(3, 3, rngs=nnx.Rngs(0)) for i in range(12)}
    model = load_larq(Sequential(blank), path)
    for i, (_, arrays) in enumerate(layers):
        expected = arrays["kernel"].astype(np.float32)
        np.testing.assert_array_equal(getattr(model, f"d{i}").kernel[...], expected)


def changed(name, **arrays):
    """The layers with arrays of one of them replaced; None leaves one out."""
    return [
        (n, {k: v for k, v in {**a, **(arrays if n == name else {})}.items() if v is not None})
        for n, a in keras_layers()
    ]


def test_larq_refusals(tmp_path):
    layers, path = keras_layers(), tmp_path / "net.h5"

    def refused(layers, *parts, model=None, **how):
        write_keras(path, layers, **how)
        fails(load_larq, model or larq_model(), path, *parts)

    refused(layers[:-3], "has 6 layers", "the model 8", "it ends", "dense4 (a dense layer)")
    refused(layers[:1] + layers[2:], "quant_conv2d_1 (a convolution)", "norm1 (a batch norm")
    refused([*layers, ("extra", {"kernel": np.ones((5, 5))})], "extra (a dense", "the model ends")
    wrong = changed("quant_conv2d_1", kernel=np.ones((3, 3, 4, 7)))
    refused(wrong, "quant_conv2d_1/kernel", "(3, 3, 4, 7)", "conv2", "(3, 3, 4, 6)")
    broken = nonfinite(np.ones((11, 5)), np.nan)
    refused(changed("quant_dense_1", kernel=broken), "quant_dense_1/kernel is nan at [0, 2]")
    refused(
        changed("batch_normalization_1", gamma=None),
        "batch_normalization_1 has beta, moving_mean", "norm2 takes gamma, beta",
    )  # fmt: skip
    refused(layers, "has gamma", "norm2 takes beta,", model=larq_model(use_scale=False))
    refused(
        changed("quant_conv2d_1", bias=None), "quant_conv2d_1 has kernel,", "takes kernel, bias"
    )
    refused(changed("quant_dense_1", alpha=np.ones(5)), "quant_dense_1 has kernel, alpha")
    below = -np.ones(5)
    refused(changed("batch_normalization_3", moving_variance=below), "moving_variance is -1 at")
    kernel3 = {"depthwise_kernel": np.ones((3, 3, 3))}
    refused([("odd", kernel3), *layers[1:]], "odd (a layer of another kind)")


def test_larq_settings_of_a_whole_model(tmp_path):
    path = tmp_path / "net.h5"
    write_keras(path, keras_layers(), layout="model", settings=SETTINGS)
    fails(load_larq, larq_model(eps=1e-4), path, "epsilon 0.001", "norm2 0.0001")
    fails(load_larq, larq_model(stride=(1, 1)), path, "strides [2, 1]", "conv2 [1, 1]")
    fails(load_larq, larq_model(padding="VALID"), path, "padding same", "conv2 valid")
    for name, value in (
        ("data_format", "channels_first"),
        ("pad_values", 1.0),
        ("dilation_rate", [2, 2]),
        ("kernel_quantizer", None),
    ):
        other = SETTINGS | {"quant_conv2d_1": SETTINGS["quant_conv2d_1"] | {name: value}}
        write_keras(path, keras_layers(), layout="model", settings=other)
        fails(load_larq, larq_model(), path, f"quant_conv2d_1 has {name}", "conv2")


def test_larq_files_of_the_newer_layout(tmp_path):
    layers, path = keras_layers(), tmp_path / "net.weights.h5"
    write_keras(path, layers[:-3], layout="numbers")
    fails(load_larq, larq_model(), path, "3 times a batch normalization, the model 4 times")
    mixed = [("conv2d", layers[0][1]), *layers[1:]]
    write_keras(path, mixed, layout="numbers")
    fails(load_larq, larq_model(), path, "conv2d and quant_conv2d", "save_weights('name.h5')")
    write_keras(path, changed("batch_normalization_1", gamma=None), layout="numbers")
    fails(load_larq, larq_model(), path, "batch_normalization_1 has 3 arrays", "norm2 takes gamma")
    write_keras(path, [*layers, ("outer/layers/dense", layers[-3][1])], layout="numbers")
    fails(load_larq, larq_model(), path, "outer holds layers/dense/vars/0", "only plain layers")


def test_larq_models_inside_models(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (the extra 'larq')")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["layer_names"] = [b"sequential"]
        group = file.create_group("sequential")
        group.attrs["weight_names"] = [b"a/kernel:0", b"b/kernel:0"]
        for name in "ab":
            group.create_dataset(f"{name}/kernel:0", data=np.ones((2, 2)))
    fails(load_larq, larq_model(), tmp_path / "net.h5", "sequential has two arrays called kernel")


def test_larq_norms_of_another_kind(tmp_path):
    path = write_keras(tmp_path / "net.h5", keras_layers())
    fails(load_larq, convnet(), path, "norm1", "inverse_std", '"running": "variance"')
    fails(load_larq, Sequential({"norm": ShiftBatchNorm(3)}), path, "norm is a ShiftBatchNorm")


def test_files_that_are_not_of_keras(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (the extra 'larq')")
    path = tmp_path / "net.h5"
    fails(load_larq, larq_model(), path, "no such file")
    whole = write_keras(path, keras_layers()).read_bytes()
    for content in (b"", b"no weights here", whole[: len(whole) // 2]):
        path.write_bytes(content)
        fails(load_larq, larq_model(), path, "is not a weights file of Keras, or is damaged")
    with h5py.File(path, "w") as file:
        file.create_dataset("weights", data=np.ones(3))
    fails(load_larq, larq_model(), path, "it has no layer_names")


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    fails(load_larq, larq_model(), tmp_path / "net.h5", "pip install 'binjax[larq]'")


def test_other_suffixes(tmp_path):
    fails(import_weights, larq_model(), tmp_path / "net.keras", ".h5, .hdf5, .npz", ".keras")
    fails(import_weights, larq_model(), tmp_path / "net", "a file without a suffix")
    assert set(IMPORTERS) == {".h5", ".hdf5", ".npz"}
