"""Small runs for the tests of training and of the command line."""

import gzip
import json
import os
import struct
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from binjax import checkpoint, config, train
from binjax.cli import main
from binjax.layers import BatchNorm, BinaryDense, Sequential

TINY = """
seed = 3
epochs = 2
batch_size = 32
[data]
name = "fashion-mnist-12k"
limit_train = 160
limit_test = 70
[model]
kind = "mlp"
widths = [24, 16]
input_dropout = 0.1
hidden_dropout = 0.2
input_quantizer = "stochastic_sign"
[optimizer]
kind = "adam"
learning_rate = 0.01
"""
STEPS_PER_EPOCH = 5
TIMES = ("seconds", "epoch_seconds", "images_per_second")


def network():
    """A real layer, a binary one and a norm: 5 to 4 to 3 features, for tests of optimizers."""
    rngs = nnx.Rngs(0)
    return Sequential(
        {
            "stem": BinaryDense(5, 4, kernel_quantizer=None, input_quantizer=None, rngs=rngs),
            "dense": BinaryDense(4, 3, use_bias=True, rngs=rngs),
            "norm": BatchNorm(3),
        }
    )


def write_config(folder, text=TINY, name="tiny.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.warnings, self.lines, self.started = [], [], []

    def warn(self, message):
        self.warnings.append(message)

    def start(self, config, step, steps_per_epoch, products):
        self.started.append((step, steps_per_epoch))

    def progress(self, epoch, step, metrics):
        pass

    def evaluated(self, line):
        self.lines.append(line)


def fit(path, root, *overrides, resume=True, reporter=None):
    """Train in this process: what `binjax train` does, without plots and event files."""
    folder = train.RunFolder(root)
    loaded = config.load(path, overrides)
    return train.fit(loaded, folder, reporter or Recorder(), resume=resume)


def cli(*words):
    """Exit status of the command in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stopped:
        return stopped.code


def refused(capsys, *words, names=()):
    """The one line on stderr of a command that is refused with status 2."""
    capsys.readouterr()
    status = cli(*words)
    out, err = capsys.readouterr()
    assert status == 2, (status, err)
    assert err.startswith("binjax: "), err
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert out == ""
    for name in names:
        assert str(name) in err, err
    return err.strip()


CACHE_OPTIONS = {
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@contextmanager
def compile_cache(tmp_path_factory):
    """Compile each function of a run once for all tests: most of a small run's time goes there."""
    folder = tmp_path_factory.getbasetemp() / "compiled"
    options = {"jax_compilation_cache_dir": str(folder), **CACHE_OPTIONS}
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield folder
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def spawn(*words, cwd=None, cache=None):
    """The command in a process of its own, with the cache of compiled functions, or without."""
    environment = dict(os.environ)
    if cache is not None:
        options = {"jax_compilation_cache_dir": cache, **CACHE_OPTIONS}
        environment |= {name.upper(): str(value) for name, value in options.items()}
    command = [sys.executable, "-m", "binjax", *map(str, words)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_below(path):
    return [p for p in Path(path).rglob("*") if p.is_file()] if Path(path).exists() else []


def metrics_lines(root):
    """metrics.jsonl without what a clock wrote."""
    text = (Path(root) / "metrics.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def last_state(root, loaded):
    """The newest checkpoint's arrays by path, and its metadata without times."""
    data = train.load_data(loaded)
    task = train.make_task(loaded, data.image_shape, data.n_classes, len(data.train))
    like = jax.eval_shape(task.init)
    folder = Path(root) / "checkpoints"
    restored = checkpoint.restore(folder, checkpoint.steps(folder)[-1], like)
    leaves = jax.tree_util.tree_flatten_with_path(restored.tree)[0]
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    return arrays, {k: v for k, v in restored.meta.items() if k not in TIMES}


def assert_same_run(a, b, loaded):
    """Metrics, final state and metadata of two runs, bit for bit."""
    assert metrics_lines(a) == metrics_lines(b)
    (arrays, meta), (others, other_meta) = last_state(a, loaded), last_state(b, loaded)
    assert meta == other_meta
    assert arrays.keys() == others.keys()
    assert any("params" in name for name in arrays) and any("opt_state" in n for n in arrays)
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype
        assert array.tobytes() == others[name].tobytes(), name


def flip(path, at=0.5):
    """Flip one bit of a file, at a fraction of its length."""
    content = bytearray(path.read_bytes())
    content[min(int(len(content) * at), len(content) - 1)] ^= 0x10
    path.write_bytes(bytes(content))


def idx(array):
    """An array as an IDX file of bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 0x08, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


IDX_FILES = [
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


def write_mnist(folder, n_train=40):
    """Forty training and ten test images of noise, as the four files of MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in IDX_FILES:
        n = n_train if name.startswith("train") else 10
        images = "images" in name
        array = rng.integers(0, 256 if images else 10, (n, 28, 28) if images else n)
        (folder / name).write_bytes(gzip.compress(idx(array)))
    return folder


CIFAR_FILES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


def write_cifar10(folder):
    """Ten images of noise in each file of CIFAR-10's binary version."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in CIFAR_FILES:
        records = rng.integers(0, 256, (10, 3073))
        records[:, 0] %= 10
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())
    return folder
