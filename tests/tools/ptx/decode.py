"""Opcode -> action."""

from functools import lru_cache

from tools.ptx import access, arithmetic, bits, collective, compare, control, convert
from tools.ptx.parse import Instruction
from tools.ptx.table import Action

TABLES = tuple(
    module.TABLE for module in (arithmetic, bits, compare, convert, access, collective, control)
)


def decode(instruction: Instruction) -> Action:
    """What an instruction does, or NotImplementedError with its text."""
    action = find(instruction.opcode)
    if action is None:
        raise NotImplementedError(f"PTX instruction {instruction.text}")
    return action


@lru_cache(maxsize=1024)
def find(opcode: str) -> Action | None:
    for table in TABLES:
        if action := table.find(opcode):
            return action
    return None
