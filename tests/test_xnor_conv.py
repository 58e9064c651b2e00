"""Convolutions of ±1 images on every back end, against XLA's own on the ±1 floats."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import affine, each_backend, packed, random_signs, signs, thresholds
from jax import lax

import binjax
from binjax import xnor
from binjax.xnor import xla_conv
from binjax.xnor.geometry import pads

pytestmark = [
    pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning"),
    pytest.mark.usefixtures("strict_promotion"),
]


def padded(x, kernel, strides, padding, pad_value, dilation):
    """The images with their border, so that the rest is VALID."""
    widths = pads(x.shape[1:3], kernel, strides, padding, dilation)
    return jnp.pad(x, ((0, 0), *widths, (0, 0)), constant_values=pad_value)


def float_conv(x, w, strides, padding, pad_value, dilation, groups):
    """The convolution of the operands as they are, bordered with pad_value: exact for ±1."""
    return lax.conv_general_dilated(
        padded(x, w.shape[:2], strides, padding, pad_value, dilation),
        w,
        strides,
        "VALID",
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


# (channels in, out, kernel, groups): channels around words, one per group, groups with and
# without whole words; every filter size from 1x1 to 11x11, also not square.
LAYERS = [
    (4, 8, (1, 1), 1),
    (32, 33, (3, 3), 1),
    (33, 32, (2, 3), 1),
    (128, 40, (3, 3), 1),
    (512, 5, (3, 1), 1),
    (3, 64, (11, 11), 1),
    (16, 6, (5, 5), 1),
    (64, 64, (3, 3), 2),
    (128, 96, (3, 3), 4),
    (20, 40, (2, 2), 4),
    (6, 6, (3, 3), 6),
    (256, 64, (1, 1), 1),
]
# (strides, dilation, padding)
FORMS = [
    ((1, 1), (1, 1), "SAME"),
    ((2, 2), (1, 1), "SAME"),
    ((2, 1), (1, 2), "VALID"),
    ((1, 2), (2, 1), "SAME"),
    ((1, 1), (1, 1), ((0, 2), (3, 1))),
]
# Each layer with two of the forms, each form with several layers
CASES = [
    (layer, FORMS[(i + shift) % len(FORMS)]) for i, layer in enumerate(LAYERS) for shift in (0, 2)
]


@each_backend()
@pytest.mark.parametrize(("layer", "form"), CASES)
def test_equals_the_float_convolution(backend, layer, form):
    (n_in, n_out, kernel, groups), (strides, dilation, padding) = layer, form
    channels = n_in // groups
    rng = np.random.default_rng(n_in + n_out)
    image = (2, 13, 11) if kernel[0] < 11 else (1, 24, 23)  # wide enough for a dilated window
    x, w = random_signs(rng, (*image, n_in)), random_signs(rng, (*kernel, channels, n_out))
    options = {"strides": strides, "padding": padding, "dilation": dilation, "backend": backend}
    xp = xnor.pack_conv_input(x, groups, backend=backend)
    wp = xnor.pack_conv_kernel(w, backend=backend)
    np.testing.assert_array_equal(xp, packed(x.reshape(*image, groups, channels) > 0))
    np.testing.assert_array_equal(wp, packed(w.transpose(3, 0, 1, 2) > 0))

    dots = [
        np.asarray(float_conv(x, w, strides, padding, value, dilation, groups)).astype(np.int64)
        for value in (-1, 0, 1)
    ]
    k = kernel[0] * kernel[1] * channels
    threshold, flip = thresholds(rng, dots[0], k)
    scale, bias = affine(rng, n_out)

    @jax.jit
    def convolve(xp, wp, threshold, flip, scale, bias):
        return (
            *(xnor.packed_conv(xp, wp, channels, pad_value=v, **options) for v in (-1, 0, 1)),
            xnor.packed_conv_threshold(xp, wp, channels, threshold, flip, pad_value=0, **options),
            xnor.packed_conv_affine(xp, wp, channels, scale, bias, pad_value=1, **options),
        )

    *found, bits, scaled = convolve(xp, wp, threshold, flip, scale, bias)
    assert [v.dtype for v in (found[0], bits, scaled)] == [jnp.int32, jnp.uint32, jnp.float32]
    np.testing.assert_array_equal(found, dots)
    np.testing.assert_array_equal(bits, packed((dots[1] >= threshold) ^ flip))
    np.testing.assert_array_equal(scaled, dots[2] * scale.astype(np.float64) + bias)


@each_backend()
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_gradients_are_those_of_the_float_convolution(backend, pad_value, groups):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(2, 6, 7, 10)).astype(np.float32)
    w = rng.normal(size=(3, 2, 10 // groups, 4)).astype(np.float32)
    x[0, 0, 0, :4], w[0, 0, 0, :] = [0.0, -0.0, 1.0, -1.0], [0.0, -0.0, 1.0, -1.0]
    options = {"strides": (2, 1), "padding": "SAME", "dilation": (1, 2)}
    reference = functools.partial(float_conv, pad_value=pad_value, groups=groups, **options)
    sx, sw = signs(x).astype(np.float32), signs(w).astype(np.float32)
    y, pullback = jax.vjp(reference, sx, sw)
    g = rng.integers(-3, 4, y.shape).astype(np.float32)
    gx, gw = (np.asarray(v) for v in pullback(g))

    @functools.partial(jax.jit, static_argnums=0)
    def both(function, x, w, g):
        of = functools.partial(
            function, pad_value=pad_value, groups=groups, backend=backend, **options
        )
        y, pullback = jax.vjp(of, x, w)
        return y, *pullback(g)

    for function, mask in ((xnor.xnor_conv, True), (xnor.binary_conv, False)):
        found = both(function, x, w, g)
        np.testing.assert_array_equal(found[0], y)
        np.testing.assert_array_equal(found[1], gx * (np.abs(x) <= 1) if mask else gx)
        np.testing.assert_array_equal(found[2], gw * (np.abs(w) <= 1) if mask else gw)


@each_backend()
def test_gradients_of_the_affine_epilogue(backend):
    rng = np.random.default_rng(8)
    x, w = random_signs(rng, (2, 5, 5, 8)), random_signs(rng, (3, 3, 8, 6))
    xp, wp = xnor.pack_conv_input(x), xnor.pack_conv_kernel(w)
    dot = np.asarray(xnor.packed_conv(xp, wp, 8))
    scale, bias = affine(rng, 6)
    found = jax.grad(
        lambda s, b: jnp.sum(xnor.packed_conv_affine(xp, wp, 8, s, b, backend=backend)), (0, 1)
    )(scale, bias)
    np.testing.assert_array_equal(found[0], dot.sum((0, 1, 2)))
    np.testing.assert_array_equal(found[1], np.full(6, 50))


@each_backend()
@pytest.mark.parametrize(("groups", "n_out"), [(1, 32), (1, 5), (2, 6)])
def test_vmap_over_every_choice_of_axes(backend, groups, n_out):
    rng = np.random.default_rng(9)
    x = rng.normal(size=(3, 2, 5, 4, 8)).astype(np.float32)
    w = rng.normal(size=(3, 2, 3, 8 // groups, n_out)).astype(np.float32)
    threshold = rng.integers(-5, 6, (3, n_out)).astype(np.int32)

    def one(x, w, t):
        y = xnor.xnor_conv(x, w, groups=groups, backend=backend)
        xp, wp = xnor.pack_conv_input(x, groups), xnor.pack_conv_kernel(w)
        flip = np.zeros(n_out, bool)
        options = {"padding": "VALID", "backend": backend}
        return y, xnor.packed_conv_threshold(xp, wp, 8 // groups, t, flip, **options)

    single = jax.jit(one)
    for axes in itertools.product((0, None), repeat=3):
        if not any(axis == 0 for axis in axes):
            continue
        operands = [v if a == 0 else v[0] for v, a in zip((x, w, threshold), axes, strict=True)]
        found, bits = jax.jit(jax.vmap(one, axes))(*operands)
        for i in range(3):
            own = [v[i] if a == 0 else v for v, a in zip(operands, axes, strict=True)]
            expected = single(*own)
            np.testing.assert_array_equal(found[i], expected[0], err_msg=str(axes))
            np.testing.assert_array_equal(bits[i], expected[1], err_msg=str(axes))


def test_blocks_of_images(monkeypatch):
    rng = np.random.default_rng(10)
    x, w = random_signs(rng, (7, 6, 5, 40)), random_signs(rng, (3, 3, 40, 9))
    monkeypatch.setattr(xla_conv, "PATCH_BYTES", 3 * 6 * 5 * 9 * 2 * 4)  # three images of seven
    # A geometry of its own, so that nothing compiled before is found in jit's cache
    padding = ((1, 1), (1, 1))
    found = xnor.binary_conv(x, w, padding=padding, backend="xla")
    np.testing.assert_array_equal(found, float_conv(x, w, (1, 1), padding, 0, (1, 1), 1))


@each_backend()
def test_empty_results(backend):
    x, w = np.ones((2, 3, 3, 4), np.float32), np.ones((5, 5, 4, 6), np.float32)
    convolve = functools.partial(xnor.xnor_conv, backend=backend)
    assert convolve(x, w, padding="VALID").shape == (2, 0, 0, 6)  # the window does not fit
    assert convolve(x[:0], w).shape == (0, 3, 3, 6)
    assert convolve(x, w[..., :0]).shape == (2, 3, 3, 0)
    bits = xnor.packed_conv_threshold(
        np.zeros((0, 3, 3, 1, 1), np.uint32),
        np.zeros((40, 2, 2, 1), np.uint32),
        4,
        np.zeros(40, np.int32),
        np.zeros(40, bool),
        backend=backend,
    )
    assert (bits.shape, bits.dtype) == ((0, 3, 3, 2), jnp.uint32)


@pytest.mark.parametrize("padding", ["VALID", "SAME", ((1, 0), (0, 2))])
@pytest.mark.parametrize(
    ("window", "strides"), [((2, 2), None), ((3, 2), (1, 2)), ((1, 1), (2, 2))]
)
def test_max_pool(window, strides, padding):
    x = random_signs(np.random.default_rng(11), (2, 7, 6, 45))
    steps = window if strides is None else strides
    widths = pads(x.shape[1:3], window, steps, padding, (1, 1))
    pooled = lax.reduce_window(
        x, -1.0, lax.max, (1, *window, 1), (1, *steps, 1), ((0, 0), *widths, (0, 0))
    )
    found = xnor.packed_max_pool(packed(x > 0), window, strides, padding)
    np.testing.assert_array_equal(found, packed(np.asarray(pooled) > 0))
    grouped = xnor.packed_max_pool(packed(x.reshape(2, 7, 6, 3, 15) > 0), window, strides, padding)
    expected = packed(np.asarray(pooled).reshape(*pooled.shape[:3], 3, 15) > 0)
    np.testing.assert_array_equal(grouped, expected)


def test_shapes_and_dtypes():
    x, w = np.ones((2, 8, 8, 6), np.float16), np.ones((3, 3, 6, 5), np.float32)
    y = jax.eval_shape(functools.partial(binjax.xnor_conv, strides=(2, 2)), x, w)
    assert (y.shape, y.dtype) == ((2, 4, 4, 5), jnp.float16)
    gradients = jax.eval_shape(jax.grad(lambda x, w: jnp.sum(binjax.xnor_conv(x, w)), (0, 1)), x, w)
    assert [g.dtype for g in gradients] == [jnp.float16, jnp.float32]


X, W = np.ones((2, 4, 4, 6), np.float32), np.ones((3, 3, 6, 4), np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": X[0]}, r"x has shape \(4, 4, 6\) and w \(3, 3, 6, 4\); expected \[n, h, w, C\]"),
        ({"w": W[:, :, :5]}, r"x has 6 channels, w of shape \(3, 3, 5, 4\) takes 5 in 1 group"),
        ({"groups": 4}, "groups is 4; it must divide the 6 input and 4 output channels"),
        ({"groups": 0}, "groups is 0"),
        ({"pad_value": 2}, "pad_value is 2; a binary border is -1, 0 or"),
        ({"pad_value": 0.5}, "pad_value is 0.5"),
        ({"padding": "same"}, "padding is 'same'; choose"),
        ({"padding": ((1, -1), (0, 0))}, "explicit padding is .* none negative"),
        ({"padding": (1, 1)}, "explicit padding is"),
        ({"strides": (0, 1)}, r"strides is \(0, 1\); expected two positive integers"),
        ({"dilation": (1,)}, r"dilation is \(1,\); expected two positive"),
        ({"strides": 2}, "strides is 2; expected two positive"),
        ({"w": W[:0]}, r"the kernel has no taps: its spatial shape is \(0, 3\)"),
        ({"x": X * np.float32(np.nan)}, r"x is NaN at \(0, 0, 0, 0\)"),
        ({"x": X[..., :0], "w": W[:, :, :0]}, "channels is 0"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        xnor.xnor_conv(**{"x": X, "w": W, **changes})


def test_refusals_of_packed_operands():
    xp, wp = np.zeros((2, 4, 4, 2, 1), np.uint32), np.zeros((4, 3, 3, 1), np.uint32)
    with pytest.raises(ValueError, match=r"xp has shape .* 33 packed elements take 2 words"):
        xnor.packed_conv(xp, wp, 33)
    with pytest.raises(
        ValueError, match=r"xp has shape \(4, 4, 2, 1\); expected \[n, h, w, groups"
    ):
        xnor.packed_conv(xp[0], wp, 5)
    with pytest.raises(TypeError, match="wp has dtype float64, packed words are uint32"):
        xnor.packed_conv(xp, wp * 1.0, 5)
    with pytest.raises(ValueError, match="groups is 2; it must divide"):
        xnor.packed_conv(xp, wp[:3], 5)
    with pytest.raises(ValueError, match=r"need thresholds in \[-45, 46\]"):
        xnor.packed_conv_threshold(xp, wp, 5, np.full(4, 47, np.int32), np.zeros(4, bool))
    with pytest.raises(ValueError, match="groups is 4; it must divide the 6 channels"):
        xnor.pack_conv_input(X, 4)
    with pytest.raises(ValueError, match=r"w has shape \(3, 6, 4\); expected \[height"):
        xnor.pack_conv_kernel(W[0])
    with pytest.raises(TypeError, match="xp has dtype float32, packed words are uint32"):
        xnor.packed_max_pool(X, (2, 2))
    with pytest.raises(ValueError, match="window is"):
        xnor.packed_max_pool(xp, (2, 0))
