"""The state of some CTAs that run together, and the loop that runs them.

A lane is one thread of one of these CTAs; a register is an array [lanes]. Register arrays are
replaced, never written in place, so that they may be views of each other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tools.ptx.memory import Fault, Global, Shared
from tools.ptx.parse import (
    BOOL,
    UNSIGNED,
    Address,
    Immediate,
    Instruction,
    Operand,
    Program,
    Register,
    Symbol,
)
from tools.ptx.table import Action

WARP = 32


class Machine:
    """Some CTAs at the start of a kernel.

    ``here`` are the lanes at position ``position`` of the program; the others that have not ended
    are parked at the positions where they go on. ``active`` are the lanes of ``here`` that the
    running instruction applies to, after its guard; ``full`` says that these are all lanes.
    """

    def __init__(
        self,
        program: Program,
        actions: Sequence[Action],
        memory: Global,
        parameters: Mapping[str, np.generic],
        ctas: Sequence[tuple[int, int, int]],
        grid: tuple[int, int, int],
        shared_bytes: int,
    ) -> None:
        self.program = program
        self.actions = actions
        self.memory = memory
        self.parameters = parameters
        self.ctas = ctas
        self.lanes = len(ctas) * program.threads
        self.symbols, size = layout(program, shared_bytes)
        self.shared = Shared(len(ctas), size, program.threads)
        self.registers = special_registers(ctas, grid, program.threads)
        self.undefined: dict[str, np.ndarray] = {}  # lanes in which a register has no value yet
        self.copies: list[list[tuple[np.ndarray, ...]]] = [[]]  # cp.async: groups, the last open
        self.counts: Counter[str] = Counter()
        self.position = 0
        self.parked: dict[int, np.ndarray] = {}
        self.live = np.ones(self.lanes, bool)
        self.gather(self.live)

    def run(self, max_steps: int) -> None:
        """Run until every lane has ended."""
        steps = 0
        with np.errstate(all="ignore"):
            while self.settle():
                if steps == max_steps:
                    raise TimeoutError(f"{self.program.name}: still running after {steps} steps")
                steps += 1
                if self.position == len(self.actions):
                    raise Fault(f"{self.program.name} runs past its last instruction")
                instruction = self.program.instructions[self.position]
                try:
                    self.step(instruction, self.actions[self.position])
                except Fault as fault:
                    cta, thread = divmod(fault.lane, self.program.threads)
                    place = f"CTA {self.ctas[cta]}, thread {thread}"
                    raise Fault(f"{fault}; {place}: {instruction.text}", fault.lane) from None

    def step(self, instruction: Instruction, action: Action) -> None:
        self.counts[instruction.opcode] += self.warps
        self.active, self.full = self.here, self.whole
        if instruction.guard is not None:
            chosen = self.read(instruction.guard, BOOL)
            if not chosen.all():
                self.active, self.full = self.here & chosen, False
        self.position += 1
        if self.full or self.active.any():
            action(self, *instruction.operands)

    # Control flow

    def gather(self, lanes: np.ndarray) -> None:
        """Make these the lanes that run."""
        self.here = lanes
        self.whole = bool(lanes.all())
        self.warps = int(lanes.reshape(-1, WARP).any(1).sum())

    def settle(self) -> bool:
        """Run on with the lanes that are furthest behind. False when all have ended."""
        if self.parked:
            behind = min(self.parked)
            if self.warps == 0 or behind < self.position:
                lanes = self.parked.pop(behind)
                if self.warps:
                    self.park(self.position, self.here)
                self.position = behind
                self.gather(lanes)
            elif behind == self.position:
                self.gather(self.here | self.parked.pop(behind))
        return self.warps > 0

    def branch(self, label: str) -> None:
        """Send the active lanes to a label."""
        target = self.program.labels[label]
        if self.full or not (staying := self.here & ~self.active).any():
            self.position = target
            return
        self.park(target, self.active)
        self.gather(staying)

    def park(self, position: int, lanes: np.ndarray) -> None:
        others = self.parked.get(position)
        self.parked[position] = lanes if others is None else lanes | others

    def end(self) -> None:
        """The active lanes have ended."""
        self.live = self.live & ~self.active
        self.gather(self.here & ~self.active)

    def barrier(self) -> None:
        """``bar.sync``: in each CTA all threads that have not ended, or none."""
        arrived = self.active.reshape(len(self.ctas), -1)
        late = self.live.reshape(len(self.ctas), -1) & ~arrived
        wrong = late & arrived.any(1)[:, None]
        if wrong.any():
            raise Fault("divergent: a barrier without this thread", int(wrong.argmax()))
        self.shared.barrier(arrived.any(1))

    def require_whole_warps(self) -> None:
        if not self.full:
            arrived = self.active.reshape(-1, WARP)
            wrong = arrived.any(1)[:, None] & ~arrived
            if wrong.any():
                raise Fault(
                    "divergent: a warp-wide instruction without this thread", int(wrong.argmax())
                )

    # Operands

    def read(self, operand: Operand, dtype: np.dtype) -> np.ndarray | np.generic:
        """Value of an operand: an array [lanes], or a scalar for a constant.

        A register wider than ``dtype`` gives its low bits.
        """
        if isinstance(operand, Immediate):
            return operand.as_type(dtype)
        if isinstance(operand, Symbol):
            return Immediate(self.symbols[operand.name]).as_type(dtype)
        if not isinstance(operand, Register):
            raise NotImplementedError(f"operand {operand}")
        value = self.registers.get(operand.name)
        if value is None:
            raise Fault(f"read of {operand.name}, never written", int(self.active.argmax()))
        if operand.name in self.undefined:
            wrong = self.undefined[operand.name] & self.active
            if wrong.any():
                raise Fault(
                    f"read of {operand.name}, not written in this thread", int(wrong.argmax())
                )
        if operand.negated:
            return ~value
        if value.dtype == dtype:
            return value
        if value.dtype.itemsize == dtype.itemsize:
            return value.view(dtype)
        if value.dtype.itemsize < dtype.itemsize:
            raise NotImplementedError(f"{operand.name} read as {dtype}")
        return value.astype(UNSIGNED[dtype.itemsize]).view(dtype)

    def write(self, operand: Operand, value: np.ndarray | np.generic) -> None:
        """Set a register in the active lanes; signed values are extended to its width."""
        name = operand.name
        if name == "_":
            return
        dtype = self.program.registers[name]
        if value.dtype != dtype:
            same = value.dtype.itemsize == dtype.itemsize
            value = value.view(dtype) if same else value.astype(dtype)
        if value.ndim == 0:
            value = np.full(self.lanes, value)
        if self.full:
            self.undefined.pop(name, None)
        elif name not in self.registers:
            self.undefined[name] = ~self.active
        else:
            value = np.where(self.active, value, self.registers[name])
            if name in self.undefined:
                self.undefined[name] = self.undefined[name] & ~self.active
        self.registers[name] = value

    def address(self, operand: Address, dtype: np.dtype) -> np.ndarray:
        """``[base + offset]`` of each lane, wrapped to dtype: uint64 global, uint32 shared."""
        base = self.read(operand.base, dtype) + Immediate(operand.offset).as_type(dtype)
        return np.broadcast_to(base, self.lanes)


def layout(program: Program, shared_bytes: int) -> tuple[dict[str, int], int]:
    """Offsets of the shared variables, and the bytes that all of them take."""
    places, end = {}, 0
    for name, (alignment, size) in sorted(
        program.shared.items(), key=lambda variable: variable[1][1] is None
    ):
        end = -(-end // alignment) * alignment
        places[name] = end
        end += shared_bytes if size is None else size
    return places, end


def special_registers(
    ctas: Sequence[tuple[int, int, int]], grid: tuple[int, int, int], threads: int
) -> dict[str, np.ndarray]:
    thread = np.tile(np.arange(threads, dtype=np.uint32), len(ctas))
    registers = {
        "%tid.x": thread,
        "%laneid": thread % np.uint32(WARP),
        "%warpid": thread // np.uint32(WARP),
        "%ntid.x": np.full_like(thread, threads),
    }
    for axis, letter in enumerate("xyz"):
        places = np.array([cta[axis] for cta in ctas], np.uint32)
        registers[f"%ctaid.{letter}"] = np.repeat(places, threads)
        registers[f"%nctaid.{letter}"] = np.full_like(thread, grid[axis])
        registers.setdefault(f"%tid.{letter}", np.zeros_like(thread))
        registers.setdefault(f"%ntid.{letter}", np.ones_like(thread))
    return registers
