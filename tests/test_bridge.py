"""The Triton bridge: operands in the PTX emulator, lowering for CUDA on any host, refusals."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.extend.core import Primitive
from jax.interpreters import mlir

triton = pytest.importorskip("triton", reason="the Triton back end needs triton")

from tools import interpret, payload  # noqa: E402
from tools.gradients import KINDS, problem, worst  # noqa: E402
from tools.ptx import Kernel  # noqa: E402

from binjax.xnor import bridge, xla  # noqa: E402
from kernels_triton import aot  # noqa: E402
from kernels_triton.gradient_launch import Gradient, gradient  # noqa: E402
from kernels_triton.launch import Launch, gemm  # noqa: E402

COMPILER = bridge.compiler_status()
needs_plugin = pytest.mark.skipif(not COMPILER.usable, reason=COMPILER.reason)
GPU = bridge.status()
needs_gpu = pytest.mark.skipif(not GPU.usable, reason=GPU.reason)
EPILOGUES = ("int32", "affine", "threshold")
CAPABILITIES = {80: "sm_80", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}


@pytest.fixture(autouse=True)
def no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bridge.TARGET_VARIABLE, raising=False)


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretends that GPUs of these compute capabilities are there."""

    def pretend(*capabilities: str) -> None:
        devices = [SimpleNamespace(compute_capability=c) for c in capabilities]
        monkeypatch.setattr(jax, "local_devices", lambda backend: devices)

    return pretend


def packed(m: int, n: int, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Words of two random ±1 matrices, and their product."""
    rng = np.random.default_rng(m * n * k)
    x, w = rng.choice([-1, 1], (m, k)), rng.choice([-1, 1], (n, k))
    words = [xla.pack_rows(jnp.asarray(a, jnp.float32)) for a in (x, w)]
    return words[0], words[1], jnp.asarray(x @ w.T, jnp.int32)


def column_operands(epilogue: xla.Epilogue, n: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(n)
    if epilogue == "affine":
        return tuple(jnp.asarray(rng.normal(size=n), jnp.float32) for _ in range(2))
    if epilogue == "threshold":
        return jnp.asarray(rng.integers(-6, 6, n, np.int32)), jnp.asarray(rng.random(n) < 0.5)
    return ()


# Numbers: the bridge's own arrangement of operands, with every kernel run by the emulator


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside jit, Triton calls execute their compiled PTX for compute capability 8.0."""
    monkeypatch.setattr(bridge.triton_call, "impl", run)
    monkeypatch.setenv(bridge.TARGET_VARIABLE, "80")


def run(*operands: jax.Array, launch: object, compute_capability: int) -> jax.Array:
    compiled = aot.compile_launch(launch, compute_capability)
    out = np.full(launch.out_shape, 0x55, launch.out_dtype)
    buffers = iter([*map(protected, operands), out])
    arguments = [next(buffers) if a.value is None else a.value for a in launch.arguments]
    Kernel(compiled.ptx).launch(launch.grid, arguments, shared_bytes=compiled.shared_bytes)
    return jnp.asarray(out)


def protected(array: jax.typing.ArrayLike) -> np.ndarray:
    array = np.array(array, order="C")
    array.flags.writeable = False
    return array


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 1, 1), (1, 40, 33), (3, 130, 77), (33, 65, 100), (70, 33, 31), (70, 67, 300)],
    ids=str,
)
def test_products_in_the_emulator(m: int, n: int, k: int, epilogue: xla.Epilogue) -> None:
    xp, wp, dot = packed(m, n, k)
    operands = column_operands(epilogue, n)
    result = bridge.matmul(xp, wp, k, *operands, epilogue=epilogue)
    expected = xla.finish(dot, *operands, epilogue=epilogue)
    assert result.dtype == expected.dtype == xla.result_dtype(epilogue)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("emulator")
def test_products_of_a_shard_of_k() -> None:
    xp, wp, dot = packed(5, 40, 77)
    partial = bridge.matmul(xp, wp, 0, epilogue="int32")
    np.testing.assert_array_equal(partial, dot - 77)


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("m", [5, 70])
def test_padding_bits_between_elements(m: int) -> None:
    # As a convolution has them: 3 taps of 40 channels, each in two words.
    rng = np.random.default_rng(m)
    x, w = rng.choice([-1.0, 1.0], (m, 3, 40)), rng.choice([-1.0, 1.0], (70, 3, 40))
    xp, wp = (xla.pack_rows(jnp.asarray(a)).reshape(len(a), 6) for a in (x, w))
    dot = np.einsum("mtc,ntc->mn", x, w)
    np.testing.assert_array_equal(bridge.matmul(xp, wp, 120, epilogue="int32"), dot)


@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (3, 4, 0)], ids=str)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_empty_products_need_no_kernel(shape: tuple[int, int, int], epilogue: xla.Epilogue) -> None:
    m, n, words = shape
    args = jnp.zeros((m, words), jnp.uint32), jnp.zeros((n, words), jnp.uint32)
    operands = column_operands(epilogue, n)
    result = bridge.matmul(*args, 0, *operands, epilogue=epilogue)
    expected = xla.finish(jnp.zeros((m, n), jnp.int32), *operands, epilogue=epilogue)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


def signed(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> np.ndarray:
    """Random values among which both zeros, NaN, infinities and subnormals are frequent."""
    rng = np.random.default_rng(len(shape))
    tiny = float(jnp.finfo(dtype).smallest_subnormal)
    edges = np.array([0, -0.0, np.nan, np.inf, -np.inf, tiny, -tiny, 1, -1])
    x = np.where(rng.random(shape) < 0.5, rng.choice(edges, shape), rng.normal(size=shape))
    return x.astype(dtype)


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16, jnp.int32, bool])
@pytest.mark.parametrize("shape", [(1, 1), (5, 31), (7, 65), (2, 3, 1100), (40,), (0, 3)], ids=str)
def test_packed_rows_in_the_emulator(shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> None:
    floating = jnp.issubdtype(dtype, jnp.floating)
    x = signed(shape, dtype) if floating else np.random.default_rng(0).integers(-1, 2, shape)
    x = x.astype(dtype)
    result, expected = bridge.pack_rows(jnp.asarray(x)), xla.pack_rows(jnp.asarray(x))
    assert result.shape == expected.shape and result.dtype == jnp.uint32
    np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 77, 40), (9, 64, 33), (4, 33, 5)], ids=str)
def test_packed_columns_in_the_emulator(
    shape: tuple[int, int, int], dtype: jax.typing.DTypeLike
) -> None:
    w = jnp.asarray(signed(shape, dtype))
    result, expected = bridge.pack_columns(w), xla.pack_columns(w)
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_the_emulator(kind: Gradient, dtype: str, masked: bool) -> None:
    operands, exact, norm = problem(kind, 37, 70, 77, dtype, masked)
    g, packed, *mask = map(jnp.asarray, operands)
    result = getattr(bridge, kind)(g, packed, 77, *mask)
    assert worst(np.asarray(result), exact, norm) <= 2e-6


@pytest.mark.parametrize("sizes", [(0, 3, 5), (3, 0, 5), (3, 5, 0)], ids=str)
def test_empty_gradients_need_no_kernel(sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    g, width = jnp.ones((m, n)), -(-k // 32)
    for function, rows, shape in (
        (bridge.input_gradient, n, (m, k)),
        (bridge.weight_gradient, m, (k, n)),
    ):
        result = function(g, jnp.ones((rows, width), jnp.uint32), k)
        assert result.dtype == jnp.float32
        np.testing.assert_array_equal(result, np.zeros(shape))


def test_operands_that_no_gradient_takes() -> None:
    g, wp = jnp.ones((4, 5)), jnp.zeros((5, 3), jnp.uint32)
    with pytest.raises(ValueError, match=r"packed has shape \(4, 3\); expected \(5, 3\)"):
        bridge.input_gradient(g, wp[:4], 77)
    with pytest.raises(ValueError, match=r"mask has shape \(4, 2\); expected \(4, 3\)"):
        bridge.input_gradient(g, wp, 77, jnp.zeros((4, 2), jnp.uint32))
    with pytest.raises(ValueError, match=r"mask has shape \(77, 2\); expected \(77, 1\)"):
        bridge.weight_gradient(g, wp[:4], 77, jnp.zeros((77, 2), jnp.uint32))
    with pytest.raises(TypeError, match="packed has dtype int32; it must be uint32"):
        bridge.input_gradient(g, wp.astype(jnp.int32), 77)
    with pytest.raises(TypeError, match="g has dtype int32; expected one of float32"):
        bridge.input_gradient(g.astype(jnp.int32), wp, 77)


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (300, 257, 4099), (256, 4096, 128)], ids=str)
def test_gradients_on_the_gpu(kind: Gradient, dtype: str, shape: tuple[int, int, int]) -> None:
    operands, exact, norm = problem(kind, *shape, dtype, True)
    function = functools.partial(getattr(bridge, kind), k=shape[2])
    with jax.default_device(jax.local_devices(backend="cuda")[0]):
        call = jax.jit(lambda g, packed, mask: function(g, packed, mask=mask))
        result = call(*map(jnp.asarray, operands))
    assert worst(np.asarray(result), exact, norm) <= (1e-5 if dtype == "float32" else 1e-4)


@needs_gpu
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 130, 77), (300, 257, 4099)], ids=str)
def test_products_on_the_gpu(m: int, n: int, k: int, epilogue: xla.Epilogue) -> None:
    xp, wp, dot = packed(m, n, k)
    operands = column_operands(epilogue, n)
    product = product_of(k, epilogue=epilogue)
    with jax.default_device(jax.local_devices(backend="cuda")[0]):
        result = jax.jit(product)(xp, wp, *operands)
    expected = xla.finish(dot, *operands, epilogue=epilogue)
    np.testing.assert_array_equal(result, expected)


# Lowering for CUDA without a GPU


def lowered(function: Callable[..., jax.Array], *shapes: jax.ShapeDtypeStruct) -> str:
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def words(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.uint32)


def product_of(k: int, **options: object) -> Callable[..., jax.Array]:
    options = {"epilogue": "int32", **options}
    return lambda xp, wp, *operands: bridge.matmul(xp, wp, k, *operands, **options)


@needs_plugin
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_payload_of_a_product(capability: int) -> None:
    text = lowered(product_of(77, compute_capability=capability), words(9, 3), words(130, 3))
    (call,) = payload.calls(text)
    launch = gemm(9, 130, 77, compute_capability=capability)
    compiled = aot.compile_launch(launch, capability)
    assert call.name == "binjax_xnor_gemm" and call.kernel == compiled.name == "xnor_gemm"
    assert call.ptx == compiled.ptx and f".target {CAPABILITIES[capability]}" in call.ptx
    assert ".version 8.7" in call.ptx
    assert call.compute_capability == capability and call.grid == launch.grid
    assert (call.num_warps, call.num_ctas) == (launch.num_warps, 1)
    assert call.shared_bytes == compiled.shared_bytes
    pointer = ("pointer", 16)
    numbers = [("i32", 9), ("i32", 130), ("i32", 77), ("i32", launch.words)]
    assert call.parameters == (pointer, pointer, *numbers, pointer)


@needs_plugin
@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("m", [2, 70])
def test_the_payload_computes_the_product(m: int, epilogue: xla.Epilogue) -> None:
    n, k = 70, 300
    xp, wp, dot = packed(m, n, k)
    operands = column_operands(epilogue, n)
    function = product_of(k, epilogue=epilogue, compute_capability=80)
    (call,) = payload.calls(lowered(function, xp, wp, *operands))
    out = np.zeros((m, xla.bits_width(n, epilogue)), xla.result_dtype(epilogue))
    if "xnor_gemm" in call.name:
        arrays = [xp.T, wp.T]
    else:
        padded = [np.pad(np.asarray(a), ((0, 0), (0, -a.shape[1] % 8))) for a in (xp, wp)]
        arrays = [*padded, *(np.bitwise_count(a).sum(1, dtype=np.int32) for a in padded)]
    pointers = iter([*map(protected, [*arrays, *operands]), out])
    arguments = [next(pointers) if kind == "pointer" else v for kind, v in call.parameters]
    Kernel(call.ptx).launch(call.grid, arguments, shared_bytes=call.shared_bytes)
    expected = xla.finish(dot, *operands, epilogue=epilogue)
    np.testing.assert_array_equal(out, expected)


@needs_plugin
@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kind", KINDS)
def test_payload_of_a_gradient(kind: Gradient, capability: int, dtype: str, masked: bool) -> None:
    m, n, k = sizes = (70, 40, 77)
    of_x = kind == "input_gradient"
    shapes = [jax.ShapeDtypeStruct((m, n), dtype), words(n if of_x else m, 3)]
    if masked:
        shapes.append(words(*((m, 3) if of_x else (k, 2))))
    function = getattr(bridge, kind)
    text = lowered(
        lambda g, packed, *mask: function(g, packed, k, *mask, compute_capability=capability),
        *shapes,
    )
    (call,) = payload.calls(text)
    launch = gradient(kind, *sizes, dtype, masked=masked, compute_capability=capability)
    compiled = aot.compile_launch(launch, capability)
    assert call.name == f"binjax_{kind}" and call.kernel == compiled.name == kind
    assert call.ptx == compiled.ptx and f".target {CAPABILITIES[capability]}" in call.ptx
    assert call.compute_capability == capability and call.grid == launch.grid
    assert (call.num_warps, call.shared_bytes) == (launch.num_warps, compiled.shared_bytes)
    pointers, numbers = [("pointer", 16)] * (2 + masked), [("i32", size) for size in sizes]
    assert call.parameters == (*pointers, *numbers, ("pointer", 16))


@needs_plugin
@pytest.mark.parametrize("kind", KINDS)
def test_the_payload_computes_the_gradient(kind: Gradient) -> None:
    operands, exact, norm = problem(kind, 20, 40, 77, "float32", True)
    function = getattr(bridge, kind)
    text = lowered(
        lambda g, packed, mask: function(g, packed, 77, mask, compute_capability=80),
        *map(jnp.asarray, operands),
    )
    (call,) = payload.calls(text)
    out = np.zeros(exact.shape, np.float32)
    pointers = iter([*map(protected, operands), out])
    arguments = [next(pointers) if name == "pointer" else v for name, v in call.parameters]
    Kernel(call.ptx).launch(call.grid, arguments, shared_bytes=call.shared_bytes)
    assert worst(out, exact, norm) <= 2e-6


@needs_plugin
def test_packing_lowers() -> None:
    x = jax.ShapeDtypeStruct((4, 5, 77), jnp.bfloat16)
    w = jax.ShapeDtypeStruct((1, 77, 40), jnp.float32)
    for function, argument, rows in ((bridge.pack_rows, x, 20), (bridge.pack_columns, w, 40)):
        (call,) = payload.calls(lowered(function, argument))
        assert call.kernel == "pack" and ("i32", rows) in call.parameters
        assert ("i32", 77) in call.parameters and call.compute_capability == 90


@needs_plugin
def test_each_launch_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    original = aot.compile_launch

    def count(launch: object, capability: int) -> aot.Compiled:
        compiled.append(launch)
        return original(launch, capability)

    monkeypatch.setattr(aot, "compile_launch", count)
    bridge.payload.cache_clear()
    product = product_of(96)

    def two(x: jax.Array, y: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        return product(x, w), product(y, w), product(x[:5], w)

    for _ in range(2):
        calls = payload.calls(lowered(two, words(9, 3), words(9, 3), words(8, 3)))
        assert len(calls) == 3
    assert len(compiled) == len(set(compiled)) == 2


@pytest.fixture
def primitive() -> Iterator[Primitive]:
    """An operation as ``binjax.xnor`` defines them: XLA by default, the bridge for CUDA."""
    product = Primitive("test_product")
    product.def_impl(functools.partial(xla.matmul, epilogue="int32"))
    product.def_abstract_eval(
        lambda x, w, *, k: jax.core.ShapedArray((x.shape[0], w.shape[0]), jnp.dtype("int32"))
    )
    for function, platform in ((xla.matmul, None), (bridge.matmul, "cuda")):
        rule = mlir.lower_fun(functools.partial(function, epilogue="int32"), False)
        mlir.register_lowering(product, rule, platform=platform)
    return product


@needs_plugin
def test_export_for_cpu_and_cuda(primitive: Primitive) -> None:
    xp, wp, dot = packed(9, 40, 77)
    product = jax.jit(functools.partial(primitive.bind, k=77))
    check = export.DisabledSafetyCheck.custom_call(bridge.CUSTOM_CALL)
    exporting = export.export(product, platforms=["cpu", "cuda"], disabled_checks=[check])
    exported = exporting(xp, wp)
    assert exported.platforms == ("cpu", "cuda")
    np.testing.assert_array_equal(exported.call(xp, wp), dot)
    (call,) = payload.calls(exported.mlir_module())
    assert call.kernel == "xnor_gemm" and call.compute_capability == 90


# Which GPU


def test_target(monkeypatch: pytest.MonkeyPatch, cuda_devices: Callable[..., None]) -> None:
    if not GPU.usable:
        assert bridge.target_capability() == 90
    cuda_devices("8.9", "8.9")
    assert bridge.target_capability() == 89
    monkeypatch.setenv(bridge.TARGET_VARIABLE, "100")
    assert bridge.target_capability() == 100
    assert bridge.target_capability(80) == 80
    cuda_devices("12.1")
    assert bridge.target_capability() == 100
    monkeypatch.delenv(bridge.TARGET_VARIABLE)
    assert bridge.target_capability() == 121


def test_targets_that_cannot_be_named(
    monkeypatch: pytest.MonkeyPatch, cuda_devices: Callable[..., None]
) -> None:
    cuda_devices("9.0", "8.0")
    with pytest.raises(bridge.TritonUnavailable, match=r"8\.0, 9\.0; make equal ones visible"):
        bridge.target_capability()
    for wrong in ("9.0", "sm_90", ""):
        monkeypatch.setenv(bridge.TARGET_VARIABLE, wrong)
        with pytest.raises(ValueError, match=rf"BINJAX_TARGET_CC='{wrong}': .* such as 90"):
            bridge.target_capability()
    with pytest.raises(ValueError, match=r"8\.0"):
        bridge.matmul(jnp.zeros((2, 1), "u4"), jnp.zeros((2, 1), "u4"), k=32, epilogue="int32",
                      compute_capability=75)  # fmt: skip


# Refusals


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide triton, the plugin, JAX's interface to it, or change that interface."""
    from jaxlib import gpu_triton

    if name == "triton":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif name == "plugin":
        monkeypatch.delattr(gpu_triton, "TritonKernel", raising=False)
    elif name == "interface":
        monkeypatch.delattr("jaxlib.gpu_triton")
        monkeypatch.setitem(sys.modules, "jaxlib.gpu_triton", None)
    else:
        monkeypatch.setattr(gpu_triton, "TritonKernel", lambda name: None, raising=False)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("triton", r"triton is not installed \(pip install triton\)"),
        ("plugin", rf"CUDA plugin is not installed.*{jax.__version__}.*pip install 'jax\[cuda13\]"),
        ("interface", r"no module jaxlib\.gpu_triton: this is jax .* binjax knows 0\.10 to 0\.12"),
    ],
)
def test_what_is_missing_is_named(
    missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(missing, monkeypatch)
    bridge.payload.cache_clear()
    for status in (bridge.compiler_status(), bridge.status()):
        assert not status.usable
        with pytest.raises(bridge.TritonUnavailable, match=message):
            raise bridge.TritonUnavailable(status.reason)
    with pytest.raises(bridge.TritonUnavailable, match=message):
        lowered(product_of(77), words(9, 3), words(130, 3))


def test_a_changed_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    without("the known form", monkeypatch)
    bridge.payload.cache_clear()
    with pytest.raises(bridge.TritonUnavailable, match=r"not the one of jax 0\.10 to 0\.12"):
        lowered(product_of(77), words(9, 3), words(130, 3))


@needs_plugin
def test_status_goes_by_the_devices(
    monkeypatch: pytest.MonkeyPatch, cuda_devices: Callable[..., None]
) -> None:
    if not GPU.usable:
        assert bridge.status() == bridge.Status(False, "JAX finds no CUDA device, only cpu")
    cuda_devices("9.0")
    assert bridge.status() == bridge.Status(True, "CUDA device of compute capability 9.0")
    cuda_devices("7.5")
    assert not bridge.status().usable and "7.5; the kernels need 8.0" in bridge.status().reason
    cuda_devices("9.0", "8.0")
    assert not bridge.status().usable and "8.0, 9.0" in bridge.status().reason
    monkeypatch.setenv(bridge.TARGET_VARIABLE, "80")
    assert bridge.status() == bridge.Status(True, "CUDA device of compute capability 8.0")
    monkeypatch.setenv(bridge.TARGET_VARIABLE, "none")
    assert not bridge.status().usable and "BINJAX_TARGET_CC='none'" in bridge.status().reason


def test_no_lowering_for_other_platforms() -> None:
    with pytest.raises(NotImplementedError, match=r"triton_call.*cpu"):
        jax.jit(product_of(32)).trace(words(2, 1), words(2, 1)).lower(lowering_platforms=("cpu",))


def test_operands_of_another_width_are_refused() -> None:
    integers = jax.ShapeDtypeStruct((2,), jnp.int32)
    with pytest.raises(TypeError, match=r"\[4, 4, 4, 1\] bytes.*\[4, 4, 4, 4\]"):
        jax.eval_shape(
            product_of(32, epilogue="threshold"), words(2, 1), words(2, 1), *2 * [integers]
        )


def test_importing_loads_no_triton_and_no_back_end() -> None:
    code = "import sys, binjax.xnor.bridge; assert 'triton' not in sys.modules"
    # On a platform that does not exist, whatever initializes a back end raises.
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


# The tools


def test_payload_reader_refuses_what_is_cut_off() -> None:
    with pytest.raises(ValueError, match="field 1 runs past the end"):
        list(payload.fields(b"\x0a\x05ab"))
    assert list(payload.fields(b"\x08\x96\x01\x15\x00\x00\x80\x3f")) == [
        (1, 150),
        (2, b"\x00\x00\x80\x3f"),
    ]
    assert payload.parameter(b"\x18" + b"\xff" * 9 + b"\x01") == ("i32", -1)
    assert payload.parameter(b"\x3d\x00\x00\x80\x3f") == ("fp32", 1.0)
    assert payload.unescape(r"a\0A\\\FFz") == b"a\n\\\xffz"


def test_interpreted_kernels() -> None:
    launch = gemm(9, 40, 77, compute_capability=80)
    before = freshly_compiled(launch)
    module = interpret.load("kernels_triton.xnor_gemm")
    assert module is interpret.load("kernels_triton.xnor_gemm")
    xp, wp, dot = packed(9, 40, 77)
    out = np.zeros(launch.out_shape, launch.out_dtype)
    pointers = {"x_ptr": protected(xp.T), "w_ptr": protected(wp.T), "out_ptr": out}
    arguments = {a.name: a.value for a in launch.arguments if a.value is not None}
    interpret.run(module.xnor_gemm, launch.grid, **pointers, **arguments, **dict(launch.constants))
    np.testing.assert_array_equal(out, dot)
    # What is compiled afterwards is the code that a process without interpreter compiles.
    assert freshly_compiled(launch) == before


def freshly_compiled(launch: Launch) -> str:
    """PTX past both caches: Triton's on disk may hold it with the file names of another copy."""
    aot._compile.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.knobs.compilation, "always_compile", True)
        return aot.compile_launch(launch, 80).ptx
