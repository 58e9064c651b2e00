"""Which back end computes, what is refused, and how the native library is found."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from binary_reference import KERNEL_FILES, KERNEL_TESTS

from binjax import xnor
from binjax.xnor import bridge
from binjax.xnor import native as native_module
from binjax.xnor.dispatch import BACKENDS, check_backend, choose

WORDS = np.zeros((3, 2), np.uint32)
HERE = Path(__file__).parent


def needs_native() -> pytest.MarkDecorator:
    problem = native_module.native().problem
    return pytest.mark.skipif(problem is not None, reason=str(problem))


# Not the working directory's copy of the package, which has no compiled library.
PYTHON = (sys.executable, "-P")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PYTHON, "-W", "error::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_best_first():
    found = xnor.backends()
    assert found[-1] == "xla"
    assert list(found) == [name for name in BACKENDS if name in found]


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend is 'cuda'; choose None, 'triton', 'native', 'xl"):
        xnor.packed_matmul(WORDS, WORDS, 64, backend="cuda")
    for call in (xnor.pack_bits, xnor.pack_conv_kernel):
        with pytest.raises(ValueError, match="backend is 'cpu'; choose"):
            call(np.ones((1, 1, 1, 1), np.float32), backend="cpu")


def test_triton_that_is_not_there(monkeypatch):
    monkeypatch.setattr(bridge, "compiler_status", lambda: bridge.Status(False, "no such thing"))
    with pytest.raises(ValueError, match="backend='triton' cannot be used: no such thing; leave"):
        xnor.packed_matmul(WORDS, WORDS, 64, backend="triton")


def test_triton_without_a_gpu(monkeypatch):
    if "triton" in xnor.backends():
        pytest.skip("Triton runs here")
    monkeypatch.setattr(bridge, "compiler_status", lambda: bridge.Status(True, ""))
    message = "backend='triton' runs on CUDA devices, .* compiled for cpu; leave backend=None"
    with pytest.raises(ValueError, match=message):
        xnor.packed_matmul(WORDS[:1], WORDS, 61, backend="triton")


@pytest.mark.parametrize("problem", ["the GPU's compute capability is 7.5", "GPUs of several"])
def test_a_gpu_that_the_kernels_are_not_for(monkeypatch, problem):
    monkeypatch.setattr(bridge, "target_status", lambda: bridge.Status(False, problem))
    with pytest.warns(xnor.SlowerBackendWarning, match=problem):
        assert choose("cuda", None) == "xla"
    with pytest.raises(ValueError, match=f"backend='triton' cannot be used: {problem}"):
        check_backend("triton")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(
    ("gpus", "found"),
    [([75], "compute capability is 7.5"), ([80, 90], "several"), ([90], "9.0"), ([], "9.0")],
)
def test_what_is_compiled_for(monkeypatch, gpus, found):
    monkeypatch.setattr(bridge, "compiler_status", lambda: bridge.Status(True, ""))
    monkeypatch.setattr(bridge, "_device_capabilities", lambda: gpus)
    monkeypatch.delenv(bridge.TARGET_VARIABLE, raising=False)
    status = bridge.target_status()
    assert found in status.reason
    assert status.usable == (found == "9.0")


MISSING = """
import warnings
import numpy as np
from binjax import xnor
assert xnor.backends() == ("xla",), xnor.backends()
words = np.zeros((3, 2), np.uint32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    xnor.packed_matmul(words, words, 64)
    xnor.packed_matmul(words, words, 63)
    xnor.packed_matmul(words, words, 62, backend="xla")
assert [w.category for w in caught] == [xnor.SlowerBackendWarning], caught
print(caught[0].message)
try:
    xnor.packed_matmul(words, words, 64, backend="native")
except ValueError as error:
    print(error)
"""


def test_missing_library_is_said_once():
    done = python(MISSING, BINJAX_NATIVE_LIB="/no/such/file.so", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    warning, error = done.stdout.splitlines()
    what = "BINJAX_NATIVE_LIB names /no/such/file.so, which is no file"
    assert (
        warning == f"binjax: {what}; on cpu the portable XLA form computes the same results, slower"
    )
    assert error == (
        f"backend='native' cannot be used: {what}; leave backend=None to choose, or take one of "
        "'xla'"
    )


def test_a_file_that_is_no_library(tmp_path):
    path = tmp_path / "_native.so"
    path.write_text("nothing")
    code = "from binjax.xnor.native import native; print(native().problem)"
    done = python(code, BINJAX_NATIVE_LIB=str(path))
    assert done.returncode == 0, done.stderr
    assert "_native.so does not load: " in done.stdout


def test_backends_start_no_jax_backend():
    # On a platform that does not exist, whatever initializes a back end raises.
    if bridge.compiler_status().usable:
        pytest.skip("with the CUDA plugin, devices have to be looked up")
    code = "from binjax import xnor; print(xnor.backends())"
    done = python(code, JAX_PLATFORMS="no_such_platform")
    assert done.returncode == 0, done.stderr


@needs_native()
def test_a_library_newer_than_the_runtime_is_not_registered(monkeypatch):
    monkeypatch.setattr(native_module, "_runtime_api_version", lambda: 1)
    registered = []
    monkeypatch.setattr(native_module.jax.ffi, "register_ffi_target", registered.append)
    found = native_module.native.__wrapped__()
    assert "was built for XLA FFI 0." in found.problem
    assert "has 0.1; reinstall binjax against this jax" in found.problem
    monkeypatch.setattr(native_module, "_runtime_api_version", lambda: None)
    assert "has unknown" in native_module.native.__wrapped__().problem
    assert not registered


def test_the_runtime_version_is_found():
    assert native_module._runtime_api_version() is not None


@needs_native()
def test_unusable_instruction_set():
    code = "from binjax import xnor; xnor.backends()"
    done = python(code, BINJAX_ISA="sse1")
    isas = ", ".join(native_module.native().isas)
    assert f"ValueError: BINJAX_ISA is 'sse1'; usable on this machine, best first: {isas}" in (
        done.stderr
    )


@needs_native()
@pytest.mark.slow
@pytest.mark.parametrize("isa", native_module.native().isas[1:])
def test_every_instruction_set(isa):
    files = [HERE / f"test_{name}.py" for name in KERNEL_FILES]
    command = [*PYTHON, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-k", KERNEL_TESTS, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "BINJAX_ISA": isa},
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1]
