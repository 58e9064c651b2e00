"""Every network of the zoo: does it fit at its real size, and does it train at a small one?

    python scripts/check_zoo.py --csv docs/zoo.csv
    python scripts/check_zoo.py --only quicknet birealnet --real --csv docs/zoo.csv

``--real``: one evaluation and one training step at 224x224 (networks made for small images: at
theirs), 1000 classes, in a process of its own, whose peak of memory is noted. ``--small``: 100
steps at 32x32 on the images that come with the package, on packed bits and on floats: the loss has
to fall and the two have to start alike. Without either, both. A CSV that is there keeps its rows of
other networks and checks. Exits with 1 if a network fails.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SMALL_ONLY = (
    *("mlp", "cifar10_convnet", "svhn_convnet", "larq_cifar10", "cifar_resnet"),
    *("vgg_cifar10_binary", "vgg_cifar10"),
)
COLUMNS = ("model", "check", "ok", "params_1bit", "params_32bit", "seconds", "peak_gib", "detail")
STEPS, BATCH = 100, 32


def real(kind: str, batch: int) -> dict[str, Any]:
    """One evaluation and one step at the network's own image size."""
    shape, classes = ((32, 32, 3), 10) if kind in SMALL_ONLY else ((224, 224, 3), 1000)
    task, summary = build(kind, shape, classes, batch, "auto")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *shape), np.uint8)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    state = task.init()
    from binjax.train.state import Totals

    start = time.perf_counter()
    totals = task.evaluate(state.params, state.stats, Totals.zero(), images, labels, batch)
    state, metrics = task.step(state, images, labels)
    loss = float(metrics["loss"])
    seconds = time.perf_counter() - start
    ok = bool(np.isfinite(loss) and np.isfinite(float(totals.loss)) and int(state.failed_step) < 0)
    return {
        "ok": ok,
        "params_1bit": summary.params_1bit,
        "params_32bit": summary.params_32bit,
        "seconds": round(seconds, 1),
        "detail": f"{shape[0]}x{shape[1]}, batch {batch}, loss {loss:.3f}",
    }


def small(kind: str) -> dict[str, Any]:
    """100 steps at 32x32, packed and in floats."""
    from binjax import data

    split = data.load("fashion-mnist-12k").train
    images = np.pad(split.images, ((0, 0), (2, 2), (2, 2), (0, 0))).repeat(3, -1)
    losses: dict[str, list[float]] = {}
    seconds = 0.0
    for backend in ("auto", "float"):
        task, summary = build(kind, (32, 32, 3), 10, BATCH, backend)
        state = task.init()
        found = []
        start = time.perf_counter()
        for i in range(STEPS if backend == "auto" else 1):
            rows = np.arange(i * BATCH, (i + 1) * BATCH) % len(images)
            state, metrics = task.step(state, images[rows], split.labels[rows])
            found.append(metrics["loss"])
        losses[backend] = [float(loss) for loss in found]
        seconds = seconds or time.perf_counter() - start
        if int(state.failed_step) >= 0:
            return {"ok": False, "detail": f"not finite at step {int(state.failed_step)}"}
    first, last = np.mean(losses["auto"][:10]), np.mean(losses["auto"][-10:])
    apart = abs(losses["auto"][0] - losses["float"][0]) / abs(losses["float"][0])
    return {
        "ok": bool(last < first and apart < 1e-3),
        "params_1bit": summary.params_1bit,
        "params_32bit": summary.params_32bit,
        "seconds": round(seconds, 1),
        "detail": f"loss {first:.3f} to {last:.3f}; float differs by {apart:.1e} at first",
    }


def build(kind: str, shape: tuple[int, int, int], classes: int, batch: int, backend: str) -> Any:
    """The task of a config that names the network only, and the network's summary."""
    from flax import nnx

    from binjax import config as configs
    from binjax import summary
    from binjax.train.task import make_model, make_task

    table = {
        "model": {"kind": kind},
        "batch_size": batch,
        "loss": "cross_entropy",
        "backend": backend,
        "optimizer": {"kind": "adam", "learning_rate": 1e-3},
    }
    config = configs.validate(table, kind)
    model = nnx.eval_shape(lambda: make_model(config, shape, classes, nnx.Rngs(0)))
    return make_task(config, shape, classes, 1000), summary.summarize(model, shape)


def run_alone(kind: str, check: str, batch: int) -> dict[str, Any]:
    """A check in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, check, str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    row: dict[str, Any] = {"model": kind, "check": check, "ok": False}
    if done.returncode == 0:
        return row | json.loads(done.stdout.splitlines()[-1])
    lines = done.stderr.strip().splitlines()
    return row | {"detail": lines[-1] if lines else f"exit status {done.returncode}"}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of a file and new ones in their place, in the order of the zoo."""
    from binjax.models import MODELS
    from binjax.train.rundir import write_atomic

    kept: list[dict[str, Any]] = []
    if path.exists():
        kept = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    table = {(row["model"], row["check"]): row for row in [*kept, *rows]}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for kind in MODELS:
        writer.writerows(table[kind, c] for c in ("real", "small") if (kind, c) in table)
    write_atomic(path, text.getvalue())


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        kind, check, batch = sys.argv[2:5]
        found = real(kind, int(batch)) if check == "real" else small(kind)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(found | {"peak_gib": round(peak, 2)}))
        return 0
    from binjax.models import MODELS

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--batch", type=int, default=2, help="of --real")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    args = parser.parse_args()
    both = not args.real and not args.small
    checks = [name for name in ("real", "small") if both or getattr(args, name)]
    rows = []
    for kind in args.only:
        for check in checks:
            rows.append(run_alone(kind, check, args.batch))
            words = (str(rows[-1].get(column, "")) for column in COLUMNS)
            print("  ".join(words), flush=True)
            if args.csv:
                write_csv(args.csv, rows)
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
