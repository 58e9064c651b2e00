"""Quantizers in layers: which are multiplied as bits, which are refused, what they are called."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from quantizer_reference import kernel

import binjax
from binjax import ste
from binjax.layers import QUANTIZER_MODULES, BinaryConv, BinaryDense, RSign, ScaledSign, quant
from binjax.layers.quantize import name_of, resolve_quantizer


def packed_and_floats(make, n_in, n_out, **options):
    """The same layer on bits, where it can be, and on floats."""
    return (
        make(n_in, n_out, backend=backend, rngs=nnx.Rngs(0), **options)
        for backend in ("auto", "float")
    )


KERNELS = [
    *("magnitude_aware_sign", "xnor_weight_scale", "libra_pb", "recu"),
    {"kind": "scaled_sign", "prepare": "standardize", "scale": "learned"},
    {"kind": "scaled_sign", "prepare": "center", "scale": "mean", "sign": "swish_sign"},
]


@pytest.mark.parametrize("quantizer", KERNELS, ids=str)
@pytest.mark.parametrize("make", [BinaryDense, BinaryConv])
def test_scaled_kernels_are_multiplied_packed(make, quantizer):
    packed, floats = packed_and_floats(make, 33, 10, kernel_quantizer=quantizer)
    assert packed.floats_because(train=True) is None
    shape = (4, 33) if make is BinaryDense else (2, 5, 6, 33)
    x = jnp.asarray(kernel(*shape))
    split = ste.factors_of(packed.kernel_quantizer)
    scale = (
        1 if split is None else split(packed.kernel[...])[1].reshape((1,) * (x.ndim - 1) + (-1,))
    )
    sums = packed(x) / np.asarray(scale)
    np.testing.assert_allclose(sums, np.round(sums), atol=1e-3)
    np.testing.assert_allclose(packed(x), floats(x), rtol=1e-5, atol=1e-5)

    def gradients(layer):
        graphdef, state = nnx.split(layer)
        loss = lambda state, x: jnp.sum(jnp.sin(nnx.merge(graphdef, state)(x)))  # noqa: E731
        return jax.tree.leaves(jax.grad(loss, (0, 1), allow_int=True)(state, x))

    for ours, theirs in zip(gradients(packed), gradients(floats), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ste_sing", "unknown quantizer 'ste_sing'; did you mean ste_sign"),
        (
            {"kind": "dorefa", "k_bit": 0},
            "dorefa: k_bit is 0, must be an integer from 1 to 16",
        ),
        ({"kind": "dorefa", "mode": "both"}, "not 'both'"),
        ({"kind": "swish_sign", "gamma": 1}, "'swish_sign' has no parameter 'gamma'; known: beta"),
        (
            {"kind": "ste_sign", "clip_valu": 1},
            "no parameter 'clip_valu'; did you mean clip_value",
        ),
        ({"kind": "ede", "tmin": 1}, "'ede' has no parameter 'tmin'; did you mean t_min"),
        ({"kind": "ste_tern", "threshold_value": -1}, "threshold_value is -1, must be a finite"),
        ({"kind": "ste_tern", "threshold_value": math.nan}, "threshold_value is nan, must be"),
        ({"kind": "ste_tern", "threshold_value": math.inf}, "threshold_value is inf, must be"),
        ({"kind": "dorefa", "k_bit": 2.5}, "k_bit is 2.5, must be an integer from 1 to 16"),
        ({"kind": "absmax", "k_bit": "8"}, "k_bit is '8', must be an integer from 2 to 16"),
        ({"kind": "absmax", "k_bit": 1}, "k_bit is 1, must be an integer from 2 to 16"),
        ({"kind": "fourier", "terms": 2.5}, "fourier: terms is 2.5, must be an integer"),
        ({"kind": "swish_sign", "beta": None}, "beta is None, must be a finite number above 0"),
        ({"kind": "ede", "t_max": math.inf}, "EDE: t_max is inf, must be a finite number"),
        ({"kind": "ede", "autodiff": "fwd"}, 'autodiff is \'fwd\'; choose "vjp" or "jvp"'),
        (
            {"kind": "ste_sign", "clip_value": -1},
            "ste_sign: clip_value is -1, must be a finite number of at least 0",
        ),
        ({"kind": "ste_heaviside", "clip_value": math.nan}, "clip_value is nan, must be"),
        ({"kind": "ste_tern", "clip_value": -0.5}, "clip_value is -0.5, must be"),
        ({"kind": "magnitude_aware_sign", "clip_value": -2.0}, "clip_value is -2.0, must be"),
        ({"kind": "swish_sign", "beta": 0}, "swish_sign: beta is 0, must be a"),
        ({"kind": "fourier", "terms": 0}, "fourier: terms is 0, must be an integer of at least 1"),
        ({"kind": "ede", "t_min": 20}, "wanted 0 < t_min <= t_max"),
        ({"kind": "recu", "tau_max": 1.0}, "tau_min <= tau_max < 1"),
        ({"kind": "recu", "tau_min": 0.5}, "wanted .5 < tau_min"),
        ({"kind": "scaled_sign", "scale": "mena"}, "scale is 'mena'; choose 'none', 'mean'"),
        ({"kind": "noop", "precision": 0}, "noop: precision is 0, must be an integer"),
        ({"kind": "stochastic_sign", "beta": 1}, "has no parameter 'beta'; known: autodiff"),
    ],
)
def test_refused_at_construction(spec, message):
    with pytest.raises(ValueError, match=r".") as caught:
        resolve_quantizer(spec, 4)
    assert message in str(caught.value)


SCALED = [
    *("magnitude_aware_sign", "xnor_weight_scale", "layer_sign", "absmax_sign", "libra_pb"),
    {"kind": "scaled_sign", "scale": "mean"},
]


@pytest.mark.parametrize("quantizer", SCALED, ids=str)
@pytest.mark.parametrize("make", [BinaryDense, BinaryConv])
def test_scaled_inputs_are_multiplied_as_floats(make, quantizer):
    """Packing keeps no scale of inputs."""
    packed, floats = packed_and_floats(make, 5, 3, input_quantizer=quantizer)
    assert "the input quantizer" in packed.floats_because(train=True)
    x = jnp.asarray(kernel(*((4, 5) if make is BinaryDense else (2, 4, 4, 5))))
    np.testing.assert_array_equal(packed(x), floats(x))
    if make is BinaryDense:
        values = packed.input_quantizer(x)
        np.testing.assert_allclose(packed(x), values @ np.sign(packed.kernel[...]), rtol=1e-5)
    with pytest.raises(ValueError, match="multiplies bits, but the input quantizer"):
        make(5, 3, input_quantizer=quantizer, backend="xla", rngs=nnx.Rngs(0))


def test_larqs_names_of_depthwise_quantizers():
    for make in (
        quant.QuantDepthwiseConv2D,
        quant.QuantSeparableConv1D,
        quant.QuantSeparableConv2D,
    ):
        sizes = (2, 3) if make is quant.QuantDepthwiseConv2D else (2, 3, 3)
        with pytest.raises(TypeError, match=r"has no kernel_quantizer; Larq's name is depthwise_"):
            make(*sizes, kernel_quantizer="ste_sign", rngs=nnx.Rngs(0))


def test_what_cannot_be_called():
    with pytest.raises(TypeError, match="a name, a table, a function or module, or None; not 3"):
        BinaryDense(4, 4, kernel_quantizer=3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="kernel_quantizer is the class ScaledSign; give an inst"):
        BinaryDense(4, 4, kernel_quantizer=ScaledSign, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("argument", ["input_quantizer", "kernel_quantizer"])
def test_modules_of_another_width(argument):
    wrong = RSign(5) if argument == "input_quantizer" else ScaledSign(5, scale="learned")
    message = f"BinaryDense: {argument}: .*sign is of 5 channels, wanted 8"
    with pytest.raises(ValueError, match=message):
        BinaryDense(8, 8, **{argument: wrong}, rngs=nnx.Rngs(0))
    BinaryDense(8, 8, kernel_quantizer=ScaledSign(5, scale="mean"), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", [*ste.QUANTIZERS, *QUANTIZER_MODULES])
def test_forward_mode_of_layers(name):
    """All quantizers by table, ``autodiff`` included, with the gradients of reverse mode."""
    x, v = jnp.asarray(kernel(3, 4)), jnp.asarray(kernel(3, 4)) - 0.2

    def layer(autodiff):
        own = {"kind": name, "autodiff": autodiff}
        kernels = "ste_sign" if name == "stochastic_sign" else name
        kernels = {"kind": kernels, "autodiff": autodiff}
        return BinaryDense(
            4, 3, input_quantizer=own, kernel_quantizer=kernels, backend="float", rngs=nnx.Rngs(0)
        )

    def loss(autodiff):
        graphdef, state = nnx.split(layer(autodiff))
        call = lambda x, state: jnp.sum(  # noqa: E731
            jnp.sin(nnx.merge(graphdef, state)(x, train=True, key=jax.random.key(0)))
        )
        return call, state

    call, state = loss("jvp")
    ones = jax.tree.map(jnp.ones_like, state)
    along = jax.jvp(call, (x, state), (v, ones))[1]
    reverse, state = loss("vjp")
    of_x, of_state = jax.grad(reverse, (0, 1))(x, state)
    expected = jnp.vdot(of_x, v) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(of_state))
    np.testing.assert_allclose(along, expected, rtol=1e-4, atol=1e-5)


def test_names():
    assert name_of(resolve_quantizer({"kind": "swish_sign", "beta": 3.0}, 2)) == (
        "swish_sign(beta=3.0)"
    )
    assert name_of(resolve_quantizer("rsign", 2)) == "rsign"
    clip = resolve_quantizer({"kind": "ste_sign", "clip_value": "none"}, 2)
    np.testing.assert_array_equal(jax.grad(lambda x: clip(x).sum())(jnp.asarray([5.0])), [1.0])
    for name in ste.QUANTIZERS:
        if name != "stochastic_sign":
            assert getattr(binjax, name) is ste.QUANTIZERS[name]
