"""``binjax eval`` and ``binjax summary``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from binjax import config as configs
from binjax.config import Config, ConfigError

if TYPE_CHECKING:
    from binjax.summary import Summary


def run_eval(args: argparse.Namespace) -> int:
    """Print the accuracy of a run's best (or last) checkpoint on the test set."""
    path = Path(args.run) / "config.toml"
    if not path.exists():
        raise ConfigError(f"{args.run}: is not a run folder (no config.toml)")
    overrides = ["--data.dir", args.data_dir] if args.data_dir else []
    config = configs.load(path, overrides)

    from binjax.cli.progress import warn
    from binjax.train import RunFolder, evaluate_run

    found = evaluate_run(config, RunFolder(args.run), warn, last=args.last)
    if args.json:
        print(json.dumps(found))
    else:
        print(
            f"test accuracy {found['test_accuracy']:.4f}, loss {found['test_loss']:.4f} "
            f"(epoch {found['epoch']}, {found['images']:,} images)"
        )
    return 0


def run_summary(args: argparse.Namespace) -> int:
    """Print a network's table, JSON or CSV."""
    if args.batch is not None and args.batch < 0:
        raise ConfigError(f"summary --batch: {args.batch} is not a number of images (0: none)")
    if args.json and args.csv:
        raise ConfigError("summary: takes --json or --csv, not both")
    config, shape, classes = _network(args)

    from flax import nnx

    from binjax.summary import as_csv, summarize
    from binjax.train import make_model

    model = nnx.eval_shape(lambda: make_model(config, shape, classes, nnx.Rngs(0)))
    batch = config.batch_size if args.batch is None else args.batch
    summary = summarize(model, shape, batch=None if args.csv else batch or None)
    if args.csv:
        print(as_csv(summary, macs=not args.no_macs), end="")
    elif args.json:
        print(json.dumps(summary.as_json(macs=not args.no_macs)))
    else:
        _show(summary, macs=not args.no_macs)
    return 0


def _show(summary: Summary, *, macs: bool) -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        from binjax.summary.terminal import fits, rich_tables

        console, tables = Console(), rich_tables(summary, macs=macs)
        if fits(console, tables):
            console.print(tables)
            return
    from binjax.summary import table

    print(table(summary, macs=macs))


def _network(args: argparse.Namespace) -> tuple[Config, tuple[int, int, int], int]:
    source = Path(args.source)
    if source.is_dir():
        source = source / "config.toml"
    if source.suffix == ".toml":
        config = configs.load(source)
        shape, classes = (0, 0, 0), 0
        if not args.input_shape or args.classes is None:
            from binjax.train import data_info

            info = data_info(config)
            shape, classes = info.image_shape, info.n_classes
    else:
        config = configs.validate({"model": {"kind": args.source}}, "summary")
        cifar_like = config.model.kind != "mlp"
        shape, classes = ((32, 32, 3) if cifar_like else (28, 28, 1)), 10
    if args.input_shape:
        shape = (args.input_shape[0], args.input_shape[1], args.input_shape[2])
    if args.classes is not None:
        classes = args.classes
    if min(*shape, classes) < 1:
        raise ConfigError(
            f"summary {args.source}: --input-shape and --classes want numbers of at least 1"
        )
    return config, shape, classes
