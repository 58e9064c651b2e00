"""The native CPU library: found, checked, loaded and registered with XLA's FFI, once.

It is optional. ``BINJAX_NATIVE_LIB`` names another copy of it than the installed one, and
``BINJAX_ISA`` the instruction set to use in place of the best one of this machine.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax

TARGETS = (
    "binjax_pack_rows",
    "binjax_pack_columns",
    "binjax_pack_rows_ste",
    "binjax_pack_columns_ste",
    "binjax_matmul_int32",
    "binjax_matmul_int32_out",
    "binjax_matmul_affine",
    "binjax_matmul_threshold",
    "binjax_conv_int32",
    "binjax_conv_affine",
    "binjax_conv_threshold",
    "binjax_input_gradient",
    "binjax_kernel_gradient",
    "binjax_pixel_matmul_scaled",
    "binjax_pixel_matmul_int32",
    "binjax_pixel_matmul_threshold",
    "binjax_pixel_conv_scaled",
    "binjax_pixel_conv_int32",
    "binjax_pixel_conv_threshold",
)


class Native(NamedTuple):
    """What became of the native library.

    Attributes:
        problem: why it is not used; None if it is.
        path: the file, None if there is none.
        isa: instruction set in use, such as ``"avx512"``; empty if the library is not used.
        isas: usable ones on this machine, best first.
    """

    problem: str | None
    path: Path | None = None
    isa: str = ""
    isas: tuple[str, ...] = ()


@functools.cache
def native() -> Native:
    """Load and register the library; later calls return what the first one found.

    Raises:
        ValueError: ``BINJAX_ISA`` names an instruction set that cannot be used here.
    """
    path = _find()
    if path is None:
        return Native(
            "binjax was installed without its native library (no C++17 compiler, or the build "
            "failed: pip install -v . shows why)"
        )
    if not path.is_file():
        return Native(f"BINJAX_NATIVE_LIB names {path}, which is no file", path)
    try:
        library = ctypes.CDLL(str(path))
        targets = {name: getattr(library, name) for name in TARGETS}
        compiled = int(library.binjax_ffi_api_version())
    except (OSError, AttributeError) as error:
        return Native(f"{path} does not load: {error}", path)
    # A handler newer than the runtime is not only refused: with it registered, the whole CPU
    # back end fails to start ("handler's API version is incompatible").
    runtime = _runtime_api_version()
    if runtime is None or compiled > runtime or compiled // 1000 != runtime // 1000:
        have = "unknown" if runtime is None else f"{runtime // 1000}.{runtime % 1000}"
        built = f"{compiled // 1000}.{compiled % 1000}"
        return Native(
            f"{path} was built for XLA FFI {built}, jax {jax.__version__} has {have}; "
            "reinstall binjax against this jax",
            path,
        )
    isa, isas = _select_isa(library)
    for name, function in targets.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    return Native(None, path, isa, isas)


def _find() -> Path | None:
    named = os.environ.get("BINJAX_NATIVE_LIB")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("binjax.xnor._native")
    return Path(spec.origin) if spec is not None and spec.origin else None


def _runtime_api_version() -> int | None:
    """Version of the FFI that this jaxlib speaks, as major * 1000 + minor, from its headers."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    if not header.is_file():
        return None
    text = header.read_text(encoding="utf-8")
    major = re.search(r"#define XLA_FFI_API_MAJOR (\d+)", text)
    minor = re.search(r"#define XLA_FFI_API_MINOR (\d+)", text)
    return int(major[1]) * 1000 + int(minor[1]) if major and minor else None


def _select_isa(library: Any) -> tuple[str, tuple[str, ...]]:
    """Apply ``BINJAX_ISA``; the active instruction set and the usable ones."""
    library.binjax_isa.restype = library.binjax_isas.restype = ctypes.c_char_p
    library.binjax_select_isa.argtypes = [ctypes.c_char_p]
    isas = tuple(library.binjax_isas().decode().split())
    wanted = os.environ.get("BINJAX_ISA")
    if wanted and library.binjax_select_isa(wanted.encode()) != 0:
        raise ValueError(
            f"BINJAX_ISA is {wanted!r}; usable on this machine, best first: {', '.join(isas)}"
        )
    return library.binjax_isa().decode(), isas
