"""The networks of Larq's zoo: counts of the published implementation, blocks, small images."""

import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from binjax import config
from binjax.config import zoo
from binjax.layers import BatchNorm, BinaryWeight, Concatenate, Sequential, apply, split
from binjax.layers.base import BinaryLayer
from binjax.layers.grouped import convolve
from binjax.layers.quantize import name_of
from binjax.models import MODELS
from binjax.models.dorefanet import UnitClamp
from binjax.models.meliusnet import Improvement, each_group, normed_conv
from binjax.models.options import DEFAULT_COMPUTE, Compute
from binjax.models.quicknet import Blur, Fixed, residual_block
from binjax.ste import layer_sign
from binjax.summary import summarize

RECIPES = sorted((Path(__file__).parents[1] / "configs" / "zoo").glob("*.toml"))
IMAGENET, CIFAR = (224, 224, 3), (32, 32, 3)
# What larq 0.13.3 and Keras count for larq_zoo 2.4.0 at 224x224x3 and 1000 classes: parameters of
# 1 and 32 bits, MACs by bits, trainable and other variables.
COUNTS = {
    "binary_alexnet": (61827776, 20944, {"1": 768512000, "32": 72855552}, 61838248, 20944),
    "xnornet": (58236928, 4150176, {"1": 1025744896, "32": 113379328}, 62377440, 19328),
    "dorefanet": (58236928, 4157512, {"2": 2924609536, "32": 125028352}, 62384968, 18944),
    "birealnet": (10985472, 704040, {"1": 1676279808, "32": 137793536}, 11689512, 9600),
    "binary_resnet_e18": (10985472, 704168, {"1": 1676279808, "32": 137793536}, 11689640, 9728),
    "binary_densenet28": (4202496, 929000, {"1": 3587383296, "32": 202484224}, 5131496, 19008),
    "binary_densenet37": (7593984, 1108264, {"1": 4506808320, "32": 199738368}, 8702248, 31872),
    "binary_densenet37_dilated": (
        *(7593984, 1108264, {"1": 7774470144, "32": 452625408}),
        *(8702248, 31872),
    ),
    "binary_densenet45": (12349440, 1540072, {"1": 6430556160, "32": 244103424}, 13889512, 49728),
    "meliusnet22": (6119424, 825160, {"1": 4624220160, "32": 136388608}, 6944584, 25088),
    "real_to_binary": (10985472, 1001448, {"1": 1676279808, "32": 138087936}, 11986920, 8704),
    "resnet18": (0, 11693352, {"32": 1814073344}, 11693352, 9600),
    "quicknet_small": (11980800, 674888, {"1": 1156055040, "32": 15941120}, 12652504, 11840),
    "quicknet": (12533760, 700328, {"1": 1849688064, "32": 29651712}, 13230024, 13696),
    "quicknet_large": (22634496, 707752, {"1": 3699376128, "32": 29651712}, 23338184, 21120),
}
TEACHERS = {
    ("activations", "gate"): (0, 11986920, {"32": 1814367744}, 11986920, 8704),
    ("real", "gate"): (0, 11986920, {"32": 1814367744}, 11986920, 8704),
    ("activations", "rank1"): (0, 11697200, {"32": 1814073344}, 11697200, 8704),
    ("binary", "rank1"): (10985472, 711728, {"1": 1676279808, "32": 137793536}, 11697200, 8704),
}
SECTIONS = {section.model_fields["kind"].default: section for section in zoo.LarqZoo.__args__}
# One kind of each family, with options that make it small.
FAMILIES = {
    "binary_alexnet": {},
    "xnornet": {},
    "dorefanet": {},
    "birealnet": {"filters": 8},
    "binary_resnet_e18": {},
    "binary_densenet28": {"growth_rate": 8},
    "meliusnet22": {"blocks": (1, 1), "transitions": (32,)},
    "real_to_binary": {},
    "quicknet": {"blocks": (1, 1), "filters": (16, 32)},
}
# Window and stride of the first convolution for larger images.
STEMS = {
    "birealnet": (7, 2),
    "binary_resnet_e18": (7, 2),
    "binary_densenet28": (7, 2),
    "meliusnet22": (3, 2),
    "resnet18": (7, 2),
    "quicknet": (3, 2),
}


def abstract(kind, shape, n_classes=10, **options):
    """The model without its numbers."""
    return nnx.eval_shape(lambda: MODELS[kind](shape, n_classes, rngs=nnx.Rngs(0), **options))


def counts(model, shape=IMAGENET):
    found = summarize(model, shape)
    macs = {bits: n for bits, n in found.macs.items() if n}
    others = found.keras_params - found.trainable
    return found.params_1bit, found.params_32bit, macs, found.trainable, others


@pytest.mark.parametrize("kind", COUNTS)
def test_counts(kind):
    assert counts(abstract(kind, IMAGENET, 1000)) == COUNTS[kind]


@pytest.mark.parametrize("stage", TEACHERS)
def test_counts_of_teachers(stage):
    model = abstract("real_to_binary", IMAGENET, 1000, stage=stage[0], rescale=stage[1])
    assert counts(model) == TEACHERS[stage]


@pytest.mark.parametrize("kind", SECTIONS)
def test_options_are_those_of_the_config(kind):
    """A config section's fields are the network's keyword arguments, with its defaults."""
    section = config.validate({"model": {"kind": kind}}, "x").model
    assert type(section) is SECTIONS[kind]
    arguments = inspect.signature(MODELS[kind]).parameters
    for name, value in section.model_dump(exclude={"kind", "first_layer"}).items():
        assert arguments[name].default == value


def test_all_are_configured():
    assert set(COUNTS) == set(SECTIONS) <= set(MODELS)


@pytest.mark.parametrize("kind", STEMS)
def test_stems(kind):
    """Below 50 pixels of height the stem keeps the size; it can be chosen for any."""

    def first(shape, **options):
        model = abstract(kind, shape, **FAMILIES.get(kind, {}), **options)
        conv = getattr(model, next(name for name in model.names if name.startswith("conv")))
        return conv.kernel.shape[0], conv.strides[0]

    assert first((49, 64, 3)) == first((64, 64, 3), stem="cifar") == (3, 1)
    assert first((64, 40, 3)) == STEMS[kind]
    with pytest.raises(ValueError, match=r"stem is 'none'; choose 'auto', 'imagenet', 'cifar'"):
        abstract(kind, CIFAR, stem="none")


@pytest.mark.parametrize("kind", FAMILIES)
def test_which_layers_are_binary(kind):
    """Kernels are latent weights exactly where they are quantized; who multiplies is handed on."""
    compute = Compute("float", "lean", jnp.bfloat16)
    model = abstract(kind, CIFAR, **FAMILIES[kind], compute=compute)
    layers = [m for _, m in nnx.iter_modules(model) if isinstance(m, BinaryLayer)]
    for layer in layers:
        assert isinstance(layer.kernel, BinaryWeight) == (layer.kernel_quantizer is not None)
        assert layer.dtype == jnp.bfloat16
        if layer.kernel_quantizer is not None:
            assert layer.backend == "float"
    memories = {m.memory for _, m in nnx.iter_modules(model) if isinstance(m, Sequential)}
    assert "lean" in memories


@pytest.mark.parametrize(
    ("kind", "shape", "options", "message"),
    [
        ("binary_alexnet", (56, 57, 3), {}, "images of 56x57 are too small; at least 57x57"),
        ("binary_alexnet", (14, 32, 3), {}, "at least 15x15 is needed"),
        ("binary_alexnet", CIFAR, {"inflation_ratio": 0}, "inflation_ratio is 0, must be pos"),
        ("xnornet", (14, 32, 3), {}, "at least 15x15 is needed"),
        ("xnornet", CIFAR, {"pixels": True}, "xnornet: its first layer is real; pixels must be"),
        ("dorefanet", (10, 32, 3), {}, "at least 11x11 is needed"),
        (
            "dorefanet",
            CIFAR,
            {"activations_k_bit": 0},
            "k_bit is 0, must be an integer from 1 to 16",
        ),
        ("dorefanet", CIFAR, {"compute": Compute("xla")}, "multiplies bits, but the"),
        ("birealnet", (7, 32, 3), {}, "images of 7x32 are too small; at least 8x8 is needed"),
        ("birealnet", CIFAR, {"pixels": True}, "pixels must be false"),
        ("binary_resnet_e18", CIFAR, {"depth": 20}, "depth is 20; choose 18 or 34"),
        ("binary_resnet_e18", CIFAR, {"pixels": True}, "pixels must be false"),
        ("binary_densenet28", (7, 32, 3), {}, "at least 8x8 is needed"),
        ("binary_densenet37", (28, 64, 3), {"stem": "imagenet"}, "at least 29x29 is needed"),
        ("binary_densenet37_dilated", (1, 1, 3), {}, "at least 2x2 is needed"),
        ("meliusnet22", CIFAR, {"transitions": (160,)}, "4 stages take 3 transitions, got 1"),
        ("real_to_binary", CIFAR, {"stage": "all"}, "stage is 'all'; choose 'real', 'activ"),
        ("real_to_binary", CIFAR, {"rescale": "no"}, "rescale is 'no'; choose 'gate', 'rank1'"),
        ("resnet18", (4, 4, 3), {}, "at least 8x8 is needed"),
        ("quicknet", (28, 64, 3), {"stem": "imagenet"}, "at least 29x29 is needed"),
        ("quicknet", (7, 7, 3), {}, "at least 8x8 is needed"),
        ("quicknet", CIFAR, {"filters": (30, 60, 90, 120)}, "first of the filters a multiple of 4"),
        ("quicknet", CIFAR, {"blocks": (1, 2)}, "as many of both"),
    ],
)
def test_refusals(kind, shape, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        abstract(kind, shape, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["birealnet", "binary_resnet_e18", "meliusnet22", "quicknet"])
def test_odd_sizes(kind):
    """Shortcuts and convolutions of stride 2 agree on the size of a map."""
    shape = (29, 45, 3)
    summarize(abstract(kind, shape, stem="imagenet", **FAMILIES[kind]), shape)


# Per kind: quantizers of inputs and kernels, border, momentum and eps of norms behind or in front
# of binary products, whether they scale.
SETTINGS = {
    "binary_alexnet": ("ste_sign", "ste_sign", 0, 0.9, 1e-3, False),
    "xnornet": ("ste_sign", "xnor_weight_scale", 0, 0.9, 1e-4, False),
    "dorefanet": ("dorefa(k_bit=2, mode='activations')", "layer_sign", 0, 0.9, 1e-4, False),
    "birealnet": ("approx_sign", "magnitude_aware_sign", 0, 0.8, 1e-3, True),
    "binary_resnet_e18": (*["ste_sign(clip_value=1.25)"] * 2, 0, 0.9, 1e-5, True),
    "binary_densenet28": (*["ste_sign(clip_value=1.3)"] * 2, 0, 0.9, 1e-5, True),
    "meliusnet22": (*["ste_sign(clip_value=1.3)"] * 2, 0, 0.9, 1e-5, True),
    "real_to_binary": ("ste_sign", "ste_sign", 0, 0.99, 1e-3, True),
    "quicknet": (*["ste_sign(clip_value=1.25)"] * 2, 1, 0.9, 1e-5, True),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings(kind):
    inputs, kernels, border, momentum, eps, scale = SETTINGS[kind]
    modules = [m for _, m in nnx.iter_modules(abstract(kind, CIFAR, **FAMILIES[kind]))]
    binary = [m for m in modules if isinstance(m, BinaryLayer) and m.kernel_quantizer is not None]
    assert {name_of(m.kernel_quantizer) for m in binary} == {kernels}
    assert {name_of(m.input_quantizer) for m in binary} - {"None"} == {inputs}
    assert {m.pad_value for m in binary} == {border}
    norms = [m for m in modules if isinstance(m, BatchNorm)]
    usual = [m for m in norms if (m.momentum, m.eps) == (momentum, eps)]
    assert {m.scale is not None for m in usual} == {scale}
    # Stems and XNOR-Net's ends have norms of their own.
    assert len(norms) - len(usual) == {"quicknet": 3, "xnornet": 2}.get(kind, 0)


def signs(x):
    return np.where(x >= 0, 1.0, -1.0)


def plain_convolution(x, kernel, fill):
    """3x3, stride 1, border 1, tap by tap in float64."""
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    x = np.pad(x.astype(np.float64), border, constant_values=fill)
    high, wide = x.shape[1] - 2, x.shape[2] - 2
    taps = [(i, j) for i in range(3) for j in range(3)]
    return sum(x[:, i : i + high, j : j + wide] @ kernel[i, j] for i, j in taps)


def plain_norm(x, norm):
    scale, bias, mean, spread = (
        np.asarray(v[...], np.float64) for v in (norm.scale, norm.bias, norm.mean, norm.spread)
    )
    return (x - mean) / np.sqrt(spread + norm.eps) * scale + bias


def randomized(module, seed=0):
    """Statistics, scales and biases that are not those of the start."""
    rng = np.random.default_rng(seed)
    for _, m in nnx.iter_modules(module):
        if isinstance(m, BatchNorm):
            m.mean[...] = jnp.asarray(rng.normal(size=m.n), jnp.float32)
            for v in (m.spread, m.scale):
                v[...] = jnp.asarray(rng.uniform(0.5, 2, m.n), jnp.float32)
            m.bias[...] = jnp.asarray(rng.normal(size=m.n), jnp.float32)
    return module


def edges(shape, seed=1):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    x.reshape(-1)[:6] = [0.0, -0.0, 1.0, -1.0, 1.25, -1e-40]
    return x


@pytest.mark.parametrize("backend", ["auto", "float"])
def test_residual_block_of_quicknet(backend):
    """``norm(relu(conv(sign(x)))) + x``, +1 around the image."""
    block = randomized(residual_block(33, Compute(backend), nnx.Rngs(0)))
    x = edges((2, 5, 4, 33))
    kernel = signs(np.asarray(block.body.conv.kernel[...]))
    product = plain_convolution(signs(x), kernel, 1.0)
    assert (product < 0).any()
    expected = plain_norm(np.maximum(product, 0), block.body.norm) + x
    np.testing.assert_allclose(block(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "float"])
def test_block_of_meliusnet(backend):
    """64 channels appended, then added to: the older channels pass unchanged."""
    dense, improve = (
        layer(randomized(normed_conv(n, Compute(backend), nnx.Rngs(n))))
        for layer, n in ((Concatenate, 64), (Improvement, 128))
    )
    x = edges((2, 4, 5, 64))
    grown = dense(jnp.asarray(x))
    kernel = signs(np.asarray(dense.body.conv.kernel[...]))
    normed = np.asarray(dense.body.norm(jnp.asarray(x)))
    new = plain_convolution(signs(normed), kernel, 0.0)
    np.testing.assert_array_equal(grown, np.concatenate([x, new], -1))
    improved = improve(grown)
    np.testing.assert_array_equal(improved[..., :64], x)
    kernel = signs(np.asarray(improve.body.conv.kernel[...]))
    added = plain_convolution(signs(np.asarray(improve.body.norm(grown))), kernel, 0.0)
    np.testing.assert_array_equal(improved[..., 64:], new + added)


def test_blur():
    """Weights 1 2 1 by 1 2 1 sixteenths on every second pixel; no optimizer sees them."""
    blur = Blur(3, compute=DEFAULT_COMPUTE, rngs=nnx.Rngs(0))
    x = edges((2, 7, 4, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (0, 1), (0, 0)))  # an odd side has a border on both ends
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    expected = np.zeros((2, 4, 2, 3))
    for i in range(4):
        for j in range(2):
            window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected[:, i, j] = (window * taps[None, :, :, None]).sum((1, 2))
    np.testing.assert_allclose(blur(jnp.asarray(x)), expected, rtol=1e-6, atol=1e-6)
    _, params, stats = split(blur)
    assert not jax.tree.leaves(params) and set(stats) == {"kernel"}
    assert isinstance(blur.kernel, Fixed)


def test_kernels_of_groups_are_drawn_alone():
    """Glorot's fan-out is that of a group, so that the spread is larger than of the whole."""
    draw = each_group(nnx.initializers.glorot_normal(), 8)
    kernel = np.asarray(draw(jax.random.key(0), (3, 3, 4, 64), jnp.float32))
    assert kernel.shape == (3, 3, 4, 64)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 4 + 9 * 8)), rel=0.05)
    assert len(np.unique(kernel)) == kernel.size


def test_sign_of_dorefanet():
    x = edges((3, 3, 2, 5))
    value, pull = jax.vjp(layer_sign, jnp.asarray(x))
    np.testing.assert_allclose(value, signs(x) * np.abs(x).mean(dtype=np.float64), rtol=1e-6)
    g = edges(x.shape, 2)
    np.testing.assert_allclose(pull(jnp.asarray(g))[0], g, rtol=1e-6, atol=1e-38)
    zeros, g = jnp.zeros((2, 3)), jnp.ones((2, 3))
    value, pull = jax.vjp(layer_sign, zeros)
    np.testing.assert_allclose(value, zeros, atol=1e-6)
    np.testing.assert_allclose(pull(g)[0], g, rtol=1e-6)


def test_clamp_of_dorefanet():
    above = np.nextafter(np.float32(1), np.float32(2))
    x = np.asarray([-np.inf, -1, -0.0, 0, 0.5, 1, above, np.inf, np.nan], np.float32)
    value, pull = jax.vjp(UnitClamp(), jnp.asarray(x))
    np.testing.assert_array_equal(value, np.clip(x, 0, 1))
    passes = pull(jnp.ones_like(jnp.asarray(x)))[0]
    np.testing.assert_array_equal(passes, [0, 0, 1, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("groups", "n_out", "strides", "dilation"),
    [
        (1, 4, (1, 1), (1, 1)),
        (2, 4, (2, 1), (1, 2)),
        (6, 6, (2, 3), (1, 1)),
        (6, 12, (1, 1), (2, 1)),  # two outputs for each input channel
        (6, 6, (1, 1), (4, 1)),  # the window does not fit
    ],
)
def test_grouped_convolutions(groups, n_out, strides, dilation):
    """Values and gradients are those of XLA's grouped convolution."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 6, 6)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 2, 6 // groups, n_out)), jnp.float32)
    border = ((1, 0), (0, 2))

    def xla(x, kernel):
        return jax.lax.conv_general_dilated(
            *(x, kernel, strides, border),
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    def ours(x, kernel):
        return convolve(x, kernel, strides, border, dilation, groups)

    shape = jax.eval_shape(xla, x, kernel).shape
    g = jnp.asarray(rng.normal(size=shape), jnp.float32)
    (expected, wanted), (found, gradients) = (
        jax.jit(lambda x, kernel, g, f=f: (f(x, kernel), jax.vjp(f, x, kernel)[1](g)))(x, kernel, g)
        for f in (xla, ours)
    )
    for a, b in zip((found, *gradients), (expected, *wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert ours(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def step(kind, options, side=32, **compute):
    """Scores, gradients, statistics after and before a training step on four images."""
    shape = (side, side, 3)

    model = MODELS[kind](shape, 10, **options, compute=Compute(**compute), rngs=nnx.Rngs(0))
    graphdef, params, stats = split(model)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)

    def loss(params):
        scores, moved = apply(graphdef, params, stats, images, train=True, key=jax.random.key(0))
        return jnp.mean(jax.nn.logsumexp(scores, -1) - scores[:, 0]), (scores, moved)

    (value, (scores, moved)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert scores.shape == (4, 10) and scores.dtype == jnp.float32
    assert np.isfinite(value)
    return scores, gradients, moved, stats


def leaves(tree):
    return [
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def check_same(found, expected):
    """Scores and gradients; some of the latter are rounding alone, such as in front of a norm."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-4)
    whole = np.sqrt(sum(np.sum(np.square(b)) for _, b in leaves(expected[1])))
    for (path, a), (_, b) in zip(leaves(found[1]), leaves(expected[1]), strict=True):
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 1e-6 * whole, path


def check_step(kind, options, side=32):
    """Packed and in floats alike: finite, all parameters and statistics take part."""
    found = step(kind, options, side)
    for path, gradient in leaves(found[1]):
        assert np.isfinite(gradient).all() and np.any(gradient), path
    for (path, new), (_, old) in zip(leaves(found[2]), leaves(found[3]), strict=True):
        assert np.array_equal(new, old) == ("blur" in path), path
    check_same(found, step(kind, options, side, backend="float"))
    return found


@pytest.mark.slow
def test_a_step_of_quicknet():
    check_step("quicknet", FAMILIES["quicknet"], side=16)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["int16", "lean"])
def test_memory(memory):
    options = FAMILIES["quicknet"]
    check_same(step("quicknet", options, memory=memory), step("quicknet", options))


@pytest.mark.slow
def test_a_step_of_meliusnet():
    check_step("meliusnet22", FAMILIES["meliusnet22"], side=16)


@pytest.mark.slow
@pytest.mark.parametrize("kind", COUNTS)
def test_a_step_of_the_whole(kind):
    check_step(kind, {})


@pytest.mark.slow
@pytest.mark.parametrize("stage", TEACHERS)
def test_a_step_of_teachers(stage):
    check_step("real_to_binary", {"stage": stage[0], "rescale": stage[1]})


def test_pixels():
    """BinaryAlexNet's first layer multiplies 8-bit pixels."""
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 15, 15, 3), np.uint8))

    def first(images, pixels):
        model = MODELS["binary_alexnet"]((15, 15, 3), 3, pixels=pixels, rngs=nnx.Rngs(0))
        return model.conv1(images)

    scores = jax.jit(first, static_argnums=1)(images, True)
    expected = jax.jit(first, static_argnums=1)(2 * images.astype(jnp.float32) / 255 - 1, False)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes(path):
    """A file in configs/zoo loads and is named after its network."""
    loaded = config.load(path)
    assert loaded.model.kind in MODELS and loaded.loss == "cross_entropy"
    assert path.stem.startswith((loaded.model.kind, "real_to_binary_1"))
    assert f"configs/zoo/{path.name}" in path.read_text(encoding="utf-8")


def test_all_have_recipes():
    others = {"alexnet_binary", "vgg_cifar10_binary", "resnet_binary"}
    others |= {"alexnet", "vgg_cifar10", "resnet"}
    others |= {"reactnet18", "reactnet_a", "pokebnn", "bnext_t"}
    assert {config.load(path).model.kind for path in RECIPES} == set(COUNTS) | others


def test_layers_for_distillation():
    """Student and teacher have blocks of the same names."""
    for kind in ("real_to_binary", "resnet18"):
        names = abstract(kind, CIFAR).names
        assert [n for n in names if n.startswith("block")] == [f"block{i}" for i in range(2, 10)]
