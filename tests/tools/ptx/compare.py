"""Comparison and selection."""

import operator
from collections.abc import Callable

import numpy as np

from tools.ptx.arithmetic import Values
from tools.ptx.machine import Machine
from tools.ptx.parse import BOOL, TYPES, Operand, Register, Vector
from tools.ptx.table import Action, Table

TABLE = Table()
COMPARE = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
COMBINE = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, floating: bool) -> Callable[[Values, Values], Values] | None:
    if not floating:
        return COMPARE.get(UNSIGNED_NAMES.get(name, name))
    if name in ("num", "nan"):
        return lambda a, b: (np.isnan(a) | np.isnan(b)) == (name == "nan")
    compare = COMPARE.get(name.removesuffix("u"))
    if compare is None:
        return None
    unordered = name.endswith("u")  # the result where an operand is NaN
    return lambda a, b: np.where(np.isnan(a) | np.isnan(b), unordered, compare(a, b))


@TABLE(r"setp\.([a-z]+)(?:\.(and|or|xor))?\.(b16|b32|b64|[su](?:16|32|64)|b?f16|f32|f64)")
def set_predicate(name: str, combine: str | None, kind: str) -> Action | None:
    dtype = TYPES[kind]
    compare = comparison(name, "f" in kind)
    if compare is None:
        return None

    def run(m: Machine, target: Operand, a: Operand, b: Operand, *other: Register) -> None:
        result = np.asarray(compare(m.read(a, dtype), m.read(b, dtype)), bool)
        results = [result, ~result]
        if combine:
            results = [COMBINE[combine](r, m.read(other[0], BOOL)) for r in results]
        # "p|q": q takes the opposite comparison.
        targets = target.items if isinstance(target, Vector) else (target,)
        for register, value in zip(targets, results, strict=False):
            m.write(register, value)

    return run


@TABLE(r"selp\.([bsu](?:16|32|64)|f32|f64)")
def select(kind: str) -> Action:
    dtype = TYPES[kind]

    def run(m: Machine, target: Register, a: Operand, b: Operand, chosen: Register) -> None:
        m.write(target, np.where(m.read(chosen, BOOL), m.read(a, dtype), m.read(b, dtype)))

    return run
