"""Compile a launch for a compute capability, on any machine: no GPU, no CUDA installation.

Triton's wheel contains the compiler and ptxas.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .launch import Argument, Constant, Launch
from .tiles import for_capability

# Triton's own choice of PTX version can be newer than the driver: CUDA 12.8 reads 8.7.
PTX_VERSION = 87
# Compute capabilities that version 8.7 does not know (PTX ISA, release notes).
PTX_VERSION_BY_CAPABILITY = {103: 88, 110: 90, 121: 88}


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel and what a launcher must know about it.

    Attributes:
        name: the entry point's name in the PTX.
        ptx: PTX source.
        cubin: machine code for the compute capability it was compiled for.
        ttir: Triton's intermediate form (Gluon's: TTGIR), for diagnostics.
        num_warps: warps per program; a block of the grid has 32 times as many threads.
        num_ctas: blocks per cluster.
        shared_bytes: dynamic shared memory per block.
    """

    name: str
    ptx: str
    cubin: bytes
    ttir: str
    num_warps: int
    num_ctas: int
    shared_bytes: int


def compile_launch(launch: Launch, compute_capability: int) -> Compiled:
    """Compile the kernel of a launch; the result is cached, in memory and by Triton on disk.

    Launches that differ only in sizes share a compiled kernel as long as the same of their
    scalars are multiples of 16.

    Args:
        launch: what ``launch.gemm`` or ``launch.pack`` returned for the same GPU.
        compute_capability: 10 · major + minor, such as 90 for H100.

    Raises:
        ValueError: the GPU is older than 8.0.
    """
    for_capability(compute_capability)
    parameters = tuple(
        (argument.name, argument.type, _is_aligned(argument)) for argument in launch.arguments
    )
    return _compile(
        launch.module,
        launch.kernel,
        parameters,
        launch.constants,
        launch.num_warps,
        launch.num_stages,
        launch.max_registers,
        compute_capability,
    )


def _is_aligned(argument: Argument) -> bool:
    return argument.value is None or argument.value % 16 == 0


def _gluon_source() -> Any:
    # A private name: imported where it is used, so that the other kernels do without it.
    from triton.experimental.gluon._runtime import GluonASTSource

    return GluonASTSource


@functools.cache
def _compile(
    module: str,
    name: str,
    parameters: tuple[tuple[str, str, bool], ...],
    constants: tuple[tuple[str, Constant], ...],
    num_warps: int,
    num_stages: int,
    max_registers: int | None,
    compute_capability: int,
) -> Compiled:
    kernel = getattr(importlib.import_module(f".{module}", __package__), name)
    types = {parameter: type_ for parameter, type_, _ in parameters}
    signature = {parameter: types.get(parameter, "constexpr") for parameter in kernel.arg_names}
    positions = {parameter: i for i, parameter in enumerate(kernel.arg_names)}
    attributes = {
        (positions[parameter],): [["tt.divisibility", 16]]
        for parameter, _, aligned in parameters
        if aligned
    }
    gluon = module == "bmma"
    source_type: Any = _gluon_source() if gluon else ASTSource
    compiled = triton.compile(
        source_type(kernel, signature, dict(constants), attributes),
        target=GPUTarget("cuda", compute_capability, 32),
        options={
            "num_warps": num_warps,
            "num_stages": num_stages,
            "maxnreg": max_registers,
            "ptx_version": PTX_VERSION_BY_CAPABILITY.get(compute_capability, PTX_VERSION),
            # Two roundings in "affine", as numpy has; XLA and the CPU library may fuse them.
            "enable_fp_fusion": False,
        },
    )
    metadata = compiled.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise RuntimeError(f"{name} was compiled to need scratch memory, which no caller provides")
    return Compiled(
        name=metadata.name,
        ptx=compiled.asm["ptx"],
        cubin=compiled.asm["cubin"],
        ttir=str(compiled.asm["ttgir" if gluon else "ttir"]),
        num_warps=metadata.num_warps,
        num_ctas=metadata.num_ctas,
        shared_bytes=metadata.shared,
    )
