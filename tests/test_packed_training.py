"""Networks that multiply bits against the same networks in floats: values, gradients, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend
from flax import nnx
from gradient_reference import assert_near

from binjax.layers import BatchNorm, BinaryConv, BinaryDense, Repeat, Sequential, apply, split
from binjax.losses import LABEL_LOSSES
from binjax.models import MODELS
from binjax.models.options import Compute

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

BATCH = 16


@pytest.fixture
def plain_arithmetic():
    """Without fused multiply-adds, which depend on what else is compiled: equal stays equal."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


plain = pytest.mark.usefixtures("plain_arithmetic")


MLP = {"widths": (40, 33, 24), "input_dropout": 0.0, "hidden_dropout": 0.0}
CONVNET = {"channels": (40,), "widths": (33,)}
NETS = {
    "mlp": ("mlp", (6, 5, 1), MLP),
    "mlp with shift norm": ("mlp", (6, 5, 1), {**MLP, "norm": {"kind": "shift"}}),
    "cifar10_convnet": ("cifar10_convnet", (6, 5, 3), CONVNET),
    "svhn_convnet": ("svhn_convnet", (5, 4, 3), {**CONVNET, "channels": (8,)}),
    "larq_cifar10": ("larq_cifar10", (10, 10, 3), {}),
}
SMALL = [name for name in NETS if name != "larq_cifar10"]


def data(shape, pixels=False):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (BATCH, *shape), dtype=np.uint8)
    scaled = (2 * images.astype(np.float32) - 255) / np.float32(255)
    return (images if pixels else scaled), rng.integers(0, 10, BATCH).astype(np.int32)


def build(net, backend, memory="full", **options):
    """The network; a packed back end for every layer but a real first one, which refuses it."""
    kind, shape, own = NETS[net]
    compute = Compute("float" if backend == "float" else "auto", memory)
    model = MODELS[kind](shape, 10, compute=compute, rngs=nnx.Rngs(0), **{**own, **options})
    for name in model.names:
        layer = getattr(model, name)
        if isinstance(layer, BinaryDense | BinaryConv) and layer.floats_because(train=True) is None:
            layer.backend = backend
    return model


def step(model, images, labels, key=None):
    """((loss, (scores, statistics)), gradients) of one training step."""
    graphdef, params, stats = split(model)

    @jax.jit
    def gradient(params, stats):
        def objective(params):
            scores, moved = apply(graphdef, params, stats, images, train=True, key=key)
            return LABEL_LOSSES["squared_hinge"](scores, labels), (scores, moved)

        return jax.value_and_grad(objective, has_aux=True)(params)

    return jax.tree.map(np.asarray, gradient(params, stats))


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_like_floats(found, expected, values=0.0):
    """Values are sums of integers and equal; gradients are sums of floats in another order."""
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(expected[0]), strict=True):
        assert_near(a, b.astype(np.float64), values)
    theirs = jax.tree_util.tree_leaves_with_path(expected[1])
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for _, leaf in theirs))
    for a, (path, b) in zip(jax.tree.leaves(found[1]), theirs, strict=True):
        layer, variable = (part.key for part in path)
        if variable == "bias" and not layer.startswith("norm"):
            # In front of a batch norm it is zero but for rounding.
            assert np.linalg.norm(a - b) <= 1e-6 * norm, path
        else:
            assert_near(a, b.astype(np.float64))


@pytest.fixture(scope="module")
def floats():
    """What the network gives in floats, each computed once."""
    found = {}

    def of(net, key=None, pixels=False, **options):
        name = net, str(options), pixels, key is None
        if name not in found:
            model = build(net, "float", pixels=pixels, **options)
            found[name] = step(model, *data(NETS[net][1], pixels), key)
        return found[name]

    return of


@plain
@each_backend()
@pytest.mark.parametrize("net", SMALL)
def test_a_step(backend, net, floats):
    model = build(net, backend)
    assert_like_floats(step(model, *data(NETS[net][1])), floats(net))


@plain
@pytest.mark.slow
@each_backend()
def test_a_step_of_the_larq_net(backend, floats):
    model = build("larq_cifar10", backend)
    assert_like_floats(step(model, *data((10, 10, 3))), floats("larq_cifar10"))


@plain
@each_backend()
@pytest.mark.parametrize(
    ("net", "quantizer"),
    [
        ("mlp", "stochastic_sign"),
        ("mlp", "approx_sign"),
        ("mlp", "swish_sign"),
        ("cifar10_convnet", "stochastic_sign"),
    ],
)
def test_other_quantizers(backend, net, quantizer, floats):
    key = jax.random.key(5) if quantizer == "stochastic_sign" else None
    options = {"input_quantizer": quantizer}
    if quantizer == "swish_sign":
        options["kernel_quantizer"] = quantizer
    model = build(net, backend, **options)
    found = step(model, *data(NETS[net][1]), key)
    assert_like_floats(found, floats(net, key, **options))


@plain
@each_backend()
@pytest.mark.parametrize("net", ["mlp", "cifar10_convnet"])
def test_pixels(backend, net, floats):
    images, labels = data(NETS[net][1], pixels=True)
    found = step(build(net, backend, pixels=True), images, labels)
    assert_like_floats(found, floats(net, pixels=True))


@plain
@each_backend()
@pytest.mark.parametrize(
    ("net", "pixels"), [("mlp", True), ("mlp with shift norm", False), ("cifar10_convnet", True)]
)
def test_evaluation(backend, net, pixels):
    images, _ = data(NETS[net][1], pixels)

    def scores(backend):
        graphdef, params, stats = split(build(net, backend, pixels=pixels))
        return jax.jit(lambda p, s: apply(graphdef, p, s, images, train=False)[0])(params, stats)

    np.testing.assert_array_equal(scores(backend), scores("float"))


@plain
@each_backend()
@pytest.mark.parametrize("net", ["mlp", "mlp with shift norm", "cifar10_convnet"])
def test_memory_changes_no_bit(backend, net):
    """Scores, loss, running statistics and gradients."""
    images, labels = data(NETS[net][1], pixels=True)
    full, *others = (
        step(build(net, backend, memory, pixels=True), images, labels)
        for memory in ("full", "int16", "lean")
    )
    for found in others:
        assert_same(found, full)


@each_backend()
@pytest.mark.parametrize("memory", ["full", "lean"])
def test_as_compiled_for_use(backend, memory):
    """With every optimization, values may differ by a rounding."""
    images, labels = data(NETS["mlp"][1])
    expected = step(build("mlp", "float"), images, labels)
    assert_like_floats(step(build("mlp", backend, memory), images, labels), expected, values=1e-6)


@plain
@each_backend()
@pytest.mark.parametrize(
    ("memory", "quantizer"),
    [("full", "ste_sign"), ("int16", "stochastic_sign"), ("lean", "ste_sign")],
)
def test_repeated_blocks_are_the_unrolled_ones(backend, memory, quantizer):
    def block(rngs):
        conv = BinaryConv(12, 12, input_quantizer=quantizer, backend=backend, rngs=rngs)
        return Sequential({"conv": conv, "norm": BatchNorm(12)}, memory=memory)

    repeat = Repeat(3, block, rngs=nnx.Rngs(2))
    repeated, params, stats = split(repeat)
    single, _, _ = split(block(nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(8, 5, 6, 12)).astype(np.float32)
    key = jax.random.key(3)

    def scanned(params, x):
        return apply(repeated, params, stats, x, train=True, key=key)

    def unrolled(params, x):
        moved = []
        for i in range(3):
            own = jax.tree.map(lambda leaf: leaf[i], (params["block"], stats["block"]))  # noqa: B023
            x, new = apply(single, *own, x, train=True, key=jax.random.fold_in(key, i))
            moved.append(new)
        return x, {"block": jax.tree.map(lambda *leaves: jnp.stack(leaves), *moved)}

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(function, params, x):
        def objective(params, x):
            y, moved = function(params, x)
            return jnp.sum(jnp.sin(y)), (y, moved)

        return jax.value_and_grad(objective, (0, 1), has_aux=True)(params, x)

    found, expected = (gradient(function, params, x) for function in (scanned, unrolled))
    assert_same(found[0][1], expected[0][1])
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        assert_near(a, np.asarray(b, np.float64), 1e-6)
    evaluated = apply(repeated, params, stats, x, train=False)[0]
    y = x
    for i in range(3):
        own = jax.tree.map(lambda leaf: leaf[i], (params["block"], stats["block"]))  # noqa: B023
        y = apply(single, *own, y, train=False)[0]
    assert_near(evaluated, np.asarray(y, np.float64), 1e-6)
