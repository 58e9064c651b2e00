"""Reads what the Triton custom call carries: a compressed ``TritonAnyKernelCall`` protobuf.

The messages: https://github.com/jax-ml/jax/blob/main/jaxlib/gpu/triton.proto. The wire format:
https://protobuf.dev/programming-guides/encoding.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

TARGET = "triton_kernel_call_ffi"
CALL = re.compile(rf'custom_call @{TARGET}\([^\n]*?opaque = "((?:[^"\\]|\\.)*)"')
SCALARS = {2: "i1", 3: "i32", 4: "u32", 5: "i64", 6: "u64", 7: "fp32", 8: "fp64"}

Field = int | bytes
Parameter = tuple[str, int | float]


@dataclass(frozen=True)
class Call:
    """One kernel call. Parameters: ("pointer", alignment) or (type of a scalar, value)."""

    name: str
    kernel: str
    num_warps: int
    num_ctas: int
    shared_bytes: int
    ptx: str
    compute_capability: int
    grid: tuple[int, int, int]
    parameters: tuple[Parameter, ...]


def calls(module: str) -> list[Call]:
    """The Triton calls in the text of a lowered or exported StableHLO module, in order."""
    return [decode(unescape(found)) for found in CALL.findall(module)]


def unescape(text: str) -> bytes:
    r"""Bytes of a string in MLIR's text form, which writes ``\\`` and ``\`` + two hex digits."""
    pattern = re.compile(rb"\\(\\|[0-9A-Fa-f]{2})")
    return pattern.sub(
        lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1], 16)]), text.encode("latin-1")
    )


def decode(opaque: bytes) -> Call:
    """One payload. KeyError where a message lacks a field that the call needs."""
    outer = dict(fields(zlib.decompress(opaque)))
    call = list(fields(outer[1]))
    values = dict(call)
    kernel = dict(fields(values[1]))
    return Call(
        name=outer[4].decode(),
        kernel=kernel[1].decode(),
        num_warps=kernel[2],
        num_ctas=kernel.get(10, 1),
        shared_bytes=kernel.get(3, 0),
        ptx=kernel[4].decode(),
        compute_capability=kernel[6],
        grid=(values[2], values[3], values[4]),
        parameters=tuple(parameter(value) for number, value in call if number == 5),
    )


def parameter(message: bytes) -> Parameter:
    ((number, value),) = fields(message)
    if number == 1:
        return "pointer", dict(fields(value)).get(2, 0)
    kind = SCALARS[number]
    if kind in ("i32", "i64") and value >= 1 << 63:  # negative ones are sent as 64 bits
        value -= 1 << 64
    if isinstance(value, bytes):
        (value,) = struct.unpack("<f" if kind == "fp32" else "<d", value)
    return kind, value


def fields(message: bytes) -> Iterator[tuple[int, Field]]:
    """(number, value) of each field: an integer, or bytes for everything else."""
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = varint(message, place)
            yield number, value
            continue
        if wire == 2:
            size, place = varint(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} of field {number}")
        if place + size > len(message):
            raise ValueError(f"field {number} runs past the end of its message")
        yield number, message[place : place + size]
        place += size


def varint(message: bytes, place: int) -> tuple[int, int]:
    """(value, place after it)."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place
