"""Programs that leave the process, and programs for another platform than this one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from binary_reference import each_backend, signs
from jax import export

from binjax import xnor
from binjax.xnor import bridge

pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")

rng = np.random.default_rng(0)
X = rng.normal(size=(5, 70)).astype(np.float32)
W = rng.normal(size=(70, 33)).astype(np.float32)
IMAGES = rng.normal(size=(2, 6, 6, 8)).astype(np.float32)
KERNEL = rng.normal(size=(3, 3, 8, 4)).astype(np.float32)
ACCEPTED = [export.DisabledSafetyCheck.custom_call(name) for name in xnor.CUSTOM_CALLS]


def both(backend):
    def function(x, w, images, kernel):
        y = xnor.xnor_matmul(x, w, backend=backend)
        return y, xnor.xnor_conv(images, kernel, backend=backend)

    return function


def check(found):
    np.testing.assert_array_equal(found[0], signs(X) @ signs(W))
    np.testing.assert_array_equal(found[1], xnor.xnor_conv(IMAGES, KERNEL))


def test_portable_export_for_two_platforms():
    exported = export.export(jax.jit(both("xla")), platforms=("cpu", "cuda"))(X, W, IMAGES, KERNEL)
    check(exported.call(X, W, IMAGES, KERNEL))
    assert "custom_call" not in exported.mlir_module()


def test_export_with_the_fast_forms():
    exported = export.export(
        jax.jit(both(None)), platforms=("cpu", "cuda"), disabled_checks=ACCEPTED
    )(X, W, IMAGES, KERNEL)
    module = exported.mlir_module()
    assert ("binjax_matmul_affine" in module) == ("native" in xnor.backends())
    assert (bridge.CUSTOM_CALL in module) == bridge.compiler_status().usable
    check(exported.call(X, W, IMAGES, KERNEL))
    pytest.importorskip("flatbuffers")
    check(export.deserialize(exported.serialize()).call(X, W, IMAGES, KERNEL))


def test_lowering_for_cuda():
    lowered = jax.jit(both(None)).trace(X, W, IMAGES, KERNEL).lower(lowering_platforms=("cuda",))
    assert (bridge.CUSTOM_CALL in lowered.as_text()) == bridge.compiler_status().usable
    assert "binjax_matmul" not in lowered.as_text()


def test_lowering_for_another_platform_is_portable():
    text = jax.jit(both(None)).trace(X, W, IMAGES, KERNEL).lower(lowering_platforms=("tpu",))
    assert "custom_call" not in text.as_text()


@each_backend()
def test_nothing_of_the_partitioner_on_one_device(backend):
    text = jax.jit(both(backend)).lower(X, W, IMAGES, KERNEL).as_text()
    assert "CustomSPMDPartitioning" not in text
    calls = text.count("stablehlo.custom_call")
    assert calls == (0 if backend == "xla" else 6)


def test_native_for_another_platform_is_refused():
    if "native" not in xnor.backends():
        pytest.skip("no native library here")
    traced = jax.jit(both("native")).trace(X, W, IMAGES, KERNEL)
    for platform in ("cuda", "tpu"):
        with pytest.raises(
            ValueError, match=rf"backend='native' runs on CPUs, .* compiled for {platform}; leave"
        ):
            traced.lower(lowering_platforms=(platform,))


def test_export_of_packed_words_from_shapes_alone():
    def function(xp, wp, threshold, flip):
        return xnor.packed_matmul_threshold(xp, wp, 70, threshold, flip)

    shapes = [((5, 3), jnp.uint32), ((40, 3), jnp.uint32), ((40,), jnp.int32), ((40,), jnp.bool_)]
    exported = export.export(jax.jit(function), disabled_checks=ACCEPTED)(
        *(jax.ShapeDtypeStruct(*shape) for shape in shapes)
    )
    assert exported.out_avals[0].shape == (5, 2)


@pytest.mark.parametrize("other", ["tpu", "cuda"])
def test_export_for_any_batch(other):
    b = export.symbolic_shape("b")[0]
    shapes = [((b, 70), jnp.float32), W, ((b, 6, 6, 8), jnp.float32), KERNEL]
    shapes = [jax.ShapeDtypeStruct(*s) if isinstance(s, tuple) else s for s in shapes]
    # The default platform's form and, for the other one, the portable form
    exported = export.export(
        jax.jit(both(None)), platforms=("cpu", other), disabled_checks=ACCEPTED
    )(*shapes)
    for n in (1, 2, 5):
        images = np.resize(IMAGES, (n, 6, 6, 8))
        y, z = exported.call(np.resize(X, (n, 70)), W, images, KERNEL)
        np.testing.assert_array_equal(y, signs(np.resize(X, (n, 70))) @ signs(W))
        np.testing.assert_array_equal(z, xnor.xnor_conv(images, KERNEL))
    portable = export.export(jax.jit(both("xla")))(*shapes)
    y, z = portable.call(X, W, images, KERNEL)
    np.testing.assert_array_equal(y, signs(X) @ signs(W))
    np.testing.assert_array_equal(z, xnor.xnor_conv(images, KERNEL))
