"""What a packed model holds: bits, bytes and kernels, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from binjax.deploy.graph import shapes
from binjax.deploy.operations import (
    Conv,
    Dense,
    Op,
    Real,
    Scores,
)
from binjax.deploy.packed import PackedModel
from binjax.xnor.dispatch import backends
from binjax.xnor.native import native
from binjax.xnor.pixel_ops import backend_of

Description = dict[str, Any]


def describe(model: PackedModel, path: Path | None = None) -> Description:
    """A model in numbers, as JSON can hold them.

    Args:
        model: the model.
        path: of its file, whose size is what compression is counted by.

    Returns:
        ``image``, ``classes``, ``backend``, ``layers`` (name, kind, input, output, bits, bytes,
        kernel), ``bits``, ``array_bytes``, ``file_bytes`` (None without a file),
        ``float32_bytes`` (what the weights and four numbers per channel of the norms take in
        float32) and ``compression`` (that over the file, or the arrays).
    """
    graph = model.graph
    image = graph.image
    chosen = backends()[0] if model.backend is None else model.backend
    layers, shape = [], image.shape
    bits = full = 0
    for op, after in zip(graph.ops, shapes(graph), strict=True):
        arrays = {n: a for n, a in model.tensors.items() if n.startswith(f"{op.name}.")}
        own = op.elements * op.outputs if isinstance(op, Dense | Conv) else 0
        layers.append(
            {
                "name": op.name,
                "kind": type(op).__name__.lower(),
                "input": list(shape),
                "output": list(after),
                "bits": own,
                "bytes": sum(a.nbytes for a in arrays.values()),
                "kernel": _kernel(op, chosen),
            }
        )
        bits += own
        if isinstance(op, Real):
            full += 4 * (op.elements + 4) * op.outputs
        if isinstance(op, Dense | Conv):
            full += 4 * (own + 4 * op.outputs)
        shape = after  # type: ignore[assignment]
    array_bytes = sum(a.nbytes for a in model.tensors.values())
    file_bytes = path.stat().st_size if path is not None else None
    return {
        "image": {"shape": list(image.shape), "dtype": image.dtype, "scaling": image.scaling},
        "classes": graph.classes,
        "backend": chosen,
        "layers": layers,
        "bits": bits,
        "array_bytes": array_bytes,
        "file_bytes": file_bytes,
        "float32_bytes": full,
        "compression": round(full / (file_bytes or array_bytes), 2),
    }


def totals(found: Description) -> str:
    """One line: size and compression."""
    size = found["file_bytes"] if found["file_bytes"] is not None else found["array_bytes"]
    return (
        f"{size:,} bytes ({size / 2**20:.2f} MiB) for {found['bits']:,} binary weights, "
        f"{found['compression']:.1f} times smaller than float32 "
        f"({found['float32_bytes'] / 2**20:.2f} MiB)"
    )


def table(found: Description) -> str:
    """The layers and totals as plain text."""
    lines = [("layer", "kind", "input", "output", "weights, bits", "bytes", "kernel")]
    for layer in found["layers"]:
        sizes = ("x".join(map(str, layer[key])) for key in ("input", "output"))
        numbers = (f"{layer['bits']:,}", f"{layer['bytes']:,}")
        lines.append((layer["name"], layer["kind"], *sizes, *numbers, layer["kernel"]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = []
    for line in lines:
        cells = [
            cell.rjust(width) if 2 <= i <= 5 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        texts.append("  ".join(cells).rstrip())
    image = found["image"]
    shape = "x".join(map(str, image["shape"]))
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join(
        [
            f"takes {image['dtype']} images of {shape}, gives {found['classes']} scores",
            *texts,
            totals(found),
        ]
    )


def _kernel(op: Op, chosen: str) -> str:
    if isinstance(op, Real):
        return "floats, not packed"
    if not isinstance(op, Dense | Conv):
        return "xla"
    ends = "scores" if isinstance(op.rule, Scores) else "bits"
    if op.operand == "pixels":
        taps = op.kernel[0] * op.kernel[1] if isinstance(op, Conv) else 1
        kernel = backend_of(chosen, taps, op.elements)
    else:
        kernel = chosen
    isa = f" ({native().isa})" if kernel == "native" else ""
    return f"{kernel}{isa}, {op.operand} to {ends}"
