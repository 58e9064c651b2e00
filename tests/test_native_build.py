"""The native library under sanitizers, every instruction set chosen by the environment variable."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from binary_reference import KERNEL_FILES, KERNEL_TESTS

ROOT = Path(__file__).parents[1]
# Every loop of the kernels; what wraps them in JAX is tested without sanitizers.
TESTS = [f"test_{name}.py" for name in KERNEL_FILES]
SUBSET = f"({KERNEL_TESTS}) and not random"
TOOLS = [name for name in ("cmake", "c++") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(TOOLS), reason=f"not installed: {', '.join(TOOLS)}"),
    pytest.mark.skipif(sys.platform != "linux", reason="preloads the sanitizers as Linux does"),
]


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which Python runs with the sanitized library."""
    build = tmp_path_factory.mktemp("sanitized")
    configure = ["cmake", "-S", str(ROOT / "native"), "-B", str(build), "-DBINJAX_SANITIZE=ON"]
    configure.append("-DBINJAX_WERROR=ON")
    run([*configure, f"-DPython_EXECUTABLE={sys.executable}"])
    run(["cmake", "--build", str(build)])
    libraries = [
        run(["c++", f"-print-file-name=lib{name}.so"]).strip()
        for name in ("asan", "ubsan", "stdc++")
    ]
    return {
        "BINJAX_NATIVE_LIB": str(build / "_native.so"),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python itself leaves memory to the end of the process
    }


def test_stays_inside_its_buffers(sanitized):
    code = "from binjax.xnor.native import native; print(*native().isas)"
    isas = run([sys.executable, "-c", code], **sanitized).split()
    assert "scalar" in isas
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SUBSET]
    for isa in isas:
        last = run([*command, *tests], **sanitized, BINJAX_ISA=isa).splitlines()[-1]
        assert " passed" in last
        assert "skipped" not in last


def test_the_sanitizer_sees_the_buffers(sanitized):
    # A result declared too small for what is written: refused by the handler, not written.
    code = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from binjax import xnor\n"
        "assert 'native' in xnor.backends()\n"
        "x = jnp.zeros((3, 2), jnp.uint32)\n"
        "call = jax.ffi.ffi_call('binjax_matmul_int32', jax.ShapeDtypeStruct((3, 2), jnp.int32))\n"
        "try:\n"
        "    call(x, x, k=np.int64(64)).block_until_ready()\n"
        "except Exception as error:\n"
        "    assert 'result of [m, n]' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('not refused')\n"
    )
    run([sys.executable, "-c", code], **sanitized)
