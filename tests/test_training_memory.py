"""What a compiled training step holds in memory, that it compiles once, and bfloat16 steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import write_config

from binjax import config, train
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    Repeat,
    Sequential,
    apply,
    split,
)
from binjax.xnor import backends

needs_native = pytest.mark.skipif("native" not in backends(), reason="no native library here")
pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")


def temporaries(build, images):
    """Bytes of the compiled gradient function beyond arguments and results; nothing runs."""
    abstract = nnx.eval_shape(build)
    graphdef, params, stats = split(abstract)

    def objective(params, stats, images):
        scores, stats = apply(graphdef, params, stats, images, train=True)
        return jnp.mean(jnp.square(scores - 1)), stats

    gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))
    compiled = gradient.lower(params, stats, images).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def deep_convnet(backend, memory, scanned):
    """A real convolution, 20 binary ones of 64 channels on 32x32 images, scores."""
    rngs = nnx.Rngs(0)

    def block(rngs):
        conv = BinaryConv(64, 64, backend=backend, rngs=rngs)
        return Sequential({"conv": conv, "norm": BatchNorm(64)}, memory=memory)

    first = BinaryConv(3, 64, input_quantizer=None, rngs=rngs)
    layers = {"conv0": first, "norm0": BatchNorm(64)}
    if scanned:
        layers["blocks"] = Repeat(20, block, rngs=rngs)
    else:
        layers |= {f"block{i}": block(rngs) for i in range(20)}
    layers["flatten"] = Flatten()
    layers["dense"] = BinaryDense(64 * 32 * 32, 10, backend=backend, rngs=rngs)
    return Sequential({**layers, "norm": BatchNorm(10)})


@needs_native
def test_ceiling_of_a_deep_convnet():
    images = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    floats, scanned, unrolled = (
        temporaries(functools.partial(deep_convnet, *options), images)
        for options in (("float", "full", False), ("auto", "lean", True), ("auto", "lean", False))
    )
    assert scanned <= floats / 5
    assert unrolled <= floats / 5


@needs_native
def test_ceiling_of_the_mlp(tmp_path):
    """Three hidden layers of 4096 on a batch of 1000, as a config trains them."""
    text = """
        batch_size = 1000
        [model]
        kind = "mlp"
        input_dropout = 0.0
        hidden_dropout = 0.0
    """
    path = write_config(tmp_path, text)
    images = jax.ShapeDtypeStruct((1000, 28, 28, 1), jnp.uint8)
    labels = jax.ShapeDtypeStruct((1000,), jnp.int32)

    def of(backend, memory):
        loaded = config.load(path, ["--backend", backend, "--memory", memory])
        task = train.make_task(loaded, (28, 28, 1), 10, 5000)
        lowered = jax.jit(task.gradient).lower(jax.eval_shape(task.init), images, labels)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    floats = of("float", "full")
    assert of("auto", "full") <= 0.5 * floats
    assert of("auto", "int16") <= 0.5 * floats
    assert of("auto", "lean") <= 0.42 * floats


TINY = """
batch_size = 32
[data]
limit_train = 160
limit_test = 70
[model]
kind = "mlp"
widths = [40, 33]
input_dropout = 0.0
hidden_dropout = 0.0
[optimizer]
kind = "adam"
learning_rate = 0.01
"""


@pytest.fixture
def quick_compile():
    """Half the compile time; without fused multiply-adds, so that equal values are equal bits."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make(tmp_path, *overrides):
    loaded = config.load(write_config(tmp_path, TINY), overrides)
    return train.make_task(loaded, (7, 6, 1), 10, 160)


def batches(count):
    """The same images in another order each time: labels stay learnable."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 7, 6, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, 32).astype(np.int32)
    for _ in range(count):
        order = rng.permutation(32)
        yield images[order], labels[order]


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("memory", ["full", "int16", "lean"])
def test_steps_compile_once(memory, tmp_path):
    task = make(tmp_path, "--memory", memory)
    state = task.init()
    for images, labels in batches(4):
        state, metrics = task.step(state, images, labels)
        assert np.isfinite(metrics["loss"])
    assert task.step._cache_size() == 1
    state = task.begin_epoch(state)
    totals = state.totals
    for images, labels in batches(2):
        totals = task.evaluate(state.params, state.stats, totals, images, labels, np.int32(32))
    assert task.evaluate._cache_size() == 1


@pytest.mark.usefixtures("quick_compile")
def test_bfloat16_learns(tmp_path):
    task = make(tmp_path, "--dtype", "bfloat16", "--memory", "lean")
    state = task.init()
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, (state.params, state.stats))
    assert set(jax.tree.leaves(dtypes)) == {np.dtype(np.float32)}
    losses = []
    for images, labels in batches(20):
        state, metrics = task.step(state, images, labels)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-3:]) < 0.75 * losses[0], losses
    assert jax.tree.map(lambda leaf: leaf.dtype, (state.params, state.stats)) == dtypes


@pytest.mark.usefixtures("quick_compile")
def test_bfloat16_scores_are_those_of_floats(tmp_path):
    images, labels = next(batches(1))
    found = []
    for backend in ("float", "auto"):
        task = make(tmp_path, "--dtype", "bfloat16", "--backend", backend)
        state = task.init()
        (loss, (scores, stats)), _ = jax.jit(task.gradient)(state, images, labels)
        assert scores.dtype == jnp.float32
        found.append((loss, scores, stats))
    jax.tree.map(np.testing.assert_array_equal, *found)
