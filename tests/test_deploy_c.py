"""Exported C: compiled for each kind of processor, the scores of the packed model bit for bit."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from deployed import images_for, randomize
from flax import nnx

from binjax import deploy, models
from binjax.deploy.c import write_c
from binjax.deploy.graph import Graph, expected_tensors, largest_sum
from binjax.deploy.operations import (
    Conv,
    Dense,
    DeployError,
    Flatten,
    Image,
    MaxPool,
    Scores,
    Sign,
    Threshold,
)
from binjax.deploy.packed import PackedModel
from binjax.xnor.geometry import Geometry

CC = shutil.which("cc")
X86 = platform.machine() in ("x86_64", "AMD64")
CPU = Path("/proc/cpuinfo")
FLAGS = set(CPU.read_text().split()) if X86 and CPU.exists() else set()
AVX512 = {"avx512f", "avx512bw", "avx512_vpopcntdq"}
PATHS = {
    "portable": ("", set()),
    "popcnt": ("-mpopcnt", {"popcnt"}),
    "avx2": ("-mavx2", {"avx2"}),
    "avx512": ("-mavx512f -mavx512bw -mavx512vpopcntdq -mfma", AVX512),
}
STRICT = "-std=c99 -Wall -Wextra -Werror -pedantic"
SANITIZED = f"{STRICT} -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
# Scores of every image in both ways; heap blocks of the exact sizes, filled with rubbish.
DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"
int main(void) {
  void *image = malloc(MODEL_IMAGE_BYTES), *arena = malloc(MODEL_ARENA_BYTES);
  float *scores = malloc(2 * MODEL_CLASSES * sizeof(float));
  while (fread(image, 1, MODEL_IMAGE_BYTES, stdin) == MODEL_IMAGE_BYTES) {
    memset(arena, 0xa5, MODEL_ARENA_BYTES);
    if (model_predict_with(image, scores, arena)) return 1;
    if (model_predict(image, scores + MODEL_CLASSES)) return 1;
    if (memcmp(scores, scores + MODEL_CLASSES, MODEL_CLASSES * sizeof(float))) return 2;
    fwrite(scores, sizeof(float), MODEL_CLASSES, stdout);
  }
  free(image);
  free(arena);
  free(scores);
  return 0;
}
"""

needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler (cc) found")
pytestmark = pytest.mark.filterwarnings("ignore::binjax.xnor.SlowerBackendWarning")


def flags_of(path):
    flags, needed = PATHS[path]
    if path != "portable" and not X86:
        pytest.skip("the processor is not an x86")
    if needed - FLAGS:
        pytest.skip(f"the processor lacks {', '.join(sorted(needed - FLAGS))}")
    return flags


def shell(command, folder, **options):
    done = subprocess.run(
        command.split(), cwd=folder, capture_output=True, timeout=300, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stderr.decode()[-3000:]}"
    return done.stdout


def run(folder, images, flags):
    """Scores float32[n, classes] of the model in a folder, compiled with flags."""
    (folder / "driver.c").write_text(DRIVER)
    shell(f"{CC} {flags} -o driver driver.c model.c", folder)
    out = shell("./driver", folder, input=np.ascontiguousarray(images).tobytes())
    return np.frombuffer(out, np.float32).reshape(len(images), -1)


def same(scores, expected):
    np.testing.assert_array_equal(scores.view(np.uint32), np.asarray(expected).view(np.uint32))


def threshold(name, operand, elements, outputs):
    return Dense(name, operand, elements, outputs, Threshold())


def conv(name, outputs, channels, *, kernel=(3, 3), operand="bits", groups=1, rule=None, **other):
    fields = {"strides": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "pad_value": 0}
    geometry = Geometry(channels=channels, **fields | other)
    return Conv(name, operand, outputs, kernel, geometry, groups, rule or Threshold())


def random_model(graph, seed=0):
    """Arrays at random, with thresholds that are never and always reached, and flips."""
    rng = np.random.default_rng(seed)
    ops = {op.name: op for op in graph.ops}
    tensors = {}
    for name, (dtype, shape) in expected_tensors(graph).items():
        op, part = ops[name.rsplit(".", 1)[0]], name.rsplit(".", 1)[1]
        if part == "threshold":
            spread = max(2.0, largest_sum(op) ** 0.5)
            values = np.round(rng.normal(size=shape) * spread)
            values[0], values[-1] = largest_sum(op) + 1, -largest_sum(op)
        elif dtype == np.float32:
            values = rng.normal(size=shape)
        else:
            values = rng.integers(0, 2**32, shape)
            n = op.outputs if part == "flip" and not isinstance(op, MaxPool) else None
            if isinstance(op, MaxPool):
                n = channels_in_front(graph, op)
            elif part == "words":
                n = op.geometry.channels if len(shape) == 4 else op.elements
            if n % 32:
                values[..., -1] &= (1 << n % 32) - 1
        tensors[name] = values.astype(dtype)
    return PackedModel(graph, tensors)


def channels_in_front(graph, pool):
    front = graph.ops[: graph.ops.index(pool)]
    return next(op.outputs for op in reversed(front) if isinstance(op, Conv))


def scores_layer(elements, classes=10, *, scale=1.0, operand="bits"):
    return Dense("last", operand, elements, classes, Scores(scale))


PIXEL = float(np.float32(1) / np.float32(255))
GRAPHS = {
    # one word and a bit; 17 and 33 outputs are a panel, a block, and one more
    "dense": Graph(
        Image((5, 11, 1), "uint8", ""),
        (
            Flatten("flat"),
            threshold("a", "pixels", 55, 33),
            threshold("b", "bits", 33, 17),
            scores_layer(17, 40),
        ),
    ),
    # 127 words overflow counters of bytes
    "long": Graph(
        Image((64, 64, 1), "float32", ""),
        (Sign("sign"), Flatten("flat"), threshold("a", "bits", 4096, 64), scores_layer(64)),
    ),
    # pixels with borders, strides and dilation; odd channels between layers; pools; repacking
    "conv": Graph(
        Image((13, 11, 3), "uint8", ""),
        (
            conv("a", 40, 3, operand="pixels", kernel=(3, 2), padding=(1, 2, 0, 1)),
            MaxPool("pool", (2, 3), (2, 1)),
            conv("b", 50, 40, padding=(1, 1, 1, 1)),
            conv("c", 20, 50, padding=(2, 2, 4, 1), dilation=(2, 3), strides=(1, 2), pad_value=1),
            Flatten("flat"),
            scores_layer(20 * 7 * 4),
        ),
    ),
    # more border than window: taps all outside; -1 as border
    "borders": Graph(
        Image((6, 5, 2), "uint8", ""),
        (
            conv("a", 32, 2, operand="pixels", padding=(3, 0, 0, 4), strides=(2, 1)),
            conv("b", 64, 32, kernel=(5, 5), padding=(6, 1, 2, 5), strides=(2, 2)),
            conv("c", 16, 64, kernel=(2, 2), padding=(0, 1, 1, 0), pad_value=-1),
            Flatten("flat"),
            scores_layer(16 * 4 * 5, 3),
        ),
    ),
    # groups whose outputs begin inside words, signs into a border of +1, scores of a window
    "groups": Graph(
        Image((6, 6, 64), "float32", ""),
        (
            Sign("sign"),
            conv("a", 96, 32, groups=2, padding=(1, 1, 1, 1), pad_value=1),
            conv("b", 128, 96, kernel=(1, 1), padding=(1, 0, 0, 1)),
            conv("c", 64, 32, groups=4, kernel=(2, 3)),
            conv("last", 40, 32, groups=2, kernel=(6, 5), rule=Scores(1.0, True)),
        ),
    ),
    # the smallest: pixels to scores; the largest sums
    "linear": Graph(
        Image((3, 3, 1), "uint8", ""),
        (Flatten("flat"), scores_layer(9, 2, scale=PIXEL, operand="pixels")),
    ),
    "window": Graph(
        Image((5, 4, 3), "uint8", ""),
        (
            conv(
                "last",
                33,
                3,
                kernel=(7, 4),
                operand="pixels",
                padding=(2, 0, 0, 0),
                rule=Scores(PIXEL, True),
            ),
        ),
    ),
}


CASES = [(n, path) for n in GRAPHS for path in PATHS if path != "popcnt" or n in ("long", "conv")]


@needs_cc
@pytest.mark.parametrize(("name", "path"), CASES)
def test_graphs(name, path, tmp_path):
    flags = flags_of(path)
    packed = random_model(GRAPHS[name])
    images = images_for(packed.graph, 6)
    images[0], images[1] = 0, 255
    write_c(packed, tmp_path)
    same(run(tmp_path, images, f"{SANITIZED} {flags}"), packed(images))


NETWORKS = {
    "mlp": ("mlp", (9, 8, 1), {"widths": (50, 40)}),
    "shift": ("mlp", (9, 8, 1), {"widths": (33,), "norm": {"kind": "shift"}}),
    "convnet": ("cifar10_convnet", (8, 8, 3), {"channels": (20, 40), "widths": (50,)}),
    "larq": ("larq_cifar10", (10, 10, 3), {}),
}


def trained(name):
    kind, shape, options = NETWORKS[name]
    options = {"pixels": True} | options
    return deploy.pack(
        randomize(models.MODELS[kind](shape, 10, rngs=nnx.Rngs(0), **options)), shape
    )


@needs_cc
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, tmp_path):
    packed = trained(name)
    images = images_for(packed.graph, 5)
    export = write_c(packed, tmp_path)
    expected = np.asarray(packed(images))
    assert {p.name for p in export.paths} == {"model.c", "model.h", "main.c", "Makefile"}
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in export.paths}
    same(run(tmp_path, images, f"{STRICT} -O3 -march=native"), expected)


@needs_cc
@pytest.mark.parametrize("flags", ["-std=gnu99 -O3 -march=native", "-O2 -ffast-math", "-O0"])
def test_rounding_of_scores_is_not_the_compilers_choice(flags, tmp_path):
    graph = Graph(
        Image((4, 8, 1), "uint8", ""),
        (
            Flatten("flat"),
            threshold("a", "pixels", 32, 32),
            scores_layer(32, 3000, scale=PIXEL),
        ),
    )
    packed = random_model(graph)
    images = images_for(graph, 2)
    write_c(packed, tmp_path)
    expected = np.asarray(packed(images))
    same(run(tmp_path, images, flags), expected)
    once = scores_rounded_once(packed, images)
    assert (once != expected).any()  # or the test would show nothing


def scores_rounded_once(packed, images):
    """As a compiler that contracts products and sums would make them."""
    op = packed.graph.ops[-1]
    sums = PackedModel(
        packed.graph,
        {
            **packed.tensors,
            "last.factor": np.ones(op.outputs, np.float32),
            "last.bias": np.zeros(op.outputs, np.float32),
            "last.mean": np.zeros(op.outputs, np.float32),
            "last.offset": np.zeros(op.outputs, np.float32),
        },
    )
    real = np.asarray(sums(images)) + packed.tensors["last.bias"] - packed.tensors["last.mean"]
    factor, offset = (
        packed.tensors[f"last.{part}"].astype(np.float64) for part in ("factor", "offset")
    )
    return (real * factor + offset).astype(np.float32)


@needs_cc
@pytest.mark.skipif(shutil.which("make") is None, reason="no make found")
def test_example(tmp_path):
    packed = random_model(GRAPHS["dense"])
    write_c(packed, tmp_path / "sub" / "folder", "net_2")
    folder = tmp_path / "sub" / "folder"
    shell(f"make CC={CC}", folder, env={**os.environ, "MAKEFLAGS": ""})
    image = images_for(packed.graph, 1)
    expected = np.asarray(packed(image))[0]
    image.tofile(folder / "image.raw")
    for out in (
        shell("./net_2 image.raw", folder),
        shell("./net_2", folder, input=image.tobytes()),
    ):
        *scores, last = out.decode().splitlines()
        same(np.asarray([line.split()[1] for line in scores], np.float32), expected)
        assert last == f"class {expected.argmax()}"
    short = subprocess.run(["./net_2"], cwd=folder, input=b"12", capture_output=True, check=False)
    assert short.returncode == 1
    assert short.stderr == b"stdin: no image of 55 bytes\n"
    shell("make clean", folder)


def test_sizes(tmp_path):
    packed = random_model(GRAPHS["conv"])
    export = write_c(packed, tmp_path)
    header = (tmp_path / "model.h").read_text()
    for line in ("IMAGE_BYTES 429", "CLASSES 10", f"ARENA_BYTES {export.arena_bytes}"):
        assert f"#define MODEL_{line}\n" in header
    # neighbours: 14 x 11 pixels of 2 words, pooled to 9 x 11 of 2 with their border
    assert export.arena_bytes == 4 * (14 * 11 * 2 + 9 * 11 * 2)
    weights = sum(t.nbytes for name, t in packed.tensors.items() if name.endswith(".words"))
    assert weights < export.weight_bytes < 4 * weights
    assert f"{export.weight_bytes} bytes" in header


@needs_cc
def test_arena_is_no_larger_than_needed(tmp_path):
    """One word less, and the sanitizer sees it."""
    packed = random_model(GRAPHS["conv"])
    export = write_c(packed, tmp_path)
    less = DRIVER.replace("malloc(MODEL_ARENA_BYTES)", f"malloc({export.arena_bytes - 4})")
    (tmp_path / "less.c").write_text(less.replace("memset(arena", "if (0) memset(arena"))
    shell(f"{CC} {SANITIZED} -w -o less less.c model.c", tmp_path)
    image = images_for(packed.graph, 1).tobytes()
    done = subprocess.run(["./less"], cwd=tmp_path, input=image, capture_output=True, check=False)
    assert b"heap-buffer-overflow" in done.stderr


@needs_cc
def test_needs_nothing_but_a_compiler(tmp_path):
    write_c(trained("convnet"), tmp_path)
    shell(
        f"{CC} {STRICT} -O2 -ffreestanding -nostdlib -fno-pie -DMODEL_NO_ARENA -c model.c", tmp_path
    )
    if shutil.which("nm"):
        symbols = [line.split() for line in shell("nm model.o", tmp_path).decode().splitlines()]
        missing = {s[-1] for s in symbols if s[-2] == "U"}
        assert missing <= {"memcpy", "memset", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
        assert [s[-1] for s in symbols if s[-2] == "T"] == ["model_predict_with"]
        assert not [s for s in symbols if s[-2] in "bBdD"]


@needs_cc
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler (c++) found")
def test_header_is_cpp(tmp_path):
    write_c(random_model(GRAPHS["linear"]), tmp_path)
    (tmp_path / "use.cc").write_text(
        '#include "model.h"\n#include "model.h"\n'
        "int main() { unsigned char x[9] = {}; float y[2]; return model_predict(x, y); }\n"
    )
    shell(f"{CC} -O1 -c model.c", tmp_path)
    shell("c++ -Wall -Werror -o use use.cc model.o", tmp_path)
    shell("./use", tmp_path)


ZIG = importlib.util.find_spec("ziglang") is not None
needs_zig = pytest.mark.skipif(not ZIG, reason="no cross compiler (pip install ziglang)")


def zig(arguments, folder):
    shell(f"{sys.executable} -m ziglang {arguments}", folder)


@pytest.mark.slow
@needs_zig
@pytest.mark.parametrize(
    "target",
    ["thumb-freestanding-eabi -mcpu=cortex_m4", "riscv32-freestanding", "powerpc64-linux-musl"],
)
def test_cross_compiles(target, tmp_path):
    write_c(trained("convnet"), tmp_path)
    zig(f"cc -target {target} {STRICT} -O2 -ffreestanding -nostdlib -c model.c", tmp_path)


@pytest.mark.slow
@needs_zig
@pytest.mark.skipif(importlib.util.find_spec("unicorn") is None, reason="unicorn not installed")
@pytest.mark.parametrize("name", ["conv", "groups", "long"])
def test_neon(name, tmp_path):
    """Compiled for 64-bit ARM and executed by an emulated processor."""
    import unicorn
    from test_native_neon import segments
    from unicorn import arm64_const as arm

    packed = random_model(GRAPHS[name])
    write_c(packed, tmp_path)
    (tmp_path / "memory.c").write_text(
        "#include <stddef.h>\n"
        "void *memset(void *to, int c, size_t n) {\n"
        "  for (volatile char *p = to; n--; ) *p++ = (char)c;\n  return to;\n}\n"
        "void *memcpy(void *to, const void *from, size_t n) {\n"
        "  const char *q = from;\n"
        "  for (volatile char *p = to; n--; ) *p++ = *q++;\n  return to;\n}\n"
    )
    flags = "-target aarch64-linux-musl -O2 -ffreestanding -fno-pic -fno-stack-protector"
    for file in ("model", "memory"):
        zig(f"cc {flags} {STRICT} -fno-sanitize=all -DMODEL_NO_ARENA -c {file}.c", tmp_path)
    zig("ld.lld -static -e model_predict_with model.o memory.o -o program", tmp_path)

    cpu = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM)
    entry, loaded = segments((tmp_path / "program").read_bytes())
    for page in {p for at, _, n in loaded for p in range(at // 4096, (at + n) // 4096 + 1)}:
        cpu.mem_map(page * 4096, 4096)
    for address, contents, _ in loaded:
        cpu.mem_write(address, contents)
    image, scores, arena, stack, stop = (0x1000_0000 * i for i in range(1, 6))
    for region in (image, scores, arena, stack, stop):
        cpu.mem_map(region, 1 << 20)
    cpu.reg_write(arm.UC_ARM64_REG_CPACR_EL1, 3 << 20)  # NEON on
    images = images_for(packed.graph, 2)
    for x, expected in zip(images, np.asarray(packed(images)), strict=True):
        cpu.mem_write(image, x.tobytes())
        for i, value in enumerate((image, scores, arena)):
            cpu.reg_write(arm.UC_ARM64_REG_X0 + i, value)
        cpu.reg_write(arm.UC_ARM64_REG_SP, stack + (1 << 19))
        cpu.reg_write(arm.UC_ARM64_REG_LR, stop)
        cpu.emu_start(entry, stop)
        found = np.frombuffer(bytes(cpu.mem_read(scores, expected.nbytes)), np.float32)
        same(found, expected)


@pytest.mark.parametrize("name", ["", "2d", "a-b", "a b", "é", "main", "Main", "x\n"])
def test_refuses_names(name, tmp_path):
    with pytest.raises(DeployError, match="name is"):
        write_c(random_model(GRAPHS["linear"]), tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_refuses_what_it_does_not_know(tmp_path):
    image, last = Image((2, 2, 4), "uint8", ""), scores_layer(16, operand="pixels")
    strange = SimpleNamespace(name="softmax")
    large = scores_layer(1 << 22, operand="pixels")
    for op, problem in ((strange, "softmax"), (large, "sums of up to")):
        packed = SimpleNamespace(graph=Graph(image, (op, last)), tensors={})
        with pytest.raises(DeployError, match=f"{op.name} .*cannot be exported to C.*") as error:
            write_c(packed, tmp_path)
        assert problem in str(error.value)


def test_refuses_groups_of_part_of_a_word(tmp_path):
    graph = Graph(
        Image((3, 3, 32), "float32", ""),
        (
            Sign("sign"),
            conv("half", 32, 16, groups=2),
            Flatten("flat"),
            scores_layer(32),
        ),
    )
    packed = SimpleNamespace(graph=graph, tensors={})
    with pytest.raises(DeployError, match="half cannot be exported to C: groups of 16 channels"):
        write_c(packed, tmp_path)


def test_refuses_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match="cannot be written") as error:
        write_c(random_model(GRAPHS["linear"]), tmp_path / "file")
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == ""


def test_a_new_export_replaces_the_old(tmp_path):
    first = write_c(random_model(GRAPHS["linear"]), tmp_path)
    second = write_c(random_model(GRAPHS["conv"]), tmp_path)
    assert first.paths == second.paths
    assert sorted(tmp_path.iterdir()) == sorted(second.paths)
