"""How modules say what their instructions mean."""

import re
from collections.abc import Callable

Action = Callable[..., None]  # (machine, *operands)
# (*groups of the pattern) -> Action; None where the groups do not go together
Builder = Callable[..., Action | None]


class Table:
    """Patterns of whole opcodes, each with the function that turns its groups into an action.

    A pattern names every modifier it accepts: an opcode with one that it does not name is unknown,
    never half understood.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[re.Pattern[str], Builder]] = []

    def __call__(self, pattern: str) -> Callable[[Builder], Builder]:
        def add(builder: Builder) -> Builder:
            self.rows.append((re.compile(pattern), builder))
            return builder

        return add

    def find(self, opcode: str) -> Action | None:
        for pattern, builder in self.rows:
            found = pattern.fullmatch(opcode)
            if found and (action := builder(*found.groups())):
                return action
        return None
