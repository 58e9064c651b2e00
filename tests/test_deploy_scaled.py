"""Deployment of scaled kernels, learned thresholds and slopes: exact at every sum, or refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from deployed import execute, images_for, randomize, scores_of
from flax import nnx

from binjax import deploy
from binjax.deploy import fold
from binjax.deploy.operations import DeployError
from binjax.deploy.pack import blocks_of
from binjax.layers import (
    Activation,
    BatchNorm,
    BinaryConv,
    BinaryDense,
    DPReLU,
    Flatten,
    LearnedScale,
    MaxPool,
    PReLU,
    RPReLU,
    Sequential,
    Shift,
)

SHAPE = (6, 6, 3)


def network(kernel, inputs="ste_sign", between=lambda n: {}, last="ste_sign", *, behind=False):
    """Pixels, a pool, a border; functions in front of the norm or behind it."""
    rngs = nnx.Rngs(1)

    def middle(name, n):
        norm = {f"norm{name}": BatchNorm(n)}
        own = {f"{key}{name}": module for key, module in between(n).items()}
        return norm | own if behind else own | norm

    layers = {
        "conv1": BinaryConv(3, 8, pixels=True, input_quantizer=None, rngs=rngs),
        **middle("1", 8),
        "conv2": BinaryConv(8, 12, input_quantizer=inputs, kernel_quantizer=kernel, rngs=rngs),
        "pool": MaxPool(),
        **middle("2", 12),
        "flatten": Flatten(),
        "dense": BinaryDense(
            108, 5, input_quantizer=inputs, kernel_quantizer=last, use_bias=True, rngs=rngs
        ),
    }
    model = randomize(Sequential(layers))
    for _, module in nnx.iter_modules(model):
        if isinstance(module, BatchNorm):  # less far from the sums of a small network
            module.mean[...] = module.mean[...] / 5
            module.spread[...] = module.spread[...] / 10
            module.bias[...] = jnp.clip(module.bias[...], -1, 1)
    return model


def check(model):
    packed = deploy.pack(model, SHAPE)
    images = np.where(np.random.default_rng(2).random((40, *SHAPE)) < 0.5, 0, 255).astype(np.uint8)
    scores = np.asarray(packed(images))
    np.testing.assert_array_equal(scores, scores_of(model)(jnp.asarray(images)))
    np.testing.assert_array_equal(scores, execute(packed.graph, packed.tensors, images))
    assert len(np.unique(scores)) > 10
    for block in blocks_of(model, SHAPE, "")[0][:-1]:
        folded = fold.find_thresholds(block.bits, block.variables, block.op)
        count, wrong = fold.check_thresholds(block.bits, block.variables, block.op, folded)
        assert count > 0 and wrong is None
    return packed


@pytest.mark.parametrize(
    "kernel",
    [
        "magnitude_aware_sign",
        pytest.param("xnor_weight_scale", marks=pytest.mark.slow),
        pytest.param("layer_sign", marks=pytest.mark.slow),
        pytest.param("absmax_sign", marks=pytest.mark.slow),
        pytest.param("recu", marks=pytest.mark.slow),
        {"kind": "libra_pb", "t_min": 0.1},
        {"kind": "scaled_sign", "prepare": "standardize", "scale": "learned"},
    ],
    ids=str,
)
def test_scaled_kernels(kernel):
    plain = deploy.pack(network("ste_sign"), SHAPE)
    packed = check(network(kernel, last=kernel))
    # The same operations: scales are in the thresholds, and beside the scores.
    assert packed.graph.ops[:-1] == plain.graph.ops[:-1]
    assert packed.graph.ops[-1].rule == plain.graph.ops[-1].rule._replace(gain=True)
    shapes = {k: v.shape for k, v in plain.tensors.items()} | {"dense.gain": (5,)}
    assert {k: v.shape for k, v in packed.tensors.items()} == shapes


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_scaled_scores_in_front_of_a_norm(pixels, use_bias, tmp_path):
    """As last layers of MLPs are."""
    options = {
        "kernel_quantizer": "magnitude_aware_sign",
        "use_bias": use_bias,
        "rngs": RNGS["rngs"],
    }
    if pixels:
        last = BinaryDense(108, 5, pixels=True, input_quantizer=None, **options)
    else:
        last = BinaryDense(108, 5, **options)
    model = randomize(Sequential({"flatten": Flatten(), "last": last, "norm": BatchNorm(5)}))
    packed = deploy.pack(model, SHAPE)
    gain = np.abs(np.asarray(last.kernel[...])).mean(0)
    np.testing.assert_allclose(packed.tensors["last.gain"], gain, rtol=1e-6)
    images = images_for(packed.graph, 300)
    scores = np.asarray(packed(images))
    np.testing.assert_array_equal(scores, scores_of(model)(jnp.asarray(images)))
    np.testing.assert_array_equal(scores, execute(packed.graph, packed.tensors, images))
    packed.save(tmp_path / "m.binjax")
    again = deploy.load(tmp_path / "m.binjax")
    assert again.graph == packed.graph
    np.testing.assert_array_equal(scores, again(images))


@pytest.mark.parametrize("behind", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "make",
    [PReLU, RPReLU, DPReLU, Shift, LearnedScale, lambda n: Activation("hard_tanh")],
    ids=["prelu", "rprelu", "dprelu", "shift", "scale", "hard_tanh"],
)
def test_functions_between(make, behind):
    def between(n):
        return {"function": make(n)}

    model = network("magnitude_aware_sign", between=between, behind=behind)
    rng = np.random.default_rng(5)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if any(str(part).startswith("function") for part in path):
            low, high = (-1, 1) if path[-1] in ("bias", "shift") else (0.1, 1.5)
            drawn = rng.uniform(low, high, variable.shape).astype(np.float32)
            variable[...] = jnp.asarray(drawn)
    check(model)


@pytest.mark.parametrize("inputs", ["approx_sign", "ede", "rsign"])
def test_quantizers_with_variables(inputs):
    model = network("ste_sign", inputs)
    if inputs == "rsign":
        thresholds = np.linspace(-2, 2, 12).astype(np.float32)
        model.dense.input_quantizer.bias[...] = jnp.asarray(np.tile(thresholds, 9))
        model.conv2.input_quantizer.bias[...] = jnp.asarray(thresholds[:8])
        own = BinaryConv(3, 4, input_quantizer="rsign", rngs=nnx.Rngs(0))
        first = Sequential({"conv": own, "norm": BatchNorm(4), "next": BinaryConv(4, 2, **RNGS)})
        with pytest.raises(DeployError, match="conv: images are binarized by their signs"):
            deploy.pack(first, SHAPE)
    if inputs == "rsign":
        # One threshold for each place and channel behind a flattening: not per channel.
        with pytest.raises(DeployError, match="flatten: the layer behind it has rsign, with a"):
            deploy.pack(model, SHAPE)
        model.dense = BinaryDense(108, 5, **RNGS)
    check(model)


RNGS = {"rngs": nnx.Rngs(0)}


def test_slopes_that_turn():
    """In front of a sign, and in front of a pool."""

    def network(pool):
        layers = {
            "conv1": BinaryConv(3, 4, pixels=True, input_quantizer=None, **RNGS),
            "function": RPReLU(4),
            **({"pool": MaxPool()} if pool else {}),
            "conv2": BinaryConv(4, 2, **RNGS),
            "flatten": Flatten(),
            "dense": BinaryDense(18 if pool else 72, 2, **RNGS),
        }
        return Sequential(layers)

    for pool in (False, True):
        model = network(pool)
        deploy.pack(model, SHAPE)
        slope, down = model.function.prelu.slope, model.function.behind.bias
        slope[...] = slope[...].at[3].set(-1.0)  # |x|, less 1 in front of a sign
        down[...] = down[...].at[3].set(0.0 if pool else -1.0)
        with pytest.raises(DeployError, match=r"conv1: .*\(RPReLU\) rises and falls .* channel 3"):
            deploy.pack(model, SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"act": PReLU(5)}, "dense is followed by PReLU; scores are kept with a norm at most"),
        (
            {"norm": BatchNorm(5), "again": BatchNorm(5)},
            "dense is followed by 2 norms; one at most can be kept",
        ),
    ],
)
def test_last_layers(change, message):
    model = network("ste_sign", last="magnitude_aware_sign")
    layers = {name: getattr(model, name) for name in model.names}
    with pytest.raises(DeployError, match=message):
        deploy.pack(Sequential(layers | change), SHAPE)


def test_scales_of_places():
    layers = {
        "conv": BinaryConv(3, 4, pixels=True, input_quantizer=None, **RNGS),
        "scale": LearnedScale((6, 6, 4)),
        "next": BinaryConv(4, 2, **RNGS),
    }
    with pytest.raises(DeployError, match=r"scale \(LearnedScale\) scales places too"):
        deploy.pack(Sequential(layers), SHAPE)
