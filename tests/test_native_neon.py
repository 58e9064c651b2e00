"""The NEON kernel, compiled for 64-bit ARM and executed by an emulated CPU.

Needs a cross compiler (``pip install ziglang``) and the emulator (``pip install unicorn``).
"""

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MISSING = [name for name in ("ziglang", "unicorn") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

A, B, PANEL, OUT, STACK, STOP = (0x1000_0000 * i for i in range(1, 7))
REGION = 1 << 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("neon")
    source = ROOT / "tests" / "native" / "neon.cc"
    flags = "-target aarch64-linux-musl -std=c++17 -O2 -Wall -Wextra -Werror -fno-pic"
    flags += " -fno-exceptions -fno-rtti -fno-stack-protector -fno-sanitize=all"
    compiler = ["c++", *flags.split(), f"-I{ROOT / 'native' / 'src'}", "-c", str(source)]
    zig(*compiler, "-o", str(folder / "neon.o"))
    zig("ld.lld", "-static", "-e", "product", str(folder / "neon.o"), "-o", str(folder / "neon"))
    return (folder / "neon").read_bytes()


def zig(*arguments: str) -> None:
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def segments(elf: bytes) -> tuple[int, list[tuple[int, bytes, int]]]:
    """Entry point and (address, contents, size in memory) of what a static ELF file loads."""
    entry, headers = struct.unpack_from("<QQ", elf, 24)
    size, count = struct.unpack_from("<HH", elf, 54)
    found = []
    for i in range(count):
        kind, _, offset, address, _, in_file, in_memory = struct.unpack_from(
            "<IIQQQQQ", elf, headers + i * size
        )
        if kind == 1:
            found.append((address, elf[offset : offset + in_file], in_memory))
    return entry, found


def test_products(program):
    import unicorn
    from unicorn import arm64_const as arm

    cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    entry, loaded = segments(program)
    pages = {p for at, _, size in loaded for p in range(at // 4096, (at + size) // 4096 + 1)}
    for page in pages:
        cpu.mem_map(page * 4096, 4096)
    for address, contents, _ in loaded:
        cpu.mem_write(address, contents)
    for region in (A, B, PANEL, OUT, STACK, STOP):
        cpu.mem_map(region, REGION)
    cpu.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # NEON on

    rng = np.random.default_rng(0)
    # 31 words fill a byte counter, 32 overflow it into the next; 4 rows are a tile, 9 leave one.
    for rows in (1, 3, 4, 9):
        for words, n_segments in ((1, 1), (3, 1), (31, 1), (32, 2), (70, 1), (5, 3)):
            for n in (1, 7, 32):
                k = words * n_segments
                a = rng.integers(0, 2**32, (rows, k), dtype=np.uint32)
                b = rng.integers(0, 2**32, (n, k), dtype=np.uint32)
                if n == 7:  # every bit differs: the largest counts
                    a, b = np.zeros_like(a), np.full_like(b, 0xFFFFFFFF)
                guard = np.full(rows * n + 8, 0x5A5A5A5A, np.int32)
                cpu.mem_write(A, a.tobytes())
                cpu.mem_write(B, b.tobytes())
                cpu.mem_write(OUT, guard.tobytes())
                arguments = (A, B, rows, words, n_segments, n, PANEL, OUT)
                for i, value in enumerate(arguments):
                    cpu.reg_write(arm.UC_ARM64_REG_X0 + i, value)
                cpu.reg_write(arm.UC_ARM64_REG_SP, STACK + REGION // 2)
                cpu.reg_write(arm.UC_ARM64_REG_LR, STOP)
                cpu.emu_start(entry, STOP)
                out = np.frombuffer(bytes(cpu.mem_read(OUT, guard.nbytes)), np.int32)
                expected = 32 * k - 2 * np.bitwise_count(a[:, None] ^ b[None]).sum(2, np.int64)
                np.testing.assert_array_equal(out[: rows * n].reshape(rows, n), expected)
                np.testing.assert_array_equal(out[rows * n :], guard[rows * n :])
