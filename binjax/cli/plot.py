"""The curves of a run as a PNG, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NAMED = 12  # layers that a legend has room for


def plot_curves(lines: Sequence[dict[str, Any]], path: Path) -> Path | None:
    """Draw loss, accuracy, flips and sign entropy over epochs.

    Returns:
        The PNG's path, or None without matplotlib or without an epoch.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError:
        return None
    epochs = [line for line in lines if "layers" in line]
    if not epochs:
        return None
    x = [line["epoch"] for line in epochs]
    figure = Figure(figsize=(11, 7), layout="constrained")
    (loss, accuracy), (flips, entropy) = figure.subplots(2, 2, sharex=True)
    for axis, name in ((loss, "loss"), (accuracy, "accuracy")):
        for part in ("train", "validation"):
            if f"{part}_{name}" in epochs[0]:
                axis.plot(x, [line[f"{part}_{name}"] for line in epochs], label=part)
        axis.set(title=name)
        axis.legend()
    for axis, name, title in (
        (flips, "flip_ratio", "share of weights flipped in the epoch"),
        (entropy, "sign_entropy", "entropy of activation signs, bits"),
    ):
        layers = [key for key, values in epochs[-1]["layers"].items() if name in values]
        for i, layer in enumerate(layers):
            # Of a deep network only the ends are named; the colour is the depth.
            named = len(layers) <= _NAMED or layer in (layers[0], layers[-1])
            axis.plot(
                x,
                [line["layers"][layer][name] for line in epochs],
                label=layer if named else None,
                color=None if len(layers) <= _NAMED else colormaps["viridis"](i / len(layers)),
            )
        axis.set(title=title, xlabel="epoch")
        if layers:
            axis.legend(fontsize="small")
    flips.set_yscale("symlog", linthresh=1e-4)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=100)
    return temporary.replace(path)
