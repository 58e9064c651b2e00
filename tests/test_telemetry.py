"""What an epoch's line says of layers whose quantizers are more than a sign."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import TINY, fit, metrics_lines, write_config

from binjax import config
from binjax.config import optimizers
from binjax.layers import BinaryDense, Sequential, split
from binjax.train.state import TrainState
from binjax.train.task import make_task
from binjax.train.telemetry import make_telemetry, pack_kernels

N = 6


def network():
    def dense(seed, inputs, kernel="ste_sign"):
        return BinaryDense(
            N, N, input_quantizer=inputs, kernel_quantizer=kernel, rngs=nnx.Rngs(seed)
        )

    return Sequential(
        {
            "threshold": dense(0, "rsign", "libra_pb"),
            "levels": dense(1, {"kind": "dorefa", "k_bit": 2}, "ste_tern"),
            "values": dense(2, "adabin_activations", "adabin_weights"),
            "real": dense(3, None, {"kind": "absmax", "per": "channel"}),
        }
    )


def line_of(model, before, optimizer, x):
    graphdef, params, stats = split(model)
    signs = pack_kernels(before)
    state = TrainState(
        **dict.fromkeys(TrainState._fields)
        | {"params": params, "stats": stats, "epoch_signs": signs, "start_signs": signs}
        | {"flips": {"levels": jnp.float32(2)}}
    )
    found = make_telemetry(graphdef, lambda images: images, optimizer, 8)(state, x)
    return jax.tree.map(float, found)


def entropy(high):
    p = high.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.nan_to_num(p * np.log2(p)) + np.nan_to_num((1 - p) * np.log2(1 - p))
    return -bits.mean()


def test_lines_of_layers():
    """Flips and signs are those of the values that are multiplied, gradients those that flow."""
    x = np.random.default_rng(0).normal(size=(64, N)).astype(np.float32)
    old, new = network(), network()
    for name in ("threshold", "levels", "values"):
        kernel = getattr(new, name).kernel
        kernel[...] = kernel[...] + 0.05
    bias = np.float32([-3, -1, 0, 0.5, 1, 50])
    new.threshold.input_quantizer.bias[...] = jnp.asarray(bias)
    found = line_of(new, old, optimizers.Adam(clip=0.6), x)

    # Shifting a centred kernel flips nothing.
    assert found["threshold"]["flip_ratio"] == found["values"]["flip_ratio"] == 0
    assert found["threshold"]["c2i"] == found["values"]["c2i"] == 1
    before, now = (np.asarray(m.levels.kernel[...]) for m in (old, new))
    third = [np.sign(w) * (np.abs(w) >= np.float32(0.05)) for w in (before, now)]
    flips = np.mean(third[0] != third[1])
    assert flips > np.mean((before >= 0) != (now >= 0)) > 0
    assert found["levels"]["flip_ratio"] == pytest.approx(flips)
    assert found["levels"]["c2i"] == pytest.approx(1 - 2 * flips)
    assert found["levels"]["dead"] == pytest.approx(np.mean(np.abs(now) >= np.float32(0.6)))

    seen = x + bias
    assert found["threshold"]["sign_entropy"] == pytest.approx(entropy(seen >= 0), abs=1e-6)
    margin = np.mean(np.abs(seen).mean(0) / seen.std(0))
    assert found["threshold"]["sign_margin"] == pytest.approx(margin, rel=1e-5)
    assert found["threshold"]["saturated"] == pytest.approx(np.mean(np.abs(seen) >= 1))
    assert "sign_entropy" in found["values"]
    # More than one bit has no sign; the gradient of DoReFa's ends at 0 and 1.
    hidden = np.asarray(new.threshold(jnp.asarray(x)))
    assert set(found["levels"]) == {"flip_ratio", "ff_ratio", "c2i", "dead", "saturated"}
    assert found["levels"]["ff_ratio"] == 2 / 8 and "ff_ratio" not in found["values"]
    assert found["levels"]["saturated"] == pytest.approx(np.mean((hidden < 0) | (hidden > 1)))
    assert "real" not in found


def test_weights_that_only_flip_are_not_dead():
    found = line_of(network(), network(), optimizers.Bop(), np.ones((2, N), np.float32))
    assert not any("dead" in values for values in found.values())
    assert found["levels"]["flip_ratio"] == 0


def test_clip_counts_for_quantizers_without_a_limit():
    model = network()
    model.values.kernel[...] = jnp.full((N, N), -0.7).at[0, 0].set(0.1)
    x = np.ones((2, N), np.float32)
    bounded = line_of(model, model, optimizers.Adam(clip=0.7), x)
    assert bounded["values"]["dead"] == pytest.approx(35 / 36)
    assert line_of(model, model, optimizers.Adam(clip=0), x)["values"]["dead"] == 0


def test_flips_of_each_step():
    """The FF ratio sees weights that turn and turn back within the epoch."""
    model = {"kind": "mlp", "widths": [N], "input_dropout": 0.0, "hidden_dropout": 0.0}
    table = {"batch_size": 4, "model": model, "telemetry": {"ff_ratio": True}}
    table["optimizer"] = {"kind": "sgd", "learning_rate": 50.0, "momentum": 0.0}
    task = make_task(config.validate(table, "it"), (3, 3, 1), 10, 12)
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 1), np.uint8)
    state, shares = task.begin_epoch(task.init()), []
    for i in range(3):
        before = np.asarray(state.params["dense1"]["kernel"]) >= 0
        state, _ = task.step(state, images, np.arange(4, dtype=np.int32) + i)
        after = np.asarray(state.params["dense1"]["kernel"]) >= 0
        shares.append(np.mean(before != after))
    found = task.telemetry(state, images)["dense1"]
    assert float(found["ff_ratio"]) == pytest.approx(np.mean(shares), rel=1e-5)
    assert float(found["ff_ratio"]) * 3 > float(found["flip_ratio"]) > 0
    assert not any(np.asarray(v) for v in task.begin_epoch(state).flips.values())


def test_flips_of_steps_in_a_run(tmp_path):
    words = ["--telemetry.ff_ratio", "true", "--epochs", "1"]
    fit(write_config(tmp_path, TINY), tmp_path / "run", *words)
    layers = metrics_lines(tmp_path / "run")[0]["layers"]
    assert all(0 <= values["ff_ratio"] <= 1 for values in layers.values())
