"""A packed model as C99 source: one file of constants and loops, no allocation, nothing to link."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from binjax.deploy import c_layout
from binjax.deploy.c_layout import Buffer, Product, Stage
from binjax.deploy.operations import Conv, Dense, DeployError, Flatten, MaxPool, Scores, Sign
from binjax.deploy.packed import PackedModel
from binjax.deploy.writing import write_bytes
from binjax.packing import WORD, words_for

_RUNTIME = ("begin", "count_avx512", "count_avx2", "count_neon", "count_portable", "layer")
_FORMATS: Mapping[
    str, tuple[str, int, Callable[[Any], str]]
] = {  # type in C, numbers in a line, one of them
    "uint32": ("uint32_t", 8, hex),
    "int32": ("int32_t", 12, str),
    "uint16": ("uint16_t", 16, str),
    "float32": ("float", 4, lambda value: f"{value.hex()}f"),
}
_CHUNK = 1 << 17  # numbers that are Python objects at a time


@dataclass(frozen=True)
class CExport:
    """What :func:`write_c` wrote.

    Attributes:
        paths: of the source, the header, the example and the Makefile.
        arena_bytes: memory that a prediction works in, besides about 2 KiB of stack.
        weight_bytes: of all constants.
    """

    paths: tuple[Path, ...]
    arena_bytes: int
    weight_bytes: int


@dataclass
class _Program:
    """The source as it grows. Calls name places in the arena by ``{b3}`` and ``{scratch}``."""

    parts: dict[str, None] = field(default_factory=lambda: dict.fromkeys(_RUNTIME))
    arrays: list[tuple[str, np.ndarray]] = field(default_factory=list)
    structs: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    scratch: int = 0  # words, in use together with the buffers that were there then
    beside: int = 0  # so many: one or two
    network: list[str] = field(default_factory=list)

    def array(self, name: str, values: np.ndarray) -> str:
        self.arrays.append((name, values))
        return name

    def struct(self, kind: str, name: str, *lines: str) -> None:
        text = "".join(f"    {line},\n" for line in lines)
        self.structs.append(f"static const struct {kind} {name} = {{\n{text}}};\n")

    def call(self, part: str, text: str) -> None:
        self.parts[part] = None
        self.calls.append(text)

    def buffer(self, buffer: Buffer) -> str:
        """Where a new buffer begins."""
        self.buffers.append(buffer)
        return f"memory + {{b{len(self.buffers) - 1}}}"

    def places(self) -> tuple[dict[str, int], int]:
        """What stands for the names of places, and the words of the arena."""
        sizes = [buffer.words for buffer in self.buffers]
        found, total = c_layout.place(sizes, self.scratch, self.beside)
        return {f"b{i}": at for i, at in enumerate(found)} | {"scratch": sizes[0]}, total


def write_c(packed: PackedModel, folder: Path, name: str = "model") -> CExport:
    """Write a model as C99: ``<name>.c``, ``<name>.h``, an example ``main.c`` and a ``Makefile``.

    The scores are bit for bit those of ``packed``. The compiler's options choose the instructions.

    Args:
        packed: the model.
        folder: where to write; made if it is not there.
        name: of the files, and what the functions' names begin with.

    Raises:
        DeployError: an operation that cannot be exported, a bad name, an unwritable folder.
    """
    check_name(name)
    program = _program(packed)
    places, words = program.places()
    weight_bytes = sum(values.nbytes for _, values in program.arrays)
    fields = _fields(packed, program, name, 4 * words, weight_bytes)
    texts: dict[str, Iterable[str]] = {
        f"{name}.c": _source(program, places, fields),
        f"{name}.h": [_part("header.h", fields)],
        "main.c": [_part("main.c", fields)],
        "Makefile": [_part("Makefile", fields)],
    }
    paths = tuple(Path(folder) / file for file in texts)
    for path, text in zip(paths, texts.values(), strict=True):
        write_bytes(path, "".join(text).encode("ascii"))
    return CExport(paths, 4 * words, weight_bytes)


def check_name(name: str) -> None:
    """Refuse what functions in C cannot be called after.

    Raises:
        DeployError: no identifier, or ``main``.
    """
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or name.lower() == "main":
        raise DeployError(f"name is {name!r}; a C identifier is needed, other than main")


def _fields(
    packed: PackedModel, program: _Program, name: str, arena: int, weights: int
) -> dict[str, str]:
    """What stands for the ``@WORDS@`` in the templates."""
    (high, wide, channels), dtype = packed.graph.image.shape, packed.graph.image.dtype
    fields = {
        "NAME": name,
        "UPPER": name.upper(),
        "PIXEL": "float" if dtype == "float32" else "uint8_t",
        "IMAGE": f"{high} x {wide} x {channels} {'floats' if dtype == 'float32' else 'bytes'}",
        "NETWORK": "\n".join(f"   {line}" for line in program.network),
        "HEIGHT": high,
        "WIDTH": wide,
        "CHANNELS": channels,
        "IMAGE_BYTES": high * wide * channels * np.dtype(dtype).itemsize,
        "CLASSES": packed.graph.classes,
        "ARENA": arena,
        "WEIGHTS": weights,
    }
    return {key: str(value) for key, value in fields.items()}


def _part(file: str, fields: dict[str, str]) -> str:
    text = (resources.files("binjax.deploy") / "c_runtime" / file).read_text("ascii")
    return re.sub("@([A-Z_]+)@", lambda match: fields[match[1]], text)


def _source(program: _Program, places: dict[str, int], fields: dict[str, str]) -> Iterator[str]:
    for part in program.parts:
        yield _part(f"{part}.c", fields) + "\n"
    for name, values in program.arrays:
        yield from _array(name, values)
    yield "\n".join(program.structs)
    calls = "\n".join(f"  {call.format(**places)}" for call in program.calls)
    yield "\n" + _part("predict.c", fields | {"CALLS": calls})


def _array(name: str, values: np.ndarray) -> Iterator[str]:
    """A definition, a bounded part of it at a time."""
    flat, (kind, per_line, text) = values.reshape(-1), _FORMATS[values.dtype.name]
    yield f"static const {kind} {name}[{flat.size}] ALIGNED = {{\n"
    for start in range(0, flat.size, _CHUNK):
        texts = [text(value) for value in flat[start : start + _CHUNK].tolist()]
        for at in range(0, len(texts), per_line):
            yield f"    {', '.join(texts[at : at + per_line])},\n"
    yield "};\n\n"


def _program(packed: PackedModel) -> _Program:
    program = _Program()
    todo = c_layout.stages(packed.graph)
    source = "image"
    for i, stage in enumerate(todo):
        name = f"layer{i + 1}"
        program.network.append(f"{name}: {stage}")
        if isinstance(stage.op, Dense | Conv) and stage.op.operand == "pixels":
            source = _pad_pixels(program, stage, source)
        target, to, out = _target(program, stage, todo[i + 1].op if i + 1 < len(todo) else None)
        if isinstance(stage.op, Dense | Conv):
            product = c_layout.make_product(stage, packed.tensors)
            _multiply(program, name, stage, product, (source, to, out))
        else:
            _move(program, packed, name, stage, (source, to, out))
        source = target
    _scores(program, packed, source)
    return program


def _pad_pixels(program: _Program, stage: Stage, source: str) -> str:
    """The image with its border, if it has one."""
    border = stage.op.geometry.padding if isinstance(stage.op, Conv) else c_layout.NO_BORDER
    if not any(border):
        return source
    high, wide, channels = c_layout.pixel_of(stage.before)
    buffer = Buffer(high, wide, channels, border, unit=1)
    place = f"(uint8_t *)({program.buffer(buffer)})"
    sizes = f"{buffer.size}, {buffer.origin}, {buffer.row}"
    program.call("pad_pixels", f"pad_pixels(image, {high}, {wide * channels}, {place}, {sizes});")
    return place


def _target(program: _Program, stage: Stage, following: object) -> tuple[str, str, Buffer]:
    """The buffer of a result, its border filled as the next convolution wants it.

    Gives where it begins, where its first pixel stands, its sizes.
    """
    high, wide, elements = c_layout.pixel_of(stage.after)
    final = isinstance(stage.op, Dense | Conv) and isinstance(stage.op.rule, Scores)
    words = elements if final else words_for(elements)
    border = following.geometry.padding if isinstance(following, Conv) else c_layout.NO_BORDER
    buffer = Buffer(high, wide, words, border)
    place = program.buffer(buffer)
    if isinstance(following, Conv) and any(border):
        full = 0xFFFFFFFF if following.geometry.pad_value == 1 else 0
        sizes = f"{buffer.size // words}, {words}, {full:#x}u, {full >> -elements % WORD:#x}u"
        program.call("fill", f"fill({place}, {sizes});")
    return place, f"{place} + {buffer.origin}" if buffer.origin else place, buffer


def _multiply(
    program: _Program, name: str, stage: Stage, product: Product, where: tuple[str, str, Buffer]
) -> None:
    op, (source, to, out) = stage.op, where
    assert isinstance(op, Dense | Conv)
    (geometry, _, groups), n_columns = c_layout.geometry_of(op), product.column_classes
    (high, wide, elements), pixels = c_layout.pixel_of(stage.before), op.operand == "pixels"
    unit = elements if pixels else groups * words_for(elements // groups)
    row = Buffer(high, wide, unit, geometry.padding).row
    program.array(f"{name}_weights", product.panels)
    program.array(f"{name}_limits", product.limits)
    program.array(f"{name}_segments", product.segments)
    sums, rows, columns = int(isinstance(op.rule, Scores)), "0", "0"
    if len(product.row_class):
        rows = program.array(f"{name}_rows", product.row_class)
        columns = program.array(f"{name}_columns", product.column_class)
    program.struct(
        "layer",
        name,
        f".weights = {name}_weights, .limits = {name}_limits",
        f".window = {{{name}_segments, {len(product.segments)}, {product.length}}}",
        f".row_class = {rows}, .column_class = {columns}, .column_classes = {n_columns}",
        f".groups = {groups}, .group_words = {unit // groups}, .elements = {op.elements}",
        f".outputs = {op.outputs // groups}, .panels = {len(product.panels) // groups}",
        f".high = {out.high}, .wide = {out.wide}",
        f".row_step = {geometry.strides[0] * row}, .column_step = {geometry.strides[1] * unit}",
        f".out_row = {out.row}, .out_words = {out.pixel}, .sums = {sums}",
    )
    if not pixels:
        program.call("bits", f"multiply_bits(&{name}, {source}, {to});")
        return
    program.beside = len(program.buffers)
    program.scratch = -(-op.elements // 64) * 16 + 8 * (words_for(op.elements) + 1)
    program.call("pixels", f"multiply_pixels(&{name}, {source}, memory + {{scratch}}, {to});")


def _move(
    program: _Program, packed: PackedModel, name: str, stage: Stage, where: tuple[str, str, Buffer]
) -> None:
    """Pooling, flattening, signs."""
    op, (source, to, out) = stage.op, where
    high, wide, n = c_layout.pixel_of(stage.before)
    if isinstance(op, Sign):
        program.call("sign", f"take_signs({source}, {high}, {wide}, {n}, {to}, {out.row});")
    elif isinstance(op, Flatten):
        program.call("flatten", f"flatten({source}, {high * wide}, {n}, {to});")
    elif isinstance(op, MaxPool):
        (down, right), (vertical, horizontal), words = op.window, op.strides, words_for(n)
        program.array(f"{name}_flip", packed.tensors[f"{op.name}.flip"])
        program.struct(
            "pool",
            name,
            f".flip = {name}_flip, .high = {out.high}, .wide = {out.wide}, .words = {words}",
            f".window_high = {down}, .window_wide = {right}",
            f".row_step = {vertical * wide * words}, .column_step = {horizontal * words}",
            f".in_row = {wide * words}, .out_row = {out.row}",
        )
        program.call("pool", f"max_pool(&{name}, {source}, {to});")


def _scores(program: _Program, packed: PackedModel, source: str) -> None:
    op = packed.graph.ops[-1]
    assert isinstance(op, Dense | Conv)
    assert isinstance(op.rule, Scores)
    for part in op.rule.parts:
        program.array(part, packed.tensors[f"{op.name}.{part}"])
    scale = float(np.float32(op.rule.scale)).hex()
    call = f"make_scores((const int32_t *)({source}), {op.outputs}, {scale}f"
    gain = "gain" if op.rule.gain else "0"
    program.call("scores", f"{call}, {gain}, bias, mean, factor, offset, scores);")
