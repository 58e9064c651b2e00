"""From a config to what the network sees: data, preparation, scaling, augmentation, whole runs."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import Recorder, cli, compile_cache, fit, metrics_lines, write_config

from binjax import config, data, train
from binjax.config import ConfigError
from binjax.data import DataError, crops
from binjax.data.augment import random_crop, random_flip
from binjax.data.color import color_jitter, lighting
from binjax.data.contrast import fit_zca, gcn, lcn, whiten
from binjax.data.crops import random_resized_crop
from binjax.train.inputs import make_augment, make_preprocess, pixel_scale, pixel_scaling
from binjax.train.sets import data_info, fit_scaling, load_data

N_TRAIN, N_TEST, H, W = 96, 40, 8, 7
RUN = """
epochs = 2
batch_size = 32
[data]
name = "npz"
file = "set.npz"
validation = 20
[model]
kind = "mlp"
widths = [24]
input_dropout = 0.0
hidden_dropout = 0.0
[optimizer]
kind = "adam"
learning_rate = 0.01
"""
KEY = jax.random.key(5)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with compile_cache(tmp_path_factory) as folder:
        yield folder


@pytest.fixture(scope="module", autouse=True)
def quick_compile():
    """Half the compile time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a set of three colours, and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("binjax.data.prepare.cache_directory", lambda: tmp_path / "cache")
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        labels = rng.integers(0, 3, n)
        images = rng.integers(0, 90, (n, H, W, 3))
        images[np.arange(n), :, :, labels] += 100
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez("set.npz", **arrays)
    write_config(tmp_path, RUN, "run.toml")
    return tmp_path


def made(**options):
    return config.validate({"data": options}, "here")


def loaded(*overrides):
    return config.load("run.toml", overrides)


def refused(match, call):
    with pytest.raises((ConfigError, DataError), match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


# Sizes


def test_any_set_can_be_resized():
    whole, small = loaded(), loaded("--data.image_size", "4", "3")
    found = load_data(small)
    assert found.image_shape == data_info(small).image_shape == (4, 3, 3)
    assert np.array_equal(found.train.images, crops.fit(load_data(whole).train.images, (4, 3)))
    assert found.test.images.shape[1:] == (4, 3, 3)
    cropped = loaded("--data.image_size", "9", "9", "--data.crop_size", "8", "7")
    assert load_data(cropped).image_shape == data_info(cropped).image_shape == (8, 7, 3)
    huge = loaded("--data.image_size", "20000", "20000")
    refused("images at 20000x20000 would take", lambda: load_data(huge))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.function", "a:b"], 'data.function is of the data set "python"; "npz" does not'),
        (["--data.channels", "1"], 'data.channels is of the data set "folder"; "npz" does not'),
        (["--data.name", "fashion-mnist-12k"], 'data.file is of the data set "npz"; "fashion-'),
        ([], None),
    ],
)
def test_keys_of_other_sets_are_named(options, message):
    heard = []
    load_data(loaded(*options), heard.append)
    assert len(heard) == (message is not None)
    assert not heard or heard[0].startswith(message)


# Scaling


def test_fitted_scaling_is_the_training_sets():
    raw = loaded("--data.scaling.kind", "fitted")
    images = np.load("set.npz")["x_train"][:-20].astype(np.float64)
    fitted = fit_scaling(raw, load_data(raw))
    assert fitted.data.scaling.kind == "standard"
    np.testing.assert_allclose(fitted.data.scaling.mean, images.mean((0, 1, 2)))
    np.testing.assert_allclose(fitted.data.scaling.std, images.std((0, 1, 2)))
    one = loaded("--data.scaling.kind", "fitted", "--data.scaling.per", "set")
    fitted = fit_scaling(one, load_data(one)).data.scaling
    np.testing.assert_allclose((fitted.mean, fitted.std), ([images.mean()], [images.std()]))
    plain = loaded()
    assert fit_scaling(plain, load_data(plain)) is plain
    # The network's graph is known before the numbers are.
    assert pixel_scale(one) is not None and pixel_scale(raw) is None
    for call in (lambda: make_preprocess(one, (H, W, 3)), lambda: pixel_scaling(raw.data.scaling)):
        refused("fit_scaling", call)
    black = data.from_arrays("black", np.zeros((4, 2, 2)), [0, 1, 0, 1], np.zeros((1, 2, 2)), [0])
    refused("all pixels of channel 0", lambda: fit_scaling(raw, black))


def test_prepared_images_are_not_scaled():
    assert made(prepare=["gcn"]).data.scaling.kind == "none"
    x = np.random.default_rng(0).normal(size=(2, H, W, 3)).astype(np.float32)
    assert np.array_equal(make_preprocess(made(prepare=["gcn"]), (H, W, 3))(x), x)
    both = made(prepare=["gcn"], scaling={"kind": "unit"})
    refused("leave it out", lambda: make_preprocess(both, (H, W, 3)))
    assert pixel_scale(made(prepare=["gcn"])) is None
    table = {"data": {"prepare": ["gcn"]}, "model": {"kind": "mlp", "first_layer": "pixels"}}
    refused("pixels, not what data.prepare", lambda: pixel_scale(config.validate(table, "here")))
    scaled = made(prepare=["lcn"], scaling={"kind": "standard", "mean": 1.0, "std": 4.0})
    assert pixel_scale(scaled) is None
    np.testing.assert_allclose(make_preprocess(scaled, (H, W, 3))(x), (x - 1) / 4, rtol=1e-6)


def test_larger_images_are_cut_to_their_middle():
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 7, 3), dtype=np.uint8)
    found = make_preprocess(made(scaling={"kind": "none"}), (4, 5, 3))(jnp.asarray(x))
    assert found.dtype == np.float32 and np.array_equal(found, x[:, 2:6, 1:6])


# Preparation


@pytest.mark.parametrize("steps", [["gcn", "zca"], ["gcn", "lcn"], ["zca"]])
def test_load_data_prepares(steps):
    found = load_data(loaded("--data.prepare", *steps))
    raw = load_data(loaded())
    train_images, test_images = raw.train.images, raw.test.images
    for step in steps:
        if step == "zca":
            whitening = fit_zca(train_images)
            train_images, test_images = (whiten(x, whitening) for x in (train_images, test_images))
        else:
            normalize = {"gcn": gcn, "lcn": lcn}[step]
            train_images, test_images = normalize(train_images), normalize(test_images)
    assert np.array_equal(found.train.images, train_images)
    assert np.array_equal(found.test.images, test_images)
    assert found.fingerprint() != raw.fingerprint()


def test_load_data_warns_of_a_damaged_cache(place):
    raw, told = loaded("--data.prepare", "zca"), []
    before = load_data(raw, told.append)
    (file,) = (place / "cache" / "prepared").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = load_data(raw)
    assert np.array_equal(again.test.images, before.test.images)
    assert not told and [str(file) in str(w.message) for w in caught] == [True]


# Augmentation


def crop(key, x):
    return random_crop(key, x, 1, size=(5, 6))


def part(key, x):
    return random_resized_crop(key, x, (5, 6), (0.3, 0.9), (0.5, 2.0))


def jitter(key, x):
    return color_jitter(key, x.astype(jnp.float32), (0.5, 1.5), (0.6, 1.4), (0.6, 1.4))


def light(key, x):
    return lighting(key, x, 0.3)


@pytest.mark.parametrize(
    ("options", "functions", "size"),
    [
        ({}, {}, (H, W)),
        (
            {"random_crop": 1, "crop_size": [5, 6], "random_flip": True},
            {0: crop, 1: random_flip},
            (5, 6),
        ),
        (
            {
                "resized_crop": {"scale": [0.3, 0.9], "ratio": [0.5, 2.0]},
                "crop_size": [5, 6],
                "color_jitter": {"brightness": [0.5, 1.5]},
                "lighting": 0.3,
            },
            {0: part, 2: jitter, 3: light},
            (5, 6),
        ),
    ],
)
def test_augmentation_is_the_functions_in_order(options, functions, size):
    """Each with its own key; rounded once, after the colours."""
    images = jnp.asarray(np.load("set.npz")["x_train"][:32])

    @jax.jit
    def expected(key, x):
        for i, function in functions.items():
            x = function(jax.random.fold_in(key, i), x)
        return jnp.round(x).astype(jnp.uint8)

    augment = jax.jit(make_augment(made(**options), (*size, 3)))
    found, wanted = np.asarray(augment(KEY, images)), np.asarray(expected(KEY, images))
    assert found.dtype == np.uint8 and found.shape == (32, *size, 3)
    # Another program may round sums in another order.
    assert np.max(np.abs(found.astype(int) - wanted)) <= (1 if 2 in functions else 0)
    assert np.mean(found != wanted) < 1e-3
    assert not functions or not np.array_equal(found, augment(jax.random.key(1), images))


def test_prepared_images_can_be_cropped_and_mirrored():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, H, W, 3)), jnp.float32)
    options = made(prepare=["gcn"], random_crop=1, random_flip=True)
    found = make_augment(options, (H, W, 3))(KEY, x)
    assert found.dtype == np.float32 and found.shape == x.shape
    assert set(np.unique(found)) <= {0.0, *np.unique(x)}


@pytest.mark.parametrize(
    ("options", "shape", "words"),
    [
        ({"random_crop": 8}, (H, W, 3), "data.random_crop: 8 is more than"),
        ({"random_crop": 1, "resized_crop": {}}, (H, W, 3), "both crop"),
        ({"color_jitter": {}, "prepare": ["gcn"]}, (H, W, 3), "data.color_jitter: changes pixels"),
        ({"lighting": 0.1, "prepare": ["gcn"]}, (H, W, 3), "data.lighting: changes pixels"),
        ({"lighting": 0.1, "scaling": {"kind": "none"}}, (H, W, 3), 'data.scaling.kind = "none"'),
        ({"lighting": 0.1}, (H, W, 1), "wants red, green and blue, the images have 1"),
        ({"color_jitter": {}}, (H, W, 4), "wants 1 or 3 channels, the images have 4"),
    ],
)
def test_augmentation_refusals(options, shape, words):
    refused(words, lambda: make_augment(made(**options), shape))


# Sets


def test_data_info():
    assert data_info(made()).image_shape == (28, 28, 1)
    assert data_info(made(crop_size=24)).image_shape == (24, 24, 1)
    info = data_info(loaded())
    assert (info.image_shape, info.n_classes, info.n_train) == ((H, W, 3), 3, N_TRAIN)
    refused("data.name: 'x' is not one of .*, python", lambda: data_info(made(name="x")))
    large = loaded("--data.crop-size", "8")
    for call in (data_info, load_data):
        refused("data.crop_size: 8x8 is larger", lambda call=call: call(large))


def test_setup_of_own_images():
    for state, step in (train.setup(loaded()), train.setup(loaded(), n_train=76)):
        split = load_data(loaded()).train
        for images, labels in data.train_batches(split, 32, 0, 0):
            state, metrics = step(state, images, labels)
        assert np.isfinite(metrics["loss"])
    arrays = np.load("set.npz")
    own = data.from_arrays("own", *(arrays[k] for k in ("x_train", "y_train", "x_test", "y_test")))
    fitted = loaded("--data.name", "mnist", "--data.scaling.kind", "fitted")
    state, step = train.setup(fitted, dataset=own)
    state, metrics = step(state, own.train.images[:32], own.train.labels[:32])
    assert np.isfinite(metrics["loss"])


# Whole runs


def test_a_whitened_run_evaluates_the_same_and_goes_on(place, capsys):
    options = ("--data.prepare", "gcn", "zca", "--data.random-flip", "true")
    line = fit("run.toml", place / "run", *options)
    assert cli("eval", place / "run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_accuracy"] == line["test_accuracy"]
    # The same from the run's own config, and in two parts.
    again = fit(place / "run" / "config.toml", place / "again")
    assert again["test_loss"] == line["test_loss"]
    fit("run.toml", place / "parts", *options, "--epochs", "1")
    recorder = Recorder()
    parts = fit("run.toml", place / "parts", *options, reporter=recorder)
    assert parts["test_loss"] == line["test_loss"] and not recorder.warnings
    assert len(metrics_lines(place / "parts")) == 3
    assert cli("export", place / "run", "--out", place / "m.binjax") == 2
    error = capsys.readouterr().err
    assert "data.prepare (gcn, zca)" in error and error.count("\n") == 1


def test_a_fitted_run_is_exported(place, capsys):
    options = ("--data.scaling.kind", "fitted", "--data.crop-size", "6", "--data.lighting", "0.1")
    line = fit("run.toml", place / "run", *options)
    noted = config.load(place / "run" / "config.toml")
    assert noted.data.scaling.kind == "standard" and len(noted.data.scaling.mean) == 3
    recorder = Recorder()
    fit("run.toml", place / "run", *options, reporter=recorder)  # the same run: nothing to do
    out = place / "m.binjax"
    capsys.readouterr()
    assert cli("export", place / "run", "--out", out) == 2
    assert "--allow-float keeps the layer float" in capsys.readouterr().err
    assert cli("export", place / "run", "--out", out, "--allow-float", "--random", "20") == 0
    np.save("images.npy", np.load("set.npz")["x_test"][:, 1:7, :6])
    capsys.readouterr()
    assert cli("predict", out, "images.npy", "--json") == 0
    rows = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    right = np.mean([row["class"] for row in rows] == np.load("set.npz")["y_test"])
    assert right == pytest.approx(line["test_accuracy"])


def test_summary_of_own_images(place, capsys):
    assert cli("summary", "run.toml", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["macs"]["1"] + found["macs"].get("32", 0) == H * W * 3 * 24 + 24 * 3
    assert cli("summary", "run.toml", "--input-shape", "2", "2", "3", "--classes", "2") == 0
    write_config(place, RUN.replace("set.npz", "gone.npz"), "gone.toml")
    capsys.readouterr()
    assert cli("summary", "gone.toml") == 2
    assert "gone.npz" in capsys.readouterr().err


def test_floats_of_ones_own_say_so(place):
    (place / "floats.py").write_text(
        "import numpy as np\n"
        "def images():\n"
        "    file = np.load('set.npz')\n"
        "    x, y, u, v = (file[k] for k in ('x_train', 'y_train', 'x_test', 'y_test'))\n"
        "    return x / 127.5 - 1, y, u / 127.5 - 1, v\n"
    )
    options = ("--data.name", "python", "--data.function", "floats.py:images")
    refused("are floats: say data.scaling.kind", lambda: load_data(loaded(*options), print))
    line = fit("run.toml", place / "run", *options, "--data.scaling.kind", "none")
    assert line["test_accuracy"] > 0.8
    assert cli("export", place / "run", "--out", place / "m.binjax") == 2
