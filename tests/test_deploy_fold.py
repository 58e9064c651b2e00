"""Thresholds against norms in float64: every sum, every channel, ties told apart."""

import jax.numpy as jnp
import numpy as np
import pytest
from deployed import randomize
from flax import nnx

from binjax.deploy import fold
from binjax.deploy.operations import (
    DeployError,
    Image,
    Threshold,
)
from binjax.deploy.pack import blocks_of
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    PixelScale,
    Sequential,
    ShiftBatchNorm,
)
from binjax.shift import ap2

RNGS = {"rngs": nnx.Rngs(0)}


def two_layers(norm, *, n_in=33, n_out=48, **options):
    layers = {
        "dense1": BinaryDense(n_in, n_out, **options, **RNGS),
        "norm1": norm,
        "dense2": BinaryDense(n_out, 3, **RNGS),
    }
    return randomize(Sequential({"flatten": Flatten(), **layers}))


def first_block(model, shape):
    return blocks_of(model, shape, "")[0][0]


def norm_in_float64(norm, y):
    mean, bias = (np.asarray(v[...], np.float64) for v in (norm.mean, norm.bias))
    if isinstance(norm, ShiftBatchNorm):
        factor = np.asarray(ap2(norm.inverse_std[...]) * ap2(norm.scale[...]), np.float64)
    else:
        spread = np.asarray(norm.spread[...], np.float64)
        inverse = 1 / np.sqrt(spread + norm.eps) if norm.running == "variance" else spread
        factor = inverse * np.asarray(norm.scale[...], np.float64)
    return (y - mean) * factor + bias


def check(block, y_of):
    """Every threshold bit is the sign in float64, but at ties of its rounding."""
    op = block.op
    folded = fold.find_thresholds(block.bits, block.variables, op)
    sums = np.concatenate(list(fold.all_sums(op)))
    bits = (sums[:, None] >= folded.threshold) ^ folded.flip
    values = norm_in_float64(block.before[0], y_of(sums[:, None].astype(np.float64)))
    tie = np.abs(values) < 1e-5 * (1 + np.abs(np.asarray(block.before[0].bias[...])))
    assert ((bits == (values >= 0)) | tie).all()
    assert tie.mean() < 0.1
    count, wrong = fold.check_thresholds(block.bits, block.variables, op, folded)
    assert (count, wrong) == (sums.size * op.outputs, None)
    assert folded.threshold.dtype == np.int32 and folded.flip.dtype == bool
    return folded


@pytest.mark.parametrize("running", ["variance", "inverse_std"])
def test_batch_norm(running):
    model = two_layers(BatchNorm(48, running=running))
    folded = check(first_block(model, (1, 1, 33)), lambda sums: sums)
    # gamma 0: a constant; the last bias is beyond all sums
    assert folded.threshold[0] == -33
    assert {True, False} == {*folded.flip.tolist()}


def test_shift_batch_norm():
    check(first_block(two_layers(ShiftBatchNorm(48)), (1, 1, 33)), lambda sums: sums)


@pytest.mark.parametrize("scale", [True, PixelScale.standard(33.3, 78.5)])
def test_pixels(scale):
    model = two_layers(BatchNorm(48), n_in=12, pixels=scale)
    block = first_block(model, (2, 3, 2))
    a, b = (1 / 255, 0) if scale is True else scale
    columns = block.weights.sum(0)
    check(block, lambda sums: sums * a + b * columns)


def test_bias_of_the_layer():
    model = two_layers(BatchNorm(48), use_bias=True)
    block = first_block(model, (1, 1, 33))
    bias = np.asarray(block.layer.bias[...], np.float64)
    assert np.abs(bias[-1]) > 1e4
    check(block, lambda sums: sums + bias)


def test_a_network_in_bfloat16_folds_with_its_own_rounding():
    thresholds = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = two_layers(BatchNorm(48), n_in=2000, dtype=dtype)
        model.norm1.mean[...] = jnp.linspace(-1500, 1500, 48)  # where bfloat16 has steps of 8
        block = first_block(model, (1, 1, 2000))
        folded = fold.find_thresholds(block.bits, block.variables, block.op)
        assert fold.check_thresholds(block.bits, block.variables, block.op, folded)[1] is None
        thresholds.append(folded.threshold)
    assert (thresholds[0] != thresholds[1]).mean() > 0.3


def test_borders_of_zeros_meet_every_integer():
    layers = {
        "conv1": BinaryConv(4, 8, input_quantizer="ste_sign", **RNGS),
        "norm1": BatchNorm(8),
        "flatten": Flatten(),
        "dense": BinaryDense(8 * 9, 3, **RNGS),
    }
    block = first_block(randomize(Sequential(layers)), (3, 3, 4))
    assert np.concatenate(list(fold.all_sums(block.op))).tolist() == list(range(-36, 37))
    valid = first_block(
        randomize(
            Sequential(
                layers
                | {"conv1": BinaryConv(4, 8, padding="VALID", **RNGS)}
                | {"dense": BinaryDense(8, 3, **RNGS)}
            )
        ),
        (3, 3, 4),
    )
    assert np.concatenate(list(fold.all_sums(valid.op))).tolist() == list(range(-36, 37, 2))


def test_a_wrong_threshold_is_found():
    block = first_block(two_layers(BatchNorm(48)), (1, 1, 33))
    folded = fold.find_thresholds(block.bits, block.variables, block.op)
    inner = int(np.argmax((folded.threshold > -20) & (folded.threshold < 20)))
    for change in (2, -2):
        wrong = folded.threshold.copy()
        wrong[inner] += change
        bad = folded._replace(threshold=wrong)
        _, found = fold.check_thresholds(block.bits, block.variables, block.op, bad)
        assert found is not None and found.channel == inner
        assert found.sum == folded.threshold[inner] - (2 if change < 0 else 0)
        assert found.threshold_bit != found.float_bit


def test_every_sum_is_checked_in_bounded_pieces(monkeypatch):
    block = first_block(two_layers(BatchNorm(48)), (1, 1, 33))
    whole = np.concatenate(list(fold.all_sums(block.op)))
    monkeypatch.setattr(fold, "_CHUNK", 48 * 5)
    pieces = list(fold.all_sums(block.op))
    assert max(map(len, pieces)) == 5 and np.array_equal(np.concatenate(pieces), whole)


def test_what_rises():
    model = two_layers(BatchNorm(48))
    block = first_block(model, (1, 1, 33))
    scale = np.asarray(model.norm1.scale[...])
    rises = fold.rising(block.pooled_values, block.variables, block.op)
    assert np.array_equal(rises, scale >= 0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            {"dense1": BinaryDense(8, 4, input_quantizer=None, **RNGS)},
            "dense1: it multiplies real inputs.*--allow-float",
        ),
        (
            {"dense1": BinaryDense(8, 4, kernel_quantizer="noop", **RNGS)},
            "dense1: its kernel quantizer noop does not give ±1; take",
        ),
        (
            {
                "dense1": BinaryDense(8, 4, **RNGS),
                "dense2": BinaryDense(4, 2, input_quantizer=None, **RNGS),
            },
            "dense2: it multiplies real inputs",
        ),
        (
            {"norm": BatchNorm(8), "dense1": BinaryDense(8, 4, **RNGS)},
            "norm .BatchNorm. stands in front",
        ),
        (
            {"dense1": BinaryDense(8, 4, **RNGS), "odd": nnx.Linear(4, 4, **RNGS)},
            "odd .Linear. cannot be folded",
        ),
        ({"flatten": Flatten()}, "no binary layer"),
        (
            {"conv1": BinaryConv(8, 4, pad_value=0.5, **RNGS)},
            r"conv1: its border of 0\.5 cannot be exported",
        ),
    ],
)
def test_refusals_name_the_layer(layers, message):
    with pytest.raises(DeployError, match=message):
        blocks_of(Sequential({"flat": Flatten()} | layers), (1, 1, 8), "")


def test_refusals_around_pools():
    conv = {"conv1": BinaryConv(4, 8, **RNGS)}
    behind = {"conv2": BinaryConv(8, 8, **RNGS)}
    pools = {"pool1": MaxPool(), "norm1": BatchNorm(8), "pool2": MaxPool()}
    with pytest.raises(DeployError, match=r"pool2 .MaxPool. is a second pooling behind conv1"):
        blocks_of(Sequential(conv | pools | behind), (8, 8, 4), "")
    with pytest.raises(DeployError, match=r"pool1 .MaxPool. pools scores"):
        blocks_of(Sequential(conv | {"pool1": MaxPool()}), (8, 8, 4), "")
    flat = {"flatten": Flatten(), "norm1": BatchNorm(8 * 64), "dense": BinaryDense(512, 2, **RNGS)}
    with pytest.raises(DeployError, match=r"norm1 .BatchNorm. stands behind flatten"):
        blocks_of(Sequential(conv | flat), (8, 8, 4), "")


def test_the_operations_say_what_they_are():
    model = two_layers(BatchNorm(48))
    blocks, flatten, image = blocks_of(model, (1, 1, 33), "x")
    assert image == Image((1, 1, 33), "float32", "x") and flatten == "flatten"
    assert blocks[0].op.rule == Threshold()
    assert [b.op.outputs for b in blocks] == [48, 3]
