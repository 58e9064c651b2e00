"""Several optimizers for one network, each parameter owned by exactly one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from flax import nnx

Predicate = Callable[[str, nnx.Variable[Any]], bool]
Owner = type[nnx.Variable[Any]] | Predicate


def partition(
    model: nnx.Module,
    cases: Mapping[str, tuple[Owner, optax.GradientTransformation]],
    default: optax.GradientTransformation | None = None,
) -> optax.GradientTransformation:
    """Each parameter updated by the one optimizer that claims it (Larq's ``CaseOptimizer``).

    Args:
        model: whose parameters they are; may be abstract (``nnx.eval_shape``).
        cases: by name, who claims what: a variable type such as ``BinaryWeight``, or a predicate
            of a parameter's path (``"conv1/kernel"``) and variable; and its optimizer.
        default: for all that nobody claims.

    Raises:
        ValueError: a parameter with no or two owners, a case that claims nothing; by name.
        TypeError: a case that is not such a pair.

    Example:
        >>> import optax
        >>> from flax import nnx
        >>> from binjax.layers import BatchNorm, BinaryDense, BinaryWeight, Sequential
        >>> from binjax.optim import bop, partition
        >>> layers = {"dense": BinaryDense(4, 2, rngs=nnx.Rngs(0)), "norm": BatchNorm(2)}
        >>> tx = partition(Sequential(layers), {"binary": (BinaryWeight, bop())}, optax.adam(1e-3))
    """
    if default is not None and _OTHERS in cases:
        raise ValueError(f"partition: {_OTHERS!r} names the default; call the case otherwise")
    for case, pair in cases.items():
        _check(case, pair)
    params = nnx.state(model, nnx.Param)
    is_leaf = lambda v: isinstance(v, nnx.Variable)  # noqa: E731
    owned: set[str] = set()

    def owner(path: Any, variable: nnx.Variable[Any]) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found = [case for case, (who, _) in cases.items() if _claims(who, name, variable)]
        if len(found) > 1:
            raise ValueError(f"partition: {name} is claimed by {' and '.join(found)}")
        if not found and default is None:
            raise ValueError(
                f"partition: nobody claims {name}; give a default, or a case that claims it"
            )
        owned.update(found)
        return found[0] if found else _OTHERS

    labels = jax.tree_util.tree_map_with_path(owner, params, is_leaf=is_leaf)
    idle = [case for case in cases if case not in owned]
    if idle:
        raise ValueError(f"partition: {idle[0]} claims no parameter of the model")
    optimizers = {case: optimizer for case, (_, optimizer) in cases.items()}
    if default is not None:
        optimizers[_OTHERS] = default
    return optax.partition(optimizers, nnx.to_pure_dict(labels))


_OTHERS = "others"


def _check(case: str, pair: Any) -> None:
    # An optax transform is itself a tuple of two.
    pairs = isinstance(pair, tuple) and len(pair) == 2
    if not pairs or isinstance(pair, optax.GradientTransformation):
        raise TypeError(
            f"partition: case {case!r} is of type {type(pair).__name__}; give a pair of who claims "
            "and an optimizer, such as (BinaryWeight, bop())"
        )
    who, optimizer = pair
    known = issubclass(who, nnx.Variable) if isinstance(who, type) else callable(who)
    if not known:
        raise TypeError(
            f"partition: case {case!r} is claimed for {who!r}; give a variable type such as "
            "BinaryWeight, or a predicate of path and variable"
        )
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"partition: the optimizer of case {case!r} is of type {type(optimizer).__name__}; "
            "give an optax transform such as optax.adam(1e-3)"
        )


def _claims(who: Owner, name: str, variable: nnx.Variable[Any]) -> bool:
    if isinstance(who, type):
        return isinstance(variable, who)
    return who(name, variable)
