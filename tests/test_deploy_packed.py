"""Packed models: scores of the float network bit for bit, on every back end and for every shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend
from deployed import execute, images_for, randomize, scores_of
from flax import nnx

from binjax import deploy, models
from binjax.deploy import packed as packed_module
from binjax.deploy.operations import (
    DeployError,
)
from binjax.layers import (
    BatchNorm,
    BinaryConv,
    BinaryDense,
    Flatten,
    MaxPool,
    PixelScale,
    Repeat,
    Sequential,
    ShiftBatchNorm,
)
from binjax.models.options import Compute
from binjax.xnor import bridge

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")
COMPILER = bridge.compiler_status()


def chain(*layers):
    rngs = nnx.Rngs(1)
    return Sequential({f"{i}": layer(rngs) for i, layer in enumerate(layers)})


def conv(n_in, n_out, **options):
    return lambda rngs: BinaryConv(n_in, n_out, rngs=rngs, **options)


def dense(n_in, n_out, **options):
    return lambda rngs: BinaryDense(n_in, n_out, rngs=rngs, **options)


def norm(n, kind=BatchNorm, **options):
    return lambda rngs: kind(n, **options)


def pool(*arguments):
    return lambda rngs: MaxPool(*arguments)


def flatten(rngs):
    return Flatten()


def repeated(rngs):
    def block(rngs):
        return Sequential({"conv": BinaryConv(32, 32, rngs=rngs), "norm": BatchNorm(32)})

    return Repeat(3, block, rngs=rngs)


def zoo(name, shape, **options):
    def build(backend):
        return models.MODELS[name](
            shape, 10, pixels=True, compute=Compute(backend), rngs=nnx.Rngs(0), **options
        )

    return build


def built(*layers):
    def build(backend):
        model = chain(*layers)
        for _, module in nnx.iter_modules(model):
            if hasattr(module, "kernel_quantizer"):
                module.backend = backend
        return model

    return build


SMALL = (12, 10, 3)
NETWORKS = {
    "mlp": (zoo("mlp", (6, 5, 1), widths=(40, 33)), (6, 5, 1)),
    "mlp, shift": (zoo("mlp", (6, 5, 1), widths=(64,), norm={"kind": "shift"}), (6, 5, 1)),
    "convnet": (zoo("cifar10_convnet", (8, 8, 3), channels=(20, 32), widths=(40,)), (8, 8, 3)),
    "convnet, shift": (
        zoo("cifar10_convnet", (8, 8, 3), channels=(32,), widths=(33,), norm={"kind": "shift"}),
        (8, 8, 3),
    ),
    "one layer": (built(flatten, dense(30, 4, pixels=True), norm(4)), (5, 3, 2)),
    "no norm at the end": (
        built(flatten, dense(30, 7, pixels=True), norm(7), dense(7, 4, use_bias=True)),
        (5, 3, 2),
    ),
    "shift at the end": (
        built(flatten, dense(30, 7, pixels=True), norm(7), dense(7, 4), norm(4, ShiftBatchNorm)),
        (5, 3, 2),
    ),
    "standard scaling": (
        built(
            flatten, dense(30, 7, pixels=PixelScale.standard(33, 78)), norm(7), dense(7, 4), norm(4)
        ),
        (5, 3, 2),
    ),
    "signs of floats": (built(conv(3, 9), norm(9), flatten, dense(12 * 10 * 9, 4)), SMALL),
    "pool behind the norm": (
        built(conv(3, 40, pixels=True), norm(40), pool(), flatten, dense(6 * 5 * 40, 4), norm(4)),
        SMALL,
    ),
    "norms around a pool, two pools": (
        built(
            conv(3, 34, pixels=True, padding="VALID"),
            norm(34),
            pool((2, 2), (1, 2)),
            pool((3, 1), (2, 1)),
            norm(34, ShiftBatchNorm),
            flatten,
            dense(4 * 4 * 34, 4),
        ),
        SMALL,
    ),
    "strides and borders of -1": (
        built(
            conv(3, 32, pixels=True, strides=(2, 1)),
            norm(32),
            conv(32, 17, kernel_size=(5, 2), strides=(1, 2), pad_value=-1.0),
            norm(17),
            conv(17, 5, pad_value=1.0),
            norm(5),
            flatten,
            dense(6 * 5 * 5, 3),
        ),
        SMALL,
    ),
    "repeated blocks": (
        built(conv(3, 32, pixels=True), norm(32), repeated, flatten, dense(12 * 10 * 32, 3)),
        SMALL,
    ),
    "stochastic and other signs": (
        built(
            flatten,
            dense(30, 16, pixels=True, kernel_quantizer="approx_sign"),
            norm(16),
            dense(16, 12, input_quantizer="stochastic_sign", kernel_quantizer="swish_sign"),
            norm(12),
            dense(12, 4, input_quantizer="approx_sign"),
        ),
        (5, 3, 2),
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    build, shape = NETWORKS[request.param]
    float_network = randomize(build("float"))
    return scores_of(float_network), deploy.pack(randomize(build("auto")), shape)


@each_backend()
def test_scores_are_those_of_the_float_network(network, backend):
    scores, model = network
    other = deploy.PackedModel(model.graph, model.tensors, backend=backend)
    for n in (1, 3, 70):
        images = images_for(model.graph, n, seed=n)
        found = np.asarray(other(images))
        assert found.dtype == np.float32 and found.shape == (n, model.graph.classes)
        np.testing.assert_array_equal(found, scores(images))


def test_the_graph_means_what_it_says(network):
    _, model = network
    images = images_for(model.graph, 5)
    wanted = execute(model.graph, model.tensors, images)
    np.testing.assert_array_equal(np.asarray(model(images)), wanted)


def test_nothing_but_integers_between_the_layers(network):
    # No float of the size of an activation: the sums of the last layer only.
    _, model = network
    images = images_for(model.graph, 3)
    arrays = model.arrays
    if model.graph.image.dtype == "float32":
        return
    text = str(
        jax.make_jaxpr(packed_module.run, static_argnums=(0, 1))(
            model.graph, "native" if "native" in deploy_backends() else "xla", arrays, images
        )
    )
    last = model.graph.classes
    for line in text.splitlines():
        if " = " in line and "f32[3," in line.split(" = ")[0]:
            assert f",{last}]" in line.split(" = ")[0], line


def deploy_backends():
    from binjax import xnor

    return xnor.backends()


@pytest.mark.skipif(not COMPILER.usable, reason=COMPILER.reason)
def test_lowered_for_cuda_it_multiplies_in_triton_kernels():
    build, shape = NETWORKS["convnet"]
    model = deploy.pack(randomize(build("auto")), shape)
    images = images_for(model.graph, 40)
    traced = packed_module.run.trace(model.graph, "triton", model.arrays, images)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    binary = [op for op in model.graph.ops if getattr(op, "operand", "") == "bits"]
    assert text.count(bridge.CUSTOM_CALL) >= len(binary) == 5


def test_compiled_once_for_a_shape():
    build, shape = NETWORKS["mlp"]
    first, second = (deploy.pack(randomize(build("auto"), seed), shape) for seed in (0, 1))
    before = packed_module.run._cache_size()
    for model in (first, second, first):
        for n in (1, 4, 1):
            model(images_for(model.graph, n))
    graphs = 1 if first.graph == second.graph else 2
    assert packed_module.run._cache_size() - before <= 2 * graphs


@pytest.mark.parametrize("n", [0, 1, 10_000])
def test_batches(n):
    build, shape = NETWORKS["mlp"]
    model = deploy.pack(randomize(build("auto")), shape)
    images = images_for(model.graph, n)
    whole = np.asarray(model(images))
    assert whole.shape == (n, 10)
    if n:
        np.testing.assert_array_equal(whole[-1:], model(images[-1:]))


def test_under_jit_and_vmap():
    build, shape = NETWORKS["convnet"]
    model = deploy.pack(randomize(build("auto")), shape)
    images = images_for(model.graph, 6)
    wanted = np.asarray(model(images))
    np.testing.assert_array_equal(jax.jit(model)(images), wanted)
    halves = jax.vmap(model)(images.reshape(2, 3, *shape))
    np.testing.assert_array_equal(halves.reshape(6, -1), wanted)


def test_refused_images():
    build, shape = NETWORKS["mlp"]
    model = deploy.pack(randomize(build("auto")), shape)
    for wrong, message in (
        (np.zeros((2, 5, 6, 1), np.uint8), r"\(2, 5, 6, 1\).*of 6x5x1"),
        (np.zeros((6, 5, 1), np.uint8), r"takes \[n, height"),
        (np.zeros((2, 6, 5, 1), np.float32), "dtype float32; the network takes uint8 pixels"),
        (np.zeros((2, 6, 5, 1), np.int32), "dtype int32"),
    ):
        with pytest.raises(DeployError, match=message):
            model(wrong)


def test_a_back_end_that_is_not_there():
    build, shape = NETWORKS["mlp"]
    with pytest.raises(ValueError, match="backend is 'gpu'"):
        deploy.pack(randomize(build("auto")), shape, backend="gpu")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (lambda m: m.norm1.scale, jnp.nan, r"norm1/scale is nan at \[2\]"),
        (lambda m: m.norm1.mean, jnp.inf, r"norm1/mean is inf at \[2\]"),
        (lambda m: m.dense1.kernel, jnp.nan, r"dense1/kernel is nan at \[2, 0\]"),
    ],
)
def test_broken_networks(variable, value, message):
    build, shape = NETWORKS["mlp"]
    model = randomize(build("auto"))
    target = variable(model)
    at = (2,) if target[...].ndim == 1 else (2, 0)
    target[...] = target[...].at[at].set(value)
    with pytest.raises(DeployError, match=message):
        deploy.pack(model, shape)


def test_a_quantizer_that_claims_to_be_binary():
    import binjax

    wrong = binjax.declare(bits=1)(lambda x: jnp.sign(x) * 0.5)
    model = chain(flatten, dense(30, 4, pixels=True, kernel_quantizer=wrong))
    with pytest.raises(DeployError, match="gives values other than ±1, such as"):
        deploy.pack(model, (5, 3, 2))


def test_sizes_of_an_image():
    build, _ = NETWORKS["mlp"]
    with pytest.raises(DeployError, match=r"image_shape is \(6, 5\)"):
        deploy.pack(build("auto"), (6, 5))
    with pytest.raises(DeployError, match=r"1 \(dense\) takes \[30\], not \[42\]|dense1"):
        deploy.pack(build("auto"), (7, 6, 1))
