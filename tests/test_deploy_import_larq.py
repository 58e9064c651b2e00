"""Weights of Larq's files: the filled networks against Keras's own semantics.

The reference takes the file's arrays and nothing of binjax: correlations over windows. It is in
float64, and none of its preactivations is near a sign's switch, so that the signs of a float32
network are the same and its sums of signs are the same integers.
"""

import json
import sys
from typing import Any

import numpy as np
import pytest
import reference
from flax import nnx
from imported import (
    check,
    convnet,
    fails,
    images,
    nonfinite,
    pooled,
    scaled,
    signs,
)

from binjax.deploy.importers import IMPORTERS, import_weights, load_larq
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    Sequential,
    ShiftBatchNorm,
)


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
