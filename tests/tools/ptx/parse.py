"""PTX text of one kernel -> its parameters, registers, labels and instructions."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import ml_dtypes
import numpy as np

BOOL = np.dtype(bool)
UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}
# Type suffix -> how numpy holds it.
TYPES: Mapping[str, np.dtype] = {
    "pred": BOOL,
    **{f"b{8 * size}": dtype for size, dtype in UNSIGNED.items()},
    **{f"u{8 * size}": dtype for size, dtype in UNSIGNED.items()},
    **{f"s{8 * size}": np.dtype(f"i{size}") for size in UNSIGNED},
    **{f"f{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f16x2": UNSIGNED[4],
    "bf16x2": UNSIGNED[4],
}
SPECIAL = frozenset(
    [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    + ["%laneid", "%warpid"]
)


@dataclass(frozen=True)
class Register:
    """A register by name, special ones included; ``negated`` for the predicate ``!%p``."""

    name: str
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    """A constant by its bits (two's complement, or the bits of a float)."""

    bits: int

    def as_type(self, dtype: np.dtype) -> np.generic:
        return constant(self.bits, dtype)


@dataclass(frozen=True)
class Symbol:
    """A parameter, a shared variable or a label."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base + offset]``."""

    base: "Register | Symbol | Immediate"
    offset: int


@dataclass(frozen=True)
class Vector:
    """``{a, b, …}``, or the pair ``a|b``."""

    items: "tuple[Operand, ...]"


Operand = Register | Immediate | Symbol | Address | Vector


@dataclass(frozen=True)
class Instruction:
    """One statement: ``@guard opcode operands``."""

    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str


@dataclass(frozen=True)
class Program:
    """One kernel. ``shared`` maps variables to (alignment, bytes), bytes None where extern."""

    name: str
    version: str
    target: str
    parameters: Mapping[str, np.dtype]
    threads: int
    registers: Mapping[str, np.dtype]
    shared: Mapping[str, tuple[int, int | None]]
    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]


def type_of(kind: str) -> np.dtype:
    """Of a parameter or register."""
    if kind not in TYPES:
        raise NotImplementedError(f"type .{kind} of a parameter or register")
    return TYPES[kind]


@lru_cache(maxsize=4096)
def constant(bits: int, dtype: np.dtype) -> np.generic:
    if dtype == BOOL:
        return np.bool_(bits != 0)
    size = dtype.itemsize
    return np.array(bits & ((1 << 8 * size) - 1), UNSIGNED[size]).view(dtype)[()]


COMMENTS = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
LINE_DIRECTIVES = re.compile(r"^\s*\.(?:loc|file)\b[^\n]*$", re.MULTILINE)
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", re.DOTALL)
PARAMETER = re.compile(r"\.param\s+\.(\w+)[^,]*?([\w$]+)\s*(?:,|$)", re.DOTALL)
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)\[(\d*)\]")
THREADS = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)(?:\s*,\s*1)*\s*$", re.MULTILINE)
LEAD = re.compile(r"\s*(?:[{}]|([\w$]+)\s*:(?!:))\s*")
STATEMENT = re.compile(r"(?:@(!?)([%\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
ADDRESS = re.compile(r"\[\s*([%\w.$]+)\s*(?:\+\s*(-?\w+))?\s*\]")
INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|\d+)U?")
REGISTERS = re.compile(r"([%\w$]+)(?:<(\d+)>)?")


def parse(text: str) -> Program:
    """Read the kernel of a PTX module. ValueError for what does not parse or has two kernels."""
    text = LINE_DIRECTIVES.sub("", COMMENTS.sub("", text))
    entries = list(ENTRY.finditer(text))
    if len(entries) != 1:
        raise ValueError(f"expected PTX with one .entry, found {len(entries)}")
    (entry,) = entries
    threads = THREADS.search(entry[3])
    if threads is None or int(threads[1]) % 32:
        raise ValueError(f"expected .reqntid of a multiple of 32 in one axis, got {entry[3]!r}")
    reader = Reader()
    for statement in body(text, entry.end()).split(";"):
        reader.read(statement)
    return Program(
        name=entry[1],
        version=re.search(r"\.version\s+(\S+)", text)[1],
        target=re.search(r"\.target\s+(\S+)", text)[1],
        parameters={name: type_of(kind) for kind, name in PARAMETER.findall(entry[2])},
        threads=int(threads[1]),
        registers=reader.registers,
        shared={n: (int(a), int(size) if size else None) for a, n, size in SHARED.findall(text)},
        instructions=tuple(reader.instructions),
        labels=reader.labels,
    )


def body(text: str, start: int) -> str:
    """What stands between the brace before start and the one that closes it."""
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : start + brace.start()]
    raise ValueError("the kernel's closing brace is missing")


class Reader:
    """Collects the statements of a kernel's body, in order."""

    def __init__(self) -> None:
        self.registers: dict[str, np.dtype] = {}
        self.labels: dict[str, int] = {}
        self.instructions: list[Instruction] = []

    def read(self, statement: str) -> None:
        """One statement, with the labels and scope braces in front of it."""
        while lead := LEAD.match(statement):
            if lead[1]:
                self.labels[lead[1]] = len(self.instructions)
            statement = statement[lead.end() :]
        statement = " ".join(statement.split())
        if statement.startswith(".reg"):
            self.declare(statement)
        elif statement and not statement.startswith((".pragma", ".shared")):
            self.instructions.append(self.instruction(statement))

    def declare(self, statement: str) -> None:
        """``.reg .b32 %r<9>``: %r0 to %r8. Names declared again in a scope keep one register."""
        _, kind, names = statement.split(maxsplit=2)
        for name, count in REGISTERS.findall(names):
            for register in [f"{name}{i}" for i in range(int(count))] if count else [name]:
                self.registers[register] = type_of(kind[1:])

    def instruction(self, statement: str) -> Instruction:
        found = STATEMENT.fullmatch(statement)
        if found is None:
            raise ValueError(f"cannot parse {statement!r}")
        negated, guard, opcode, operands = found.groups()
        return Instruction(
            opcode,
            tuple(self.operand(token) for token in OPERAND.findall(operands)),
            Register(guard, negated == "!") if guard else None,
            statement,
        )

    def operand(self, token: str) -> Operand:
        if token[0] == "{":
            return Vector(tuple(self.operand(item.strip()) for item in token[1:-1].split(",")))
        if "|" in token:
            return Vector(tuple(self.operand(item) for item in token.split("|")))
        if token[0] == "[":
            return self.address(token)
        if INTEGER.fullmatch(token):
            return Immediate(int(token.rstrip("U"), 0))
        if re.fullmatch(r"0[fFdD][0-9a-fA-F]+", token):
            return Immediate(int(token[2:], 16))
        name = token.removeprefix("!")
        if name in self.registers or name in SPECIAL or name == "_":
            return Register(name, token != name)
        if name[0] == "%":
            raise NotImplementedError(f"register {name}")
        return Symbol(name)

    def address(self, token: str) -> Address:
        found = ADDRESS.fullmatch(token)
        if found is None:
            raise ValueError(f"cannot parse the address {token!r}")
        return Address(self.operand(found[1]), int(found[2] or "0", 0))
