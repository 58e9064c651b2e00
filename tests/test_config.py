"""Configs: what is read, what is refused and in which words."""

import re
from pathlib import Path

import pytest

from binjax import config
from binjax.config import ConfigError, networks, optimizers, parse_overrides

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
KINDS = {
    "model": ["mlp", "cifar10_convnet", "svhn_convnet", "larq_cifar10"],
    "optimizer": ["adam", "sgd", "shift_adamax"],
}
QUICKSTART = """\
seed = 0
epochs = 20
batch_size = 100
loss = "squared_hinge"
label_smoothing = 0.0
backend = "auto"
memory = "full"
dtype = "float32"

[data]
name = "fashion-mnist-12k"
channels = 3
memory_gib = 8.0
prepare = []
random_crop = 0
random_flip = false
lighting = 0.0

[data.scaling]
kind = "unit"

[model]
first_layer = "auto"
input_quantizer = "ste_sign"
kernel_quantizer = "ste_sign"
use_bias = false
kernel_init = "glorot_uniform"
kind = "mlp"
widths = [1024, 1024]
input_dropout = 0.0
hidden_dropout = 0.0

[model.norm]
kind = "batch"
eps = 0.0001
momentum = 0.9
running = "variance"

[optimizer]
weight_decay = 0.0
decay_on = ["kernels"]
kind = "adam"
learning_rate = 0.003
b1 = 0.9
b2 = 0.999
eps = 1e-08
decay = "coupled"
clip_norm = 0.0
glorot_scale = "exact"
clip = 1.0

[optimizer.schedule]
kind = "exponential"
end = 1e-05

[checkpoint]
every_epochs = 1
every_steps = 0
keep = 2

[telemetry]
gradient_cosine = false
ff_ratio = false

[parallel]
timeout = 300
"""


@pytest.fixture
def load(tmp_path):
    """Load a text with overrides."""

    def load(text="", *overrides):
        path = tmp_path / "it.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return config.load(path, overrides)

    return load


@pytest.fixture
def refused(load):
    """The one line with which a text and overrides are refused."""

    def refused(text="", *overrides):
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refused


def test_there_are_configs():
    assert "quickstart" in [path.stem for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_reload_equal(path, load):
    loaded = config.load(path)
    text = config.dump(loaded)
    assert load(text) == loaded
    assert config.dump(load(text)) == text


def test_resolved_quickstart():
    path = next(path for path in CONFIGS if path.stem == "quickstart")
    assert config.dump(config.load(path)) == QUICKSTART


@pytest.mark.parametrize(
    ("section", "kind"), [(section, kind) for section in KINDS for kind in KINDS[section]]
)
def test_every_kind_reloads_equal(section, kind, load):
    loaded = load("", f"--{section}.kind", kind)
    assert getattr(loaded, section).kind == kind
    assert load(config.dump(loaded)) == loaded


@pytest.mark.parametrize(
    "text", ['a"b', "a\\b", "C:\\new", "tab\there", "é ∈ ±1", "#no comment", "a = 'b'", ""]
)
def test_strings_survive_a_dump(text, load):
    data = config.Config().data.model_copy(update={"dir": text})
    changed = config.Config().model_copy(update={"data": data})
    assert load(config.dump(changed)) == changed


@pytest.mark.parametrize("value", [1e-300, 1e16, 0.1 + 0.2, 2**-27, 5e-324, 1.0, 123456789.0])
def test_numbers_survive_a_dump(value, load):
    optimizer = optimizers.Sgd(learning_rate=value)
    changed = config.Config(optimizer=optimizer)
    assert load(config.dump(changed)).optimizer.learning_rate == value


def test_configs_are_frozen_and_comparable(load):
    loaded = load()
    assert loaded == config.Config()
    with pytest.raises(ValueError, match="frozen"):
        loaded.seed = 1


# Overrides


def test_words_become_settings():
    words = ["--a.b-c", "1", "--d=2.5", "--e", "x", "true", "--f", '"3"', "--g", "[1, 2]"]
    assert parse_overrides(words) == [
        ("a.b_c", 1),
        ("d", 2.5),
        ("e", ["x", True]),
        ("f", "3"),
        ("g", [1, 2]),
    ]
    assert parse_overrides(["--a=b=c", "--n", "-1", "--x", "1e-2"]) == [
        ("a", "b=c"),
        ("n", -1),
        ("x", 0.01),
    ]
    assert parse_overrides([]) == []


def test_overrides_reach_every_level(load):
    text = '[optimizer]\nkind = "adam"\nb1 = 0.5\n[optimizer.schedule]\nkind = "shift"'
    words = [
        *("--epochs", "3", "--data.limit-train=20", "--data.train_files", "a", "b"),
        *("--optimizer.learning-rate", "1e-2", "--optimizer.schedule.every-epochs", "4"),
    ]
    loaded = load(text, *words)
    assert (loaded.epochs, loaded.data.limit_train) == (3, 20)
    assert loaded.data.train_files == ("a", "b")
    assert loaded.optimizer == optimizers.Adam(
        learning_rate=0.01, b1=0.5, schedule=optimizers.ShiftSchedule(every_epochs=4)
    )


def test_the_last_override_counts(load):
    assert load("seed = 1", "--seed", "2", "--seed=3").seed == 3


def test_another_kind_starts_from_its_own_defaults(load):
    text = '[optimizer]\nkind = "adam"\nb1 = 0.5\nlearning_rate = 0.5'
    assert load(text, "--optimizer.kind", "sgd").optimizer == optimizers.Sgd()
    assert load(text, "--optimizer.kind", "adam").optimizer == optimizers.Adam(
        b1=0.5, learning_rate=0.5
    )


def test_kind_is_applied_first(load):
    for words in (
        ["--model.widths", "8", "4", "--model.kind", "cifar10_convnet"],
        ["--model.kind", "cifar10_convnet", "--model.widths", "8", "4"],
    ):
        loaded = load('[model]\nkind = "mlp"', *words)
        assert loaded.model == networks.Cifar10ConvNet(widths=(8, 4))


@pytest.mark.parametrize("schedule_first", [True, False])
def test_an_outer_kind_is_applied_before_an_inner_one(load, schedule_first):
    inner = ["--optimizer.schedule.kind", "exponential", "--optimizer.schedule.end", "1e-3"]
    outer = ["--optimizer.kind", "sgd"]
    words = [*inner, *outer] if schedule_first else [*outer, *inner]
    loaded = load('[optimizer]\nkind = "adam"', *words)
    assert loaded.optimizer == optimizers.Sgd(schedule=optimizers.ExponentialSchedule(end=1e-3))


# Refusals: the wording is what the user sees, so it is written out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "epoch: unknown key; did you mean epochs?"),
        ("[data]\nlimit_trian = 3", "data.limit_trian: unknown key; did you mean limit_train"),
        (
            "zzz = 3",
            "zzz: unknown key; known here: seed, epochs, batch_size, loss, ",
        ),
        ('[model]\nkind = "mlp"\nwidth = [3]', "model.width: unknown key; did you mean widths?"),
        (
            '[model]\nkind = "mlp"\n[model.norm]\nkind = "shift"\nrunning = "variance"',
            "model.norm.running: unknown key; known here: kind, eps, momentum",
        ),
        ("epochs = 0", "epochs: wants greater than 0, got 0"),
        ("seed = -1", "seed: wants greater than or equal to 0, got -1"),
        ('epochs = "many"', "epochs: wants a valid integer"),
        ("epochs = 1.5", "epochs: wants a valid integer"),
        ("data = 3", "data: wants a section of keys, got 3"),
        ("model = 3", "model: wants "),
        ('loss = "hing"', "loss: wants 'squared_hinge', 'hinge' or 'cross_entropy', got 'hing'"),
        ('[model]\nkind = "mpl"', "model.kind: 'mpl' is not known here; did you mean mlp"),
        ("[model]\nwidths = [3]", "model.kind: is missing; one of mlp, cifar10_convnet, "),
        ('[model]\nkind = "mlp"\nwidths = [3, -1]', "model.widths.1: wants greater than 0, got -1"),
        ('[model]\nkind = "mlp"\nwidths = []', "model.widths: wants "),
        ('[model]\nkind = "mlp"\nhidden_dropout = 1.0', "model.hidden_dropout: wants less than 1"),
        (
            '[optimizer]\nkind = "adam"\nlearning_rate = -0.1',
            "optimizer.learning_rate: wants greater than 0, got -0.1",
        ),
        (
            '[optimizer]\nkind = "adam"\nlearning_rate = nan',
            "optimizer.learning_rate: wants a finite number, got nan",
        ),
        (
            '[optimizer]\nkind = "sgd"\n[optimizer.schedule]\nkind = "cos"',
            "optimizer.schedule.kind: 'cos' is not one of constant, exponential, shift, cosine",
        ),
        ('[data.scaling]\nkind = "standard"\nstd = [1.0]', "data.scaling.mean: is missing and has"),
    ],
)
def test_the_file_and_the_key_are_named(refused, tmp_path, text, message):
    assert refused(text).startswith(f"{tmp_path / 'it.toml'}: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "--seed: wants greater than or equal to 0, got -1"),
        (["--optimizer.learning-rate", "-1"], "--optimizer.learning_rate: wants greater than 0"),
        (["--optimizer.lerning-rate", "1"], "--optimizer.lerning_rate: unknown key; did you mean"),
        (["--data.random-crop", "x"], "--data.random_crop: wants a valid integer"),
        (["--optimizer.kind", "sdg"], "--optimizer.kind: 'sdg' is not one of adam, sgd, shift_"),
        (["--optimizer.kind", "sgd", "--optimizer.b1", "0.5"], "--optimizer.b1: unknown key"),
        (["--seed"], "--seed: a value is missing"),
        (["--seed", "--epochs", "3"], "--seed: a value is missing"),
        (["seed", "3"], "unexpected argument 'seed'; overrides look like --seed 1"),
        (["--epochs", "0", "--seed", "-1"], "--seed: wants greater than or equal to 0, got -1; --"),
        (["--epochs.x.y", "3"], "--epochs.x.y: epochs is a value, not a section"),
    ],
)
def test_the_flag_is_named(refused, words, message):
    assert refused('epochs = 5\n[optimizer]\nkind = "adam"', *words).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "not valid TOML: "),
        ("a = 1\na = 2", "not valid TOML: "),
        (b"\xff\xfe", "cannot be read: "),
    ],
)
def test_text_that_is_no_toml(refused, tmp_path, text, message):
    assert refused(text).startswith(f"{tmp_path / 'it.toml'}: {message}")


def test_files_that_cannot_be_read(tmp_path):
    for path, message in ((tmp_path / "no.toml", "no such file"), (tmp_path, "cannot be read")):
        with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {message}"):
            config.load(path)


def test_several_mistakes_are_one_line(refused):
    message = refused("epochs = 0\nbatch_size = 0\nzzz = 1")
    assert message.count("; ") >= 2
    assert all(key in message for key in ("epochs", "batch_size", "zzz"))


def test_a_boolean_is_no_number(refused):
    assert "epochs: wants" in refused("epochs = true")


def test_text_is_no_number(refused):
    assert "batch_size: wants" in refused('batch_size = "12"')


@pytest.mark.parametrize("seed", [2**32, 2**64])
def test_a_seed_fits_the_generator(refused, seed):
    """JAX keeps the low 32 bits: 2**32 would give the weights of seed 0. 2**64 overflows."""
    assert "--seed: wants" in refused("", "--seed", str(seed))


# What else the package offers


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_fast_makes_a_run_small(path):
    loaded = config.load(path)
    small = config.fast(loaded)
    assert small.epochs == 1
    assert small.data.limit_train == 8 * loaded.batch_size
    assert small.data.limit_test == 2 * loaded.batch_size
    assert set(config.differences(loaded, small)) <= {
        "epochs",
        "data.limit_train",
        "data.limit_test",
    }


def test_fast_keeps_smaller_limits(load):
    loaded = load("batch_size = 10\n[data]\nlimit_train = 30\nlimit_test = 5")
    assert config.fast(loaded).data == loaded.data


def test_differences(load):
    old = load('[optimizer]\nkind = "adam"')
    new = load('seed = 1\n[optimizer]\nkind = "sgd"\n[checkpoint]\nkeep = 5')
    assert config.differences(old, old) == []
    found = config.differences(old, new)
    assert {"seed", "checkpoint.keep", "optimizer.kind", "optimizer.b1"} <= set(found)
    assert "optimizer.momentum" in found
    assert config.differences(old, new, ignore=["optimizer", "checkpoint"]) == ["seed"]
    assert "seed" in config.differences(old, new, ignore=["see", "seed.x"])
