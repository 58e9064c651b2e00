"""Binary layers and normalization against numpy, on ±1 and in floating point."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from flax import nnx

from binjax import ste
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    BinaryWeight,
    Flatten,
    LearnedScale,
    MaxPool,
    PReLU,
    Sequential,
    ShiftBatchNorm,
    capture,
    dropout,
    quant,
)

Layer = Callable[..., jax.Array]


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Float32 noise whose signs and saturation masks are both mixed."""
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def gradients(
    layer: nnx.Module, x: np.ndarray, g: np.ndarray, **call: Any
) -> tuple[Any, jax.Array]:
    """d/d parameters (a dict by name) and d/dx of sum(g·layer(x))."""
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(nnx.merge(graphdef, params, rest, copy=True)(x, **call) * g)

    by_params, by_x = jax.jit(jax.grad(loss, (0, 1)))(params, jnp.asarray(x))
    return nnx.to_pure_dict(by_params), by_x


# Binary products


def test_dense_forward_is_exact() -> None:
    layer = BinaryDense(77, 5, rngs=rngs())
    x, w = normal(4, 77), normal(77, 5, seed=1)
    x[0, :2] = 0.0, -0.0
    layer.kernel[...] = jnp.asarray(w)
    expected = reference.sign(x) @ reference.sign(w)
    np.testing.assert_array_equal(layer(jnp.asarray(x)), expected)
    np.testing.assert_array_equal(layer(jnp.asarray(x), train=True), expected)
    np.testing.assert_array_equal(layer(jnp.asarray(x[0])), expected[0])
    np.testing.assert_array_equal(layer(jnp.asarray(x).reshape(2, 2, 77))[1, 1], expected[3])


def test_dense_gradients_are_straight_through() -> None:
    layer = BinaryDense(9, 5, use_bias=True, rngs=rngs())
    x, w, g = normal(4, 9), normal(9, 5, seed=1), normal(4, 5, seed=2)
    x[0, :3] = 1, -1, np.nextafter(np.float32(1), np.float32(2))
    layer.kernel[...] = jnp.asarray(w)
    params, gx = gradients(layer, x, g)
    expected_x = g @ reference.sign(w).T * reference.saturated_derivative(x)
    expected_w = reference.sign(x).T @ g * reference.saturated_derivative(w)
    np.testing.assert_allclose(gx, expected_x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["kernel"], expected_w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["bias"], g.sum(0), rtol=1e-5)


CONVOLUTIONS = [
    # Every padding value with SAME; the even window pads one side only.
    ((3, 3), (1, 1), "SAME", 0.0),
    ((3, 3), (1, 1), "SAME", 1.0),
    ((3, 3), (1, 1), "SAME", -1.0),
    ((2, 3), (1, 1), "SAME", -1.0),
    ((3, 3), (2, 2), "SAME", 1.0),  # stride 2 on an odd and an even side
    ((3, 2), (2, 1), "SAME", 0.0),
    ((3, 3), (1, 1), "VALID", 0.0),
    ((3, 2), (2, 3), "VALID", -1.0),  # the padding value must not matter
    ((1, 1), (1, 1), "SAME", 1.0),  # nothing to pad
    ((5, 4), (1, 1), "VALID", 0.0),  # window as large as the image
    ((1, 1), (3, 3), "SAME", -1.0),  # strides larger than the window
]


@pytest.mark.parametrize(("size", "strides", "padding", "pad_value"), CONVOLUTIONS, ids=str)
def test_conv_forward_and_gradients(
    size: tuple[int, int], strides: tuple[int, int], padding: str, pad_value: float
) -> None:
    layer = BinaryConv(
        3, 2, size, strides=strides, padding=padding, pad_value=pad_value, rngs=rngs()
    )
    x, w = normal(2, 5, 4, 3), normal(*size, 3, 2, seed=1)
    layer.kernel[...] = jnp.asarray(w)
    xb, wb = reference.sign(x), reference.sign(w)
    expected = reference.conv(xb, wb, strides, padding, pad_value)
    np.testing.assert_array_equal(jax.jit(layer)(x), expected)
    g = normal(*expected.shape, seed=2)
    params, gx = gradients(layer, x, g)
    expected_x, expected_w = reference.conv_gradients(xb, wb, g, strides, padding, pad_value)
    expected_x = expected_x * reference.saturated_derivative(x)
    expected_w = expected_w * reference.saturated_derivative(w)
    np.testing.assert_allclose(gx, expected_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["kernel"], expected_w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("input_quantizer", "kernel_quantizer"),
    [(None, None), (None, "ste_sign"), ("ste_sign", None), ("approx_sign", "swish_sign")],
)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_quantizers_are_independent(
    kind: str, input_quantizer: str | None, kernel_quantizer: str | None
) -> None:
    chosen = {"input_quantizer": input_quantizer, "kernel_quantizer": kernel_quantizer}
    x = normal(2, 4, 4, 6)
    if kind == "dense":
        layer, w = BinaryDense(6, 3, **chosen, rngs=rngs()), normal(6, 3, seed=1)
        product: Callable[..., np.ndarray] = np.matmul
    else:
        layer, w = BinaryConv(6, 3, **chosen, rngs=rngs()), normal(3, 3, 6, 3, seed=1)
        product = lambda x, w: reference.conv(x, w, (1, 1), "SAME", 0.0)  # noqa: E731
    layer.kernel[...] = jnp.asarray(w)
    seen_x = reference.sign(x) if input_quantizer else x
    seen_w = reference.sign(w) if kernel_quantizer else w
    np.testing.assert_allclose(layer(jnp.asarray(x)), product(seen_x, seen_w), rtol=1e-4, atol=1e-5)
    # Only a kernel that is binarized is a latent weight (and clipped by the optimizer).
    assert isinstance(layer.kernel, BinaryWeight) == (kernel_quantizer is not None)
    assert isinstance(layer.kernel, nnx.Param)
    _, gx = gradients(layer, x, np.ones(product(seen_x, seen_w).shape, np.float32))
    saturated = np.abs(x) > 1
    assert np.any(np.asarray(gx)[saturated]) == (input_quantizer is None)


def test_functions_and_pairs_as_quantizers() -> None:
    x = jnp.asarray(normal(3, 4))
    mine = BinaryDense(4, 2, input_quantizer=lambda z: 2 * ste.ste_sign(z), rngs=rngs())
    plain = BinaryDense(4, 2, rngs=rngs())
    np.testing.assert_array_equal(mine(x), 2 * plain(x))
    pair = ste.Stochastic(training=lambda key, z: jnp.full_like(z, 3), evaluation=ste.ste_sign)
    drawn = BinaryDense(4, 2, input_quantizer=pair, rngs=rngs())
    np.testing.assert_array_equal(drawn(x), plain(x))
    kernel = jnp.where(plain.kernel[...] >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(
        drawn(x, train=True, key=jax.random.key(0)), jnp.broadcast_to(3 * kernel.sum(0), (3, 2))
    )


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_stochastic_activations(kind: str) -> None:
    if kind == "dense":
        layer: Layer = BinaryDense(64, 3, input_quantizer="stochastic_sign", rngs=rngs())
    else:
        layer = BinaryConv(64, 3, input_quantizer="stochastic_sign", rngs=rngs())
    x = jnp.zeros((2, 5, 5, 64))
    with pytest.raises(ValueError, match=r"key=jax\.random\.key"):
        layer(x, train=True)
    first, second = jax.random.split(jax.random.key(0))
    y = layer(x, train=True, key=first)
    np.testing.assert_array_equal(layer(x, train=True, key=first), y)
    assert (layer(x, train=True, key=second) != y).any()
    # Deterministic in evaluation: all +1 at 0.
    np.testing.assert_array_equal(layer(x)[0, 2, 2], layer(x + 1)[0, 2, 2])


def test_dropout_follows_the_quantizer() -> None:
    layer = BinaryDense(4096, 1, dropout=0.5, kernel_quantizer=None, rngs=rngs())
    layer.kernel[...] = jnp.ones((4096, 1)).at[::2].set(0)
    x = jnp.ones((1, 4096))
    assert layer(x) == 2048
    value = float(layer(x, train=True, key=jax.random.key(0))[0, 0])
    assert value % 2 == 0  # every kept input counts twice
    assert abs(value - 2048) < 5 * 2 * np.sqrt(2048 / 4)
    with pytest.raises(ValueError, match="needs key"):
        layer(x, train=True)


def test_dropout_function() -> None:
    x = jnp.ones(1 << 16)
    key = jax.random.key(0)
    dropped = dropout(key, x, 0.2)
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.8)}
    kept = float(jnp.mean(dropped > 0))
    assert abs(kept - 0.8) < 5 * np.sqrt(0.16 / x.size)
    np.testing.assert_array_equal(dropout(None, x, 0.0), x)
    with pytest.raises(ValueError, match=r"1\.0.*\[0, 1\)"):
        dropout(key, x, 1.0)


def test_bias_is_off_by_default() -> None:
    for layer in (BinaryDense(3, 2, rngs=rngs()), BinaryConv(3, 2, rngs=rngs())):
        assert layer.bias is None
        assert set(nnx.to_pure_dict(nnx.state(layer))) == {"kernel"}
    for layer in (
        BinaryDense(3, 2, use_bias=True, rngs=rngs()),
        BinaryConv(3, 2, use_bias=True, rngs=rngs()),
    ):
        x = jnp.ones((1, 3, 3, 3))
        zero = layer(x)
        layer.bias[...] = jnp.array([1.0, -2.0])
        np.testing.assert_array_equal(
            layer(x) - zero, jnp.broadcast_to(layer.bias[...], zero.shape)
        )


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_dtypes(kind: str, param_dtype: jax.typing.DTypeLike, strict_promotion: None) -> None:
    make = BinaryDense if kind == "dense" else BinaryConv
    x = jnp.ones((1, 4, 4, 3), jnp.bfloat16)
    options = {"use_bias": True, "param_dtype": param_dtype}
    follows = make(3, 2, **options, rngs=rngs())
    assert follows.kernel[...].dtype == param_dtype
    assert jax.eval_shape(follows, x).dtype == jnp.bfloat16
    fixed = make(3, 2, dtype=jnp.float32, **options, rngs=rngs())
    assert jax.eval_shape(fixed, x).dtype == jnp.float32
    params, gx = jax.eval_shape(lambda: gradients(fixed, x, np.float32(1)))
    assert params["kernel"].dtype == params["bias"].dtype == param_dtype
    assert gx.dtype == jnp.bfloat16


@pytest.mark.parametrize("make", [BinaryDense, BinaryConv])
def test_integer_images_are_refused(make: Callable[..., Any]) -> None:
    # Raw uint8 pixels reach a first layer whose input quantizer is None; products of ±1 in
    # uint8 wrap around silently (-1 is 255).
    layer = make(3, 2, input_quantizer=None, rngs=rngs())
    with pytest.raises(TypeError, match="uint8"):
        layer(jnp.ones((1, 4, 4, 3), jnp.uint8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BinaryDense(0, 2, rngs=rngs()), "n_in is 0"),
        (lambda: BinaryDense(2, -1, rngs=rngs()), "n_out is -1"),
        (lambda: BinaryConv(2, 0, rngs=rngs()), "n_out is 0"),
        (lambda: BinaryConv(2, 2, (3,), rngs=rngs()), "kernel_size"),
        (lambda: BinaryConv(2, 2, (3, 0), rngs=rngs()), "kernel_size"),
        (lambda: BinaryConv(2, 2, strides=(0, 1), rngs=rngs()), "strides"),
        (lambda: BinaryConv(2, 2, padding="FULL", rngs=rngs()), "'FULL'.*SAME.*VALID"),
        (lambda: BinaryDense(2, 2, input_quantizer="sgn", rngs=rngs()), "'sgn'.*ste_sign"),
        (
            lambda: BinaryDense(2, 2, kernel_quantizer="stochastic_sign", rngs=rngs()),
            "deterministic",
        ),
        (lambda: BinaryDense(2, 2, dropout=1.0, rngs=rngs()), "dropout"),
        (lambda: BinaryDense(3, 2, rngs=rngs())(jnp.ones((1, 4))), r"\[..., 3\].*\(1, 4\)"),
        (lambda: BinaryDense(3, 2, rngs=rngs())(jnp.ones(())), r"shape \(\)"),
        (lambda: BinaryConv(3, 2, rngs=rngs())(jnp.ones((4, 4, 3))), r"\[n, h, w, 3\]"),
        (lambda: BinaryConv(3, 2, rngs=rngs())(jnp.ones((1, 4, 4, 2))), r"\(1, 4, 4, 2\)"),
        (lambda: BinaryDense(2.5, 2, rngs=rngs()), "BinaryDense: n_in is 2.5, must be an integer"),
        (lambda: BinaryDense("4", 2, rngs=rngs()), "BinaryDense: n_in is '4'"),
        (lambda: BinaryDense(2, 2, dropout="0.5", rngs=rngs()), "BinaryDense: dropout is '0.5'"),
        (lambda: BinaryDense(2, 2, kernel_init="zeros", rngs=rngs()), "kernel_init is 'zeros'"),
        (lambda: BinaryDense(2, 2, dtype="floatt", rngs=rngs()), "BinaryDense: dtype is 'floatt'"),
        (lambda: BinaryDense(2, 2, dtype=int, rngs=rngs()), "BinaryDense: dtype is .*floating"),
        (lambda: BinaryConv(2, 2, padding=1, rngs=rngs()), "BinaryConv padding is 1; choose"),
        (lambda: BinaryConv(2, 2, padding=None, rngs=rngs()), r"None; .*\(top, bottom\), \(left"),
        (lambda: BinaryConv(2, 2, groups="2", rngs=rngs()), "BinaryConv: groups is '2', must be"),
        (lambda: BinaryConv(2, 4, groups=4, rngs=rngs()), "BinaryConv: groups is 4; it must div"),
        (lambda: BinaryConv(2, 2, pad_value=None, rngs=rngs()), "BinaryConv: pad_value is None"),
        (lambda: BinaryConv(2, 2, pad_value=np.nan, rngs=rngs()), "BinaryConv: pad_value is nan"),
        (lambda: MaxPool(padding=1), "MaxPool padding is 1; choose"),
        (lambda: MaxPool(2.5), "MaxPool window is 2.5; expected 2 positive integers"),
        (lambda: Flatten()(jnp.ones(())), "Flatten takes"),
        (lambda: BatchNorm(0), "BatchNorm: n is 0"),
        (lambda: BatchNorm("3"), "BatchNorm: n is '3'"),
        (lambda: BatchNorm(3, eps=None), "BatchNorm: eps is None"),
        (lambda: BatchNorm(3, eps=0.0), "eps"),
        (lambda: BatchNorm(3, momentum=1.0), "momentum"),
        (lambda: BatchNorm(3, running="std"), "'std'"),  # type: ignore[arg-type]
        (lambda: ShiftBatchNorm(3, eps=-1.0), "eps"),
        (lambda: BatchNorm(3)(jnp.ones((2, 4))), r"\[..., 3\].*\(2, 4\)"),
        (lambda: ShiftBatchNorm(3)(jnp.ones(3)), "batch axis"),
    ],
)
def test_refusals(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_numpy_integers_are_sizes() -> None:
    three, two = np.int64(3), np.int32(2)
    layer = BinaryConv(two, two, three, strides=two, groups=two, rngs=rngs())
    assert layer.kernel[...].shape == (3, 3, 1, 2)
    assert layer(jnp.ones((1, 5, 5, 2))).shape == (1, 3, 3, 2)
    larq = quant.QuantConv2D(two, two, three, padding="same", rngs=rngs())
    assert larq.kernel_size == (3, 3) and type(larq.n_in) is int
    assert BinaryDense(two, three, rngs=rngs())(jnp.ones((1, 2))).shape == (1, 3)
    assert MaxPool(two)(jnp.ones((1, 4, 4, 1))).shape == (1, 2, 2, 1)


@pytest.mark.parametrize("layer", [BatchNorm(3), ShiftBatchNorm(3), PReLU(3), LearnedScale(3)])
def test_integers_meet_no_real_parameters(layer: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(layer).__name__} needs a floating dtype, got int"):
        layer(jnp.ones((2, 3), jnp.int32))


# Normalization

SHAPES = [(16, 3), (4, 5, 2, 3)]
NORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any], float]] = {
    "batch": (BatchNorm, reference.batch_norm, reference.batch_norm_gradients, 1e-4),
    "shift": (ShiftBatchNorm, reference.shift_norm, reference.shift_norm_gradients, 1e-5),
}
every_norm = pytest.mark.parametrize("norm", NORMS)


def affine(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Put gammas (one negative) and betas into a norm of three channels."""
    gamma, beta = np.array([0.8, -1.3, 3.1]), np.array([-0.5, 0.25, 1.0])
    layer.scale[...] = jnp.asarray(gamma, layer.scale[...].dtype)
    layer.bias[...] = jnp.asarray(beta, layer.bias[...].dtype)
    return gamma, beta


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(SHAPES[0], jnp.float32), (SHAPES[1], jnp.float32), (SHAPES[1], jnp.float64)],
    ids=str,
)
@every_norm
def test_norm_forward_and_backward(
    norm: str, shape: tuple[int, ...], dtype: jax.typing.DTypeLike, x64: None
) -> None:
    make, forward, backward, eps = NORMS[norm]
    layer = make(3, param_dtype=dtype)
    gamma, beta = affine(layer)
    x = normal(*shape).astype(dtype) * np.array([0.1, 1, 30], dtype) + np.array([5, 0, -2], dtype)
    g = normal(*shape, seed=1).astype(dtype)
    tolerance = 1e-11 if dtype == jnp.float64 else 2e-5
    y = forward(x.astype(float), gamma, beta, eps).y
    params, gx = gradients(layer, x, g, train=True)
    np.testing.assert_allclose(layer(jnp.asarray(x), train=True), y, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(
        (gx, params["scale"], params["bias"]),
        backward(x.astype(float), gamma, g.astype(float), eps),
        strict=True,
    ):
        assert ours.dtype == dtype
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=10 * tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("running", ["variance", "inverse_std"])
def test_batch_norm_running_statistics(running: Any, shape: tuple[int, ...]) -> None:
    layer = BatchNorm(3, running=running)
    gamma, beta = affine(layer)
    mean, spread = np.zeros(3), np.ones(3)
    for seed in range(3):
        x = normal(*shape, seed=seed) * 2 + 1
        layer(jnp.asarray(x), train=True)
        batch = reference.batch_norm(x.astype(float), gamma, beta, 1e-4)
        observed = batch.inverse_std if running == "inverse_std" else batch.inverse_std**-2 - 1e-4
        mean = reference.moved(mean, batch.mean, 0.9)
        spread = reference.moved(spread, observed, 0.9)
    np.testing.assert_allclose(layer.mean[...], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.spread[...], spread, rtol=1e-5)
    inverse_std = spread if running == "inverse_std" else (spread + 1e-4) ** -0.5
    expected = reference.batch_norm_evaluated(x, gamma, beta, mean, inverse_std)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shift_norm_running_statistics(shape: tuple[int, ...]) -> None:
    layer = ShiftBatchNorm(3)
    gamma, beta = affine(layer)
    mean, inverse_std = np.zeros(3), np.ones(3)  # Torch's spatial version starts at 0, a defect
    np.testing.assert_array_equal(layer.inverse_std[...], inverse_std)
    for seed in range(3):
        x = normal(*shape, seed=seed) * np.array([0.2, 2, 9], np.float32) + 1
        layer(jnp.asarray(x), train=True)
        batch = reference.shift_norm(x.astype(float), gamma, beta, 1e-5)
        mean = reference.moved(mean, batch.mean, 0.875)
        inverse_std = reference.moved(inverse_std, batch.inverse_std, 0.875)
    np.testing.assert_allclose(layer.mean[...], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer.inverse_std[...], inverse_std, rtol=1e-5)
    expected = reference.shift_norm_evaluated(x, gamma, beta, mean, inverse_std)
    np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(layer)))
    layer(jnp.asarray(x))  # evaluation moves nothing
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), before, nnx.to_pure_dict(nnx.state(layer)))
    )


def test_shift_norm_multiplies_by_powers_of_two_only() -> None:
    x = normal(64, 3)
    layer = ShiftBatchNorm(3)
    affine(layer)
    layer.bias[...] = jnp.zeros(3)
    factor = np.asarray(layer(jnp.asarray(x), train=True)) / (x - np.asarray(jnp.mean(x, 0)))
    np.testing.assert_allclose(
        factor, np.broadcast_to(reference.ap2(factor[0]), (64, 3)), rtol=1e-6
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shift_norm_on_powers_of_two_is_batch_norm(shape: tuple[int, ...]) -> None:
    # Centred values ±2^k, so variance 4^k: every AP2 is the identity, and eps is below an ulp.
    half = np.random.default_rng(0).choice([-1.0, 1.0], (shape[0] // 2, *shape[1:]))
    x = np.concatenate([half, -half]).astype(np.float32) * np.array([0.5, 1, 8], np.float32)
    x = x + np.array([0, 1, -4], np.float32)
    shift, plain = ShiftBatchNorm(3, eps=1e-12), BatchNorm(3, eps=1e-12)
    for layer in (shift, plain):
        layer.scale[...] = jnp.array([2.0, -0.25, 1.0])
        layer.bias[...] = jnp.array([0.0, 1.0, -3.0])
    np.testing.assert_allclose(
        shift(jnp.asarray(x), train=True), plain(jnp.asarray(x), train=True), rtol=1e-6
    )
    g = normal(*shape, seed=1)
    ours, theirs = (gradients(layer, x, g, train=True) for layer in (shift, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("use_scale", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_batch_norm_without_affine_parts(use_scale: bool, use_bias: bool) -> None:
    layer = BatchNorm(3, use_scale=use_scale, use_bias=use_bias)
    present = set(nnx.to_pure_dict(nnx.state(layer, nnx.Param)))
    assert present == {name for name, on in [("scale", use_scale), ("bias", use_bias)] if on}
    x = normal(8, 3)
    expected = reference.batch_norm(x.astype(float), np.ones(3), np.zeros(3), 1e-4).y
    np.testing.assert_allclose(layer(jnp.asarray(x), train=True), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("param_dtype", [jnp.float32, jnp.bfloat16])
@every_norm
def test_norm_of_narrow_inputs(norm: str, param_dtype: jax.typing.DTypeLike) -> None:
    # Statistics are computed in float32: a bfloat16 sum of 512 values near 64 would stand still.
    layer = NORMS[norm][0](3, param_dtype=param_dtype)
    half = np.sign(normal(256, 3)) * 0.5
    deviation = np.concatenate([half, -half])
    x = jnp.asarray(64 + deviation, jnp.bfloat16)
    y = layer(x, train=True)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), 2 * deviation, rtol=0.01)
    assert layer(x).dtype == jnp.bfloat16
    params, gx = gradients(layer, x, np.float32(1), train=True)
    assert gx.dtype == jnp.bfloat16
    assert params["scale"].dtype == params["bias"].dtype == param_dtype
    state = jax.tree.leaves(nnx.to_pure_dict(nnx.state(layer)))
    assert all(leaf.dtype == param_dtype for leaf in state)


@every_norm
def test_norm_without_promotion(norm: str, strict_promotion: None) -> None:
    layer = NORMS[norm][0](3)
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jnp.ones((4, 3), dtype)
        assert layer(x, train=True).dtype == layer(x).dtype == dtype


@every_norm
def test_constant_channels_give_the_bias(norm: str) -> None:
    layer = NORMS[norm][0](3)
    _, beta = affine(layer)
    x = np.full((8, 3), 7, np.float32)
    np.testing.assert_array_equal(layer(jnp.asarray(x), train=True), np.broadcast_to(beta, (8, 3)))
    _, gx = gradients(layer, x, normal(8, 3), train=True)
    assert np.isfinite(gx).all()


# Without weights, and together


def test_max_pool_and_flatten() -> None:
    x = normal(2, 5, 4, 3)
    expected = x[:, :4].reshape(2, 2, 2, 2, 2, 3).max((2, 4))
    np.testing.assert_array_equal(MaxPool()(jnp.asarray(x)), expected)
    np.testing.assert_array_equal(MaxPool((1, 1), (2, 2))(jnp.asarray(x)), x[:, ::2, ::2])
    np.testing.assert_array_equal(Flatten()(jnp.asarray(x)), x.reshape(2, -1))


def small_network() -> Sequential:
    return Sequential(
        {
            "conv": BinaryConv(3, 4, input_quantizer=None, rngs=rngs()),
            "pool": MaxPool(),
            "norm": ShiftBatchNorm(4),
            "flat": Flatten(),
            "dense1": BinaryDense(16, 8, input_quantizer="stochastic_sign", rngs=rngs()),
            "dense2": BinaryDense(8, 2, input_quantizer="stochastic_sign", rngs=rngs()),
            "last": BatchNorm(2, running="inverse_std"),
        }
    )


def test_sequential_jits_once_and_draws_independently() -> None:
    graphdef, state = nnx.split(small_network())
    traces = 0

    @jax.jit
    def forward(state: Any, x: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        nonlocal traces
        traces += 1
        model = nnx.merge(graphdef, state)
        y = model(x, train=True, key=key)
        return y, nnx.state(model)

    x = jnp.asarray(normal(4, 4, 4, 3))
    for seed in range(3):
        y, state = forward(state, x, jax.random.key(seed))
    assert traces == 1 and y.shape == (4, 2)
    # Layers that pass on what they drew, far inside: with one noise they would repeat it.
    identity = jnp.eye(64) * 1e-9
    twice = Sequential({name: noisy(identity) for name in ("first", "second")})
    y = twice(jnp.zeros((1, 64)), train=True, key=jax.random.key(0))
    once = Sequential({"first": noisy(identity)})(
        jnp.zeros((1, 64)), train=True, key=jax.random.key(0)
    )
    assert 0 < jnp.sum(y != once) < 64


def noisy(kernel: jax.Array) -> BinaryDense:
    options = {"input_quantizer": "stochastic_sign", "kernel_quantizer": None}
    layer = BinaryDense(*kernel.shape, **options, rngs=rngs())
    layer.kernel[...] = kernel
    return layer


def test_capture_records_outputs_and_preactivations() -> None:
    model = small_network()
    x = jnp.asarray(normal(4, 4, 4, 3))
    plain = model(x)
    recorded = capture(model, x)
    assert set(recorded["conv"]) == {"output"}  # its input is not binarized
    assert set(recorded["dense2"]) == {"output", "preactivation"}
    np.testing.assert_array_equal(recorded["dense2"]["preactivation"], recorded["dense1"]["output"])
    np.testing.assert_array_equal(model(x), plain)


def test_nan_has_no_sign_to_multiply() -> None:
    """Where values are there; under jit its sign bit counts."""
    dense = BinaryDense(4, 3, rngs=rngs())
    x = jnp.ones((2, 4)).at[1, 2].set(jnp.nan)
    with pytest.raises(ValueError, match=r"BinaryDense: x is NaN at \(1, 2\)"):
        dense(x)
    assert jnp.isnan(BinaryDense(4, 3, backend="float", rngs=rngs())(x)).any()
