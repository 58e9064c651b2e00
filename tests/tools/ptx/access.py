"""Moves: ``mov``, loads, stores, asynchronous copies to shared memory."""

import numpy as np

from tools.ptx.machine import Machine
from tools.ptx.memory import Global, Shared
from tools.ptx.parse import (
    TYPES,
    UNSIGNED,
    Address,
    Immediate,
    Operand,
    Register,
    Vector,
)
from tools.ptx.table import Action, Table

TABLE = Table()
KIND = r"([bsu](?:8|16|32|64)|f32|f64)"
HINTS = r"(?:\.(?:ca|cg|cs|lu|wb|wt|nc|L1::\w+|L2::(?!cache_hint)\w+))*"
SPACE = r"\.(global|shared)(?:::cta)?"
# Addresses of shared memory have 32 bits; a wider register gives its low ones.
POINTER = {"global": UNSIGNED[8], "shared": UNSIGNED[4]}


@TABLE(r"mov\.(pred|[bsu](?:16|32|64)|f32|f64)")
def move(kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Operand, source: Operand) -> None:
        if isinstance(source, Vector):
            m.write(target, pack(m, source, dtype))
        elif isinstance(target, Vector):
            part = UNSIGNED[dtype.itemsize // len(target.items)]
            columns = np.ascontiguousarray(m.read(source, dtype)).view(part)
            columns = columns.reshape(-1, len(target.items))
            for i, register in enumerate(target.items):
                m.write(register, np.broadcast_to(columns[:, i], m.lanes).copy())
        else:
            m.write(target, m.read(source, dtype))

    return run


def pack(m: Machine, source: Vector, dtype: np.dtype) -> np.ndarray:
    """Registers side by side in a wider word, the first in its low bits."""
    part = UNSIGNED[dtype.itemsize // len(source.items)]
    columns = [np.broadcast_to(m.read(item, part), m.lanes) for item in source.items]
    return np.stack(columns, axis=1).view(dtype)[:, 0]


@TABLE(rf"ld\.param\.{KIND}")
def load_parameter(kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Register, source: Address) -> None:
        value = m.parameters[source.base.name]
        if source.offset or value.itemsize != dtype.itemsize:
            raise NotImplementedError(f"ld.param of part of {source.base.name}")
        m.write(target, value.view(dtype))

    return run


def memory(m: Machine, space: str) -> Global | Shared:
    return m.memory if space == "global" else m.shared


def registers(operand: Operand) -> tuple[Operand, ...]:
    return operand.items if isinstance(operand, Vector) else (operand,)


@TABLE(rf"ld{SPACE}{HINTS}(?:\.v[24])?\.{KIND}")
def load(space: str, kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Operand, source: Address) -> None:
        targets = registers(target)
        addresses = m.address(source, POINTER[space])
        size = dtype.itemsize * len(targets)
        data = memory(m, space).load(addresses, size, m.active).view(dtype)
        for i, register in enumerate(targets):
            value = np.zeros(m.lanes, dtype)
            value[m.active] = data[:, i]
            m.write(register, value)

    return run


@TABLE(rf"st{SPACE}{HINTS}(?:\.v[24])?\.{KIND}")
def store(space: str, kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Address, source: Operand) -> None:
        columns = [np.broadcast_to(m.read(item, dtype), m.lanes) for item in registers(source)]
        data = np.stack(columns, axis=1)[m.active].view(np.uint8)
        addresses = m.address(target, POINTER[space])
        memory(m, space).store(addresses, data.shape[1], m.active, data)

    return run


@TABLE(rf"cp\.async\.(?:ca|cg)\.shared(?:::cta)?\.global{HINTS}")
def copy() -> Action:
    """Reads now; the bytes arrive when their group is waited for, the last moment allowed.

    Bytes beyond the source size, the fourth operand, become zero.
    """

    def run(m: Machine, target: Address, source: Address, size: Immediate, *used: Operand) -> None:
        places = m.address(target, POINTER["shared"])
        origins = m.address(source, POINTER["global"])
        taken = m.read(used[0] if used else size, UNSIGNED[4])
        filled = m.active & (taken == size.bits)
        if (m.active & ~filled & (taken != 0)).any():
            raise NotImplementedError("cp.async with a source size other than 0 and all")
        data = np.zeros((m.lanes, size.bits), np.uint8)
        data[filled] = m.memory.load(origins, size.bits, filled)
        m.shared.announce(places, size.bits, m.active)
        m.copies[-1].append((places, m.active, data[m.active]))

    return run


@TABLE(r"cp\.async\.commit_group")
def commit() -> Action:
    def run(m: Machine) -> None:
        require_all(m)
        m.copies.append([])

    return run


@TABLE(r"cp\.async\.(wait_group|wait_all)")
def wait(name: str) -> Action:
    def run(m: Machine, *pending: Immediate) -> None:
        require_all(m)
        if name == "wait_all":
            m.copies.append([])
        last = len(m.copies) - 1 - (pending[0].bits if pending else 0)
        for group in m.copies[: max(last, 0)]:
            for places, active, data in group:
                m.shared.store(places, data.shape[1], active, data)
        del m.copies[: max(last, 0)]

    return run


def require_all(m: Machine) -> None:
    """Groups are kept for all lanes together."""
    if not m.full:
        raise NotImplementedError("cp.async groups in a part of the threads")
