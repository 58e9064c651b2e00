"""Branches, ends, barriers."""

from tools.ptx.machine import Machine
from tools.ptx.memory import Fault
from tools.ptx.parse import Immediate, Operand, Symbol
from tools.ptx.table import Action, Table

TABLE = Table()


@TABLE(r"bra(?:\.uni)?")
def branch() -> Action:
    def run(m: Machine, label: Symbol) -> None:
        m.branch(label.name)

    return run


@TABLE(r"ret|exit")
def end() -> Action:
    return Machine.end


@TABLE(r"trap")
def trap() -> Action:
    def run(m: Machine) -> None:
        raise Fault("trap", int(m.active.argmax()))

    return run


@TABLE(r"(?:bar|barrier)(?:\.cta)?\.sync(?:\.aligned)?")
def barrier() -> Action:
    def run(m: Machine, name: Operand, *count: Operand) -> None:
        if name != Immediate(0) or count:
            raise NotImplementedError("barriers other than bar.sync 0 of the whole CTA")
        m.barrier()

    return run


@TABLE(r"bar\.warp\.sync")
def warp_barrier() -> Action:
    def run(m: Machine, members: Operand) -> None:
        m.require_whole_warps()

    return run
