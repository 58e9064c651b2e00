"""Runs Triton kernels in Triton's interpreter, on numpy arrays, without torch or a GPU.

``@triton.jit`` decides when a module is imported whether its kernels are compiled or interpreted.
So the interpreted kernels are those of a second copy of their package, under another name; the
first stays compilable in the same process.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

SUFFIX = "_interpreted"


def load(module: str) -> ModuleType:
    """An interpreted copy of a module, by its dotted name or (a ``.py`` outside packages) its path.

    Modules of a package must import each other relatively, so that the copy is complete.
    """
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        if module.endswith(".py"):
            return copy(Path(module).stem + SUFFIX, Path(module))
        package, _, rest = module.partition(".")
        name = package + SUFFIX
        if name not in sys.modules:
            copy(name, Path(importlib.util.find_spec(package).origin))
        return importlib.import_module(f"{name}.{rest}") if rest else sys.modules[name]


def copy(name: str, path: Path) -> ModuleType:
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=package)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    kernel: Callable[..., Any],
    grid: tuple[int, ...],
    *args: np.ndarray | int | float,
    **constants: object,
) -> None:
    """Run an interpreted kernel on a grid; stores go into the arrays given as arguments."""
    wrapped = [Tensor(a) if isinstance(a, np.ndarray) else a for a in args]
    named = {k: Tensor(v) if isinstance(v, np.ndarray) else v for k, v in constants.items()}
    with interpreted_library():
        kernel[grid](*wrapped, **named)


@contextmanager
def interpreted_library() -> Iterator[None]:
    """Replace the functions of ``triton.language`` that are themselves kernels (cdiv, sum, …).

    Afterwards everything is as it was: the interpreter of Triton 3.9 patches ``triton.language``
    and leaves some of that behind, with which nothing would compile any more.
    """
    modules = (tl, tl.core, tl.math, tl.standard)
    classes = (tl.core.tensor, tl.core.dtype, tl.core.condition, tl.core.tensor_descriptor_base)
    before = {owner: dict(vars(owner)) for owner in (*modules, *classes)}
    create_dot = InterpreterBuilder.create_dot
    try:
        with triton.knobs.runtime.scope():
            triton.knobs.runtime.interpret = True
            for owner, members in before.items():
                for name, member in members.items():
                    if isinstance(member, triton.JITFunction):
                        setattr(owner, name, triton.jit(member.fn))
            InterpreterBuilder.create_dot = dot
            yield
    finally:
        InterpreterBuilder.create_dot = create_dot
        for owner, members in before.items():
            for name, member in list(vars(owner).items()):
                if name not in members:
                    # Interpreted functions keep the modules' new names as their globals.
                    if owner in classes:
                        delattr(owner, name)
                elif member is not members[name]:
                    setattr(owner, name, members[name])


def dot(
    builder: InterpreterBuilder,
    a: TensorHandle,
    b: TensorHandle,
    c: TensorHandle,
    *precision: object,
) -> TensorHandle:
    """``tl.dot``. Triton 3.9's own multiplies bfloat16 as the integers that it is kept as."""
    left, right = (
        x.data.view(ml_dtypes.bfloat16) if x.dtype.scalar == tl.bfloat16 else x.data for x in (a, b)
    )
    dtype = c.data.dtype
    return TensorHandle(left.astype(dtype) @ right.astype(dtype) + c.data, c.dtype.scalar)


class Tensor:
    """As much of a torch tensor as the interpreter of Triton 3.9 asks for, around a numpy array.

    The interpreter copies arguments to the "host" and back; here both are the array's own memory.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.dtype = str(array.dtype)

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def storage_offset(self) -> int:
        return 0

    def untyped_storage(self) -> Storage:
        return Storage(self.array)

    def new_empty(self, *shape: object, **options: object) -> Tensor:
        return Tensor(self.array)

    def set_(self, storage: Storage, *view: object) -> None:
        self.array = storage.array


class Storage:
    """The memory of a :class:`Tensor`."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def cpu(self) -> Storage:
        return Storage(self.array)

    def copy_(self, other: Storage) -> None:
        """Nothing to copy: it is the same memory."""
