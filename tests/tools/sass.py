"""Read a cubin's machine code with the tools in Triton's wheel: registers, spills, loops.

Instruction names are ptxas's, for instance ``IADD3`` or ``LDG.E.128``; see NVIDIA's "CUDA Binary
Utilities".
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import triton

BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
_LABEL = re.compile(r"\s*(\.L\S*|\$\S+):")
_TARGET = re.compile(r"`\(([^)]+)\)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction: its full name and the text of its operands."""

    name: str
    operands: str

    @property
    def base(self) -> str:
        return self.name.split(".")[0]

    @property
    def target(self) -> str | None:
        """The label it names, of a branch or a call."""
        match = _TARGET.search(self.operands)
        return match[1] if match else None


@dataclass(frozen=True)
class Machine:
    """A disassembled kernel."""

    registers: int
    stack: int
    local: int
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    @property
    def spills(self) -> int:
        """Loads from and stores to a thread's local memory, bytes of stack included."""
        return self.count("LDL") + self.count("STL") + self.stack + self.local

    def count(self, base: str) -> int:
        return sum(instruction.base == base for instruction in self.instructions)

    @cached_property
    def loops(self) -> tuple[tuple[Instruction, ...], ...]:
        """The code between each backward jump and its target, both included.

        A loop that encloses another one is left out: only innermost loops are hot.
        """
        spans = []
        for i, instruction in enumerate(self.instructions):
            start = self.labels.get(instruction.target or "", i + 1)
            if instruction.base == "BRA" and start < i:
                spans.append((start, i))
        inner = [
            (a, b)
            for a, b in spans
            if not any((a <= c and d < b) for c, d in spans if (c, d) != (a, b))
        ]
        return tuple(self.instructions[a : b + 1] for a, b in inner)

    def hot_loop(self, base: str) -> tuple[Instruction, ...]:
        """The loop with the most instructions of a name; empty where no loop has any."""
        loop = max(self.loops, key=lambda code: mix(code)[base], default=())
        return loop if mix(loop)[base] else ()

    def calls(self, code: tuple[Instruction, ...]) -> list[Instruction]:
        """Calls of subroutines in a piece of code.

        ptxas also writes a jump to a label of the same function as ``CALL.REL.NOINC``, to a
        label that starts with ``.L_x``: that is no call.
        """
        return [
            instruction
            for instruction in code
            if instruction.base == "CALL" and not (instruction.target or "").startswith(".L_x")
        ]


def mix(code: tuple[Instruction, ...]) -> Counter[str]:
    """How often each instruction occurs, by its name up to the first dot."""
    return Counter(instruction.base for instruction in code)


def read(cubin: bytes) -> Machine:
    """Disassemble a cubin that holds one kernel."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = _run("nvdisasm", "-c", str(path))
        usage = _USAGE.search(_run("cuobjdump", "-res-usage", str(path)))
    if usage is None:
        raise ValueError("cuobjdump reported no resource usage")
    registers, stack, _, local = map(int, usage.groups())
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.search(line):
            instructions.append(Instruction(found[1], found[2]))
    return Machine(registers, stack, local, tuple(instructions), labels)


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([BIN / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
