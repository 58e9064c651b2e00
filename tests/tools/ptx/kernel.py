"""Launching a parsed kernel: arguments, grid, batches of CTAs."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tools.ptx.decode import decode
from tools.ptx.machine import Machine
from tools.ptx.memory import Global
from tools.ptx.parse import UNSIGNED, parse

LANES = 4096  # threads that run together; more costs cache, fewer costs Python's time
HIDDEN = 2  # scratch pointers that Triton appends to a kernel's parameters

Argument = np.ndarray | np.generic | int | float


class Kernel:
    """One compiled kernel, from PTX text.

    Raises ValueError for text that is not one kernel, and NotImplementedError for an instruction,
    register or operand that the emulator does not know.
    """

    def __init__(self, ptx: str) -> None:
        self.program = parse(ptx)
        self.actions = [decode(instruction) for instruction in self.program.instructions]

    @property
    def name(self) -> str:
        return self.program.name

    def launch(
        self,
        grid: Sequence[int],
        args: Sequence[Argument],
        *,
        shared_bytes: int = 49152,
        max_steps: int = 1_000_000,
    ) -> Counter[str]:
        """Run all CTAs of a grid of one to three axes.

        ``args``: the parameters in order; C-contiguous arrays for pointers, which receive what the
        kernel stores unless they are read-only, and numbers for scalars. Triton's scratch pointers
        at the end may be left out: they are null. ``shared_bytes``: the size of the kernel's
        ``extern .shared`` memory (the default is what any GPU gives; the compiled kernel's own
        number gives exact bounds).

        Returns how often each opcode was issued, counted per warp. Raises :class:`Fault` for an
        error of the kernel (the arrays then keep their contents), TypeError for arguments that do
        not fit the parameters, TimeoutError after ``max_steps`` instructions of a batch of CTAs.
        """
        arrays, values = self.bind(args)
        x, y, z = (*grid, 1, 1)[:3]
        places = [(i, j, k) for k in range(z) for j in range(y) for i in range(x)]
        together = max(1, LANES // self.program.threads)
        counts: Counter[str] = Counter()
        for start in range(0, len(places), together):
            machine = Machine(
                self.program,
                self.actions,
                arrays,
                values,
                places[start : start + together],
                (x, y, z),
                shared_bytes,
            )
            machine.run(max_steps)
            counts.update(machine.counts)
        arrays.copy_back()
        return counts

    def bind(self, args: Sequence[Argument]) -> tuple[Global, dict[str, np.generic]]:
        """Global memory, and the value of each parameter."""
        parameters = self.program.parameters
        missing = list(parameters.items())[len(args) :]
        if len(args) > len(parameters) or (
            missing and (len(missing) > HIDDEN or any(t.itemsize != 8 for _, t in missing))
        ):
            raise TypeError(
                f"{self.name} has {len(parameters)} parameters, up to {HIDDEN} of them hidden; "
                f"got {len(args)} arguments"
            )
        given = dict(zip(parameters, args, strict=False))
        pointers = {name: a for name, a in given.items() if isinstance(a, np.ndarray)}
        arrays = Global(list(pointers.values()), list(pointers))
        bases = dict(zip(pointers, arrays.pointers(), strict=True))
        values = {name: UNSIGNED[8].type(0) for name, _ in missing}
        for name, argument in given.items():
            dtype = parameters[name]
            value = bases.get(name, argument)
            if name in bases and dtype.itemsize != 8:
                raise TypeError(f"{name} is a {dtype}, got an array")
            if dtype.kind != "f" and isinstance(value, float | np.floating):
                raise TypeError(f"{name} is a {dtype}, got {value!r}")
            values[name] = scalar(name, value, dtype)
        return arrays, values


def scalar(name: str, value: Argument, dtype: np.dtype) -> np.generic:
    """A number as a parameter's dtype; integers of either sign, as far as its bits hold them."""
    if dtype.kind == "f":
        return dtype.type(value)
    bits = 8 * dtype.itemsize
    if not -(1 << (bits - 1)) <= int(value) < 1 << bits:
        raise TypeError(f"{name} is a {dtype}, got {value}")
    return np.array(int(value) & ((1 << bits) - 1), UNSIGNED[dtype.itemsize]).view(dtype)[()]
