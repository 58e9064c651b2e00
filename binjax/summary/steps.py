"""A traced program as one list of steps: functions it calls and bodies of scans are written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, Literal

_CALLS = frozenset(
    {
        *("pjit", "jit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
        *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
    }
)


class Step(NamedTuple):
    """One equation.

    Attributes:
        name: of the primitive; ``"scan"`` for what goes into a scan's body and what comes out.
        reads, writes: numbers of values; constants in the program's text are left out of
            ``reads``, ``shapes`` has all operands.
        shapes: of the operands.
        result: shape of the first result.
        params: the primitive's.
        times: how often it runs, the product of the lengths of the scans around it.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    result: tuple[int, ...]
    params: Mapping[str, Any]
    times: int


class Program(NamedTuple):
    """Steps in the order of tracing.

    Attributes:
        steps: all of them.
        values: shape and dtype by number.
        inputs, outputs: numbers of the program's arguments and results; None for a constant.
    """

    steps: list[Step]
    values: list[Any]
    inputs: list[int]
    outputs: list[int | None]

    def reached_from(self, start: Iterable[int]) -> set[int]:
        """Values that depend on one of these, themselves included."""
        found = set(start)
        for step in self.steps:
            if not found.isdisjoint(step.reads):
                found.update(step.writes)
        return found

    def bytes_of(self, value: int) -> int:
        """Size of a value."""
        aval = self.values[value]
        return int(aval.size) * int(aval.dtype.itemsize)


def written_out(closed: Any) -> Program:
    """The steps of what ``jax.make_jaxpr`` gives."""
    writer = _Writer()
    inputs = [writer.value(v.aval) for v in closed.jaxpr.invars]
    outputs = writer.body(closed.jaxpr, inputs, 1)
    return Program(writer.steps, writer.values, inputs, outputs)


class _Writer:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.values: list[Any] = []

    def value(self, aval: Any) -> int:
        self.values.append(aval)
        return len(self.values) - 1

    def body(self, jaxpr: Jaxpr, inputs: Sequence[int | None], times: int) -> list[int | None]:
        known: dict[Any, int | None] = dict(zip(jaxpr.invars, inputs, strict=True))
        known.update((v, self.value(v.aval)) for v in jaxpr.constvars)

        def numbers(atoms: Iterable[Any]) -> list[int | None]:
            return [None if isinstance(a, Literal) else known[a] for a in atoms]

        for eqn in jaxpr.eqns:
            reads = numbers(eqn.invars)
            inner = _called(eqn)
            if inner is not None:
                results = self.body(inner, reads, times)
            elif eqn.primitive.name == "scan":
                results = self.scan(eqn, reads, times)
            else:
                results = [self.value(v.aval) for v in eqn.outvars]
                self.step(eqn.primitive.name, eqn, reads, results, times)
            known.update(zip(eqn.outvars, results, strict=True))
        return numbers(jaxpr.outvars)

    def scan(self, eqn: Any, reads: Sequence[int | None], times: int) -> list[int | None]:
        body = _open(eqn.params["jaxpr"])
        # Arguments are constants, what is carried, and what is scanned over, which has an axis less
        # inside; results are what is carried and what is stacked. (Counts are not in all versions.)
        scanned_over = sum(map(_loses_an_axis, eqn.invars, body.invars))
        carried = len(eqn.outvars) - sum(map(_loses_an_axis, eqn.outvars, body.outvars))
        consts = len(eqn.invars) - scanned_over - carried
        inside = [self.value(v.aval) for v in body.invars[consts:]]
        for i, (outer, inner) in enumerate(zip(reads[consts:], inside, strict=True)):
            # From its second round on, what is carried depends on what is scanned over.
            scanned = reads[consts + carried :] if i < carried else []
            self.step("scan", eqn, [outer, *scanned], [inner], times)
        results = self.body(body, [*reads[:consts], *inside], times * eqn.params["length"])
        found: list[int | None] = [self.value(v.aval) for v in eqn.outvars]
        for result, outer in zip(results, found, strict=True):
            self.step("scan", eqn, [result], [outer], times)
        return found

    def step(
        self,
        name: str,
        eqn: Any,
        reads: Sequence[int | None],
        writes: Sequence[int | None],
        times: int,
    ) -> None:
        self.steps.append(
            Step(
                name,
                tuple(v for v in reads if v is not None),
                tuple(v for v in writes if v is not None),
                tuple(tuple(a.aval.shape) for a in eqn.invars),
                tuple(self.values[writes[0]].shape) if writes and writes[0] is not None else (),
                eqn.params,
                times,
            )
        )


def _called(eqn: Any) -> Jaxpr | None:
    """The function an equation calls; None if it is an operation of its own."""
    if eqn.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        found = eqn.params.get(name)
        if found is not None:
            inner = _open(found)
            return inner if len(inner.invars) == len(eqn.invars) else None
    return None


def _open(jaxpr: Any) -> Jaxpr:
    # Closed over constants or not: newer versions of JAX have one class for both.
    inner: Jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return inner


def _loses_an_axis(outer: Any, inner: Any) -> bool:
    return bool(outer.aval.ndim == inner.aval.ndim + 1)
